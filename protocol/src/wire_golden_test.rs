//! The bytes of one frame of every kind, against `protocol/golden/wire.hex`: a changed body is a new kind.
use super::*;
use crate::{frame, ids::TaskId};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn line<T: Serialize>(kind: u16, body: &T) -> String {
    let mut out = Vec::new();
    frame::append(kind, 0, body, &mut out).unwrap();
    hex(&out)
}

#[expect(clippy::too_many_lines, reason = "one value of every kind, written out")]
fn every_kind() -> Vec<(u16, String)> {
    let text = |t: &str| t.to_owned();
    let attempt = TaskId::of_array(7, 1).attempt(2);
    let cause = || WireCause { code: 2, number: 3, word: text("w"), detail: text("d") };
    let item = InventoryItem { attempt, lineage: text("l"), phase: 1, pid: 9, started_ms: 10 };
    let start = Start {
        attempt,
        lineage: text("l"),
        command: vec![text("true")],
        env: vec![(text("K"), text("V"))],
        cwd: Some(text("/")),
        stdin: Some(vec![1]),
        payload: Some(vec![2]),
        owner_uid: 3,
        owner: text("ana"),
        run_as: None,
        cpu_milli: 4,
        memory_bytes: 5,
        gpus: vec![text("g")],
        timeout_ms: 6,
        grace_ms: 7,
        stop_after_ms: 8,
        output_cap: 9,
    };
    let gpu = Gpu {
        uuid: text("u"),
        model: text("m"),
        memory_bytes: 1,
        memory_used: 2,
        busy_permille: Some(3),
        quarantine: Some(text("q")),
    };
    let checkout = Checkout {
        url: text("u"),
        reference: Some(text("r")),
        commit: None,
        subdir: Some(text("d")),
        setup: Some(text("s")),
        submodules: true,
        lfs: false,
        patch: Some(vec![1]),
    };
    let replica = Replica { protocol: 1, ready: Some(text("/r")), path: text("/p"), port: 2 };
    let replica_start = StartReplica { start: start.clone(), replica: replica.clone() };
    let replica_launch = LaunchReplica {
        start: start.clone(),
        replica,
        batch: Batch { size: 1, delay_ms: 2 },
        checkout: Some(checkout.clone()),
    };
    let replica_state = ReplicaState { attempt, phase: 1, fraction: Some(0.5), message: Some(text("m")) };
    let id = RequestId { attempt: Some(attempt), call: 3 };
    let request = Request { replica: attempt, id, payload: vec![4], timeout_ms: 5 };
    let answer = Answer { replica: attempt, id, outcome: 1, body: vec![6], retry: true };
    let file = Artifact { name: text("n"), size: 1, mode: 2, sha256: text("s") };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        cluster: text("c"),
        machine: text("m"),
        life: text("b"),
        keeper: text("k"),
        lineage_seen: text("l"),
        epoch_seen: 1,
        seq_seen: 2,
        agent_version: text("v"),
        kinds: vec![3],
    };
    let machine = Machine {
        hostname: text("h"),
        cpu_milli: 1,
        memory_bytes: 2,
        gpus: vec![],
        named: vec![],
        labels: vec![],
        capabilities: vec![(text("a"), text("b"))],
        os: text("o"),
        keeper: true,
    };
    let finished = Finished {
        attempt,
        cause: cause(),
        started_ms: 1,
        ended_ms: 2,
        pid: 3,
        cpu_ms: 4,
        rss_peak: 5,
        output: vec![6],
        spooled: 7,
        result: Some(vec![8]),
    };
    vec![
        (kind::HELLO, line(kind::HELLO, &hello)),
        (
            kind::WELCOME,
            line(
                kind::WELCOME,
                &Welcome {
                    version: 1,
                    session: 2,
                    lineage: text("l"),
                    epoch: 3,
                    seq: 4,
                    beat_ms: 5,
                    name: text("n"),
                },
            ),
        ),
        (kind::REFUSED, line(kind::REFUSED, &Refused { code: 1, reason: text("r") })),
        (kind::MACHINE, line(kind::MACHINE, &machine)),
        (kind::INVENTORY, line(kind::INVENTORY, &Inventory { items: vec![item] })),
        (kind::INVENTORY_END, line(kind::INVENTORY_END, &InventoryEnd { count: 1 })),
        (kind::RECONCILE, line(kind::RECONCILE, &Reconcile { verdicts: vec![(attempt, Verdict::Fence)] })),
        (kind::BEAT, line(kind::BEAT, &Beat { number: 1, echo: 2 })),
        (kind::BEAT_ECHO, line(kind::BEAT_ECHO, &Beat { number: 1, echo: 2 })),
        (kind::START, line(kind::START, &start)),
        (kind::STARTED, line(kind::STARTED, &Started { attempt, pid: 1, at_ms: 2 })),
        (kind::PROGRESS, line(kind::PROGRESS, &Progress { attempt, fraction: Some(0.5), message: None })),
        (kind::FINISHED, line(kind::FINISHED, &finished)),
        (kind::FORGET, line(kind::FORGET, &Forget { attempts: vec![attempt] })),
        (kind::STOP, line(kind::STOP, &Stop { attempt, cause: cause(), grace_ms: 1 })),
        (kind::REVOKE, line(kind::REVOKE, &Revoke { attempt })),
        (kind::RETURNED, line(kind::RETURNED, &Revoke { attempt })),
        (kind::FOLLOW, line(kind::FOLLOW, &Follow { id: 1, attempt, from: 2 })),
        (kind::UNFOLLOW, line(kind::UNFOLLOW, &Unfollow { id: 1 })),
        (kind::SAMPLE, line(kind::SAMPLE, &Sample { cpu: 0.5, memory_used: 1, load1: 2.0, disk: 0.25 })),
        (
            kind::JOIN,
            line(kind::JOIN, &Join { token_id: text("t"), secret: text("s"), csr: vec![1], name: text("n") }),
        ),
        (
            kind::JOINED,
            line(kind::JOINED, &Joined { machine: text("m"), name: text("n"), certificate: vec![1] }),
        ),
        (
            kind::OUTPUT_HEAD,
            line(kind::OUTPUT_HEAD, &OutputHead { attempt, follow: Some(1), from: 2, total: 3 }),
        ),
        (kind::INVENTORY_ASK, line(kind::INVENTORY_ASK, &())),
        (
            kind::KEEPER_HELLO,
            line(
                kind::KEEPER_HELLO,
                &KeeperHello { keeper: text("k"), life: text("b"), pid: 1, version: text("v") },
            ),
        ),
        (
            kind::LIMITS,
            line(
                kind::LIMITS,
                &Limits { cpu_milli: 1, memory_bytes: 2, machine: text("m"), heard_boot_ms: 3 },
            ),
        ),
        (kind::USAGE, line(kind::USAGE, &Usage { attempt, cpu_ms: 1, rss: 2, rss_peak: 3 })),
        (kind::SHUTDOWN, line(kind::SHUTDOWN, &Shutdown { cause: cause() })),
        (kind::LEAVE, line(kind::LEAVE, &())),
        (kind::RENEW, line(kind::RENEW, &Renew { csr: vec![1, 2] })),
        (kind::RENEWED, line(kind::RENEWED, &Renewed { certificate: vec![3] })),
        (kind::RENEWAL_KEPT, line(kind::RENEWAL_KEPT, &RenewalKept { fingerprint: text("f") })),
        (kind::RENEWAL_FAILED, line(kind::RENEWAL_FAILED, &RenewalFailed { reason: text("r") })),
        (kind::START_GIT, line(kind::START_GIT, &StartGit { start, checkout })),
        (kind::PREPARING, line(kind::PREPARING, &Preparing { attempt, at_ms: 1 })),
        (kind::RESOLVED, line(kind::RESOLVED, &Resolved { attempt, commit: text("c") })),
        (kind::RECORDED, line(kind::RECORDED, &Recorded { seq: 1 })),
        (kind::START_REPLICA, line(kind::START_REPLICA, &replica_start)),
        (kind::REPLICAS, line(kind::REPLICAS, &Replicas { items: vec![replica_state] })),
        (kind::REQUESTS, line(kind::REQUESTS, &Requests { items: vec![request] })),
        (kind::ANSWERS, line(kind::ANSWERS, &Answers { items: vec![answer] })),
        (kind::CANCEL_REQUESTS, line(kind::CANCEL_REQUESTS, &CancelRequests { items: vec![(attempt, id)] })),
        (kind::IN_FLIGHT, line(kind::IN_FLIGHT, &InFlight { items: vec![(attempt, id)], last: true })),
        (kind::EXITED, line(kind::EXITED, &Exited { attempt, phase: 3 })),
        (kind::TAKING, line(kind::TAKING, &Taking { refuses: Some(text("r")) })),
        (kind::ENFORCED, line(kind::ENFORCED, &Enforced { words: vec![(text("n"), text("w"))] })),
        (kind::GPUS, line(kind::GPUS, &Gpus { devices: vec![gpu] })),
        (kind::QUIET, line(kind::QUIET, &Quiet { attempt, quiet_ms: 1 })),
        (kind::COLLECT, line(kind::COLLECT, &Collect { attempt, globs: vec![text("g")], max_bytes: 1 })),
        (kind::ARTIFACTS, line(kind::ARTIFACTS, &Artifacts { attempt, count: 1, total: 2 })),
        (kind::ARTIFACTS_HEAD, line(kind::ARTIFACTS_HEAD, &ArtifactsHead { attempt, files: vec![file] })),
        (kind::LAUNCH_REPLICA, line(kind::LAUNCH_REPLICA, &replica_launch)),
    ]
}

#[test]
fn the_bytes_of_every_kind_are_those_of_the_golden_file() {
    let text: String = every_kind().iter().map(|(kind, hex)| format!("{kind} {hex}\n")).collect();
    assert_eq!(text, include_str!("../golden/wire.hex"), "a body changed: give it a new kind");
}

#[test]
fn every_known_kind_has_golden_bytes_and_a_number_of_its_own() {
    let mut numbers: Vec<u16> = every_kind().iter().map(|(kind, _)| *kind).collect();
    assert_eq!(numbers, kind::KNOWN);
    numbers.dedup();
    assert_eq!(numbers.len(), kind::KNOWN.len());
}
