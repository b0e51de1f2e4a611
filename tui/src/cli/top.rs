//! `reeve top`: what machines and running jobs use, a picture of this moment; and the tables that `machine show` ends with.
use super::context::Context;
use super::error::Error;
use super::table::Table;
use reeve_protocol::api::{HeldView, List, MachineView};
use reeve_protocol::units::show_bytes;

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// So many jobs, those that use most first
    #[arg(short = 'n', long, default_value_t = 30, value_name = "N")]
    pub lines: usize,
    /// Of this machine alone
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
}

/// Runs it.
///
/// # Errors
/// From the coordinator.
pub async fn run(given: Top, context: &mut Context) -> Result<(), Error> {
    let Some(mut list) = context.get::<List<MachineView>>("/v1/top").await? else { return Ok(()) };
    if let Some(wanted) = &given.machine {
        list.items.retain(|m| m.name == *wanted || m.id == *wanted);
    }
    context.table(&machines(&list.items))?;
    let (jobs, left) = jobs(&list.items, given.lines);
    if jobs.is_empty() {
        return Ok(());
    }
    context.line("")?;
    context.table(&jobs)?;
    if left > 0 {
        context.line(format!("and {left} more (-n {})", given.lines + left))?;
    }
    Ok(())
}

/// The gpus of a machine, and who holds what there.
///
/// # Errors
/// From the terminal.
pub fn details(machine: &MachineView, context: &mut Context) -> Result<(), Error> {
    let gpus = gpus(machine);
    if !gpus.is_empty() {
        context.line("")?;
        context.table(&gpus)?;
    }
    let (jobs, left) = jobs(std::slice::from_ref(machine), 20);
    if !jobs.is_empty() {
        context.line("")?;
        context.table(&jobs)?;
    }
    if left > 0 {
        context.line(format!("and {left} more (reeve top --machine {} -n {})", machine.name, left + 20))?;
    }
    Ok(())
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

fn cpus(milli: u64) -> String {
    format!("{:.2}", milli as f64 / 1000.0)
}

fn machines(machines: &[MachineView]) -> Table {
    let mut table = Table::new(&[
        "MACHINE",
        "STATE",
        ">CPU",
        ">RESERVED",
        ">MEMORY",
        ">OF",
        ">GPU",
        ">GPUS",
        ">RUNNING",
        "QUARANTINE",
    ]);
    for m in machines {
        let busy: Vec<f64> = m.devices.iter().filter_map(|d| d.busy).collect();
        let busy = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        let sick: Vec<&str> =
            m.devices.iter().filter(|d| d.quarantine.is_some()).map(|d| d.uuid.as_str()).collect();
        table.row(
            [
                m.name.clone(),
                m.state.clone(),
                percent(m.cpu_busy),
                format!("{}/{}", cpus(m.cpu_milli_used.into()), cpus(m.cpu_milli.into())),
                m.memory_busy.map(show_bytes).unwrap_or_default(),
                show_bytes(m.memory_bytes),
                percent(busy),
                format!("{}/{}", m.gpus_used, m.gpus.len()),
                m.running.to_string(),
                sick.join(" "),
            ]
            .map(Into::into),
        );
    }
    table
}

/// Those that use most cpu, then most memory; and how many were left out.
fn jobs(machines: &[MachineView], lines: usize) -> (Table, usize) {
    let mut all: Vec<(&MachineView, &HeldView)> =
        machines.iter().flat_map(|m| m.attempts.iter().map(move |held| (m, held))).collect();
    all.sort_by_key(|(_, held)| std::cmp::Reverse((held.cpu_milli_used, held.rss_bytes)));
    let mut table =
        Table::new(&["JOB", "MACHINE", ">CPU", ">HOLDS", ">RSS", ">LIMIT", ">GPU", "GPUS", "WARNING"]);
    for (m, held) in all.iter().take(lines) {
        let id = held.index.map_or_else(|| held.job.to_string(), |index| format!("{}.{index}", held.job));
        table.row(
            [
                id,
                m.name.clone(),
                held.cpu_milli_used.map(cpus).unwrap_or_default(),
                cpus(held.cpu_milli.into()),
                held.rss_bytes.map(show_bytes).unwrap_or_default(),
                if held.memory_bytes > 0 { show_bytes(held.memory_bytes) } else { String::new() },
                if held.gpu > 0.0 { held.gpu.to_string() } else { String::new() },
                held.gpus.join(" "),
                held.warning.clone().unwrap_or_default(),
            ]
            .map(Into::into),
        );
    }
    (table, all.len().saturating_sub(lines))
}

fn gpus(machine: &MachineView) -> Table {
    let mut table =
        Table::new(&["GPU", "MODEL", ">MEMORY", ">USED", ">BUSY", ">FREE", "HELD BY", "QUARANTINE"]);
    for gpu in &machine.devices {
        table.row(
            [
                gpu.uuid.clone(),
                gpu.model.clone(),
                if gpu.memory_bytes > 0 { show_bytes(gpu.memory_bytes) } else { String::new() },
                if gpu.memory_bytes > 0 { show_bytes(gpu.memory_used) } else { String::new() },
                percent(gpu.busy),
                gpu.free.to_string(),
                gpu.holders.join(" "),
                gpu.quarantine.clone().unwrap_or_default(),
            ]
            .map(Into::into),
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::api::GpuView;

    fn machine() -> MachineView {
        let held = |job, cpu, gpu: f64| HeldView {
            job,
            attempt: 1,
            cpu_milli: 1000,
            memory_bytes: 1 << 30,
            gpu,
            gpus: vec!["GPU-a".into()],
            cpu_milli_used: Some(cpu),
            rss_bytes: Some(512 << 20),
            warning: (cpu == 0).then(|| "idle-gpu".to_owned()),
            ..HeldView::default()
        };
        MachineView {
            name: "gpu-\u{1b}7".into(),
            state: "up".into(),
            cpu_milli: 8000,
            cpu_milli_used: 2000,
            gpus: vec!["GPU-a".into()],
            gpus_used: 1,
            devices: vec![GpuView {
                uuid: "GPU-a".into(),
                model: "A100".into(),
                memory_bytes: 80 << 30,
                memory_used: 40 << 30,
                busy: Some(0.25),
                free: 0.5,
                quarantine: Some("it smokes".into()),
                holders: vec!["7".into(), "9.3".into()],
            }],
            attempts: vec![held(7, 0, 0.5), HeldView { index: Some(3), ..held(9, 1500, 0.0) }],
            ..MachineView::default()
        }
    }

    fn text(table: &Table) -> String {
        table.render(None, false)
    }

    #[test]
    fn who_uses_most_comes_first_and_the_rest_is_counted() {
        let machines = [machine()];
        let (all, left) = jobs(&machines, 30);
        let lines: Vec<String> = text(&all).lines().map(str::to_owned).collect();
        assert!(lines[1].starts_with("9.3") && lines[1].contains("1.50"), "{lines:?}");
        assert!(lines[2].starts_with('7') && lines[2].contains("0.5") && lines[2].contains("idle-gpu"));
        assert_eq!(left, 0);
        assert_eq!(jobs(&machines, 1).1, 1);
    }

    #[test]
    fn machines_and_gpus_are_clean_lines_with_their_quarantine() {
        let shown = text(&machines(&[machine()])) + &text(&gpus(&machine()));
        for part in ["2.00/8.00", "25 %", "1/1", "A100", "80.0 GiB", "7 9.3", "it smokes"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains('\u{1b}'));
    }
}
