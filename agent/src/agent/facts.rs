//! What the agent tells about its machine, and what its keeper may run at once: configuration first, then what the
//! machine itself shows.
use crate::config::Settings;
use crate::machine::{cpu, memory, os};
use reeve_protocol::units::parse_bytes;
use reeve_protocol::wire::{Limits, Machine};
use std::path::Path;

/// Where the driver lists its gpus; reading it needs no library and no process.
const GPUS: &str = "/proc/driver/nvidia/gpus";

/// The machine as it is offered; `root`: its keeper can start attempts as other users.
pub(crate) fn machine(settings: &Settings, root: bool) -> Machine {
    let word = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Machine {
        hostname: os::hostname(),
        cpu_milli: settings.cpus.map_or_else(cpu::usable_milli, |cpus| (cpus * 1000.0).round() as u32),
        memory_bytes: settings
            .memory
            .as_deref()
            .and_then(|text| parse_bytes(text).ok())
            .unwrap_or_else(memory::usable),
        gpus: settings.gpus.clone().unwrap_or_else(|| gpus(Path::new(GPUS))),
        named: settings.resources.iter().map(|(name, count)| (name.clone(), *count)).collect(),
        labels: settings.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        capabilities: vec![
            // The keeper says itself what it enforces.
            word("run_as", if root { "yes" } else { "no" }),
        ],
        os: os::describe(),
        keeper: true,
    }
}

/// What the keeper may run at once, and how it is called.
pub(crate) fn limits(machine: &Machine, name: &str) -> Limits {
    Limits {
        cpu_milli: machine.cpu_milli,
        memory_bytes: machine.memory_bytes,
        machine: name.to_owned(),
        heard_boot_ms: 0,
    }
}

/// UUIDs of the gpus below the driver's directory, in the order of their bus ids.
fn gpus(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<(std::ffi::OsString, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("information")).ok()?;
            let uuid = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?.trim().to_owned();
            // A driver that has not looked yet shows question marks.
            (!uuid.contains('?')).then(|| (entry.file_name(), uuid))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, uuid)| uuid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_come_in_the_order_of_their_bus() {
        let dir = tempfile::tempdir().unwrap();
        for (bus, uuid) in [("0000:81:00.0", "GPU-b"), ("0000:01:00.0", "GPU-a"), ("0000:91:00.0", "GPU-??")]
        {
            let path = dir.path().join(bus);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("information"), format!("Model: \t X\nGPU UUID: \t {uuid}\n")).unwrap();
        }
        assert_eq!(gpus(dir.path()), ["GPU-a", "GPU-b"]);
        assert!(gpus(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn configuration_wins_over_what_the_machine_shows() {
        let settings = Settings {
            cpus: Some(1.5),
            memory: Some("2GiB".into()),
            gpus: Some(vec!["GPU-x".into()]),
            ..Settings::default()
        };
        let machine = machine(&settings, true);
        assert_eq!((machine.cpu_milli, machine.memory_bytes), (1500, 2 << 30));
        assert_eq!(machine.gpus, ["GPU-x"]);
        assert!(machine.capabilities.contains(&("run_as".into(), "yes".into())));
        let limits = limits(&machine, "gpu-07");
        assert_eq!((limits.cpu_milli, limits.machine.as_str()), (1500, "gpu-07"));
    }
}
