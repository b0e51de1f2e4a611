//! Gpus in the core: shares, quarantine, loss and restart, and jobs that do nothing.
use super::*;

fn attempt(job: u64) -> AttemptId {
    TaskId::single(job).attempt(1)
}

fn asking(gpus: f64) -> JobSpec {
    let resources = reeve_protocol::resources::ResourceAsk { gpus: Some(gpus), ..Default::default() };
    JobSpec { resources, ..spec() }
}

fn info(gpus: &[&str]) -> wire::Machine {
    wire::Machine {
        cpu_milli: 8000,
        memory_bytes: 1 << 33,
        gpus: gpus.iter().map(|uuid| (*uuid).to_owned()).collect(),
        keeper: true,
        ..Default::default()
    }
}

fn gpu(uuid: &str, busy: Option<u16>, quarantine: Option<&str>) -> wire::Gpu {
    wire::Gpu {
        uuid: uuid.into(),
        busy_permille: busy,
        quarantine: quarantine.map(str::to_owned),
        ..Default::default()
    }
}

impl World {
    fn with_gpus(gpus: &[&str]) -> Self {
        let mut world = Self::with_machine(8);
        world.says(1, vec![AgentSaid::Machine(info(gpus))]);
        world
    }

    /// The gpus in the Start of a job.
    fn given(&self, job: u64) -> Option<Vec<String>> {
        self.sent.iter().rev().find_map(|frame| match frame {
            ToAgent::Start(start) if start.attempt.task.job == job => Some(start.gpus.clone()),
            _ => None,
        })
    }

    fn why(&mut self, job: u64) -> String {
        match self.ask(Call::Why { target: target(job), stored: Stored::default() }) {
            Ok(Reply::Why(why)) => format!("{why:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn halves_share_a_device_and_a_whole_one_is_somebodys_own() {
    let mut w = World::with_gpus(&["GPU-a", "GPU-b"]);
    for gpus in [0.5, 0.5, 1.0, 0.5] {
        w.submit(asking(gpus));
    }
    assert_eq!(w.given(1).unwrap(), ["GPU-a"]);
    assert_eq!(w.given(2).unwrap(), ["GPU-a"]);
    assert_eq!(w.given(3).unwrap(), ["GPU-b"]);
    assert_eq!(w.given(4), None);
    assert!(w.why(4).contains("needs 0.5 of a gpu, at most 0 of one is free"), "{}", w.why(4));
    w.finish(1, attempt(2), Cause::Ok);
    assert_eq!(w.given(4).unwrap(), ["GPU-a"]);
    w.submit(asking(3.0));
    assert!(w.why(5).contains("can never fit: needs 3 gpus, 2 there"));
}

#[test]
fn a_device_in_quarantine_is_given_to_nobody_and_the_attempt_that_found_it_goes_elsewhere_uncharged() {
    let mut w = World::with_gpus(&["GPU-a", "GPU-b"]);
    w.submit(asking(1.0));
    assert_eq!(w.given(1).unwrap(), ["GPU-a"]);
    w.says(
        1,
        vec![
            AgentSaid::Gpus(vec![gpu("GPU-a", None, Some("2.0 GiB are held"))]),
            AgentSaid::Returned(attempt(1)),
        ],
    );
    let second = TaskId::single(1).attempt(2);
    assert_eq!(w.given(1).unwrap(), ["GPU-b"], "the other device, in a new attempt");
    assert_eq!(w.core.jobs.task(second.task).map(|t| (t.tries, t.losses)), Some((0, 0)));
    w.submit(asking(1.0));
    assert!(w.why(2).contains("GPU-a in quarantine (2.0 GiB are held)"), "{}", w.why(2));
    let noted = |w: &World, what: &str| w.events.iter().any(|e| e.what.as_deref() == Some(what));
    assert!(noted(&w, "gpu_quarantined GPU-a"));
    w.says(1, vec![AgentSaid::Gpus(vec![gpu("GPU-a", None, None)])]);
    assert!(noted(&w, "gpu_returned GPU-a"));
    assert_eq!(w.given(2).unwrap(), ["GPU-a"]);
}

#[test]
fn an_attempt_that_was_lost_and_comes_back_has_the_devices_it_had() {
    let mut w = World::with_gpus(&["GPU-a", "GPU-b"]);
    w.submit(asking(1.0));
    w.submit(asking(1.0));
    w.start(attempt(2));
    w.finish(1, attempt(1), Cause::Ok);
    w.says(1, vec![AgentSaid::Closed]);
    w.pass(301_000);
    assert_eq!(w.standing(2).0, State::Queued);
    assert!(w.core.cluster.get(MACHINE).unwrap().held().is_empty());
    w.connect(2, "life", "keeper", 8, vec![item(attempt(2), 1)]);
    w.says(2, vec![AgentSaid::Gpus(vec![])]);
    let held = &w.core.cluster.get(MACHINE).unwrap().held()[&attempt(2)];
    assert_eq!(held.gpus, ["GPU-b"]);
}

#[test]
fn a_restarted_coordinator_holds_the_same_devices() {
    let mut w = World::with_gpus(&["GPU-a", "GPU-b"]);
    w.submit(asking(1.0));
    w.submit(asking(0.5));
    w.start(attempt(1));
    w.finish(1, attempt(1), Cause::Ok);
    let row = w.facts.iter().rev().find_map(|f| match f {
        Fact::MachinePut(row) => Some((**row).clone()),
        _ => None,
    });
    let live = w.facts.iter().find_map(|f| match f {
        Fact::AttemptDispatched { attempt: a, machine_id, gpus, at, .. } if *a == attempt(2) => {
            Some(crate::row::LiveAttempt {
                attempt: *a,
                machine_id: machine_id.clone(),
                lease: None,
                gpus: gpus.clone(),
                dispatched_at: *at,
                started_at: None,
            })
        }
        _ => None,
    });
    let queues =
        w.facts.iter().filter_map(|f| if let Fact::QueuePut(q) = f { Some((**q).clone()) } else { None });
    let loaded = Loaded {
        next_job: 3,
        queues: queues.collect(),
        machines: row.into_iter().collect(),
        jobs: vec![(*w.row(2).job.unwrap(), Vec::new())],
        attempts: live.into_iter().collect(),
        ..Loaded::default()
    };
    let core = Core::restore(loaded, "seed".into(), w.now);
    let machine = core.cluster.get(MACHINE).unwrap();
    assert_eq!(machine.held()[&attempt(2)].gpus, ["GPU-b"]);
    assert_eq!(machine.gpus().choose(1000).unwrap(), ["GPU-a"]);
    assert_eq!(core.check(), Vec::<String>::new());
}

#[test]
fn a_job_whose_gpu_is_idle_gets_a_warning_that_goes_when_it_works() {
    let mut w = World::with_gpus(&["GPU-a"]);
    w.submit(asking(1.0));
    w.start(attempt(1));
    let minutes = |w: &mut World, n: u64, busy: Option<u16>| {
        for _ in 0..n {
            w.pass(60_000);
            w.says(1, vec![AgentSaid::Heard { rtt_us: 1 }, AgentSaid::Gpus(vec![gpu("GPU-a", busy, None)])]);
        }
    };
    let warnings = |w: &World| {
        let all = w.facts.iter().filter_map(|f| match f {
            Fact::WarningSet(_, warning) => Some(warning.clone()),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    minutes(&mut w, 40, None);
    assert!(warnings(&w).is_empty(), "nobody can say what the device does");
    minutes(&mut w, 30, Some(0));
    assert!(warnings(&w).is_empty());
    minutes(&mut w, 5, Some(3));
    assert_eq!(warnings(&w), [Some("idle-gpu: its gpus have not been used for 30 min".to_owned())]);
    minutes(&mut w, 1, Some(500));
    assert_eq!(warnings(&w).last(), Some(&None));
    assert!(w.events.iter().any(|e| e.what.as_deref() == Some("warning idle-gpu")));
}

#[test]
fn a_silent_job_gets_a_warning_and_what_is_said_about_others_attempts_counts_for_nothing() {
    let mut w = World::with_machine(1);
    w.submit(spec());
    w.start(attempt(1));
    let quiet = |attempt, minutes: u64| AgentSaid::Quiet(wire::Quiet { attempt, quiet_ms: minutes * 60_000 });
    w.says(1, vec![quiet(attempt(1), 29), quiet(attempt(9), 99)]);
    assert_eq!(w.core.stale, 1);
    w.says(1, vec![quiet(attempt(1), 31), quiet(attempt(1), 32)]);
    let set = |w: &World| w.facts.iter().filter(|f| matches!(f, Fact::WarningSet(_, Some(_)))).count();
    assert_eq!(set(&w), 1, "once");
    w.says(1, vec![quiet(attempt(1), 0)]);
    assert!(matches!(w.facts.last(), Some(Fact::WarningSet(_, None))));
    w.core.warn_idle_after(0);
    w.says(1, vec![quiet(attempt(1), 9_999)]);
    assert_eq!(set(&w), 1, "it is switched off");
}
