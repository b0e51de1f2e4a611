//! The gate before the engine: while the disk is too full, what would add to the store is refused before anything is
//! decided, so the refusal is definite. Ends, cancellations and settlements always pass: they let the disk empty. What brokers
//! deliver cannot be refused: the core hears of the disk (`Input::Disk`) and asks for nothing.
use crate::input::Call;
use crate::store::open::BALLAST;
use crate::store::writer::Full;
use reeve_protocol::{Code, Problem, units};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Below this nothing new is taken: the log grows by some 25 MB a second under the heaviest load.
const LOW: u64 = 64 * 1024 * 1024;
/// From here on it is taken again.
const HIGH: u64 = 96 * 1024 * 1024;
/// Below this the disk is looked at more often.
const NEAR: u64 = 1024 * 1024 * 1024;
const OFTEN: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_secs(5);
const BALLAST_BYTES: usize = 4 * 1024 * 1024;

/// Refuses a call that would add to a full disk.
///
/// # Errors
/// `storage-full`: nothing was decided or changed.
pub fn check(full: &Full, call: &Call) -> Result<(), Problem> {
    if !full.load(Ordering::Relaxed) || !adds(call) {
        return Ok(());
    }
    let what =
        format!("less than {} is free where the store lives; nothing was changed", units::show_bytes(LOW));
    Err(Problem::new(Code::StorageFull, what).hint("make room on the coordinator's disk; running jobs go on"))
}

const fn adds(call: &Call) -> bool {
    match call {
        Call::Submit { .. }
        | Call::SubmitMany { .. }
        | Call::RegisterWorker { .. }
        | Call::LaunchWorker { .. }
        | Call::RegisterJob { .. }
        | Call::RestartJob { .. }
        | Call::Publish { .. }
        | Call::PublishMany { .. }
        | Call::SetQueue { .. }
        | Call::PutRoutes { .. }
        | Call::PublishRouted { .. }
        | Call::PutPlan { .. }
        | Call::PutToken { .. }
        | Call::Join { .. } => true,
        Call::CancelJob { .. }
        | Call::ScaleWorker { .. }
        | Call::RemoveWorker { .. }
        | Call::CallWorker { .. }
        | Call::ListWorkers
        | Call::UpdateJobStatus { .. }
        | Call::HoldJob { .. }
        | Call::ReceiveMessage { .. }
        | Call::Settle { .. }
        | Call::CleanQueue { .. }
        | Call::CountQueueMessages { .. }
        | Call::PauseQueue { .. }
        | Call::ReturnDead { .. }
        | Call::MigrateQueue { .. }
        | Call::MoveQueue { .. }
        | Call::ListRoutes
        | Call::ExplainRoute { .. }
        | Call::Peek { .. }
        | Call::GetQueueStats
        | Call::ListQueues
        | Call::ListMachines
        | Call::Top
        | Call::Why { .. }
        | Call::DryRun { .. }
        | Call::BulkAction { .. }
        | Call::PlanDone { .. }
        | Call::CordonMachine { .. }
        | Call::DrainMachine { .. }
        | Call::RemoveMachine { .. }
        | Call::RenewCertificate { .. }
        | Call::HoldsAttempt { .. }
        | Call::OpenSession { .. } => false,
    }
}

/// Looks at the disk now and then, for ever.
pub(crate) async fn watch(dir: PathBuf, full: Full) {
    loop {
        let free = free(&dir).unwrap_or(u64::MAX);
        judge(&dir, &full, free);
        tokio::time::sleep(if free < NEAR { OFTEN } else { RARELY }).await;
    }
}

fn free(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Closes the gate, or opens it once the ballast lies there again.
fn judge(dir: &Path, full: &Full, free: u64) {
    let closed = full.load(Ordering::Relaxed);
    if !closed && free < LOW {
        tracing::error!(free, "the disk is almost full: new work is refused until there is room");
        full.store(true, Ordering::Relaxed);
    }
    if closed && free >= HIGH {
        match ballast(dir) {
            Ok(()) => {
                tracing::info!(free, "there is room on the disk again");
                full.store(false, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the ballast cannot be put back"),
        }
    }
}

fn ballast(dir: &Path) -> io::Result<()> {
    let file = dir.join(BALLAST);
    if file.exists() { Ok(()) } else { std::fs::write(file, vec![0; BALLAST_BYTES]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Settle, Stored, Target};

    fn closed() -> Full {
        let full = Full::default();
        full.store(true, Ordering::Relaxed);
        full
    }

    #[test]
    fn a_full_disk_refuses_what_adds_and_lets_through_what_frees() {
        let submit = Call::Submit { spec: Box::default(), key: None };
        let refused = check(&closed(), &submit).unwrap_err();
        assert!(refused.is(Code::StorageFull) && refused.status == 507, "{refused:?}");
        assert_eq!(check(&Full::default(), &submit), Ok(()));
        let cancel = Call::CancelJob {
            target: Target { job: 1, tasks: None },
            grace_ms: None,
            stored: Stored::default(),
        };
        let ack = Call::Settle { queue: "q".into(), how: Settle::Ack, request: Box::default() };
        for call in [cancel, ack, Call::GetQueueStats] {
            assert_eq!(check(&closed(), &call), Ok(()), "{call:?}");
        }
    }

    #[test]
    fn the_gate_closes_below_one_mark_and_opens_above_another() {
        let dir = tempfile::tempdir().unwrap();
        let full = Full::default();
        let states: Vec<bool> = [LOW, LOW - 1, LOW, HIGH - 1, HIGH, LOW]
            .into_iter()
            .map(|free| {
                judge(dir.path(), &full, free);
                full.load(Ordering::Relaxed)
            })
            .collect();
        assert_eq!(states, [false, true, true, true, false, false]);
        assert_eq!(std::fs::metadata(dir.path().join(BALLAST)).unwrap().len(), BALLAST_BYTES as u64);
    }

    #[test]
    fn the_disk_can_be_asked() {
        assert!(free(Path::new("/")).unwrap() > 0);
        assert!(free(Path::new("/does/not/exist")).is_err());
    }
}
