//! Machines that lie. Each wrong word ends the session it was said in, with the right code, and nothing else: the
//! coordinator answers, another machine's job runs on, no record of anybody else's attempt changes.
//!
//! Rows of the catalogue of bad input: wrong order, lengths, bodies and limits (W4 to W8, W10, W16, W20), certificates
//! (W1 to W3) in `evil_identity.rs`, attempts of others, replays and extremes (W11 to W14, W17) and floods (W15, W16, W18)
//! here; claimed inner lengths (W9) in `protocol/src/codec.rs`, Start twice (W22) in `agent/tests/commands.rs`, requests to
//! sign (W24) in `coordinator/src/identity/csr.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
#[path = "evil_agent/cases.rs"]
mod cases;
use cases::{hello_cases, machine_cases, session_cases};
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{AttemptId, Cause, TaskId};
use reeve_tests::evil::{Identity, Peer, finished, framed, header, machine, raw, rss, within};
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::{eventually, http};
use serde_json::Value;
use std::time::Duration;

/// A coordinator, a machine that is honest and runs job 1, and one that is not.
struct Stage {
    // Ends before the coordinator does.
    _good: Agent,
    evil: Identity,
    coordinator: Coordinator,
    before: (Value, u64),
}

impl Stage {
    fn new() -> Self {
        let coordinator = Coordinator::start("127.0.0.1:0");
        let good = Agent::start(coordinator.dir.path(), "good", &coordinator.token(), &[]);
        let evil = Identity::enroll(&coordinator, "evil");
        eventually("the good machine to be up", || {
            (coordinator.machine("good")["state"] == "up").then_some(())
        });
        let submitted = http::post(
            &coordinator.socket(),
            "/v1/jobs",
            r#"{"command":["sleep","1000"],"on":["good"],"grace_s":0.1}"#,
        );
        assert_eq!(submitted.status, 201, "{}", submitted.text());
        let before = eventually("job 1 to run", || {
            Some(coordinator.job("1")).filter(|job| job["attempts"][0]["pid"].as_u64() > Some(0))
        });
        let mut stage = Self { _good: good, evil, coordinator, before: (before, 0) };
        stage.works();
        stage.before.1 = rss(stage.pid());
        stage
    }

    fn pid(&self) -> u32 {
        self.coordinator.daemon.as_ref().unwrap().pid()
    }

    fn submit(&self, spec: &str) -> u64 {
        let answer = http::post(&self.coordinator.socket(), "/v1/jobs", spec);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_u64().unwrap()
    }

    /// The coordinator answers and job 1 is as it was.
    fn answers(&self, after: &str) {
        assert_eq!(http::get(&self.coordinator.socket(), "/v1/health").status, 200, "after {after}");
        let (now, before) = (self.coordinator.job("1"), &self.before.0);
        let fields = before.as_object().unwrap().keys();
        let changed: Vec<_> =
            fields.filter(|f| now[*f] != before[*f]).map(|f| (f, &before[f], &now[f])).collect();
        assert!(changed.is_empty(), "after {after}: {changed:?}");
    }

    /// A job of the honest machine runs from its submission to its end, and memory has not grown much.
    fn works(&self) {
        let id = self.submit(r#"{"command":["echo","still here"],"on":["good"]}"#);
        let path = format!("/v1/jobs/{id}?wait_s=60");
        let job = http::get(&self.coordinator.socket(), &path).json();
        assert_eq!(job["state"], "COMPLETED", "{job}");
    }

    fn grew(&self) -> u64 {
        rss(self.pid()).saturating_sub(self.before.1)
    }

    /// What the events say about job `id`, by actors of the lying machine.
    fn events_by_evil(&self) -> Vec<Value> {
        let answer = http::get(&self.coordinator.socket(), "/v1/events?from=0");
        let lines = answer.text();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|e| e["actor"] == "agent:evil" && e["kind"] == "job").collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_word_ends_its_own_session_with_its_code() {
    let stage = Stage::new();
    let lineage = {
        let mut peer = stage.evil.connect().await;
        peer.say(kind::HELLO, &stage.evil.hello()).await;
        peer.until(kind::WELCOME).await.decode::<wire::Welcome>().unwrap().lineage
    };
    // A machine that says so is not heard again by this coordinator, so it is one of its own.
    let prophet = Identity::enroll(&stage.coordinator, "prophet");
    let ahead = wire::Hello { lineage_seen: lineage, epoch_seen: u64::MAX, ..prophet.hello() };
    let mut peer = prophet.connect().await;
    peer.say(kind::HELLO, &ahead).await;
    judge(&stage, &peer, "a store of the future", &[close::STORE_REGRESSED]).await;
    for (what, bytes, codes) in hello_cases(&stage.evil) {
        let mut peer = stage.evil.connect().await;
        peer.bytes(&bytes).await;
        judge(&stage, &peer, what, codes).await;
    }
    for (what, bytes, codes) in machine_cases() {
        let mut peer = stage.evil.session().await;
        peer.bytes(&bytes).await;
        judge(&stage, &peer, what, codes).await;
    }
    for (what, bytes, codes) in session_cases(&stage.evil) {
        let mut peer = stage.evil.ready().await;
        peer.bytes(&bytes).await;
        judge(&stage, &peer, what, codes).await;
    }
    stage.works();
    assert!(stage.grew() < 64 << 20, "{} bytes more", stage.grew());
    assert!(stage.events_by_evil().is_empty(), "{:?}", stage.events_by_evil());
}

async fn judge(stage: &Stage, peer: &Peer, what: &str, codes: &[u32]) {
    let (code, reason) = peer.closed().await;
    assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:?} {reason:?}, not {codes:?}");
    assert!(!reason.contains("/src/") && !reason.contains("panic"), "{what}: {reason}");
    stage.answers(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_one_session_and_streams_of_output_are_held_to_their_rules() {
    let stage = Stage::new();
    let wrong = [close::TOO_LARGE, close::MALFORMED, close::UNEXPECTED, close::VERSION, close::DONE];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..20 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 56) as u8
        })
        .take(4000)
        .collect();
        let mut peer = if round % 2 == 0 { stage.evil.connect().await } else { stage.evil.ready().await };
        peer.bytes(&bytes).await;
        peer.finish();
        judge(&stage, &peer, "random bytes", &wrong).await;
    }
    // The first word of a stream that carries output.
    let attempt = TaskId::single(1).attempt(1);
    let head = |from, total| wire::OutputHead { attempt, follow: None, from, total };
    for (what, bytes, code) in [
        ("a Beat as its head", framed(kind::BEAT, &wire::Beat { number: 1, echo: 1 }), close::UNEXPECTED),
        ("a head that is none", raw(kind::OUTPUT_HEAD, 0, b"x"), close::MALFORMED),
        ("a head of 4 GiB", header(u32::MAX, kind::OUTPUT_HEAD), close::TOO_LARGE),
    ] {
        let peer = stage.evil.ready().await;
        let mut stream = within("a stream", peer.connection.open_uni()).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        judge(&stage, &peer, what, &[code]).await;
    }
    // A tape that is not what its head says is not kept; the session goes on.
    let mut peer = stage.evil.ready().await;
    for (head, tape) in [
        (head(5, 10), 10),
        (head(0, u64::MAX), 10),
        (head(0, 10), 11),
        (head(0, 10), 9),
        (head(0, 0), 1),
        (wire::OutputHead { follow: Some(u64::MAX), ..head(0, 5) }, 5),
    ] {
        let mut stream = within("a stream", peer.connection.open_uni()).await.unwrap();
        let _ = stream.write_all(&framed(kind::OUTPUT_HEAD, &head)).await;
        let _ = stream.write_all(&vec![1; tape]).await;
        let _ = stream.finish();
        let _ = within("the stream to be taken", stream.stopped()).await;
    }
    peer.decided().await;
    stage.answers("tapes that are not what they say");
    stage.works();
}

/// Attempts that are not the machine's: of another's running job, of an ended one, of jobs and tasks that never were.
fn of_others(running: u64, ended: u64) -> Vec<AttemptId> {
    let single = |job, n| TaskId::single(job).attempt(n);
    vec![
        single(running, 1),
        single(running, 0),
        single(running, 2),
        single(running, u32::MAX),
        single(ended, 1),
        single(0, 1),
        single(999_999, 1),
        single(u64::MAX, u32::MAX),
        TaskId::of_array(running, 0).attempt(1),
        TaskId::of_array(running, u32::MAX).attempt(1),
        TaskId::of_array(u64::MAX, u32::MAX).attempt(0),
    ]
}

async fn claim(peer: &mut Peer, attempt: AttemptId) {
    let failed = || wire::Finished {
        output: vec![1, 2, 3],
        result: Some(b"{\"stolen\":true}".to_vec()),
        ..finished(attempt, Cause::Exit { code: 66 })
    };
    peer.say(kind::STARTED, &wire::Started { attempt, pid: 1, at_ms: i64::MIN }).await;
    peer.say(
        kind::PROGRESS,
        &wire::Progress { attempt, fraction: Some(f64::NAN), message: Some("mine".into()) },
    )
    .await;
    peer.say(
        kind::PROGRESS,
        &wire::Progress { attempt, fraction: Some(1.0), message: Some("\u{1b}[2J".into()) },
    )
    .await;
    peer.say(kind::USAGE, &wire::Usage { attempt, cpu_ms: u64::MAX, rss: u64::MAX, rss_peak: u64::MAX })
        .await;
    peer.say(kind::PREPARING, &wire::Preparing { attempt, at_ms: i64::MIN }).await;
    peer.say(kind::RESOLVED, &wire::Resolved { attempt, commit: "6".repeat(40) }).await;
    peer.say(kind::RETURNED, &wire::Revoke { attempt }).await;
    peer.say(kind::FINISHED, &failed()).await;
    peer.say(kind::FINISHED, &failed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_about_attempts_of_others_change_nothing() {
    let stage = Stage::new();
    let job = |id| stage.coordinator.job(id);
    let ended = job("2");
    assert_eq!(ended["state"], "COMPLETED");
    let mut peer = stage.evil.ready().await;
    for attempt in of_others(1, 2) {
        claim(&mut peer, attempt).await;
        // The same end once more, with a tape that never comes.
        let spooled = wire::Finished { spooled: u64::MAX, ..finished(attempt, Cause::Ok) };
        peer.say(kind::FINISHED, &spooled).await;
    }
    peer.decided().await;
    stage.answers("words about attempts of others");
    assert_eq!(job("2"), ended);
    drop(peer);

    // An inventory of attempts that are another's.
    let mut peer = stage.evil.session().await;
    peer.say(kind::MACHINE, &machine()).await;
    let items: Vec<_> = of_others(1, 2)
        .into_iter()
        .flat_map(|attempt| {
            let item = |phase| wire::InventoryItem {
                attempt,
                lineage: "l".into(),
                phase,
                pid: u32::MAX,
                started_ms: i64::MIN,
            };
            [item(0), item(1), item(3), item(u16::MAX)]
        })
        .collect();
    let count = items.len() as u32;
    peer.say(kind::INVENTORY, &wire::Inventory { items }).await;
    peer.say(kind::INVENTORY_END, &wire::InventoryEnd { count }).await;
    let verdicts = peer.until(kind::RECONCILE).await.decode::<wire::Reconcile>().unwrap().verdicts;
    assert!(verdicts.iter().all(|(_, verdict)| *verdict != wire::Verdict::Keep), "{verdicts:?}");
    stage.answers("an inventory of others' attempts");
    assert_eq!(job("2"), ended);
    assert!(stage.events_by_evil().is_empty(), "{:?}", stage.events_by_evil());
    stage.works();
}

#[tokio::test(flavor = "multi_thread")]
async fn extremes_and_replays_about_its_own_attempts_are_bent_or_stale() {
    let stage = Stage::new();
    let mut peer = stage.evil.ready().await;
    let spec = r#"{"command":["true"],"on":["evil"],"retries":1,"name":"own"}"#;
    let id = stage.submit(spec);
    let attempt = peer.started().await.attempt;
    assert_eq!(attempt, TaskId::single(id).attempt(1));
    peer.say(kind::STARTED, &wire::Started { attempt, pid: u32::MAX, at_ms: i64::MAX }).await;
    for (fraction, wanted) in [(0.5, 0.5), (f64::NAN, 0.5), (-1e300, 0.0), (f64::INFINITY, 0.0), (1e300, 1.0)]
    {
        let message = Some("\u{1b}]0;owned\u{7}\u{202e}\0".to_owned());
        peer.say(kind::PROGRESS, &wire::Progress { attempt, fraction: Some(fraction), message }).await;
        peer.decided().await;
        assert_eq!(stage.coordinator.job(&id.to_string())["progress"].as_f64(), Some(wanted), "{fraction}");
    }
    peer.say(
        kind::SAMPLE,
        &wire::Sample { cpu: f64::NAN, memory_used: u64::MAX, load1: f64::INFINITY, disk: -1.0 },
    )
    .await;
    let extreme = wire::Finished {
        started_ms: i64::MIN,
        ended_ms: i64::MAX,
        pid: u32::MAX,
        cpu_ms: u64::MAX,
        rss_peak: u64::MAX,
        output: vec![0xff; 4096],
        result: Some(b"{\"a\":".repeat(50_000)),
        ..finished(attempt, Cause::Exit { code: i32::MIN })
    };
    peer.say(kind::FINISHED, &extreme).await;
    peer.decided().await;
    let job = stage.coordinator.job(&id.to_string());
    assert_eq!(
        (&job["attempts"][0]["cause"]["code"], job["result"].is_null()),
        (&Value::from(i32::MIN), true)
    );
    // The list of machines, the log and the job are readable by the command line.
    for words in
        [vec!["machine", "ls", "--json"], vec!["machine", "ls"], vec!["show", "last"], vec!["logs", "last"]]
    {
        let output = stage.coordinator.reeve(&words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        if words[0] != "logs" {
            assert!(!output.stdout.contains(&0x1b), "{words:?}");
        }
    }
    // A thousand repetitions, some with another outcome: the first stands.
    for n in 0..1000 {
        let cause = if n % 2 == 0 { Cause::Ok } else { Cause::Exit { code: n } };
        peer.say(kind::FINISHED, &finished(attempt, cause)).await;
    }
    peer.say(kind::STARTED, &wire::Started { attempt, pid: 5, at_ms: 5 }).await;
    peer.decided().await;
    let after = stage.coordinator.job(&id.to_string());
    assert_eq!(after["attempts"][0]["cause"], job["attempts"][0]["cause"]);
    assert_eq!(after["state"], job["state"], "{after}");
    stage.answers("extremes and replays");
    stage.works();
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_the_flooder_and_others_are_answered_meanwhile() {
    let stage = Stage::new();
    let mut peer = stage.evil.ready().await;
    let id = stage.submit(r#"{"command":["true"],"on":["evil"]}"#);
    let attempt = peer.started().await.attempt;
    let foreign = TaskId::single(1).attempt(1);
    let mut flood = Vec::new();
    for n in 0..50_000u32 {
        let fraction = Some(f64::from(n % 100) / 100.0);
        let message = Some(format!("line {n}"));
        flood.extend(framed(kind::PROGRESS, &wire::Progress { attempt, fraction, message }));
        flood.extend(framed(kind::STARTED, &wire::Started { attempt: foreign, pid: n, at_ms: 1 }));
        flood.extend(framed(kind::SAMPLE, &wire::Sample::default()));
    }
    let flooding = async {
        peer.bytes(&flood).await;
        peer.decided().await;
        peer
    };
    let socket = stage.coordinator.socket();
    let asking = tokio::task::spawn_blocking(move || {
        for _ in 0..20 {
            assert_eq!(http::get(&socket, "/v1/health").status, 200);
            let submitted =
                http::post(&socket, "/v1/jobs", r#"{"command":["true"],"on":["good"],"hold":true}"#);
            assert_eq!(submitted.status, 201, "{}", submitted.text());
        }
    });
    let (peer, asked) = tokio::join!(flooding, asking);
    asked.unwrap();
    stage.works();
    assert_eq!(stage.coordinator.job(&id.to_string())["message"], "line 49999");

    // Ten thousand streams: those above the limit are simply not granted.
    let mut opened = 0;
    for _ in 0..10_000 {
        let opening = tokio::time::timeout(
            Duration::from_millis(if opened < 16 { 5000 } else { 1 }),
            peer.connection.open_uni(),
        );
        match opening.await {
            Ok(Ok(stream)) => {
                opened += 1;
                // Left open without a word.
                std::mem::forget(stream);
            }
            Ok(Err(_)) => break,
            Err(_) if opened >= 16 => break,
            Err(late) => panic!("only {opened} streams are granted: {late}"),
        }
    }
    assert!(opened <= 32, "{opened} streams at once");
    stage.answers("streams");
    stage.works();
    assert!(stage.grew() < 256 << 20, "{} bytes more", stage.grew());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_or_reads_nothing_is_let_go() {
    let stage = Stage::new();
    // Takes no more than a kilobyte of what it is sent, and never reads.
    let config = reeve_tests::evil::client_config(
        &stage.evil.credentials.ca,
        Some(stage.evil.certified()),
        wire::ALPN,
        1024,
    );
    let mut deaf = Peer::open(stage.evil.dial_with(config).await.unwrap()).await;
    deaf.say(kind::HELLO, &stage.evil.hello()).await;
    deaf.say(kind::MACHINE, &machine()).await;
    deaf.say(kind::INVENTORY_END, &wire::InventoryEnd { count: 0 }).await;
    for n in 0..2000 {
        deaf.say(kind::FINISHED, &finished(TaskId::single(500_000 + n).attempt(1), Cause::Ok)).await;
    }
    // Meanwhile: a connection without a stream, one with half a frame.
    let other = Identity::enroll(&stage.coordinator, "mute");
    let mute = other.dial(Some(other.certified())).await.unwrap();
    let mut half = other.connect().await;
    half.bytes(&framed(kind::HELLO, &other.hello())[..20]).await;
    let stranger = other.dial(None).await.unwrap();
    stage.works();
    for connection in [&mute, &half.connection, &stranger] {
        assert_eq!(reeve_tests::evil::closed(connection).await.0, Some(close::UNEXPECTED));
    }
    assert_eq!(deaf.closed().await.0, Some(close::RATE));
    stage.answers("machines that say or read nothing");
    stage.works();
}
