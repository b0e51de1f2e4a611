//! `reeve up`: a coordinator and an agent on one machine, for a first try or a laptop.
//!
//! The only file of this crate that names the two. The server half runs in the foreground (`--no-console`) or as a
//! process of its own session; console and command line are its clients. The keeper holds the jobs, so they survive
//! the server.
pub mod demo;
pub mod dir;
pub mod front;
pub mod options;
pub mod spawn;

pub use front::{Error, down, up};
pub use options::{Down, Up};

/// The process that holds attempts: `reeve keeper`, started by the agent.
pub fn keeper(_words: Vec<std::ffi::OsString>) -> u8 {
    125
}

/// The server half.
pub mod server {
    use super::dir::{Dir, Lock};
    use super::front;
    use super::options::Up;

    /// Why the server ended.
    #[derive(Debug, thiserror::Error)]
    pub enum Error {
        /// The parts are not linked in.
        #[error("this build holds no server")]
        Absent,
    }

    impl Error {
        /// The process's exit code.
        pub fn exit_code(&self) -> u8 {
            1
        }
    }

    pub fn run(_up: &Up, _dir: &Dir, _lock: Lock) -> Result<(), front::Error> {
        Err(Error::Absent.into())
    }

    pub fn stop_jobs(_dir: &Dir) -> Result<(), front::Error> {
        Err(Error::Absent.into())
    }
}
