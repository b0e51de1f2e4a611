//! reeve's side of a machine: the agent (a relay between coordinator and keeper), the keeper (owns the attempts) and the
//! guardian (holds one attempt). Jobs are decided elsewhere: nothing here chooses what runs.
mod guardian;
pub mod keeper;
mod life;
mod machine;
mod peer;
