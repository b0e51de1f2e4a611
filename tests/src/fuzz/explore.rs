//! Mutates, runs, keeps what is new. Deterministic: the same seed and number of runs give the same inputs.
use super::Target;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Bytes of a mutated input: reading is linear, so longer ones only cost time.
const LONGEST: usize = 16 * 1024;
/// Inputs kept; beyond this a class must be new to be kept at all, and replaces a random one.
const KEPT: usize = 4096;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// After so many inputs.
    Runs(u64),
    /// At this moment.
    Until(Instant),
}

/// An input that broke a property.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The input.
    pub input: Vec<u8>,
    /// What the panic said.
    pub message: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Inputs judged.
    pub runs: u64,
    /// How often each class of outcome was reached.
    pub classes: HashMap<String, u64>,
    /// Inputs that reached a class first, beyond those given.
    pub found: Vec<Vec<u8>>,
    /// Broken properties, one input for each message.
    pub crashes: Vec<Crash>,
}

/// Runs the inputs given, then mutations of them until the budget is used up.
pub fn explore(target: &Target, seeds: &[Vec<u8>], seed: u64, budget: Budget) -> Report {
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let mut report = Report::default();
    let mut kept: Vec<Vec<u8>> = vec![Vec::new()];
    kept.extend(seeds.iter().cloned());
    for input in kept.clone() {
        judge(target, input, &mut report);
    }
    while match budget {
        Budget::Runs(runs) => report.runs < runs,
        Budget::Until(end) => Instant::now() < end,
    } {
        let mut input = kept[random.below(kept.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &kept, target.dictionary, &mut random);
        }
        input.truncate(LONGEST);
        if judge(target, input.clone(), &mut report) {
            report.found.push(input.clone());
            if kept.len() < KEPT {
                kept.push(input);
            } else {
                let at = random.below(kept.len());
                kept[at] = input;
            }
        }
    }
    report
}

/// Runs one input. Whether its outcome is of a new class.
fn judge(target: &Target, input: Vec<u8>, report: &mut Report) -> bool {
    report.runs += 1;
    match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
        Ok(class) => {
            let count = report.classes.entry(class).or_default();
            *count += 1;
            *count == 1
        }
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            // The same line with other values is the same mistake.
            let key =
                |text: &str| text.chars().take(24).filter(char::is_ascii_alphabetic).collect::<String>();
            if report.crashes.len() < 20 && report.crashes.iter().all(|c| key(&c.message) != key(&message)) {
                report.crashes.push(Crash { input, message });
            }
            false
        }
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if there is nothing below.
    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

/// Bytes at the edges of something.
const EDGES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, b'"', b'\\', b'\n', 0x1b, 0xc2, 0xe2];

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], dictionary: &[&str], random: &mut Random) {
    let at = random.below(input.len());
    let len = 1 + random.below(8);
    match random.below(10) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = EDGES[random.below(EDGES.len())],
        2 => input.insert(at, random.next() as u8),
        3 => drop(input.drain(at..(at + len).min(input.len()))),
        4 => {
            let piece = input[at..(at + len * 8).min(input.len())].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, piece.repeat(1 + random.below(4)));
        }
        5 => input.truncate(at),
        6 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        7 if input.len() >= 8 => {
            // A number of a binary format, made small, huge or negative.
            let at = random.below(input.len() - 7);
            let value = [0, 1, u64::MAX, 1 << 63, 1 << 60, 0x1_0000, random.next()][random.below(7)];
            input[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        _ if !dictionary.is_empty() => {
            let word = dictionary[random.below(dictionary.len())];
            let end = if random.below(2) == 0 { at } else { (at + word.len()).min(input.len()) };
            input.splice(at..end, word.bytes());
        }
        _ => input.push(random.next() as u8),
    }
}
