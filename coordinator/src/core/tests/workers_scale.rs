//! Static workers whose number follows their load: every rule by its time.
use super::workers::static_request;
use super::*;
use crate::input::Scale;
use crate::job_manager::Holder;
use crate::row::{DeploymentRow, LiveAttempt, WorkerRow};
use reeve_protocol::api::{LaunchRequest, Serving, WorkerStatus};
use reeve_protocol::wire::{Request, outcome, replica_phase as phase};
use serde_json::json;

fn serving(min: u32, max: u32) -> Serving {
    Serving { min: Some(min), max: Some(max), max_ongoing: Some(1), ..Serving::default() }
}

impl World {
    /// A machine with room for many replicas, and a worker that was launched.
    fn scaling(serving: Serving) -> Self {
        let mut w = Self::with_machine(64);
        let request = reeve_protocol::api::WorkerRequest { serving: Some(serving), ..static_request(1, 0.5) };
        w.register("bank", request).unwrap();
        w.launch("bank", None).unwrap();
        w.settle();
        w
    }

    /// Replicas that were asked for are ready, those that were told to stop have stopped.
    fn settle(&mut self) -> usize {
        self.feed(vec![]);
        let ready = self.ready(1).len();
        self.feed(vec![]);
        for attempt in self.stopped() {
            self.finish(1, attempt, Cause::Cancelled);
        }
        ready
    }

    fn stopped(&mut self) -> Vec<AttemptId> {
        self.pick_sent(|f| if let ToAgent::Stop(s) = f { Some(s.attempt) } else { None })
    }

    fn stands(&mut self) -> WorkerStatus {
        self.bank().status.unwrap()
    }

    /// What there shall be, and what takes requests.
    fn count(&mut self) -> (u32, u32) {
        let status = self.stands();
        (status.desired, status.ready)
    }

    fn scale(&mut self, how: Scale) -> Result<Reply, Problem> {
        self.ask(Call::ScaleWorker { name: "bank".into(), how })
    }

    fn answer_all(&mut self, requests: &[Request]) {
        for request in requests {
            self.answers(1, request, outcome::RESULT, "1");
        }
    }

    fn noted(&self, what: &str) -> usize {
        self.events.iter().filter(|e| e.what.as_deref() == Some(what)).count()
    }

    /// The same store read by another life of the coordinator.
    fn restart(&mut self) {
        self.restart_with(|_| true);
    }

    /// Only replicas of these versions are ready then.
    fn restart_with(&mut self, is_ready: impl Fn(u32) -> bool) {
        let versions: BTreeMap<u64, u32> =
            self.stands().replicas.iter().map(|r| (r.job, r.version)).collect();
        let deployment = self.facts.iter().rev().find_map(|f| match f {
            Fact::DeploymentPut(row) => Some(DeploymentRow::clone(row)),
            _ => None,
        });
        let workers: Vec<WorkerRow> = self
            .facts
            .iter()
            .filter_map(|f| if let Fact::WorkerPut(row) = f { Some(WorkerRow::clone(row)) } else { None })
            .collect();
        let row = deployment.unwrap();
        let recipe = workers.iter().find(|w| w.version == row.version).cloned();
        let queues: Vec<_> = self
            .facts
            .iter()
            .filter_map(|f| if let Fact::QueuePut(q) = f { Some((**q).clone()) } else { None })
            .collect();
        let machine = MachineRow {
            id: MACHINE.into(),
            name: "lab-1".into(),
            fingerprint: "f".into(),
            ..MachineRow::default()
        };
        let live: Vec<u64> = self.core.jobs.iter().map(|job| job.id).collect();
        let jobs = live.iter().filter_map(|id| Some((*self.row(*id).job?, vec![]))).collect();
        let running: Vec<AttemptId> = self
            .core
            .jobs
            .iter()
            .filter_map(|job| {
                job.task(None).filter(|t| matches!(t.holder, Holder::Machine(_))).map(|t| (job.id, t))
            })
            .map(|(job, t)| TaskId::single(job).attempt(t.attempt))
            .collect();
        let attempts = running.iter().map(|attempt| LiveAttempt {
            attempt: *attempt,
            machine_id: Some(MACHINE.into()),
            lease: None,
            gpus: vec![],
            dispatched_at: 0,
            started_at: None,
        });
        let loaded = Loaded {
            attempts: attempts.collect(),
            identity: Identity { epoch: 2, ..self.core.identity.clone() },
            seq: self.core.seq(),
            next_job: self.core.next_job,
            next_message: 1,
            next_plan: 1,
            machines: vec![machine],
            workers: workers.last().cloned().into_iter().collect(),
            versions: vec![("bank".into(), workers.len() as u32)],
            replicated: workers.clone(),
            deployments: vec![(row, recipe)],
            queues,
            jobs,
            ..Loaded::default()
        };
        self.core = Core::restore(loaded, "seed".into(), self.now);
        self.sent.clear();
        self.connect(9, "life", "keeper", 64, running.iter().map(|a| item(*a, 1)).collect());
        self.says(9, vec![AgentSaid::InFlight(Vec::new(), true)]);
        for attempt in running {
            if versions.get(&attempt.task.job).is_none_or(|version| is_ready(*version)) {
                self.phase(9, attempt, phase::READY);
            }
        }
    }
}

#[test]
fn a_request_that_waits_too_long_brings_as_many_replicas_as_the_backlog_needs() {
    let mut w = World::scaling(serving(1, 4));
    assert_eq!(w.count(), (1, 1), "it starts with the least");
    for n in 0..3 {
        w.for_bank(json!(n));
    }
    w.wait(900);
    assert_eq!(w.count(), (1, 1), "waiting for less than a second is no reason");
    w.wait(200);
    assert_eq!((w.settle(), w.count()), (2, (3, 3)), "one works, two wait");
    assert_eq!(w.requests().len(), 3);
    for n in 0..9 {
        w.for_bank(json!(n));
    }
    w.pass(3_000);
    w.settle();
    assert_eq!(w.count(), (4, 4), "never more than the most");
    assert_eq!((w.noted("scaled_up"), w.noted("loaded")), (2, 0));
    let puts = w.facts.iter().filter(|f| matches!(f, Fact::DeploymentPut(_))).count();
    assert_eq!(puts, 3, "each number is stored");
}

#[test]
fn calls_that_wait_count_as_jobs_do_and_those_that_are_soon_served_change_nothing() {
    let mut w = World::scaling(serving(1, 4));
    for _ in 0..8 {
        // A backlog that never ends, but nobody waits for long.
        assert!(w.call_bank(None).is_none());
        assert!(w.call_bank(None).is_none());
        w.wait(400);
        let asked = w.requests();
        w.answer_all(&asked);
        w.wait(400);
        let asked = w.requests();
        w.answer_all(&asked);
    }
    assert_eq!(w.count(), (1, 1));
    assert!(w.call_bank(None).is_none());
    assert!(w.call_bank(None).is_none());
    w.pass(2_000);
    w.settle();
    assert_eq!(w.count(), (2, 2));
}

#[test]
fn a_worker_whose_replicas_fail_is_not_given_more_of_them() {
    let mut w = World::scaling(serving(1, 4));
    let first = w.stands().replicas[0].job;
    w.for_bank(json!(1));
    w.for_bank(json!(2));
    w.finish(1, TaskId::single(first).attempt(1), Cause::Exit { code: 1 });
    w.wait(900);
    w.feed(vec![]);
    w.pass(60_000);
    assert_eq!(w.stands().desired, 1);
}

#[test]
fn after_quiet_time_one_goes_after_another_by_draining_and_never_below_the_least() {
    let mut w = World::scaling(serving(1, 3));
    for n in 0..3 {
        w.for_bank(json!(n));
    }
    w.pass(2_000);
    w.settle();
    assert_eq!(w.count(), (3, 3));
    let asked = w.requests();
    w.answer_all(&asked);
    w.pass(298_000);
    assert_eq!(w.count(), (3, 3));
    w.pass(3_000);
    assert_eq!(w.stopped().len(), 1, "one at a time");
    let gone =
        w.stands().replicas.iter().find(|r| r.phase == "draining").map(|r| (r.job, r.attempt)).unwrap();
    w.finish(1, TaskId::single(gone.0).attempt(gone.1), Cause::Cancelled);
    assert_eq!(w.count(), (2, 2));
    w.for_bank(json!(1));
    let asked = w.requests();
    w.pass(290_000);
    assert_eq!(w.count(), (2, 2), "the next one only after as long again");
    w.answer_all(&asked);
    w.pass(12_000);
    w.settle();
    assert_eq!(w.count(), (1, 1), "one request needs one replica");
    w.pass(900_000);
    w.settle();
    assert_eq!((w.count(), w.noted("scaled_down")), ((1, 1), 2));
}

#[test]
fn load_at_the_end_of_the_quiet_time_keeps_all_of_them() {
    let mut w = World::scaling(serving(2, 2));
    w.scale(Scale::Between(Some(1), None)).unwrap();
    w.pass(299_000);
    w.for_bank(json!(1));
    w.for_bank(json!(2));
    let asked = w.requests();
    assert_eq!(asked.len(), 2);
    w.answer_all(&asked);
    w.pass(290_000);
    assert_eq!(w.count(), (2, 2), "both were needed a moment ago");
    w.pass(12_000);
    w.settle();
    assert_eq!(w.count(), (1, 1));
}

#[test]
fn with_none_at_least_the_first_request_starts_one_and_waits_for_it() {
    let mut w = World::scaling(serving(0, 2));
    assert_eq!((w.count(), w.stands().phase.as_str()), ((0, 0), "unloaded"));
    assert!(w.call_bank(Some(5_000)).is_none(), "it is not refused");
    let caller = w.ticket;
    w.wait(1);
    assert_eq!(w.stands().phase, "starting");
    assert_eq!(w.settle(), 1);
    let asked = w.requests();
    w.answers(1, &asked[0], outcome::RESULT, "7");
    assert_eq!(w.answers.remove(&caller), Some(Ok(Reply::Called(b"7".to_vec()))));
    w.pass(301_000);
    w.settle();
    assert_eq!((w.stands().phase.as_str(), w.noted("loaded"), w.noted("unloaded")), ("unloaded", 1, 1));
    let job = w.for_bank(json!(1));
    w.wait(1);
    assert_eq!((w.settle(), w.standing(job).0), (1, State::Running), "a tracked job starts one, too");
}

#[test]
fn who_waits_in_vain_for_a_cold_start_hears_that_it_starts() {
    let mut w = World::scaling(serving(0, 1));
    w.call_bank(Some(2_000));
    let caller = w.ticket;
    w.wait(1);
    let attempt =
        w.pick_sent(|f| if let ToAgent::StartReplica(s) = f { Some(s.start.attempt) } else { None })[0];
    w.start(attempt);
    w.phase(1, attempt, phase::LOADING);
    for _ in 0..3 {
        assert!(w.call_bank(None).is_none());
    }
    let busy = w.call_bank(None).unwrap().unwrap_err();
    assert!(busy.is(Code::Busy) && busy.detail.contains("the worker is loading"), "{busy:?}");
    w.wait(2_000);
    let late = w.answers.remove(&caller).unwrap().unwrap_err();
    assert!(late.is(Code::DeadlineExceeded) && late.detail.contains("the worker is loading"), "{late:?}");
}

#[test]
fn a_worker_that_nobody_asks_is_unloaded_and_comes_back_with_the_next_request() {
    let idle = Serving { replicas: Some(2), idle_unload_s: Some(60.0), ..Serving::default() };
    let mut w = World::scaling(idle);
    assert_eq!(w.count(), (2, 2));
    w.for_bank(json!(1));
    let asked = w.requests();
    w.pass(120_000);
    assert_eq!(w.count(), (2, 2), "it works on something");
    w.answer_all(&asked);
    w.pass(59_000);
    assert_eq!(w.count(), (2, 2));
    w.pass(2_000);
    w.settle();
    assert_eq!((w.stands().phase.as_str(), w.stands().replicas.len()), ("unloaded", 0));
    w.call_bank(None);
    w.wait(1);
    assert_eq!((w.settle(), w.count()), (2, (2, 2)), "all that were asked for");
}

#[test]
fn while_the_disk_is_full_no_replica_is_added_and_those_there_are_start_again() {
    let (mut w, replicas) = World::with_bank(1, 1);
    w.feed(vec![Input::Disk { full: true }]);
    w.scale(Scale::To(3)).unwrap();
    w.finish(1, replicas[0], Cause::Exit { code: 1 });
    w.wait(1_000);
    let added = |w: &World| w.facts.iter().filter(|f| matches!(f, Fact::JobAdded(_))).count();
    assert_eq!((added(&w), w.ready(1).len()), (1, 1));
    let status = w.bank().status.unwrap();
    assert!((status.desired, status.ready) == (3, 1) && status.reason.unwrap().contains("disk is full"));
    w.feed(vec![Input::Disk { full: false }]);
    assert_eq!((added(&w), w.ready(1).len(), w.bank().status.unwrap().reason), (3, 2, None));
}

#[test]
fn a_number_by_hand_is_fixed_until_bounds_are_given_again() {
    let mut w = World::scaling(serving(0, 3));
    w.scale(Scale::To(2)).unwrap();
    w.settle();
    w.pass(900_000);
    let status = w.stands();
    assert_eq!((status.desired, status.ready, status.min, status.max), (2, 2, None, None));
    w.scale(Scale::Between(Some(0), Some(1))).unwrap();
    w.settle();
    assert_eq!((w.count(), w.stands().max), ((1, 1), Some(1)));
    for how in [Scale::Drain, Scale::Stop] {
        w.scale(Scale::Between(Some(1), Some(2))).unwrap();
        w.settle();
        w.scale(how).unwrap();
        w.settle();
        assert_eq!(w.stands().phase, "stopped");
        assert!(w.call_bank(None).unwrap().unwrap_err().is(Code::NoReplicas), "it does not come back");
    }
    let wrong = w.scale(Scale::Between(Some(3), Some(2))).unwrap_err();
    assert!(wrong.detail.contains("min is 3"), "{wrong:?}");
}

#[test]
fn a_launch_keeps_bounds_that_were_given_and_takes_new_ones() {
    let mut w = World::scaling(Serving::default());
    let launch = |w: &mut World, min, max, replicas| {
        let request = Box::new(LaunchRequest { on: vec![], replicas, min, max });
        w.ask(Call::LaunchWorker { name: "bank".into(), request }).unwrap();
        w.settle();
        let status = w.stands();
        (status.desired, status.min, status.max)
    };
    assert_eq!(launch(&mut w, Some(2), Some(5), None), (2, Some(2), Some(5)));
    assert_eq!(launch(&mut w, None, None, None), (2, Some(2), Some(5)));
    assert_eq!(launch(&mut w, None, None, Some(3)), (3, None, None));
    assert_eq!(launch(&mut w, None, Some(1), Some(3)), (1, Some(1), Some(1)));
}

#[test]
fn more_replicas_are_of_the_version_that_was_launched_not_of_the_newest() {
    let mut w = World::scaling(serving(1, 2));
    w.register("bank", static_request(1, 8.0)).unwrap();
    w.for_bank(json!(1));
    w.for_bank(json!(2));
    w.pass(2_000);
    w.settle();
    let status = w.stands();
    assert!(status.ready == 2 && status.replicas.iter().all(|r| r.version == 1), "{status:?}");
    assert!(w.stopped().is_empty());
}

#[test]
fn another_life_of_the_coordinator_goes_on_with_bounds_number_and_idle_time() {
    let both = Serving { idle_unload_s: Some(600.0), ..serving(1, 3) };
    let mut w = World::scaling(both);
    w.for_bank(json!(1));
    w.for_bank(json!(2));
    w.pass(2_000);
    w.settle();
    let asked = w.requests();
    w.answer_all(&asked);
    let before = w.stands();
    w.restart();
    let after = w.stands();
    let of = |s: &WorkerStatus| (s.desired, s.min, s.max, s.idle_unload_s, s.replicas.len());
    assert_eq!((of(&after), of(&before)), ((2, Some(1), Some(3), Some(600.0), 2), of(&before)));
    w.pass(299_000);
    assert_eq!(w.stands().desired, 2, "its quiet time begins anew");
    w.pass(3_000);
    let stopped = w.stopped();
    assert_eq!((w.stands().desired, stopped.len()), (1, 1));
    w.finish(9, stopped[0], Cause::Cancelled);
    w.pass(301_000);
    let stopped = w.stopped();
    w.finish(9, stopped[0], Cause::Cancelled);
    assert_eq!(w.stands().desired, 0, "nobody asked for ten minutes");
    w.restart();
    w.pass(5_000);
    assert_eq!(w.stands().desired, 0, "a start brings nothing back that nobody asked for");
    w.call_bank(None);
    w.wait(1);
    assert_eq!(w.stands().desired, 1);
}

#[test]
fn another_life_of_the_coordinator_knows_how_the_old_version_is_spoken_to() {
    let mut w = World::scaling(Serving { max_ongoing: Some(1), replicas: Some(2), ..Serving::default() });
    let serving = Serving { max_ongoing: Some(8), protocol: Some("http".into()), ..Serving::default() };
    let request = reeve_protocol::api::WorkerRequest { serving: Some(serving), ..static_request(1, 0.5) };
    w.register("bank", request).unwrap();
    w.launch("bank", None).unwrap();
    let old = w.stands().replicas.iter().filter(|r| r.version == 1).count();
    assert_eq!(old, 2, "nothing has ended yet");
    // The new one has not said that it is ready.
    w.restart_with(|version| version == 1);
    for n in 0..5 {
        w.for_bank(json!(n));
    }
    assert_eq!(w.requests().len(), 2, "one for each of the old version");
}

fn from_git() -> reeve_protocol::api::WorkerRequest {
    let mut request = static_request(1, 0.5);
    request.spec.git = serde_json::from_value(json!({"url": "https://h/r", "ref": "main"})).unwrap();
    request
}

impl World {
    fn launches(&mut self) -> Vec<(AttemptId, Option<String>)> {
        self.pick_sent(|f| match f {
            ToAgent::LaunchReplica(l) => {
                Some((l.start.attempt, l.checkout.as_ref().and_then(|c| c.commit.clone())))
            }
            _ => None,
        })
    }
}

#[test]
fn the_first_replica_finds_the_commit_and_the_others_run_the_same() {
    let mut w = World::with_machine(64);
    w.register("bank", from_git()).unwrap();
    w.launch("bank", Some(3)).unwrap();
    let first = w.launches();
    assert!(first.len() == 1 && first[0].1.is_none(), "{first:?}");
    w.says(1, vec![AgentSaid::Preparing(wire::Preparing { attempt: first[0].0, at_ms: w.now.wall })]);
    w.says(1, vec![AgentSaid::Resolved(first[0].0, "c0ffee".into())]);
    w.feed(vec![]);
    let others = w.launches();
    assert!(others.len() == 2 && others.iter().all(|(_, c)| c.as_deref() == Some("c0ffee")), "{others:?}");
    w.finish(1, first[0].0, Cause::Exit { code: 1 });
    w.wait(1_000);
    assert_eq!(w.launches()[0].1.as_deref(), Some("c0ffee"), "started again with what was found");
    w.restart();
    assert_eq!(w.stands().commit.as_deref(), Some("c0ffee"));
    w.launch("bank", None).unwrap();
    assert_eq!(w.stands().commit.as_deref(), Some("c0ffee"), "the same version is the same commit");
    w.register("bank", from_git()).unwrap();
    w.launch("bank", None).unwrap();
    assert_eq!(w.stands().commit, None, "another version resolves its ref");
}

#[test]
fn a_checkout_that_a_person_has_to_mend_is_tried_once_a_minute() {
    let mut w = World::with_machine(64);
    w.register("bank", from_git()).unwrap();
    w.launch("bank", None).unwrap();
    let first = w.launches()[0].0;
    w.finish(1, first, Cause::Checkout { what: "ref".into(), detail: "no branch main".into() });
    let status = w.stands();
    assert!(
        status.phase == "failed" && status.reason.as_ref().unwrap().contains("no branch main"),
        "{status:?}"
    );
    w.pass(59_000);
    assert!(w.launches().is_empty());
    w.pass(2_000);
    let again = w.launches()[0].0;
    w.finish(1, again, Cause::Checkout { what: "network".into(), detail: "no route".into() });
    w.pass(3_000);
    assert_eq!(w.launches().len(), 1, "what may pass by itself is tried as any start is");
}
