//! The operator's drill, placeholder until the run works.
use super::Failure;
use super::run::Run;

/// The drill.
///
/// # Errors
/// What could not be done.
pub fn drill(_run: &Run) -> Result<Vec<String>, Failure> {
    Err("not here yet".to_owned())
}
