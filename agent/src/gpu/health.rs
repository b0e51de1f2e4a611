//! Which devices are fit for use. One that fails a check goes into quarantine with the reason, and comes back by itself after
//! clean checks. Pure: what was seen comes in, what is said goes out.
use super::Device;
use reeve_protocol::units::show_bytes;
use reeve_protocol::wire;
use std::collections::BTreeMap;

/// Clean checks in a row, until a device is given to jobs again.
const CLEAN: u32 = 3;

/// What is known about the devices that this machine offers.
pub(crate) struct Health {
    /// The offered ones, in their order.
    offered: Vec<String>,
    seen: BTreeMap<String, Device>,
    sick: BTreeMap<String, Sick>,
    /// More memory than this must nobody hold on a device that is given away whole.
    foreign_bytes: u64,
}

struct Sick {
    reason: String,
    /// Its memory was held by somebody: that must be over, too.
    occupied: bool,
    clean: u32,
}

impl Health {
    pub(crate) fn new(offered: Vec<String>, foreign_bytes: u64) -> Self {
        Self { offered, seen: BTreeMap::new(), sick: BTreeMap::new(), foreign_bytes }
    }

    /// A look at all devices while jobs may use them.
    pub(crate) fn checked(&mut self, seen: Result<Vec<Device>, String>) {
        let failed = self.note(seen);
        for uuid in self.offered.clone() {
            match self.fault(&uuid, failed.as_ref()) {
                Some(reason) => self.quarantine(&uuid, reason, false),
                None => self.clean(&uuid),
            }
        }
    }

    /// A look just before an attempt gets these devices; `whole`: nobody else may be on them. The reason why it cannot.
    pub(crate) fn preflight(
        &mut self,
        seen: Result<Vec<Device>, String>,
        wanted: &[String],
        whole: bool,
    ) -> Result<(), String> {
        let failed = self.note(seen);
        let mut refused = Vec::new();
        let wanted: Vec<&String> = wanted.iter().filter(|uuid| self.offered.contains(uuid)).collect();
        for uuid in wanted {
            let fault = self.fault(uuid, failed.as_ref());
            let occupied = self.occupied(uuid).filter(|_| whole);
            if let Some(reason) = fault.clone().or(occupied) {
                refused.push(format!("{uuid}: {reason}"));
                self.quarantine(uuid, reason, fault.is_none());
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
    }

    /// Whether any device is in quarantine.
    pub(crate) fn has_sick(&self) -> bool {
        !self.sick.is_empty()
    }

    /// Every offered device, for the coordinator.
    pub(crate) fn told(&self) -> wire::Gpus {
        let devices = self.offered.iter().map(|uuid| {
            let seen = self.seen.get(uuid).cloned().unwrap_or_default();
            wire::Gpu {
                uuid: uuid.clone(),
                model: seen.model,
                memory_bytes: seen.memory_bytes,
                memory_used: seen.memory_used,
                busy_permille: seen.busy_permille,
                quarantine: self.sick.get(uuid).map(|sick| sick.reason.clone()),
            }
        });
        wire::Gpus { devices: devices.collect() }
    }

    /// Remembers what was seen; why nothing was.
    fn note(&mut self, seen: Result<Vec<Device>, String>) -> Option<String> {
        match seen {
            Ok(devices) => {
                self.seen = devices.into_iter().map(|device| (device.uuid.clone(), device)).collect();
                None
            }
            Err(error) => Some(short(&format!("gpus cannot be examined: {error}"))),
        }
    }

    fn fault(&self, uuid: &str, failed: Option<&String>) -> Option<String> {
        failed.cloned().or_else(|| match self.seen.get(uuid) {
            Some(device) => device.fault.as_deref().map(short),
            None => Some("the driver does not show it any more".to_owned()),
        })
    }

    fn occupied(&self, uuid: &str) -> Option<String> {
        let occupied = self.seen.get(uuid)?.occupied();
        (occupied > self.foreign_bytes).then(|| {
            format!("{} of its memory are held by somebody else, though no job has it", show_bytes(occupied))
        })
    }

    fn quarantine(&mut self, uuid: &str, reason: String, occupied: bool) {
        let known = self.sick.insert(uuid.to_owned(), Sick { reason: reason.clone(), occupied, clean: 0 });
        if known.is_none() {
            tracing::warn!(uuid, reason, "a gpu goes into quarantine");
        }
    }

    fn clean(&mut self, uuid: &str) {
        let still_occupied = self.occupied(uuid);
        let Some(sick) = self.sick.get_mut(uuid) else { return };
        if let Some(reason) = still_occupied.filter(|_| sick.occupied) {
            (sick.reason, sick.clean) = (reason, 0);
            return;
        }
        sick.clean += 1;
        if sick.clean >= CLEAN {
            tracing::info!(uuid, "a gpu comes out of quarantine");
            self.sick.remove(uuid);
        }
    }
}

/// As long as a word on the wire may be.
fn short(text: &str) -> String {
    reeve_protocol::text::Clean::short(text, 300).into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(uuid: &str, used: u64, fault: Option<&str>) -> Device {
        Device {
            uuid: uuid.into(),
            memory_bytes: 80 << 30,
            memory_used: used,
            fault: fault.map(str::to_owned),
            ..Device::default()
        }
    }

    fn health() -> Health {
        Health::new(vec!["GPU-a".into(), "GPU-b".into()], 256 << 20)
    }

    fn reasons(health: &Health) -> Vec<Option<String>> {
        health.told().devices.into_iter().map(|gpu| gpu.quarantine).collect()
    }

    #[test]
    fn a_device_with_foreign_memory_is_not_given_and_comes_back_after_three_clean_checks() {
        let (clean, full) = (device("GPU-a", 1 << 20, None), device("GPU-a", 2 << 30, None));
        let b = || device("GPU-b", 0, None);
        let mut health = health();
        let wanted = ["GPU-a".to_owned()];
        assert_eq!(health.preflight(Ok(vec![clean.clone(), b()]), &wanted, true), Ok(()));
        let refused = health.preflight(Ok(vec![full.clone(), b()]), &wanted, true).unwrap_err();
        assert!(refused.starts_with("GPU-a: 2.0 GiB of its memory are held"), "{refused}");
        assert!(reasons(&health)[0].is_some() && reasons(&health)[1].is_none());
        health.checked(Ok(vec![clean.clone(), b()]));
        health.checked(Ok(vec![clean.clone(), b()]));
        health.checked(Ok(vec![full, b()]));
        for _ in 0..2 {
            health.checked(Ok(vec![clean.clone(), b()]));
            assert!(reasons(&health)[0].is_some(), "it was occupied in between");
        }
        health.checked(Ok(vec![clean, b()]));
        assert_eq!(reasons(&health), [None, None]);
    }

    #[test]
    fn memory_of_jobs_that_share_a_device_is_nobodys_fault() {
        let mut health = health();
        let shared = || Ok(vec![device("GPU-a", 40 << 30, None), device("GPU-b", 0, None)]);
        assert_eq!(health.preflight(shared(), &["GPU-a".into()], false), Ok(()));
        health.checked(shared());
        assert_eq!(reasons(&health), [None, None]);
    }

    #[test]
    fn dead_missing_and_unseen_devices_are_kept_back() {
        let mut health = health();
        health.checked(Ok(vec![device("GPU-a", 0, Some("7 uncorrected memory errors"))]));
        let said = reasons(&health);
        assert!(said[0].as_deref().unwrap().contains("uncorrected"));
        assert!(said[1].as_deref().unwrap().contains("not show it"));
        health.checked(Err("the driver hangs".into()));
        assert!(reasons(&health).iter().all(|r| r.as_deref().unwrap().contains("the driver hangs")));
        let both = || Ok(vec![device("GPU-a", 0, None), device("GPU-b", 0, None)]);
        for _ in 0..CLEAN {
            health.checked(both());
        }
        assert_eq!(reasons(&health), [None, None]);
        assert!(health.preflight(Err("x".into()), &["GPU-b".into()], false).is_err());
        assert_eq!(health.preflight(both(), &["GPU-z".into()], true), Ok(()), "nobody offers it here");
    }
}
