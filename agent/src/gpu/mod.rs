//! The gpus of this machine: what the driver says of them, whether they are fit for use, and what the coordinator is told.
//! One module for everything that asks a driver. Nothing is given to anybody here.
pub(crate) mod health;
mod nvml;
mod recorded;

use crate::config::Settings;
use std::path::Path;

/// What is seen of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    /// The driver's name for it, which does not change.
    pub(crate) uuid: String,
    /// What it is, for people.
    pub(crate) model: String,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_used: u64,
    /// Memory that processes hold which the driver lists.
    pub(crate) held: u64,
    /// What the driver may use for itself.
    pub(crate) overhead: u64,
    /// Share of the time that it works, in thousandths; `None`: the driver does not say.
    pub(crate) busy_permille: Option<u16>,
    /// Why it cannot be used.
    pub(crate) fault: Option<String>,
}

impl Device {
    /// Memory that somebody holds: listed processes, or what is in use beyond the driver's own.
    pub(crate) fn occupied(&self) -> u64 {
        self.held.max(self.memory_used.saturating_sub(self.overhead))
    }
}

/// Where devices are seen.
pub(crate) trait Source: Send {
    /// Looks at all of them. May take long: a driver can hang.
    ///
    /// # Errors
    /// In words: no device can be used while it lasts.
    fn look(&mut self) -> Result<Vec<Device>, String>;
}

/// Where this machine's devices are seen; `None`: there is no driver and no description.
pub(crate) fn source(settings: &Settings) -> Option<Box<dyn Source>> {
    if let Some(file) = &settings.gpu_file {
        return Some(Box::new(recorded::Recorded::new(file)));
    }
    // Without a driver not even a library is looked for.
    if !Path::new("/proc/driver/nvidia").exists() && !Path::new("/dev/nvidiactl").exists() {
        return None;
    }
    match nvml::Nvml::open() {
        Ok(nvml) => Some(Box::new(nvml)),
        Err(error) => {
            tracing::warn!(
                error,
                "NVML cannot be used: gpus are offered as the driver lists them, unexamined"
            );
            None
        }
    }
}
