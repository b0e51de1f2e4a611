//! Tests of the console as a whole: keys and messages in, model, commands and pictures out.
pub(super) mod fixtures;
mod flows;
mod grid;
mod keys;
mod link;
mod pictures;
mod random;
mod sweep;
