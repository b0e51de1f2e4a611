//! The gpus of one machine: what is free of each, which may not be given, and why. Shares are thousandths of a device: a
//! whole number of devices, or a fraction of one; a fraction never spans devices. It trusts nobody's count but its own.
use reeve_protocol::wire;

/// All of a device.
pub const WHOLE: u32 = 1000;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The driver's name for it, which does not change.
    pub uuid: String,
    /// Thousandths that nobody holds.
    pub free: u32,
    /// What the machine said of it last.
    pub told: Option<wire::Gpu>,
}

impl Device {
    /// Why it is not given to anybody.
    pub fn quarantine(&self) -> Option<&str> {
        self.told.as_ref()?.quarantine.as_deref()
    }

    fn may_be_given(&self) -> bool {
        self.quarantine().is_none()
    }
}

/// The gpus of a machine, in the order that it tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    devices: Vec<Device>,
}

impl Gpus {
    /// The machine says which it has. All of them are free again: the caller takes what is held.
    pub fn set(&mut self, uuids: &[String]) {
        let known = std::mem::take(&mut self.devices);
        let told = |uuid: &String| known.iter().find(|d| d.uuid == *uuid).and_then(|d| d.told.clone());
        self.devices =
            uuids.iter().map(|uuid| Device { uuid: uuid.clone(), free: WHOLE, told: told(uuid) }).collect();
    }

    /// What the machine says about its devices; those it does not speak of are as before. The names of those whose
    /// quarantine has begun (true) or ended.
    pub fn tell(&mut self, told: Vec<wire::Gpu>) -> Vec<(String, bool)> {
        let mut changed = Vec::new();
        for gpu in told {
            let Some(device) = self.devices.iter_mut().find(|d| d.uuid == gpu.uuid) else { continue };
            let (before, now) = (device.quarantine().is_some(), gpu.quarantine.is_some());
            if before != now {
                changed.push((gpu.uuid.clone(), now));
            }
            device.told = Some(gpu);
        }
        changed
    }

    /// Every device.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Those that an ask would get now: whole devices in their order; for a fraction the fullest that still has room, so
    /// that whole ones stay whole.
    pub fn choose(&self, milli: u32) -> Option<Vec<String>> {
        let usable = || self.devices.iter().filter(|d| d.may_be_given());
        if milli == 0 {
            return Some(Vec::new());
        }
        if milli < WHOLE {
            let fullest = usable().filter(|d| d.free >= milli).min_by_key(|d| d.free)?;
            return Some(vec![fullest.uuid.clone()]);
        }
        let wanted = milli.div_ceil(WHOLE) as usize;
        let free: Vec<String> =
            usable().filter(|d| d.free == WHOLE).take(wanted).map(|d| d.uuid.clone()).collect();
        (free.len() == wanted).then_some(free)
    }

    /// Takes a share of each of these. False: one had less, or is not there; what there was is taken.
    pub fn take(&mut self, uuids: &[String], milli: u32) -> bool {
        let share = milli.min(WHOLE);
        let mut all = true;
        for uuid in uuids {
            match self.devices.iter_mut().find(|d| d.uuid == *uuid) {
                Some(device) => {
                    all &= device.free >= share;
                    device.free = device.free.saturating_sub(share);
                }
                None => all = false,
            }
        }
        all
    }

    /// Gives back what [`Gpus::take`] has taken whole.
    pub fn give(&mut self, uuids: &[String], milli: u32) {
        for device in self.devices.iter_mut().filter(|d| uuids.contains(&d.uuid)) {
            device.free = (device.free + milli.min(WHOLE)).min(WHOLE);
        }
    }

    /// Why an ask gets none now, in words.
    pub fn lacking(&self, milli: u32) -> String {
        let usable: Vec<&Device> = self.devices.iter().filter(|d| d.may_be_given()).collect();
        let text = if milli < WHOLE {
            let most = usable.iter().map(|d| d.free).max().unwrap_or(0);
            format!("needs {} of a gpu, at most {} of one is free", people(milli), people(most))
        } else {
            let whole = usable.iter().filter(|d| d.free == WHOLE).count();
            format!("needs {} gpus, {whole} free", milli.div_ceil(WHOLE))
        };
        let sick = self
            .devices
            .iter()
            .filter_map(|device| Some(format!("{} in quarantine ({})", device.uuid, device.quarantine()?)));
        std::iter::once(text).chain(sick).collect::<Vec<_>>().join(", ")
    }
}

/// Thousandths as people write them.
pub fn people(milli: u32) -> String {
    (f64::from(milli) / f64::from(WHOLE)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn gpus(n: usize) -> Gpus {
        let mut gpus = Gpus::default();
        gpus.set(&(0..n).map(|n| format!("GPU-{n}")).collect::<Vec<_>>());
        gpus
    }

    fn sick(uuid: &str, why: &str) -> wire::Gpu {
        wire::Gpu { uuid: uuid.into(), quarantine: Some(why.into()), ..wire::Gpu::default() }
    }

    #[test]
    fn fractions_fill_one_device_before_the_next_and_never_span_two() {
        let mut gpus = gpus(2);
        let first = gpus.choose(500).unwrap();
        assert!(gpus.take(&first, 500));
        assert_eq!(gpus.choose(500).unwrap(), first);
        assert_eq!(gpus.choose(700).unwrap(), ["GPU-1"]);
        assert_eq!(gpus.choose(1000).unwrap(), ["GPU-1"], "a shared one is not given whole");
        assert!(gpus.take(&["GPU-1".into()], 700));
        assert_eq!(gpus.choose(600), None, "500 + 300 are free, on two devices");
        assert_eq!(gpus.lacking(600), "needs 0.6 of a gpu, at most 0.5 of one is free");
        assert_eq!(gpus.lacking(2000), "needs 2 gpus, 0 free");
    }

    #[test]
    fn what_is_in_quarantine_is_not_given_and_the_reason_is_told() {
        let mut gpus = gpus(2);
        assert_eq!(
            gpus.tell(vec![sick("GPU-0", "dead"), sick("GPU-9", "unknown")]),
            [("GPU-0".to_owned(), true)]
        );
        assert!(gpus.tell(vec![sick("GPU-0", "dead still")]).is_empty());
        assert_eq!(gpus.choose(1000).unwrap(), ["GPU-1"]);
        assert_eq!(gpus.choose(2000), None);
        assert_eq!(gpus.lacking(2000), "needs 2 gpus, 1 free, GPU-0 in quarantine (dead still)");
        gpus.set(&["GPU-0".into(), "GPU-1".into()]);
        assert_eq!(gpus.choose(2000), None, "a machine that describes itself again is not cured by that");
        let well = wire::Gpu { uuid: "GPU-0".into(), ..wire::Gpu::default() };
        assert_eq!(gpus.tell(vec![well]), [("GPU-0".to_owned(), false)]);
        assert_eq!(gpus.choose(2000).unwrap().len(), 2);
    }

    #[test]
    fn what_is_held_of_a_device_that_is_gone_is_said_to_be_short() {
        let mut gpus = gpus(1);
        assert!(!gpus.take(&["GPU-7".into()], 1000));
        assert!(gpus.take(&["GPU-0".into()], 1000));
        assert!(!gpus.take(&["GPU-0".into()], 500));
        assert_eq!(gpus.devices()[0].free, 0);
    }

    proptest! {
        /// Whatever is asked for and given back, by whomever: no device has holders beyond the whole of it, whole asks
        /// have devices of their own, and in the end everything is free.
        #[test]
        fn no_device_is_given_beyond_its_whole(asks in prop::collection::vec((0..6u32, any::<bool>(), 0..8usize), 1..60)) {
            let mut gpus = gpus(3);
            let mut held: Vec<(Vec<String>, u32)> = Vec::new();
            for (size, gives, which) in asks {
                let milli = [0, 250, 500, 750, 1000, 2000][size as usize];
                if gives && !held.is_empty() {
                    let (uuids, milli) = held.swap_remove(which % held.len());
                    gpus.give(&uuids, milli);
                } else if let Some(uuids) = gpus.choose(milli) {
                    prop_assert_eq!(uuids.len() as u32, milli.div_ceil(WHOLE));
                    prop_assert!(gpus.take(&uuids, milli));
                    held.push((uuids, milli));
                }
                let mut sums: BTreeMap<&String, (u32, u32)> = BTreeMap::new();
                for (uuids, milli) in &held {
                    for uuid in uuids {
                        let sum = sums.entry(uuid).or_default();
                        *sum = (sum.0 + milli.min(&WHOLE), sum.1 + u32::from(*milli >= WHOLE));
                    }
                }
                for device in gpus.devices() {
                    let (sum, whole) = sums.get(&device.uuid).copied().unwrap_or_default();
                    prop_assert!(sum <= WHOLE && device.free == WHOLE - sum, "{}: {sum} held", device.uuid);
                    prop_assert!(whole == 0 || sum == WHOLE);
                }
            }
            for (uuids, milli) in held.drain(..) {
                gpus.give(&uuids, milli);
            }
            prop_assert_eq!(gpus.choose(3000).map(|all| all.len()), Some(3));
        }
    }
}
