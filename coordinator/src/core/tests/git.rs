//! Git jobs: the commit that a ref was found to name, and the time before the command.
use super::*;
use reeve_protocol::spec::GitSpec;

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn git_spec(commit: Option<&str>) -> JobSpec {
    let git = GitSpec {
        url: "https://h/r".into(),
        reference: Some("main".into()),
        commit: commit.map(str::to_owned),
        ..GitSpec::default()
    };
    JobSpec { git: Some(git), ..spec() }
}

/// The commits that machines were told, in order.
fn told(w: &World) -> Vec<(AttemptId, Option<String>)> {
    let of = |frame: &ToAgent| match frame {
        ToAgent::StartGit(start) => Some((start.start.attempt, start.checkout.commit.clone())),
        _ => None,
    };
    w.sent.iter().filter_map(of).collect()
}

fn prepare(w: &mut World, attempt: AttemptId) {
    let at_ms = w.now.wall;
    w.says(1, vec![AgentSaid::Preparing(wire::Preparing { attempt, at_ms })]);
}

fn resolve(w: &mut World, attempt: AttemptId, commit: &str) {
    w.says(1, vec![AgentSaid::Resolved(attempt, commit.to_owned())]);
}

#[test]
fn a_job_is_preparing_until_its_command_runs_and_an_end_before_that_was_no_start() {
    let mut w = World::with_machine(2);
    w.submit(git_spec(None));
    let attempt = TaskId::single(1).attempt(1);
    prepare(&mut w, attempt);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Preparing)));
    w.start(attempt);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
    prepare(&mut w, attempt);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)), "said again too late");
    w.submit(git_spec(None));
    let second = TaskId::single(2).attempt(1);
    prepare(&mut w, second);
    let cause = Cause::Checkout { what: "auth".into(), detail: "no".into() };
    let end = wire::Finished { started_ms: 0, pid: 0, ..finished(second, cause.clone(), w.now.wall) };
    w.says(1, vec![AgentSaid::Finished(Box::new(end), None)]);
    assert_eq!(w.standing(2), (State::Failed, None));
    let ended = w.facts.iter().rev().find_map(|f| match f {
        Fact::AttemptEnded(ended) if ended.attempt == second => Some(ended.clone()),
        _ => None,
    });
    assert_eq!(ended.map(|e| (e.started_at, e.cause)), Some((None, cause)));
}

#[test]
fn the_first_resolution_is_kept_for_retries_restarts_and_the_rest_of_an_array() {
    let mut w = World::with_machine(1);
    let array = ArraySpec { from: 1, to: 2, limit: None };
    w.submit(JobSpec { array: Some(array), ..git_spec(None) });
    let first = TaskId::of_array(1, 1).attempt(1);
    resolve(&mut w, first, COMMIT);
    resolve(&mut w, first, &COMMIT.replace('0', "f"));
    let kept: Vec<&Fact> = w.facts.iter().filter(|f| matches!(f, Fact::CommitResolved(..))).collect();
    assert_eq!(kept, [&Fact::CommitResolved(1, Some(COMMIT.to_owned()))]);
    w.finish(1, first, Cause::Ok);
    let second = TaskId::of_array(1, 2).attempt(1);
    assert_eq!(told(&w), [(first, None), (second, Some(COMMIT.to_owned()))]);
    // Whoever holds nothing resolves nothing.
    resolve(&mut w, TaskId::single(77).attempt(1), COMMIT);
    assert_eq!(w.facts.iter().filter(|f| matches!(f, Fact::CommitResolved(..))).count(), 1);
}

#[test]
fn a_restart_keeps_the_commit_and_only_latest_asks_again() {
    let mut w = World::with_machine(1);
    w.submit(git_spec(Some(COMMIT)));
    let restart = |w: &mut World, latest| {
        let stored = w.row(1);
        w.ask(Call::RestartJob { target: target(1), latest, stored })
    };
    w.finish(1, TaskId::single(1).attempt(1), Cause::Ok);
    restart(&mut w, false).unwrap();
    w.finish(1, TaskId::single(1).attempt(2), Cause::Ok);
    restart(&mut w, true).unwrap();
    let commits: Vec<Option<String>> = told(&w).into_iter().map(|(_, commit)| commit).collect();
    assert_eq!(commits, [Some(COMMIT.to_owned()), Some(COMMIT.to_owned()), None]);
    w.submit(spec());
    w.finish(1, TaskId::single(1).attempt(3), Cause::Ok);
    w.finish(1, TaskId::single(2).attempt(1), Cause::Ok);
    let stored = w.row(2);
    let answer = w.ask(Call::RestartJob { target: target(2), latest: true, stored });
    assert_eq!(code(answer), "bad-value", "there is nothing later than no repository");
}

#[test]
fn a_machine_that_comes_back_may_still_be_preparing() {
    let mut w = World::with_machine(1);
    w.submit(git_spec(None));
    let attempt = TaskId::single(1).attempt(1);
    let waiting = wire::InventoryItem { pid: 0, started_ms: 0, ..item(attempt, 1) };
    let verdicts = w.connect(2, "life", "keeper", 1, vec![waiting]);
    assert_eq!(verdicts, [(attempt, Verdict::Keep)]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Preparing)));
    w.says(2, vec![AgentSaid::Started(wire::Started { attempt, pid: 9, at_ms: 7 })]);
    assert_eq!(w.standing(1), (State::Running, Some(Substate::Running)));
}

#[test]
fn a_worker_brings_its_repository_and_a_checkout_needs_a_command() {
    let mut w = World::with_machine(1);
    let request = |kind: &str, spec| reeve_protocol::api::WorkerRequest {
        kind: Some(kind.into()),
        spec,
        ..Default::default()
    };
    let register = |w: &mut World, name: &str, request| {
        w.ask(Call::RegisterWorker { name: name.into(), request: Box::new(request) })
    };
    register(&mut w, "builder", request("git", git_spec(None))).unwrap();
    assert_eq!(code(register(&mut w, "x", request("git", spec()))), "bad-value");
    assert_eq!(code(register(&mut w, "x", request("command", git_spec(None)))), "bad-value");
    w.submit(JobSpec { worker: Some("builder".into()), ..JobSpec::default() });
    assert_eq!(told(&w), [(TaskId::single(1).attempt(1), None)]);
    let bare = JobSpec { command: None, queue: Some("q".into()), ..git_spec(None) };
    assert_eq!(code(w.ask(Call::Submit { spec: Box::new(bare), key: None })), "bad-command");
}
