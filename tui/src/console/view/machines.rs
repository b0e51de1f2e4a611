//! The machines, and what is known about the one under the cursor.
use super::super::format::{self, bar, measured, span};
use super::super::layout::{self, Width};
use super::super::model::{self, Model};
use super::super::theme::{Role, Theme};
use super::paint::{Painter, padded};
use super::table::{self, Column, Row, left, right};
use super::{sort_words, waiting_words};
use ratatui::layout::Rect;
use reeve_protocol::api::MachineView;
use reeve_protocol::units::show_bytes;

/// With bars, from 100 columns on.
const WIDE: [Column; 10] = [
    left("MACHINE", 0, Width::Narrow),
    left("STATE", 12, Width::Narrow),
    right("JOBS", 5, Width::Narrow),
    left("CPU", 14, Width::Narrow),
    left("MEM", 14, Width::Narrow),
    left("GPU", 5, Width::Narrow),
    right("DISK", 5, Width::Narrow),
    left("LABELS", 0, Width::Narrow),
    left("AGENT", 7, Width::Narrow),
    right("SEEN", 7, Width::Narrow),
];

/// Numbers only.
const SLIM: [Column; 8] = [
    left("MACHINE", 0, Width::Narrow),
    left("STATE", 12, Width::Narrow),
    right("JOBS", 4, Width::Narrow),
    right("CPU", 5, Width::Narrow),
    right("MEM", 5, Width::Medium),
    left("GPU", 5, Width::Medium),
    right("DISK", 5, Width::Medium),
    right("SEEN", 7, Width::Medium),
];

pub(super) fn draw(model: &Model, p: &mut Painter<'_>, area: Rect) {
    let (list, below) = layout::list_and_box(area, model.size.0);
    let machines = model::machines(model);
    let inner = p.frame(list, &format!("Machines ({})  sorted by: {}", machines.len(), sort_words(model)));
    if machines.is_empty() {
        p.notice(inner, &empty(model));
        p.frame(below, "");
        return;
    }
    let names = &model.machine_names;
    let width = Width::of(model.size.0);
    let fit = usize::from(inner.height.saturating_sub(1));
    let shown = machines.iter().enumerate().skip(names.top).take(fit);
    if width >= Width::Wide {
        let rows: Vec<Row> = shown.map(|(at, m)| wide(model.theme, m, at == names.index)).collect();
        table::draw(p, inner, width, &WIDE, &rows);
    } else {
        let rows: Vec<Row> = shown.map(|(at, m)| slim(m, at == names.index)).collect();
        table::draw(p, inner, width, &SLIM, &rows);
    }
    if let Some(machine) = machines.get(names.index) {
        about(model, p, below, machine);
    }
}

/// Trouble is marked at the edge, where the eye runs down.
fn lead(machine: &MachineView, at_cursor: bool) -> Row {
    let (state, role) = Theme::machine(&machine.state);
    let attention =
        matches!(machine.state.as_str(), "lost" | "disconnected") || machine.disk.is_some_and(|d| d > 0.95);
    Row { at_cursor, attention, ..Row::default() }
        .cell(format::text(&machine.name))
        .role(state, role)
        .cell(machine.running.to_string())
}

/// A bar and its number.
fn gauge(part: Option<f64>, theme: Theme) -> String {
    part.map_or_else(|| "-".into(), |part| format!("{} {:>3.0}%", bar(part, 8, theme), part * 100.0))
}

/// A dash, not zero, where nothing was measured.
fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".into(), |part| format!("{:.0}%", part * 100.0))
}

/// Measured, not reserved: the box below has what is reserved.
fn memory(machine: &MachineView) -> Option<f64> {
    let used = machine.memory_busy?;
    (machine.memory_bytes > 0).then(|| used as f64 / machine.memory_bytes as f64)
}

fn gpus(machine: &MachineView) -> String {
    if machine.gpus.is_empty() { "-".into() } else { format!("{}/{}", machine.gpus_used, machine.gpus.len()) }
}

fn wide(theme: Theme, machine: &MachineView, at_cursor: bool) -> Row {
    let labels: Vec<String> = machine.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    lead(machine, at_cursor)
        .cell(gauge(machine.cpu_busy, theme))
        .cell(gauge(memory(machine), theme))
        .cell(gpus(machine))
        .cell(percent(machine.disk))
        .cell(format::text(&labels.join(",")))
        .cell(format::text(&machine.agent_version))
        .cell(measured(machine.seen_s))
}

fn slim(machine: &MachineView, at_cursor: bool) -> Row {
    lead(machine, at_cursor)
        .cell(percent(machine.cpu_busy))
        .cell(percent(memory(machine)))
        .cell(gpus(machine))
        .cell(percent(machine.disk))
        .cell(measured(machine.seen_s))
}

/// What the table has no room for.
fn about(model: &Model, p: &mut Painter<'_>, area: Rect, m: &MachineView) {
    let inner = padded(p.frame(area, &format::text(&m.name)));
    let address = m.address.as_deref().unwrap_or("not connected");
    let joined = m.joined_at.map_or_else(|| "-".into(), |at| span(model.now.wall.seconds_since(at)));
    let rtt = m.rtt_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
    let load = m.load1.map_or_else(|| "-".into(), |l| format!("{l:.2}"));
    let cpus = |milli: u32| format!("{:.1}", f64::from(milli) / 1000.0);
    let limits: Vec<String> = m.capabilities.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let lines = [
        ("host", format!("{}   {}   {address}   round trip {rtt}", m.hostname, m.os)),
        (
            "reserved",
            format!(
                "cpu {}/{}   memory {}/{}   gpu {}   load {load}",
                cpus(m.cpu_milli_used),
                cpus(m.cpu_milli),
                show_bytes(m.memory_used),
                show_bytes(m.memory_bytes),
                gpus(m)
            ),
        ),
        ("agent", format!("{}   joined {joined} ago   unknown attempts {}", m.agent_version, m.orphans)),
        ("limits", limits.join("   ")),
    ];
    let keys = u16::from(inner.height > 3);
    for (at, (head, text)) in lines.iter().take(usize::from(inner.height - keys)).enumerate() {
        p.line(inner, at as u16, &[(&format!("{head:<9}"), Role::Dim), (&format::text(text), Role::Plain)]);
    }
    if keys > 0 {
        let row = inner.height.saturating_sub(1).min(lines.len() as u16 + 1);
        p.line(
            inner,
            row,
            &[("Enter", Role::Key), (" its jobs   ", Role::Plain), ("y", Role::Key), (" copy", Role::Plain)],
        );
    }
}

/// Without machines nothing runs, so the next step is how to add one.
fn empty(model: &Model) -> Vec<String> {
    if model.machines.shown.is_none() {
        return vec![waiting_words(model).into()];
    }
    if !model.machine_names.filter.is_empty() {
        let filter = format::text(&model.machine_names.filter);
        return vec![
            format!("No machine is called  {filter}"),
            String::new(),
            "esc clears the filter".into(),
        ];
    }
    vec![
        "No machine has joined yet, so nothing can run.".into(),
        String::new(),
        "Make a token:   reeve machine token".into(),
        "and on the machine:   reeve-agent join HOST --token-file FILE".into(),
    ]
}
