//! reeve's side of a machine: the agent (a relay between coordinator and keeper), the keeper (owns the attempts) and the
//! guardian (holds one attempt). Jobs are decided elsewhere: nothing here chooses what runs.
mod agent;
mod clock;
pub mod collect;
pub mod config;
pub mod doctor;
pub mod git;
mod gpu;
mod groups;
mod guardian;
pub mod identity;
pub mod jobs;
pub mod keeper;
mod life;
mod machine;
mod peer;

pub use agent::{
    DialError, Error, JoinError, KeeperError, LeaveError, StopError, join, leave, run, stop_jobs,
};
pub use config::Config;
pub use guardian::zygote;
pub use identity::Identity;
