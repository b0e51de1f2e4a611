//! `reeve`: the console and the command line in one binary.
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(reeve_tui::cli::main(std::env::args_os().collect()))
}
