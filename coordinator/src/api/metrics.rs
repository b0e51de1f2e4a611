//! `/metrics` for Prometheus, in its text format.
use super::reply::{Answer, text};
use super::request::Cx;
use super::{machines, stats};
use reeve_protocol::api::{MachineView, Stats};
use reeve_protocol::{State, VERSION};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Text format 0.0.4.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`.
pub(super) async fn metrics(cx: Cx) -> Answer {
    cx.query(&[])?;
    let stats = stats::stats(&cx.app, &cx.caller).await?;
    let machines = machines::all(&cx.app, &cx.caller).await?;
    let own = Own {
        store: stats::store_bytes(cx.app.reads.path()),
        output: cx.app.segments.total_bytes(),
        seq: cx.app.seq(),
        uptime: cx.app.info.started.elapsed().as_secs_f64(),
    };
    Ok(text(MEDIA_TYPE, render(&stats, &machines, &own)))
}

/// What the API knows without asking.
struct Own {
    store: u64,
    output: u64,
    seq: u64,
    uptime: f64,
}

fn render(stats: &Stats, machines: &[MachineView], own: &Own) -> String {
    let mut out = String::new();
    family(
        &mut out,
        "reeve_build_info",
        "gauge",
        "The coordinator's version.",
        &[(format!("version=\"{VERSION}\""), 1.0)],
    );
    let jobs = stats.queues.iter().flat_map(|queue| {
        let labels = |state: &State| format!("queue=\"{}\",state=\"{state}\"", escape(&queue.name));
        State::ALL.into_iter().map(move |state| (labels(&state), queue.counts.get(state) as f64))
    });
    family(&mut out, "reeve_jobs", "gauge", "Jobs and tasks per queue and state.", &jobs.collect::<Vec<_>>());
    let mut states: BTreeMap<&str, f64> = BTreeMap::new();
    for machine in machines {
        *states.entry(&machine.state).or_default() += 1.0;
    }
    let machines: Vec<_> =
        states.into_iter().map(|(state, n)| (format!("state=\"{}\"", escape(state)), n)).collect();
    family(&mut out, "reeve_machines", "gauge", "Machines per state.", &machines);
    let causes: Vec<_> =
        stats.causes.iter().map(|(kind, n)| (format!("cause=\"{}\"", escape(kind)), *n as f64)).collect();
    family(&mut out, "reeve_ends_total", "counter", "Ends per cause since the coordinator started.", &causes);
    let single = |value: f64| [(String::new(), value)];
    family(
        &mut out,
        "reeve_stale_total",
        "counter",
        "Messages about attempts that were not current.",
        &single(stats.stale as f64),
    );
    family(&mut out, "reeve_event_seq", "counter", "The last event.", &single(own.seq as f64));
    family(&mut out, "reeve_store_bytes", "gauge", "The store and its log.", &single(own.store as f64));
    family(&mut out, "reeve_output_bytes", "gauge", "Output in segment files.", &single(own.output as f64));
    family(&mut out, "reeve_uptime_seconds", "gauge", "Since the coordinator started.", &single(own.uptime));
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    // Writing into a string does not fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in samples {
        let _ = match labels.as_str() {
            "" => writeln!(out, "{name} {value}"),
            labels => writeln!(out, "{name}{{{labels}}} {value}"),
        };
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::api::{QueueView, StateCounts};

    #[test]
    fn the_text_has_one_line_a_sample_and_hostile_names_are_escaped() {
        let queue = QueueView {
            name: "a\"b".into(),
            counts: StateCounts { queued: 3, ..StateCounts::default() },
            ..QueueView::default()
        };
        let stats = Stats { queues: vec![queue], causes: [("oom".to_owned(), 2)].into(), ..Stats::default() };
        let machines = [MachineView { state: "up".into(), ..MachineView::default() }];
        let text = render(&stats, &machines, &Own { store: 10, output: 20, seq: 30, uptime: 1.5 });
        for line in [
            r#"reeve_jobs{queue="a\"b",state="QUEUED"} 3"#,
            r#"reeve_machines{state="up"} 1"#,
            r#"reeve_ends_total{cause="oom"} 2"#,
            "reeve_event_seq 30",
            "# TYPE reeve_jobs gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
