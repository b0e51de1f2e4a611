//! `reeve-agent`: the command line of a machine. Everything it does is in the library.
use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "reeve-agent", version)]
enum Command {
    Keeper(reeve_agent::keeper::Args),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Keeper(args) => match reeve_agent::keeper::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}
