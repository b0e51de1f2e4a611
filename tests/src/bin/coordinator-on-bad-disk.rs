//! The coordinator of this tree with its store on a disk that fails when a test tells it to. It runs the library that
//! `reeve-coordinator` runs; only the words of its command line are fewer.
#![allow(clippy::unwrap_used, reason = "only tests start this")]
use reeve_coordinator::config::{Config, Layer};
use std::process::ExitCode;

fn main() -> ExitCode {
    reeve_tests::vfs::register();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after =
        |flag: &str| words.iter().position(|word| word == flag).and_then(|at| words.get(at + 1).cloned());
    let flags = Layer {
        dir: after("--dir"),
        socket: after("--socket"),
        listen: after("--listen"),
        ..Layer::default()
    };
    let config = Config::load(flags, None, |_| None).unwrap();
    reeve_coordinator::logging::start(&config.log, config.log_format).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let (stop, shutdown) = tokio::sync::watch::channel(false);
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::spawn(async move {
            term.recv().await;
            stop.send_replace(true);
            stop.closed().await;
        });
        reeve_coordinator::run(config, |_| {}, shutdown).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map_or_else(String::new, |s| format!(": {s}"));
            eprintln!("reeve-coordinator: {error}{source}");
            ExitCode::from(error.exit_code())
        }
    }
}
