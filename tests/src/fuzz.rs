//! Everything that reads what strangers wrote, as functions of bytes with properties that must hold, and a mutating
//! explorer over them. Used for seconds by `tests/fuzz_corpus.rs`, for as long as you like by `tests/fuzz`.
//!
//! A target panics when a property is broken. Otherwise it gives an *outcome class*: a word for what became of the input.
//! Inputs that reach a new class are kept and mutated further, which finds its way into a format without instrumenting
//! the code.
mod binary;
mod explore;
mod targets;

pub use explore::{Budget, Crash, Report, explore};
pub use targets::TARGETS;

use std::path::{Path, PathBuf};

/// What reads strangers' bytes.
pub struct Target {
    /// Also the name of its corpus directory.
    pub name: &'static str,
    /// Words that the format is made of.
    pub dictionary: &'static [&'static str],
    /// Judges one input. Panics when a property does not hold.
    pub run: fn(&[u8]) -> String,
}

/// Where the committed inputs of a target lie.
pub fn corpus_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The committed inputs of a target, by name.
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus_dir(target)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
