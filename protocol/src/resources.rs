//! What a job asks for and what a machine has.
use crate::error::{Code, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Thousandths of a cpu: half a cpu is 500. Integers, so that what is taken is given back exactly.
pub type CpuMilli = u32;

/// What a job asks for, as users write it. Defaults: 1 cpu, no memory limit, no gpu.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceAsk {
    /// Cpus, in steps of 0.001; absent means 1, and 0 means "needs none".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory; absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whole gpus, or a part of one in steps of 0.001.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<f64>,
    /// Named counters, such as licences.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub named: BTreeMap<String, u64>,
}

impl ResourceAsk {
    /// Whether nothing was asked for beyond the defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The exact form that placement counts with.
    ///
    /// # Errors
    /// `out-of-range` naming the field: cpus 0 to 4,096, gpus whole up to 1,024 or a part of one, memory up to 2^53 bytes.
    pub fn exact(&self) -> Result<Resources, Problem> {
        let cpus = self.cpus.unwrap_or(1.0);
        if !(0.0..=4096.0).contains(&cpus) {
            return Err(Problem::new(
                Code::OutOfRange,
                format!("resources.cpus is {cpus}; it must be between 0 and 4096"),
            )
            .hint("reeve machine ls shows what the machines have"));
        }
        let gpus = self.gpus.unwrap_or(0.0);
        let is_part = (0.001..1.0).contains(&gpus);
        if !(0.0..=1024.0).contains(&gpus) || gpus.fract() != 0.0 && !is_part {
            return Err(Problem::new(
                Code::OutOfRange,
                format!(
                    "resources.gpus is {gpus}; it must be a whole number between 0 and 1024, or a part of one gpu \
                     from 0.001 on: a part never spans two"
                ),
            )
            .hint("reeve machine ls shows what the machines have"));
        }
        let memory_bytes = self.memory_bytes.unwrap_or(0);
        if memory_bytes > 1 << 53 {
            return Err(Problem::new(
                Code::OutOfRange,
                format!("resources.memory_bytes is {memory_bytes}; at most 2^53 is possible"),
            )
            .hint("reeve machine ls shows what the machines have"));
        }
        if self.named.len() > 32 || self.named.values().any(|n| *n > 1 << 32) {
            return Err(Problem::new(
                Code::OutOfRange,
                "resources.named has more than 32 names or a count above 2^32".to_owned(),
            )
            .hint("reeve machine ls shows what the machines have"));
        }
        Ok(Resources {
            cpu_milli: (cpus * 1000.0).round() as u32,
            memory_bytes,
            gpu_milli: (gpus * 1000.0).round() as u32,
            named: self.named.clone(),
        })
    }
}

/// Counted resources: asked for, free, or had.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a cpu.
    pub cpu_milli: CpuMilli,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of gpus.
    pub gpu_milli: u32,
    /// Named counters.
    pub named: BTreeMap<String, u64>,
}

impl Resources {
    /// Whether `ask` fits into this.
    pub fn fits(&self, ask: &Self) -> bool {
        self.cpu_milli >= ask.cpu_milli
            && self.memory_bytes >= ask.memory_bytes
            && self.gpu_milli >= ask.gpu_milli
            && ask.named.iter().all(|(name, n)| self.named.get(name).copied().unwrap_or(0) >= *n)
    }

    /// Takes `ask` out. The caller has checked [`Resources::fits`].
    pub fn take(&mut self, ask: &Self) {
        self.cpu_milli -= ask.cpu_milli;
        self.memory_bytes -= ask.memory_bytes;
        self.gpu_milli -= ask.gpu_milli;
        for (name, n) in &ask.named {
            if let Some(free) = self.named.get_mut(name) {
                *free -= n;
            }
        }
    }

    /// Gives `ask` back. Saturates: a machine may claim any amount, and may have changed its claim meanwhile.
    pub fn give(&mut self, ask: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(ask.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(ask.memory_bytes);
        self.gpu_milli = self.gpu_milli.saturating_add(ask.gpu_milli);
        for (name, n) in &ask.named {
            let free = self.named.entry(name.clone()).or_default();
            *free = free.saturating_add(*n);
        }
    }

    /// Gpus as people count them.
    pub fn gpus(&self) -> f64 {
        f64::from(self.gpu_milli) / 1000.0
    }

    /// Cpus as people count them.
    pub fn cpus(&self) -> f64 {
        f64::from(self.cpu_milli) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_exactly() {
        let mut free = Resources {
            cpu_milli: 2000,
            memory_bytes: 100,
            gpu_milli: 1000,
            named: [("l".to_owned(), 2)].into(),
        };
        let before = free.clone();
        let ask = ResourceAsk {
            cpus: Some(0.3),
            memory_bytes: Some(7),
            gpus: Some(1.0),
            named: [("l".to_owned(), 2)].into(),
        }
        .exact()
        .unwrap();
        assert!(free.fits(&ask));
        free.take(&ask);
        assert!(!free.fits(&ask));
        free.give(&ask);
        assert_eq!(free, before);
    }

    #[test]
    fn absurd_asks_are_refused() {
        for ask in [
            ResourceAsk { cpus: Some(-1.0), ..Default::default() },
            ResourceAsk { cpus: Some(f64::NAN), ..Default::default() },
            ResourceAsk { cpus: Some(1e9), ..Default::default() },
            ResourceAsk { gpus: Some(1.5), ..Default::default() },
            ResourceAsk { gpus: Some(0.0001), ..Default::default() },
            ResourceAsk { gpus: Some(-0.5), ..Default::default() },
            ResourceAsk { memory_bytes: Some(u64::MAX), ..Default::default() },
        ] {
            assert_eq!(ask.exact().unwrap_err().code, "out-of-range");
        }
        assert_eq!(ResourceAsk::default().exact().unwrap().cpu_milli, 1000);
        for (asked, milli) in [(0.0, 0), (0.25, 250), (0.9999, 1000), (2.0, 2000)] {
            let ask = ResourceAsk { gpus: Some(asked), ..Default::default() };
            assert_eq!(ask.exact().unwrap().gpu_milli, milli);
        }
    }
}
