//! The chaos proxy: stands between machines and coordinator and does to what passes whatever it is told, per direction,
//! from a seed, keeping count of everything.
mod lane;
pub mod tcp;
pub mod udp;

pub use lane::Lane;

use std::time::Duration;

/// What is done to what passes in one direction. The default does nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Of a hundred datagrams, so many are dropped.
    pub drop: f64,
    /// Of a hundred, so many come twice.
    pub duplicate: f64,
    /// Of a hundred, so many have one byte changed.
    pub corrupt: f64,
    /// Of a hundred, so many lose their end.
    pub truncate: f64,
    /// Of a hundred, so many are overtaken by others.
    pub reorder: f64,
    /// By at most so many; 0 means 3.
    pub window: u64,
    /// Every datagram waits between the two; a spread lets them overtake each other.
    pub delay: (Duration, Duration),
    /// Bytes per second; what would wait longer than a second is dropped, as a full router does.
    pub rate: Option<u64>,
    /// Nothing passes.
    pub blackhole: bool,
}

impl Faults {
    /// Nothing passes.
    pub fn blackhole() -> Self {
        Self { blackhole: true, ..Self::default() }
    }
}

/// What was done so far. Always: `arrived + duplicated = forwarded + dropped + blackholed + overflowed + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came in.
    pub arrived: u64,
    /// Went out, second copies included.
    pub forwarded: u64,
    /// By chance.
    pub dropped: u64,
    /// While nothing passed.
    pub blackholed: u64,
    /// Beyond what the rate lets wait.
    pub overflowed: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Went out after one that had come later.
    pub reordered: u64,
    /// Had to wait.
    pub delayed: u64,
    /// One byte changed.
    pub corrupted: u64,
    /// Lost their end.
    pub truncated: u64,
    /// Times the source port toward the server changed.
    pub rebinds: u64,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, o: Self) -> Self {
        Self {
            arrived: self.arrived + o.arrived,
            forwarded: self.forwarded + o.forwarded,
            dropped: self.dropped + o.dropped,
            blackholed: self.blackholed + o.blackholed,
            overflowed: self.overflowed + o.overflowed,
            duplicated: self.duplicated + o.duplicated,
            reordered: self.reordered + o.reordered,
            delayed: self.delayed + o.delayed,
            corrupted: self.corrupted + o.corrupted,
            truncated: self.truncated + o.truncated,
            rebinds: self.rebinds + o.rebinds,
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "arrived {} forwarded {} dropped {} blackholed {} overflowed {} duplicated {} reordered {} delayed {} \
             corrupted {} truncated {} rebinds {}",
            self.arrived,
            self.forwarded,
            self.dropped,
            self.blackholed,
            self.overflowed,
            self.duplicated,
            self.reordered,
            self.delayed,
            self.corrupted,
            self.truncated,
            self.rebinds
        )
    }
}

/// The directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the machine to the coordinator.
    Up,
    /// From the coordinator to the machine.
    Down,
}
