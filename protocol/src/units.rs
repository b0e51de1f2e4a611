//! Durations and sizes as people write them.

/// Parses a duration into seconds: `90`, `90s`, `1.5h`, `2h30m`, `500ms`, `3d`. A bare number is seconds.
///
/// # Errors
/// A sentence that names the accepted forms.
pub fn parse_duration_s(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not a duration; write for example 90, 90s, 30m, 2h30m, 1.5h, 3d");
    if text.is_empty() {
        return Err(wrong());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return checked(seconds).ok_or_else(wrong);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..split].parse().map_err(|_| wrong())?;
        let after = &rest[split..];
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = match &after[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &after[end..];
    }
    checked(total).ok_or_else(wrong)
}

/// Up to ten years: longer is a mistake, and must not overflow later sums.
fn checked(seconds: f64) -> Option<f64> {
    (seconds.is_finite() && (0.0..=315_360_000.0).contains(&seconds)).then_some(seconds)
}

/// Parses a size into bytes: `512`, `4GiB`, `4G` (both binary), `1.5GB` (decimal), `200MB`.
///
/// # Errors
/// A sentence that names the accepted forms.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size; write for example 512MiB, 4GiB, 4G (binary) or 4GB (decimal)");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let bytes = number * unit as f64;
    if bytes.is_finite() && bytes < 9.0e18 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// A size for people: `4.0 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut at = 0;
    while value >= 1024.0 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    if at == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[at]) }
}

/// A duration for people, two units at most: `850ms`, `4.1s`, `12m30s`, `2h14m`, `3d04h`.
pub fn show_duration(seconds: f64) -> String {
    if seconds < 0.0005 {
        return "0s".to_owned();
    }
    if seconds < 1.0 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let s = seconds as u64;
    match s {
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A count with thousands separators: `1,204`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("90", 90.0),
            ("90s", 90.0),
            ("30m", 1800.0),
            ("2h30m", 9000.0),
            ("1.5h", 5400.0),
            ("500ms", 0.5),
            ("3d", 259_200.0),
        ] {
            assert_eq!(parse_duration_s(text), Ok(wanted), "{text}");
        }
        for bad in ["", "10m10", "-5s", "1e9h", "5 parsecs", "NaN", "inf", "99999999999", "s"] {
            assert!(parse_duration_s(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, wanted) in
            [("512", 512), ("4GiB", 4 << 30), ("4G", 4 << 30), ("1.5GB", 1_500_000_000), ("0", 0)]
        {
            assert_eq!(parse_bytes(text), Ok(wanted), "{text}");
        }
        for bad in ["", "GiB", "-1", "4XB", "1e400", "99999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown() {
        assert_eq!(show_count(1_004_312), "1,004,312");
        assert_eq!(show_count(12), "12");
        assert_eq!(show_duration(8040.0), "2h14m");
        assert_eq!(show_duration(0.0041), "4ms");
        assert_eq!(show_bytes(1536), "1.5 KiB");
    }
}
