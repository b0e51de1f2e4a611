//! One direction of the proxy without sockets or clock: datagrams go in with a time, and come out when they are due.
use super::{Counts, Faults};
use crate::chaos::rng::Rng;
use std::collections::BTreeMap;

/// A datagram that is to be overtaken leaves after this at the latest, in microseconds: there may be no other.
const OVERTAKE_US: u64 = 50_000;
/// Longest wait for the rate, in microseconds.
const BACKLOG_US: u64 = 1_000_000;

/// One datagram with whatever the caller wants back with it.
struct Packet<T> {
    number: u64,
    bytes: Vec<u8>,
    tag: T,
}

/// One direction.
pub struct Lane<T> {
    faults: Faults,
    counts: Counts,
    rng: Rng,
    /// By due time and then by arrival.
    waiting: BTreeMap<(u64, u64), Packet<T>>,
    /// To be overtaken by so many more, or until a time.
    held: Vec<(u64, u64, Packet<T>)>,
    arrivals: u64,
    copies: u64,
    /// The highest number that went out.
    front: u64,
    /// When the line is free again, for the rate.
    free_at: u64,
}

impl<T: Clone> Lane<T> {
    /// With nothing to do.
    pub fn new(rng: Rng) -> Self {
        Self {
            faults: Faults::default(),
            counts: Counts::default(),
            rng,
            waiting: BTreeMap::new(),
            held: Vec::new(),
            arrivals: 0,
            copies: 0,
            front: 0,
            free_at: 0,
        }
    }

    /// From now on this is done.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// So far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Notes that the source port has changed.
    pub const fn rebound(&mut self) {
        self.counts.rebinds += 1;
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.waiting.len() + self.held.len()
    }

    /// A datagram comes in at `now` (microseconds of any clock that does not go back).
    pub fn offer(&mut self, now: u64, mut bytes: Vec<u8>, tag: T) {
        self.counts.arrived += 1;
        self.arrivals += 1;
        if self.faults.blackhole {
            self.counts.blackholed += 1;
            return;
        }
        if self.rng.chance(self.faults.drop) {
            self.counts.dropped += 1;
            return;
        }
        self.damage(&mut bytes);
        let number = self.arrivals;
        if self.rng.chance(self.faults.duplicate) {
            self.counts.duplicated += 1;
            self.admit(now, Packet { number, bytes: bytes.clone(), tag: tag.clone() });
        }
        self.admit(now, Packet { number, bytes, tag });
        self.overtake(now);
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if !bytes.is_empty() && self.rng.chance(self.faults.corrupt) {
            let at = self.rng.range(0, bytes.len() as u64 - 1) as usize;
            bytes[at] ^= self.rng.range(1, 255) as u8;
            self.counts.corrupted += 1;
        }
        if bytes.len() > 1 && self.rng.chance(self.faults.truncate) {
            bytes.truncate(self.rng.range(1, bytes.len() as u64 - 1) as usize);
            self.counts.truncated += 1;
        }
    }

    fn admit(&mut self, now: u64, packet: Packet<T>) {
        let (low, high) = self.faults.delay;
        let mut due = now + self.rng.range(low.as_micros() as u64, high.max(low).as_micros() as u64);
        if let Some(rate) = self.faults.rate.filter(|rate| *rate > 0) {
            let free = self.free_at.max(now);
            if free - now > BACKLOG_US {
                self.counts.overflowed += 1;
                return;
            }
            self.free_at = free + packet.bytes.len() as u64 * 1_000_000 / rate;
            due = due.max(self.free_at);
        }
        self.counts.delayed += u64::from(due > now);
        if self.rng.chance(self.faults.reorder) {
            let by = self.rng.range(1, if self.faults.window == 0 { 3 } else { self.faults.window });
            // One more, since its own arrival is counted as well.
            self.held.push((by + 1, due.max(now + OVERTAKE_US), packet));
            return;
        }
        self.queue(due, packet);
    }

    fn queue(&mut self, due: u64, packet: Packet<T>) {
        self.copies += 1;
        self.waiting.insert((due, self.copies), packet);
    }

    /// One more has come: those that were to be overtaken by it are a step closer.
    fn overtake(&mut self, now: u64) {
        for held in &mut self.held {
            held.0 -= 1;
        }
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|(left, ..)| *left == 0);
        self.held = held;
        let free: Vec<(u64, u64, Packet<T>)> = free;
        for (_, _, packet) in free {
            // Behind everything that waits: being overtaken is the point.
            let due = self.waiting.last_key_value().map_or(now, |((due, _), _)| (*due).max(now));
            self.queue(due, packet);
        }
    }

    /// The next that is due at `now`, with its tag.
    pub fn pop(&mut self, now: u64) -> Option<(Vec<u8>, T)> {
        while let Some(at) = self.held.iter().position(|(_, until, _)| *until <= now) {
            let (_, until, packet) = self.held.remove(at);
            self.queue(until, packet);
        }
        let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        let packet = entry.remove();
        self.counts.forwarded += 1;
        self.counts.reordered += u64::from(packet.number < self.front);
        self.front = self.front.max(packet.number);
        Some((packet.bytes, packet.tag))
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<u64> {
        let waiting = self.waiting.first_key_value().map(|((due, _), _)| *due);
        waiting.into_iter().chain(self.held.iter().map(|(_, until, _)| *until)).min()
    }
}

#[cfg(test)]
#[path = "lane_test.rs"]
mod tests;
