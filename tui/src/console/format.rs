//! Numbers, times and bars as the console writes them: short, aligned, and the same width from second to second.
use super::theme::Theme;
use jiff::tz::TimeZone;
use reeve_protocol::api::JobView;
use reeve_protocol::text::Clean;
use reeve_protocol::time::Wall;
use unicode_width::UnicodeWidthChar;

/// Untrusted text, safe for a terminal. Long text is cut: no column is wider than this.
pub(super) fn text(untrusted: &str) -> String {
    Clean::short(untrusted, 1024).into_string()
}

/// A count that fits into five columns: `412`, `9,812`, `38.1k`, `1.0M`.
pub(super) fn short_count(count: u64) -> String {
    match count {
        0..10_000 => reeve_protocol::units::show_count(count),
        10_000..1_000_000 => format!("{:.1}k", (count / 100) as f64 / 10.0),
        1_000_000..1_000_000_000 => format!("{:.1}M", (count / 100_000) as f64 / 10.0),
        _ => format!("{:.1}G", (count / 100_000_000) as f64 / 10.0),
    }
}

/// `1 job`, `1,204 jobs`. A task of an array counts as a job.
pub(super) fn jobs(count: u64) -> String {
    format!("{} job{}", reeve_protocol::units::show_count(count), if count == 1 { "" } else { "s" })
}

/// A rate per second: `0.3`, `170.2`, `9,812`, `12.3k`.
pub(super) fn rate(per_s: f64) -> String {
    if per_s >= 1000.0 { short_count(per_s as u64) } else { format!("{:.1}", per_s.max(0.0)) }
}

/// A span of a run or an age, always as `HH:MM:SS` up to four days, then `9d04h`.
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    if s < 4 * 86_400 {
        format!("{:02}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
    } else {
        format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600)
    }
}

/// `MM:SS`, for how old the picture is.
pub(super) fn minutes(seconds: u64) -> String {
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// A measured span, or a dash where there is none.
pub(super) fn measured(seconds: Option<f64>) -> String {
    seconds.map_or_else(
        || "-".into(),
        |s| if s < 0.05 { "0.0s".into() } else { reeve_protocol::units::show_duration(s) },
    )
}

/// The time of day where the user is.
pub(super) fn clock(at: Wall, zone: &TimeZone) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| "--:--:--".into(), |t| t.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string())
}

/// How long a job has run, or ran.
pub(super) fn run_time(job: &JobView, now: Wall) -> String {
    job.started_at.map_or_else(|| "-".into(), |from| span(job.ended_at.unwrap_or(now).seconds_since(from)))
}

/// Why it ended, or how far it is.
pub(super) fn outcome(job: &JobView) -> String {
    if let Some(array) = &job.array {
        let counts = array.counts;
        let failed = if counts.failed > 0 {
            format!(", {} failed", short_count(counts.failed))
        } else {
            String::new()
        };
        return format!("{}/{} ended{failed}", short_count(counts.ended()), short_count(array.total));
    }
    if let Some(cause) = &job.cause {
        let detail = cause.detail();
        let first = detail.lines().next().unwrap_or("");
        return if first.is_empty() { text(&cause.to_string()) } else { text(&format!("{cause}: {first}")) };
    }
    let said = job.message.as_deref().unwrap_or("");
    match job.progress {
        Some(part) => text(&format!("{:.0} % {said}", part.clamp(0.0, 1.0) * 100.0)).trim_end().to_owned(),
        None => text(said),
    }
}

/// What tables call a job: its number, or `7.3`.
pub(super) fn id((job, index): (u64, Option<u32>)) -> String {
    index.map_or_else(|| job.to_string(), |index| format!("{job}.{index}"))
}

/// A horizontal bar of `width` columns.
pub(super) fn bar(part: f64, width: usize, theme: Theme) -> String {
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let full = (part * width as f64).round() as usize;
    let (on, off) = (theme.pick("█", "#"), theme.pick("░", "."));
    format!("{}{}", on.repeat(full), off.repeat(width - full.min(width)))
}

/// The newest `width` values as heights.
pub(super) fn sparkline(values: &[u32], width: usize, theme: Theme) -> String {
    let steps: &[char] = if theme.ascii {
        &['.', ':', '|']
    } else {
        &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    };
    let newest = &values[values.len().saturating_sub(width)..];
    let most = newest.iter().copied().max().unwrap_or(0).max(1);
    let mut line = " ".repeat(width - newest.len().min(width));
    line.extend(newest.iter().map(|v| match v {
        0 => ' ',
        v => steps
            [((u64::from(*v) * steps.len() as u64).div_ceil(u64::from(most)) as usize).clamp(1, steps.len())
                - 1],
    }));
    line
}

/// Cuts text to a number of columns; a cut is marked. Wide characters count twice, combining ones not at all.
pub(super) fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > width.saturating_sub(1) {
            break;
        }
        out.push(c);
        used += wide;
    }
    if width > 0 {
        out.push('~');
    }
    out
}

/// How many columns a terminal gives to the text.
pub(super) fn columns(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASCII: Theme = Theme { color: false, ascii: true };

    #[test]
    fn counts_and_rates_stay_short() {
        for (count, wanted) in [
            (0, "0"),
            (412, "412"),
            (9_812, "9,812"),
            (38_102, "38.1k"),
            (999_999, "999.9k"),
            (1_004_312, "1.0M"),
            (u64::MAX, "18446744073.7G"),
        ] {
            assert_eq!(short_count(count), wanted);
        }
        assert_eq!(
            (rate(0.04), rate(170.24), rate(12_345.0)),
            ("0.0".into(), "170.2".into(), "12.3k".into())
        );
    }

    #[test]
    fn spans_keep_their_width_for_four_days() {
        for (seconds, wanted) in
            [(-1.0, "00:00:00"), (4331.9, "01:12:11"), (345_599.0, "95:59:59"), (800_000.0, "9d06h")]
        {
            assert_eq!(span(seconds), wanted);
        }
    }

    #[test]
    fn bars_and_sparklines_fill_exactly_their_columns() {
        assert_eq!(bar(0.5, 8, ASCII), "####....");
        assert_eq!(bar(f64::NAN, 4, ASCII), "....");
        assert_eq!(bar(7.0, 4, ASCII), "####");
        assert_eq!(sparkline(&[0, 1, 5, 10], 6, ASCII), "   .:|");
        assert_eq!(sparkline(&[1, 2, 3], 0, ASCII), "");
        assert_eq!(columns(&sparkline(&[u32::MAX, 1], 9, Theme { color: true, ascii: false })), 9);
    }

    #[test]
    fn a_cut_is_marked_and_never_too_wide() {
        for (given, width, wanted) in [
            ("short", 5, "short"),
            ("longer", 5, "long~"),
            ("日本語", 4, "日~"),
            ("日本語", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(fit(given, width), wanted, "{given} {width}");
        }
    }

    #[test]
    fn clocks_are_those_of_the_users_zone() {
        let at = Wall::parse("2026-11-24T10:00:01Z").unwrap();
        assert_eq!(clock(at, &TimeZone::UTC), "10:00:01");
        assert_eq!(clock(at, &TimeZone::fixed(jiff::tz::offset(2))), "12:00:01");
        assert_eq!(clock(Wall(i64::MAX), &TimeZone::UTC), "--:--:--");
    }
}
