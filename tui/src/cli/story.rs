//! What happened to a job that was hit: one sentence for each attempt that did not simply run. Words only.
use reeve_protocol::api::{AttemptView, JobView};
use reeve_protocol::spec::LostAfter;
use reeve_protocol::text::Clean;
use reeve_protocol::time::Wall;
use reeve_protocol::units::show_duration;
use reeve_protocol::{Cause, State, Substate};

/// Older attempts are in the table; a job that has been hit more often is told of from here on.
const SENTENCES: usize = 20;
/// When nothing else is said.
const LOST_AFTER_S: f64 = 300.0;

/// The sentences, oldest first, each clean. Empty when there is nothing to tell: one attempt, which runs or has ended by
/// itself.
pub(super) fn story(job: &JobView) -> Vec<String> {
    let is_plain = |a: &AttemptView| {
        a.late.is_none()
            && a.cause.as_ref().is_none_or(|cause| !is_infrastructure(cause) && !is_returned(cause))
    };
    let waits = job.state == State::Queued && job.attempts.last().is_some_and(|a| a.cause.is_none());
    let unconfirmed = job.substate == Some(Substate::Unconfirmed);
    let retried = job.attempts.iter().any(|a| a.attempt > 1);
    if job.attempts.iter().all(is_plain) && !waits && !unconfirmed && !retried {
        return Vec::new();
    }
    let skipped = job.attempts.len().saturating_sub(SENTENCES);
    let shown = job.attempts[skipped..].iter().filter(|a| a.index.is_none() || !is_plain(a));
    shown.map(|attempt| Clean::line(&sentence(job, attempt)).into_string()).collect()
}

fn sentence(job: &JobView, attempt: &AttemptView) -> String {
    let name = match attempt.index {
        Some(index) => format!("attempt {} of task {index}", attempt.attempt),
        None => format!("attempt {}", attempt.attempt),
    };
    let end = match &attempt.cause {
        Some(cause) => ended(job, attempt, cause),
        None => open(job, attempt),
    };
    let late = attempt.late.as_ref().map_or_else(String::new, |late| comes_late(attempt, late));
    format!("{name} {end}{late}")
}

/// An attempt that has ended.
fn ended(job: &JobView, attempt: &AttemptView, cause: &Cause) -> String {
    let machine = &attempt.machine;
    let ran = attempt.started_at.zip(attempt.ended_at).map(|(start, end)| end.seconds_since(start));
    let ran = ran.map_or_else(String::new, |s| format!(" after {}", show_duration(s)));
    match cause {
        cause if is_returned(cause) => {
            format!(
                "was handed to {machine}, did not start there and went back to the queue; it costs no retry"
            )
        }
        Cause::Lost if job.spec.exclusive => {
            format!(
                "was lost: {machine} was not heard, so that it had to end by its own clock before another may start"
            )
        }
        Cause::Lost => format!("was lost: {machine} was not heard for {}", lost_after(job)),
        Cause::Rebooted => format!("ended with {machine}: the machine was restarted"),
        Cause::KeeperLost => {
            format!(
                "was ended on {machine}{ran}: the process that held it was killed, and what was left of it with that"
            )
        }
        Cause::Drained => format!("was ended{ran}: {machine} or its server was stopped"),
        Cause::Ok => format!("ran on {machine} and ended well{ran}"),
        cause => format!("ran on {machine} and ended{ran}: {}", super::show::cause_words(cause)),
    }
}

/// An attempt without an end: it runs, is about to, or is taken for lost and not replaced yet.
fn open(job: &JobView, attempt: &AttemptView) -> String {
    let machine = &attempt.machine;
    let since = |at: Option<Wall>| at.map_or_else(String::new, |at| format!(" since {}", at.local_date()));
    match (job.state, job.substate) {
        (State::Queued, Some(Substate::Assigned)) => format!("starts on {machine} next"),
        (State::Queued, _) => format!(
            "is taken for lost: {machine} was not heard for {}; if it comes back before another attempt starts, it goes on",
            lost_after(job)
        ),
        (_, Some(Substate::Unconfirmed)) => format!(
            "runs on {machine}{}, which is not heard: whether it still runs is not known; {}",
            since(attempt.started_at),
            match job.spec.lost_after_s {
                Some(LostAfter::Never) => "it is never taken for lost".to_owned(),
                _ => format!("after {} of silence the job is queued again", lost_after(job)),
            }
        ),
        (_, Some(Substate::Cancelling)) => format!("is being ended on {machine}"),
        _ => format!("runs on {machine}{}", since(attempt.started_at)),
    }
}

fn comes_late(attempt: &AttemptView, late: &Cause) -> String {
    let machine = &attempt.machine;
    match late {
        Cause::Fenced => format!("; it was still there when {machine} came back, and was stopped"),
        late => {
            format!("; {machine} told later that it had ended with {late}, which does not count any more")
        }
    }
}

fn lost_after(job: &JobView) -> String {
    let seconds = match job.spec.lost_after_s {
        Some(LostAfter::Seconds(s)) => s,
        _ => LOST_AFTER_S,
    };
    show_duration(seconds)
}

fn is_infrastructure(cause: &Cause) -> bool {
    cause.account() == reeve_protocol::cause::Account::Infrastructure
}

/// Handed out and given back before it started.
fn is_returned(cause: &Cause) -> bool {
    matches!(cause, Cause::Rejected { detail } if detail.starts_with("not started"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::tests::job;
    use serde_json::json;

    /// `(cause, late)` of each attempt.
    fn told(
        state: State,
        substate: Option<Substate>,
        attempts: &[(Option<Cause>, Option<Cause>)],
    ) -> Vec<String> {
        let attempts = attempts.iter().zip(1..).map(|((cause, late), n)| {
            serde_json::from_value(json!({
                "attempt": n, "machine": format!("gpu-0{n}"), "started_at": "2026-01-01T00:00:00Z",
                "ended_at": cause.as_ref().map(|_| "2026-01-01T00:01:00Z"), "cause": cause, "late": late,
                "exit_code": null, "cpu_s": 0.0, "rss_peak_bytes": 0
            }))
            .unwrap()
        });
        story(&JobView { state, substate, attempts: attempts.collect(), ..job() })
    }

    #[test]
    fn a_job_that_simply_ran_has_no_story() {
        assert!(told(State::Running, Some(Substate::Running), &[(None, None)]).is_empty());
        assert!(told(State::Failed, None, &[(Some(Cause::Exit { code: 3 }), None)]).is_empty());
        assert!(told(State::Queued, Some(Substate::Waiting), &[]).is_empty());
    }

    #[test]
    fn each_thing_that_can_happen_to_an_attempt_is_a_sentence() {
        let given_back = Cause::Rejected { detail: "not started, given back".into() };
        let cases = [
            ((Some(Cause::Lost), None), "attempt 1 was lost: gpu-01 was not heard for 5m00s"),
            (
                (Some(Cause::Lost), Some(Cause::Ok)),
                "gpu-01 told later that it had ended with ok, which does not count any more",
            ),
            (
                (Some(Cause::Lost), Some(Cause::Fenced)),
                "it was still there when gpu-01 came back, and was stopped",
            ),
            ((Some(Cause::Rebooted), None), "attempt 1 ended with gpu-01: the machine was restarted"),
            ((Some(Cause::KeeperLost), None), "the process that held it was killed"),
            ((Some(Cause::Drained), None), "was stopped"),
            ((Some(given_back), None), "went back to the queue; it costs no retry"),
            ((Some(Cause::Exit { code: 3 }), None), "attempt 1 ran on gpu-01 and ended after"),
        ];
        for (first, wanted) in cases {
            let lines = told(State::Running, Some(Substate::Running), &[first, (None, None)]);
            assert!(lines[0].contains(wanted), "{} lacks {wanted}", lines[0]);
            assert!(lines[1].starts_with("attempt 2 runs on gpu-02 since 20"), "{}", lines[1]);
        }
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let unconfirmed = told(State::Running, Some(Substate::Unconfirmed), &[(None, None)]);
        assert!(
            unconfirmed[0].contains("whether it still runs is not known; after 5m00s"),
            "{unconfirmed:?}"
        );
        let lost = told(State::Queued, Some(Substate::Waiting), &[(None, None)]);
        assert!(lost[0].contains("if it comes back before another attempt starts, it goes on"), "{lost:?}");
        let next = told(State::Queued, Some(Substate::Assigned), &[(Some(Cause::Lost), None), (None, None)]);
        assert_eq!(next[1], "attempt 2 starts on gpu-02 next");
    }

    #[test]
    fn a_story_is_bounded_and_clean() {
        let many = vec![(Some(Cause::Lost), None); 50];
        assert_eq!(told(State::Failed, None, &many).len(), SENTENCES);
        let hostile = Cause::Error { detail: "a\u{1b}[2J".into() };
        let lines = told(State::Failed, None, &[(Some(Cause::Lost), None), (Some(hostile), None)]);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    }
}
