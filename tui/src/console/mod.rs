//! The console: one terminal screen over the whole cluster, which also acts on it.
//!
//! *event -> update -> draw*: [`runtime`] turns keys, ticks and the coordinator's lines into [`msg::Msg`];
//! [`update::update`] changes the [`model::Model`] and answers with [`msg::Command`]s; [`view::draw`] paints the model.
//! Update and draw are pure: no clock, no terminal, no socket. Only [`link`] speaks to a coordinator and only
//! [`terminal`] to a terminal.
use crate::client::Client;
use std::path::PathBuf;

mod format;
mod keymap;
mod layout;
mod link;
mod model;
mod msg;
mod runtime;
mod terminal;
mod theme;
mod update;
mod view;

#[cfg(test)]
mod tests;

/// How the console was started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Draw with ASCII only, whatever the locale says.
    pub ascii: bool,
    /// Without colours, as if `NO_COLOR` were set.
    pub no_color: bool,
    /// The directory of the `reeve up` that opened the console: quitting then says how to stop it.
    pub up_dir: Option<PathBuf>,
}

/// Why the console could not run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The terminal refused something.
    #[error("using the terminal")]
    Terminal(#[source] std::io::Error),
    /// The operating system refused to tell us about signals.
    #[error("listening for signals")]
    Signals(#[source] std::io::Error),
    /// Standard output is not a terminal.
    #[error("the console needs a terminal on standard input and output; `reeve ls` and `reeve stats` do not")]
    NotATerminal,
    /// A signal asked the console to stop.
    #[error("stopped by signal {0}")]
    Signal(i32),
}

/// Runs the console until its user quits. The terminal is as it was before when this returns, whatever happened.
///
/// # Errors
/// When there is no terminal, or it breaks, or a signal ends the console.
pub async fn run(client: Client, options: Options) -> Result<(), Error> {
    let up_dir = options.up_dir.clone();
    runtime::run(client, &options).await?;
    if let Some(dir) = up_dir {
        println!(
            "Jobs go on. `reeve` opens the console again; `reeve down --dir {}` stops the server.",
            dir.display()
        );
    }
    Ok(())
}
