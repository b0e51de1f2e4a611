//! Devices as NVIDIA's management library shows them. The library is looked for when the agent runs (libnvidia-ml.so.1, part
//! of every driver), so that reeve builds and runs without it.
use super::{Device, Source};
use nvml_wrapper as lib;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use std::ffi::OsStr;

/// The name that every driver installs; the one without a number is part of development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Up to so much the driver uses for itself: its counter of used memory includes that.
const OVERHEAD: u64 = 1 << 30;

/// The library, open.
pub(super) struct Nvml {
    lib: lib::Nvml,
}

impl Nvml {
    pub(super) fn open() -> Result<Self, String> {
        Self::open_as(OsStr::new(LIBRARY))
    }

    fn open_as(library: &OsStr) -> Result<Self, String> {
        let lib = lib::Nvml::builder().lib_path(library).init().map_err(|error| error.to_string())?;
        Ok(Self { lib })
    }
}

impl Source for Nvml {
    fn look(&mut self) -> Result<Vec<Device>, String> {
        let count = self.lib.device_count().map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        for index in 0..count {
            let Ok(device) = self.lib.device_by_index(index) else { continue };
            // A device that is divided is offered as its parts.
            let parts = device.mig_device_count().unwrap_or(0);
            let parts: Vec<_> = (0..parts).filter_map(|part| device.mig_device_by_index(part).ok()).collect();
            if parts.is_empty() {
                found.extend(seen(&device));
            }
            found.extend(parts.iter().filter_map(seen));
        }
        Ok(found)
    }
}

/// `None`: it does not even say its name, so that it is missing.
fn seen(device: &lib::Device<'_>) -> Option<Device> {
    let uuid = device.uuid().ok()?;
    let memory = device.memory_info();
    let held = device.running_compute_processes().map_or(0, |all| {
        all.iter()
            .map(|process| match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => bytes,
                UsedGpuMemory::Unavailable => 0,
            })
            .sum()
    });
    let fault = match &memory {
        Err(error) if is_gone(error) => Some(format!("it does not answer: {error}")),
        _ => device
            .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
            .ok()
            .filter(|count| *count > 0)
            .map(|count| format!("{count} uncorrected memory errors since the driver was loaded")),
    };
    let memory = memory.ok();
    Some(Device {
        uuid,
        model: device.name().unwrap_or_default(),
        memory_bytes: memory.as_ref().map_or(0, |m| m.total),
        memory_used: memory.as_ref().map_or(0, |m| m.used),
        held,
        overhead: OVERHEAD,
        busy_permille: device.utilization_rates().ok().map(|rates| (rates.gpu * 10).min(1000) as u16),
        fault,
    })
}

/// Errors of a device that is there and dead; others only say that a card has no such counter.
fn is_gone(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::Unknown | NvmlError::IrqIssue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_library_it_says_so_and_nothing_else_happens() {
        let error = Nvml::open_as(OsStr::new("/nowhere/libnvidia-ml.so.1")).err().unwrap();
        assert!(error.contains("libloading") || error.contains("/nowhere"), "{error}");
    }

    #[test]
    fn the_devices_of_this_machine_have_names() {
        match Nvml::open() {
            Ok(mut nvml) => {
                let devices = nvml.look().unwrap();
                assert!(
                    devices.iter().all(|d| d.uuid.starts_with("GPU-") || d.uuid.starts_with("MIG-")),
                    "{devices:?}"
                );
            }
            Err(why) => println!("SKIPPED: the_devices_of_this_machine_have_names: {why}"),
        }
    }
}
