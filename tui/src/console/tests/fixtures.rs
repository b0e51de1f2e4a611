//! Models for tests: a cluster with a bit of everything, at a fixed time, in UTC.
use crate::console::model::Model;
use crate::console::msg::{Command, Kind, Msg, Stamp};
use crate::console::theme::Theme;
use crate::console::update::update;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use reeve_protocol::api::{
    Alert, ArrayView, AttemptView, JobView, LogLine, MachineView, Plan, PlanSample, QueueView, ReplicaView,
    StateCounts, Stats, Total, ViewUpdate, WhoAmI, WorkerStatus, WorkerView,
};
use reeve_protocol::resources::ResourceAsk;
use reeve_protocol::time::Wall;
use reeve_protocol::{Cause, JobSpec, State, Substate};
use std::collections::BTreeMap;

/// 2026-11-24T14:22:07Z.
pub(in crate::console) const NOON: i64 = 1_795_530_127_000;

/// How many jobs the fixture's list has; only a window of them is loaded.
pub(in crate::console) const TOTAL: u64 = 412;

/// Sends one message a millisecond after the last one.
pub(in crate::console) fn send(model: &mut Model, kind: Kind) -> Vec<Command> {
    let at = Stamp { ms: model.now.ms + 1, wall: model.now.wall };
    update(model, Msg { at, kind })
}

/// Lets time pass.
pub(in crate::console) fn wait(model: &mut Model, ms: u64) -> Vec<Command> {
    let at = Stamp { ms: model.now.ms + ms, wall: Wall(model.now.wall.0 + ms as i64) };
    update(model, Msg { at, kind: Kind::Tick })
}

/// A key by its name in the key table.
pub(in crate::console) fn event(name: &str) -> KeyEvent {
    let ctrl = name.strip_prefix("ctrl-").and_then(|c| c.chars().next());
    let (code, modifiers) = match (name, ctrl) {
        (_, Some(c)) => (KeyCode::Char(c), KeyModifiers::CONTROL),
        ("space", _) => (KeyCode::Char(' '), KeyModifiers::NONE),
        ("enter", _) => (KeyCode::Enter, KeyModifiers::NONE),
        ("esc", _) => (KeyCode::Esc, KeyModifiers::NONE),
        ("tab", _) => (KeyCode::Tab, KeyModifiers::NONE),
        ("shift-tab", _) => (KeyCode::BackTab, KeyModifiers::SHIFT),
        ("backspace", _) => (KeyCode::Backspace, KeyModifiers::NONE),
        ("delete", _) => (KeyCode::Delete, KeyModifiers::NONE),
        ("up", _) => (KeyCode::Up, KeyModifiers::NONE),
        ("down", _) => (KeyCode::Down, KeyModifiers::NONE),
        ("left", _) => (KeyCode::Left, KeyModifiers::NONE),
        ("right", _) => (KeyCode::Right, KeyModifiers::NONE),
        ("shift-up", _) => (KeyCode::Up, KeyModifiers::SHIFT),
        ("shift-down", _) => (KeyCode::Down, KeyModifiers::SHIFT),
        ("home", _) => (KeyCode::Home, KeyModifiers::NONE),
        ("end", _) => (KeyCode::End, KeyModifiers::NONE),
        ("pageup", _) => (KeyCode::PageUp, KeyModifiers::NONE),
        ("pagedown", _) => (KeyCode::PageDown, KeyModifiers::NONE),
        ("f1", _) => (KeyCode::F(1), KeyModifiers::NONE),
        (one, _) if one.chars().count() == 1 => {
            (KeyCode::Char(one.chars().next().unwrap()), KeyModifiers::NONE)
        }
        (other, _) => panic!("no key is called {other}"),
    };
    KeyEvent::new(code, modifiers)
}

/// Presses keys, named and separated by spaces, and gives every command that follows.
pub(in crate::console) fn press(model: &mut Model, keys: &str) -> Vec<Command> {
    keys.split(' ').filter(|k| !k.is_empty()).flat_map(|k| send(model, Kind::Key(event(k)))).collect()
}

/// Types text into whatever is open.
pub(in crate::console) fn type_text(model: &mut Model, text: &str) -> Vec<Command> {
    text.chars()
        .flat_map(|c| press(model, if c == ' ' { "space".to_owned() } else { c.to_string() }.as_str()))
        .collect()
}

/// A console that has heard nothing.
pub(in crate::console) fn silent() -> Model {
    let mut model = Model::new(Theme { color: true, ascii: false }, TimeZone::UTC, (120, 36));
    model.now = Stamp { ms: 10_000, wall: Wall(NOON) };
    model
}

/// A console of a busy cluster, on the overview.
pub(in crate::console) fn live() -> Model {
    let mut model = silent();
    send(&mut model, Kind::LinkUp);
    send(&mut model, Kind::Who(WhoAmI { uid: 1000, name: "mira".into(), role: "owner".into() }));
    send(&mut model, Kind::Stats(Box::new(stats())));
    send(&mut model, Kind::Machines(machines()));
    send(&mut model, Kind::Workers(workers()));
    let failed: Vec<JobView> = (0..12).map(|n| job(TOTAL - 4 * n)).collect();
    answer_view(&mut model, failed, 12);
    model
}

/// On the list of jobs, with its window loaded.
pub(in crate::console) fn jobs() -> Model {
    let mut model = live();
    press(&mut model, "3");
    load(&mut model);
    model
}

/// Sends the window that the model asked for last: jobs `TOTAL` down to 1.
pub(in crate::console) fn load(model: &mut Model) -> Vec<Command> {
    let request = model.wants.view.clone().expect("the screen wants a view");
    let (first, last) = (request.offset, (request.offset + u64::from(request.limit)).min(TOTAL));
    let rows = (first..last).map(|position| job(TOTAL - position)).collect();
    answer_view(model, rows, TOTAL)
}

/// Answers the present view with these rows.
pub(in crate::console) fn answer_view(model: &mut Model, rows: Vec<JobView>, total: u64) -> Vec<Command> {
    let update = ViewUpdate {
        kind: "snapshot".into(),
        seq: 918,
        total: Total { value: total, exact: true },
        order: Some(rows.iter().map(|j| (j.id, j.index)).collect()),
        rows,
    };
    let generation = model.generations.view;
    send(model, Kind::View { generation, update: Box::new(update) })
}

/// On a running job in its second attempt, with a log.
pub(in crate::console) fn detail() -> Model {
    let mut model = jobs();
    press(&mut model, "j j enter");
    let generation = model.generations.job;
    send(&mut model, Kind::Job { generation, result: Ok(Box::new(whole_job())) });
    let generation = model.generations.log;
    send(&mut model, Kind::Log { generation, lines: log() });
    model
}

/// One of the list's jobs: the states take turns, some names are hostile to a terminal.
pub(in crate::console) fn job(id: u64) -> JobView {
    let (state, substate, cause, machine) = match id % 8 {
        0 => {
            (State::Failed, None, Some(Cause::Oom { detail: "memory limit 32 GiB".into() }), Some("lab-012"))
        }
        1 => (State::Queued, Some(Substate::Waiting), None, None),
        2 => (State::Running, Some(Substate::Running), None, Some("lab-007")),
        3 => (State::Completed, None, Some(Cause::Ok), Some("lab-001")),
        4 => (State::Failed, None, Some(Cause::Exit { code: 1 }), Some("lab-007")),
        5 => (State::Queued, Some(Substate::Held), None, None),
        6 => (State::Cancelled, None, Some(Cause::Cancelled), None),
        _ => (State::Running, Some(Substate::Unconfirmed), None, Some("lab-017")),
    };
    let name = match id % 5 {
        0 => format!("detect/val-{id:04}"),
        1 => format!("train/r50/fold-{}", id % 7),
        2 => "語\u{301}\u{202e}\u{1b}[31mred\nx".to_owned(),
        3 => format!("embed/shard-{id:03}-with-a-name-that-is-too-long"),
        _ => format!("ingest/cam{}", id % 9),
    };
    let array = (id % 16 == 9).then_some(ArrayView {
        total: 1000,
        counts: StateCounts { queued: 600, running: 24, completed: 370, failed: 6, cancelled: 0 },
        from: 1,
        to: 1000,
        limit: None,
    });
    let started = machine.map(|_| Wall(NOON - 1_767_000 + id as i64 * 1000));
    JobView {
        id,
        alias: None,
        name: Some(name.clone()),
        owner: ["mira", "jon", "ana"][id as usize % 3].into(),
        queue: ["gpu", "cpu", "io"][id as usize % 3].into(),
        state,
        substate,
        cause,
        attempt: u32::from(machine.is_some()),
        priority: [50, 0, -5][id as usize % 3],
        created_at: Wall(NOON - 4_000_000 - id as i64 * 7000),
        started_at: started,
        ended_at: state.is_terminal().then(|| Wall(NOON - 760_000 + id as i64 * 1000)),
        run_at: None,
        machine: machine.map(str::to_owned),
        attempts: Vec::new(),
        progress: (id % 8 == 2).then_some(0.41),
        warning: None,
        message: (id % 8 == 2).then(|| "epoch 37/90".into()),
        result: None,
        labels: BTreeMap::from([("team".into(), "vision".into())]),
        spec: JobSpec {
            command: Some(vec!["python".into(), "train.py".into(), "--fold".into(), "6".into()]),
            name: Some(name),
            resources: ResourceAsk {
                cpus: Some(8.0),
                memory_bytes: Some(32 << 30),
                gpus: Some(1.0),
                named: BTreeMap::new(),
            },
            timeout_s: Some(14_400.0),
            ..JobSpec::default()
        },
        definition: None,
        array,
        index: None,
        worker: None,
    }
}

/// The job of [`detail`] with its attempts.
pub(in crate::console) fn whole_job() -> JobView {
    let mut job = job(410);
    job.attempt = 2;
    let attempt = |number, machine: &str, from: i64, to: Option<i64>, cause: Option<Cause>| AttemptView {
        attempt: number,
        index: None,
        machine: machine.into(),
        dispatched_at: Some(Wall(NOON - from)),
        started_at: Some(Wall(NOON - from)),
        ended_at: to.map(|to| Wall(NOON - to)),
        exit_code: None,
        cause,
        cpu_s: 120.5,
        rss_peak_bytes: 21 << 30,
        pid: Some(4242),
        output_bytes: 9000,
        artifacts: 0,
        artifact_bytes: 0,
        late: None,
        gpus: Vec::new(),
    };
    job.attempts = vec![
        attempt(
            1,
            "lab-012",
            2_465_000,
            Some(2_214_000),
            Some(Cause::Oom { detail: "memory limit 32 GiB".into() }),
        ),
        attempt(2, "lab-007", 1_767_000, None, None),
    ];
    job
}

/// Lines of both streams, a progress bar, a gap, escape sequences, an unfinished line.
pub(in crate::console) fn log() -> Vec<LogLine> {
    let piece = |ms: i64, stream: &str, text: &str| LogLine {
        next: 0,
        at: Some(Wall(NOON - 9000 + ms)),
        stream: stream.into(),
        text: text.into(),
        missing: None,
    };
    let mut lines: Vec<LogLine> = (0..40)
        .map(|n| piece(n * 10, "stdout", &format!("epoch 36 step {}  loss 0.42{n:02}\n", n * 10)))
        .collect();
    lines.push(LogLine { missing: Some(5 << 20), ..piece(500, "gap", "") });
    lines.push(piece(1000, "stdout", "epoch 37 step 1180  \u{1b}[32mloss 0.4127\u{1b}[0m  img/s 2210\n"));
    lines.push(piece(2000, "stderr", "WARN data loader worker 3 was slow (1.8 s)\n"));
    lines.push(piece(3000, "stdout", "10%\r50%\r100% done\n"));
    lines.push(piece(
        4000,
        "stdout",
        &format!("{}\n", "a long line that has to be wrapped or cut ".repeat(6)),
    ));
    lines.push(piece(5000, "stdout", "epoch 37 step 1200"));
    lines
}

/// Counters of a busy cluster.
pub(in crate::console) fn stats() -> Stats {
    let queue = |name: &str, queued, running, limit, paused| QueueView {
        name: name.into(),
        kind: "jobs".into(),
        backend: "local".into(),
        paused,
        weight: 1,
        limit,
        max_len: 0,
        counts: StateCounts { queued, running, completed: 965_000, failed: 88, cancelled: 2 },
        waiting: BTreeMap::from([("waiting".into(), queued), ("held".into(), 3)]),
        oldest_age_s: (queued > 0).then_some(8040.0),
        started_per_s: 170.2,
        ended_per_s: 170.0,
        failed_per_s: 0.1,
        wait_p50_s: Some(3.2),
        wait_p95_s: Some(130.0),
        owner: "mira".into(),
        history: (0..60).map(|n| (n * 7) % 23).collect(),
        ..QueueView::default()
    };
    Stats {
        cluster: "lab-main".into(),
        at: Some(Wall(NOON)),
        as_of_seq: 918_273,
        counts: StateCounts { queued: 38_191, running: 1_204, completed: 964_505, failed: 412, cancelled: 0 },
        waiting: BTreeMap::from([("waiting".into(), 38_102), ("retrying".into(), 77), ("held".into(), 12)]),
        changes_per_s: 9_812.0,
        queues: vec![
            queue("gpu", 31_204, 168, 168, false),
            queue("cpu", 6_790, 912, 1024, false),
            queue("io", 102, 88, 128, false),
            queue("label", 6, 0, 16, true),
            queue("nightly", 0, 36, 0, false),
        ],
        machines: BTreeMap::from([("up".into(), 42), ("lost".into(), 1), ("disconnected".into(), 1)]),
        cpu_milli_used: 780_000,
        cpu_milli_total: 1_000_000,
        memory_used: 63 << 30,
        memory_total: 100 << 30,
        causes: BTreeMap::from([
            ("oom".into(), 61),
            ("exit".into(), 9),
            ("ok".into(), 964_505),
            ("timeout".into(), 4),
        ]),
        stale: 3,
        alerts: vec![
            Alert {
                level: 2,
                subject: "lab-017".into(),
                text: "lost for 3m12s, 12 running jobs at risk".into(),
            },
            Alert { level: 1, subject: "label".into(), text: "paused with 6 jobs waiting".into() },
            Alert { level: 1, subject: "store".into(), text: "the disk is 91 % full".into() },
        ],
    }
}

/// A few machines, in several states.
pub(in crate::console) fn machines() -> Vec<MachineView> {
    let machine = |name: &str, state: &str, busy: f64, gpus: u32, disk: f64, seen: f64| MachineView {
        id: format!("{name}-id"),
        name: name.into(),
        state: state.into(),
        hostname: format!("{name}.lab"),
        address: Some("10.0.4.11:50122".into()),
        agent_version: "0.1.0".into(),
        os: "Debian 13, Linux 6.12".into(),
        cpu_milli: 64_000,
        cpu_milli_used: 56_000,
        memory_bytes: 512 << 30,
        memory_used: 256 << 30,
        gpus: (0..gpus).map(|n| format!("GPU-{n}")).collect(),
        gpus_used: gpus,
        running: 8,
        labels: BTreeMap::from([("gpu".into(), "a100".into())]),
        capabilities: BTreeMap::from([("memory".into(), "cgroup".into())]),
        cpu_busy: Some(busy),
        memory_busy: Some(322 << 30),
        load1: Some(55.2),
        disk: Some(disk),
        seen_s: Some(seen),
        rtt_ms: Some(0.4),
        joined_at: Some(Wall(NOON - 3_600_000)),
        orphans: 0,
        cordoned: state == "cordoned",
        ..MachineView::default()
    };
    vec![
        machine("lab-001", "up", 0.88, 4, 0.41, 0.3),
        machine("lab-007", "cordoned", 0.22, 4, 0.51, 0.4),
        machine("lab-012", "up", 0.77, 0, 0.97, 0.1),
        MachineView {
            cpu_busy: None,
            memory_busy: None,
            disk: None,
            ..machine("lab-017", "lost", 0.0, 4, 0.0, 192.0)
        },
        machine("lab-020", "disconnected", 0.5, 0, 0.62, 14.0),
    ]
}

/// A bank with one bad replica, one that nobody launched, and one that is born for each job.
pub(in crate::console) fn workers() -> Vec<WorkerView> {
    let worker = |name: &str, kind: &str, status: Option<WorkerStatus>| WorkerView {
        name: name.into(),
        version: 3,
        kind: kind.into(),
        owner: "mira".into(),
        queue: format!("jobs.{name}"),
        spec: JobSpec { command: Some(vec!["python3".into(), "bank.py".into()]), ..JobSpec::default() },
        shell: None,
        serving: None,
        created_at: Wall(NOON),
        status,
    };
    let replica = |n: u32, phase: &str, why: Option<&str>| ReplicaView {
        replica: n,
        job: 40 + u64::from(n),
        attempt: n,
        version: 3,
        machine: Some("lab-001".into()),
        phase: phase.into(),
        outstanding: 2,
        reason: why.map(str::to_owned),
        ..ReplicaView::default()
    };
    let bank = WorkerStatus {
        version: 3,
        desired: 3,
        min: Some(1),
        max: Some(4),
        ready: 2,
        phase: "ready".into(),
        outstanding: 4,
        calls_waiting: 1,
        rate: 812.5,
        reason: Some("exit 1: \u{1b}[2JCUDA out of memory".into()),
        replicas: vec![
            replica(1, "ready", None),
            replica(2, "ready", None),
            replica(3, "failed", Some("exit 1: CUDA out of memory")),
        ],
        ..WorkerStatus::default()
    };
    vec![
        worker("bank", "static", Some(bank)),
        worker("idle", "static", None),
        worker("resize", "command", None),
    ]
}

/// A plan that would change so many.
pub(in crate::console) fn plan(will_change: u64) -> Plan {
    let running = will_change / 4;
    let sample = |id, name: &str, state| PlanSample { id, name: name.into(), state };
    Plan {
        kind: "BulkPlan".into(),
        id: 105,
        action: "cancel".into(),
        seq: 918_273,
        matched: will_change + 24,
        will_change,
        no_change: BTreeMap::from([("already ended".into(), 21)]),
        refused: BTreeMap::from([("not yours".into(), 3)]),
        sample: vec![
            sample(311, "train/r50/fold-1", State::Running),
            sample(302, "detect/val-0302", State::Queued),
            sample(77, "語\u{1b}[2Jx", State::Queued),
        ],
        running,
    }
}

/// Answers the plan that is being waited for.
pub(in crate::console) fn answer_plan(model: &mut Model, will_change: u64) -> Vec<Command> {
    let ticket = model.ticket;
    send(model, Kind::Planned { ticket, result: Ok(Box::new(plan(will_change))) })
}
