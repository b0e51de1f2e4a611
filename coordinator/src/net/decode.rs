//! A frame of a session into what the core is told. Every list and text has a limit here, so that nothing behind this
//! line has to ask how large a machine's words can be.
use super::end::End;
use crate::input::AgentSaid;
use reeve_protocol::frame::Frame;
use reeve_protocol::wire::{self, close, kind};

/// Attempts in one page of an inventory.
const PAGE: usize = 1000;
/// Bytes of a result.
const RESULT: usize = 256 * 1024;
/// Bytes of a progress message.
const MESSAGE: usize = 1024;
/// Gpus, labels, counters or capabilities of one machine.
const LIST: usize = 512;
/// Bytes of a request for a certificate.
pub(super) const MAX_CSR: usize = 16 * 1024;
/// Bytes of a name, label or identity.
const WORD: usize = 512;
/// Bytes of the words of a cause.
const DETAIL: usize = 4096;
/// The last millisecond that can be written as a date (the year 9999).
const LAST_MS: i64 = 253_402_207_200_000;
/// Amounts are stored as signed numbers.
const MOST: u64 = i64::MAX as u64;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// For the core.
    Core(AgentSaid),
    /// An end whose tape may still be on its way.
    Finished(Box<wire::Finished>),
    /// For this layer: files come on a stream before the end of this attempt.
    Artifacts(wire::Artifacts),
    /// For this layer.
    Beat(wire::Beat),
    /// For this layer: a request for a new certificate.
    Renew(wire::Renew),
}

/// Reads one admitted frame of a session.
///
/// # Errors
/// The end of the session: a body that does not decode, or is above a limit.
pub(super) fn said(frame: &Frame) -> Result<Said, End> {
    let core = match frame.kind {
        kind::BEAT => return Ok(Said::Beat(frame.decode()?)),
        kind::FINISHED => return finished(frame.decode()?),
        kind::ARTIFACTS => return Ok(Said::Artifacts(frame.decode()?)),
        kind::MACHINE => machine(frame.decode()?)?,
        kind::INVENTORY => inventory(frame.decode()?)?,
        kind::INVENTORY_END => AgentSaid::InventoryEnd(frame.decode::<wire::InventoryEnd>()?.count),
        kind::STARTED => started(frame.decode()?),
        kind::PREPARING => AgentSaid::Preparing(frame.decode()?),
        kind::RESOLVED => resolved(frame.decode()?)?,
        kind::PROGRESS => progress(frame.decode()?)?,
        kind::RETURNED => AgentSaid::Returned(frame.decode::<wire::Revoke>()?.attempt),
        kind::USAGE => AgentSaid::Usage(frame.decode()?),
        kind::SAMPLE => sample(frame.decode()?),
        kind::ENFORCED => enforced(frame.decode()?)?,
        kind::GPUS => gpus(frame.decode()?)?,
        kind::QUIET => AgentSaid::Quiet(frame.decode()?),
        // Leave has no body; a later version may give it one.
        kind::REPLICAS => replicas(frame.decode()?)?,
        kind::ANSWERS => answers(frame.decode()?)?,
        kind::IN_FLIGHT => in_flight(frame.decode()?)?,
        kind::LEAVE => AgentSaid::Leave,
        kind::RENEW => return renew(frame.decode()?),
        kind::EXITED => AgentSaid::Exited(frame.decode::<wire::Exited>()?.attempt),
        kind::TAKING => {
            let taking: wire::Taking = frame.decode()?;
            limit("a reason", taking.refuses.as_ref().map_or(0, String::len), MESSAGE)?;
            AgentSaid::Taking(taking.refuses)
        }
        kind::RENEWAL_KEPT => {
            let kept: wire::RenewalKept = frame.decode()?;
            limit("a fingerprint", kept.fingerprint.len(), WORD)?;
            AgentSaid::RenewalKept(kept.fingerprint)
        }
        kind::RENEWAL_FAILED => {
            let failed: wire::RenewalFailed = frame.decode()?;
            limit("a reason", failed.reason.len(), MESSAGE)?;
            AgentSaid::RenewalFailed(failed.reason)
        }
        other => return Err(End::unexpected(format!("kind {other}"))),
    };
    Ok(Said::Core(core))
}

/// Checks the first frame of a session.
///
/// # Errors
/// The end of the session.
pub(super) fn hello(frame: &Frame) -> Result<wire::Hello, End> {
    if frame.kind != kind::HELLO {
        return Err(End::unexpected(format!("kind {} before Hello", frame.kind)));
    }
    let hello: wire::Hello = frame.decode()?;
    for word in [
        &hello.cluster,
        &hello.machine,
        &hello.life,
        &hello.keeper,
        &hello.lineage_seen,
        &hello.agent_version,
    ] {
        limit("a word of Hello", word.len(), WORD)?;
    }
    limit("the list of kinds", hello.kinds.len(), LIST)?;
    Ok(hello)
}

fn started(mut started: wire::Started) -> AgentSaid {
    started.at_ms = moment(started.at_ms);
    AgentSaid::Started(started)
}

/// Lists and blobs have limits that every agent keeps. Numbers are bent into what can be stored and shown instead: a
/// clock that is wrong by years must not cost a machine its session, and no number may cost the coordinator a commit.
fn finished(mut finished: wire::Finished) -> Result<Said, End> {
    limit("the output inside Finished", finished.output.len(), wire::INLINE_OUTPUT)?;
    limit("a result", finished.result.as_ref().map_or(0, Vec::len), RESULT)?;
    limit("a word of a cause", finished.cause.word.len(), WORD)?;
    let detail = &mut finished.cause.detail;
    detail.truncate(detail.floor_char_boundary(DETAIL));
    finished.started_ms = moment(finished.started_ms);
    finished.ended_ms = moment(finished.ended_ms);
    finished.cpu_ms = finished.cpu_ms.min(MOST);
    finished.rss_peak = finished.rss_peak.min(MOST);
    Ok(Said::Finished(Box::new(finished)))
}

fn renew(renew: wire::Renew) -> Result<Said, End> {
    limit("the request", renew.csr.len(), MAX_CSR)?;
    Ok(Said::Renew(renew))
}

fn inventory(mut page: wire::Inventory) -> Result<AgentSaid, End> {
    limit("a page of the inventory", page.items.len(), PAGE)?;
    for item in &mut page.items {
        limit("a lineage", item.lineage.len(), WORD)?;
        item.started_ms = moment(item.started_ms);
    }
    Ok(AgentSaid::Inventory(page.items))
}

fn enforced(enforced: wire::Enforced) -> Result<AgentSaid, End> {
    limit("a list of Enforced", enforced.words.len(), LIST)?;
    let longest = enforced.words.iter().map(|(name, word)| name.len().max(word.len())).max();
    limit("a word of Enforced", longest.unwrap_or(0), MESSAGE)?;
    Ok(AgentSaid::Enforced(enforced.words))
}

fn gpus(mut gpus: wire::Gpus) -> Result<AgentSaid, End> {
    limit("a list of Gpus", gpus.devices.len(), LIST)?;
    for gpu in &mut gpus.devices {
        let quarantine = gpu.quarantine.as_ref().map_or(0, String::len);
        limit("a word of Gpus", gpu.uuid.len().max(gpu.model.len()).max(quarantine), WORD)?;
        gpu.memory_bytes = gpu.memory_bytes.min(MOST);
        gpu.memory_used = gpu.memory_used.min(MOST);
        gpu.busy_permille = gpu.busy_permille.map(|busy| busy.min(1000));
    }
    Ok(AgentSaid::Gpus(gpus.devices))
}

/// Shares and loads that are no numbers would be `null` to every client that reads them.
fn sample(mut sample: wire::Sample) -> AgentSaid {
    let finite = |value: f64, most: f64| if value.is_finite() { value.clamp(0.0, most) } else { 0.0 };
    sample.cpu = finite(sample.cpu, 1.0);
    sample.disk = finite(sample.disk, 1.0);
    sample.load1 = finite(sample.load1, 1e6);
    AgentSaid::Sample(sample)
}

const fn moment(ms: i64) -> i64 {
    if ms < 0 {
        0
    } else if ms > LAST_MS {
        LAST_MS
    } else {
        ms
    }
}

fn machine(mut machine: wire::Machine) -> Result<AgentSaid, End> {
    let lists = [machine.gpus.len(), machine.named.len(), machine.labels.len(), machine.capabilities.len()];
    limit("a list of Machine", lists.into_iter().max().unwrap_or(0), LIST)?;
    let pairs = machine.labels.iter().chain(&machine.capabilities).flat_map(|(a, b)| [a, b]);
    let words = machine.gpus.iter().chain(machine.named.iter().map(|(name, _)| name)).chain(pairs);
    let longest = words.chain([&machine.hostname, &machine.os]).map(String::len).max();
    limit("a word of Machine", longest.unwrap_or(0), WORD)?;
    machine.memory_bytes = machine.memory_bytes.min(MOST);
    machine.named.iter_mut().for_each(|(_, count)| *count = (*count).min(MOST));
    // A gpu that is named twice would be given away twice.
    let mut seen = std::collections::HashSet::new();
    machine.gpus.retain(|gpu| seen.insert(gpu.clone()));
    Ok(AgentSaid::Machine(machine))
}

/// A fraction comes from the job's own file: what makes no sense is bent, not punished.
fn progress(mut progress: wire::Progress) -> Result<AgentSaid, End> {
    limit("a progress message", progress.message.as_ref().map_or(0, String::len), MESSAGE)?;
    progress.fraction = progress.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
    Ok(AgentSaid::Progress(progress))
}

/// The commit becomes part of a job's spec, so it must be one.
fn replicas(mut said: wire::Replicas) -> Result<AgentSaid, End> {
    limit("a page of replicas", said.items.len(), PAGE)?;
    for item in &mut said.items {
        limit("what a replica says", item.message.as_ref().map_or(0, String::len), MESSAGE)?;
        item.fraction = item.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        item.phase = item.phase.min(wire::replica_phase::BROKEN);
    }
    Ok(AgentSaid::Replicas(said.items))
}

/// A result that is no JSON would break whoever reads it back: it is an answer that makes no sense.
fn answers(mut said: wire::Answers) -> Result<AgentSaid, End> {
    for answer in &mut said.items {
        limit("an answer", answer.body.len(), RESULT)?;
        let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok();
        if answer.outcome == wire::outcome::RESULT && !is_json() {
            answer.outcome = wire::outcome::BAD;
            answer.body = b"the result is not JSON".to_vec();
        }
    }
    Ok(AgentSaid::Answers(said.items))
}

fn in_flight(said: wire::InFlight) -> Result<AgentSaid, End> {
    limit("a page of requests", said.items.len(), PAGE)?;
    Ok(AgentSaid::InFlight(said.items, said.last))
}

fn resolved(resolved: wire::Resolved) -> Result<AgentSaid, End> {
    if reeve_protocol::git::is_commit(&resolved.commit) {
        return Ok(AgentSaid::Resolved(resolved.attempt, resolved.commit));
    }
    Err(End::new(close::MALFORMED, "what a ref was resolved to is no commit"))
}

pub(super) fn limit(what: &str, found: usize, most: usize) -> Result<(), End> {
    if found > most {
        return Err(End::new(close::TOO_LARGE, format!("{what} has {found}, at most {most} are allowed")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;
    use reeve_protocol::{Cause, frame};
    use serde::Serialize;

    fn gpu(busy: u16, bytes: u64) -> wire::Gpu {
        wire::Gpu {
            uuid: "u".into(),
            memory_bytes: bytes,
            memory_used: bytes,
            busy_permille: Some(busy),
            ..Default::default()
        }
    }

    fn framed<T: Serialize>(kind: u16, body: &T) -> Frame {
        let (mut bytes, mut reader) = (Vec::new(), frame::Reader::new());
        frame::append(kind, 0, body, &mut bytes).unwrap();
        reader.feed(&bytes);
        reader.next_frame().unwrap().unwrap()
    }

    fn attempt() -> reeve_protocol::AttemptId {
        TaskId::single(7).attempt(1)
    }

    fn an_end() -> wire::Finished {
        wire::Finished {
            attempt: attempt(),
            cause: Cause::Ok.to_wire(),
            started_ms: 1,
            ended_ms: 2,
            pid: 3,
            cpu_ms: 0,
            rss_peak: 0,
            output: Vec::new(),
            spooled: 0,
            result: None,
        }
    }

    #[test]
    fn each_kind_becomes_what_the_core_is_told() {
        let machine =
            wire::Machine { hostname: "gpu-1".into(), gpus: vec!["GPU-1".into()], ..Default::default() };
        let started = wire::Started { attempt: attempt(), pid: 9, at_ms: 5 };
        let cases = [
            (framed(kind::MACHINE, &machine), Said::Core(AgentSaid::Machine(machine))),
            (
                framed(kind::INVENTORY_END, &wire::InventoryEnd { count: 4 }),
                Said::Core(AgentSaid::InventoryEnd(4)),
            ),
            (framed(kind::STARTED, &started), Said::Core(AgentSaid::Started(started))),
            (
                framed(kind::RETURNED, &wire::Revoke { attempt: attempt() }),
                Said::Core(AgentSaid::Returned(attempt())),
            ),
            (
                framed(kind::BEAT, &wire::Beat { number: 1, echo: 0 }),
                Said::Beat(wire::Beat { number: 1, echo: 0 }),
            ),
            (framed(kind::FINISHED, &an_end()), Said::Finished(Box::new(an_end()))),
            (framed(kind::LEAVE, &()), Said::Core(AgentSaid::Leave)),
            (framed(kind::RENEW, &wire::Renew { csr: vec![1] }), Said::Renew(wire::Renew { csr: vec![1] })),
            (
                framed(kind::RENEWAL_KEPT, &wire::RenewalKept { fingerprint: "f".into() }),
                Said::Core(AgentSaid::RenewalKept("f".into())),
            ),
            (
                framed(kind::ENFORCED, &wire::Enforced { words: vec![("n".into(), "w".into())] }),
                Said::Core(AgentSaid::Enforced(vec![("n".into(), "w".into())])),
            ),
            (
                framed(kind::QUIET, &wire::Quiet { attempt: attempt(), quiet_ms: 9 }),
                Said::Core(AgentSaid::Quiet(wire::Quiet { attempt: attempt(), quiet_ms: 9 })),
            ),
            (
                framed(kind::GPUS, &wire::Gpus { devices: vec![gpu(u16::MAX, u64::MAX)] }),
                Said::Core(AgentSaid::Gpus(vec![gpu(1000, MOST)])),
            ),
            (
                framed(kind::RENEWAL_FAILED, &wire::RenewalFailed { reason: "r".into() }),
                Said::Core(AgentSaid::RenewalFailed("r".into())),
            ),
        ];
        for (frame, wanted) in cases {
            assert_eq!(said(&frame), Ok(wanted));
        }
    }

    #[test]
    fn what_is_above_a_limit_ends_the_session() {
        let item =
            wire::InventoryItem { attempt: attempt(), lineage: "l".into(), phase: 1, pid: 1, started_ms: 0 };
        let cases = [
            framed(kind::INVENTORY, &wire::Inventory { items: vec![item; PAGE + 1] }),
            framed(kind::FINISHED, &wire::Finished { output: vec![0; wire::INLINE_OUTPUT + 1], ..an_end() }),
            framed(kind::FINISHED, &wire::Finished { result: Some(vec![0; RESULT + 1]), ..an_end() }),
            framed(
                kind::PROGRESS,
                &wire::Progress {
                    attempt: attempt(),
                    fraction: None,
                    message: Some("x".repeat(MESSAGE + 1)),
                },
            ),
            framed(kind::RENEW, &wire::Renew { csr: vec![0; MAX_CSR + 1] }),
            framed(kind::RENEWAL_FAILED, &wire::RenewalFailed { reason: "x".repeat(MESSAGE + 1) }),
            framed(kind::ENFORCED, &wire::Enforced { words: vec![(String::new(), "x".repeat(MESSAGE + 1))] }),
            framed(kind::ENFORCED, &wire::Enforced { words: vec![Default::default(); LIST + 1] }),
            framed(kind::GPUS, &wire::Gpus { devices: vec![wire::Gpu::default(); LIST + 1] }),
            framed(
                kind::GPUS,
                &wire::Gpus { devices: vec![wire::Gpu { model: "x".repeat(WORD + 1), ..gpu(0, 0) }] },
            ),
            framed(kind::RENEWAL_KEPT, &wire::RenewalKept { fingerprint: "x".repeat(WORD + 1) }),
            framed(kind::MACHINE, &wire::Machine { os: "x".repeat(WORD + 1), ..Default::default() }),
            framed(
                kind::MACHINE,
                &wire::Machine { gpus: vec![String::new(); LIST + 1], ..Default::default() },
            ),
        ];
        for frame in cases {
            assert_eq!(said(&frame).unwrap_err().code, close::TOO_LARGE, "kind {}", frame.kind);
        }
    }

    #[test]
    fn a_ref_is_resolved_to_a_commit_and_nothing_else() {
        let said_of = |commit: &str| {
            said(&framed(kind::RESOLVED, &wire::Resolved { attempt: attempt(), commit: commit.to_owned() }))
        };
        let commit = "0123456789".repeat(4);
        assert_eq!(said_of(&commit), Ok(Said::Core(AgentSaid::Resolved(attempt(), commit.clone()))));
        for bad in ["", "main", &commit[1..], "'); DROP TABLE jobs; --"] {
            assert_eq!(said_of(bad).unwrap_err().code, close::MALFORMED, "{bad}");
        }
    }

    #[test]
    fn garbage_is_malformed_whatever_kind_it_claims() {
        for kind in kind::KNOWN {
            let frame = Frame { kind, flags: 0, body: vec![0xff; 3] };
            match said(&frame) {
                Err(end) => assert!([close::MALFORMED, close::UNEXPECTED].contains(&end.code), "{kind}"),
                Ok(said) => assert_eq!(said, Said::Core(AgentSaid::Leave), "{kind}"),
            }
        }
        assert_eq!(
            hello(&Frame { kind: kind::HELLO, flags: 0, body: vec![1] }).unwrap_err().code,
            close::MALFORMED
        );
        assert_eq!(
            hello(&Frame { kind: kind::BEAT, flags: 0, body: vec![] }).unwrap_err().code,
            close::UNEXPECTED
        );
    }

    #[test]
    fn numbers_that_cannot_be_stored_or_shown_are_bent() {
        let extreme = wire::Finished {
            started_ms: i64::MIN,
            ended_ms: i64::MAX,
            cpu_ms: u64::MAX,
            rss_peak: u64::MAX,
            cause: Cause::Error { detail: "\u{e9}".repeat(DETAIL) }.to_wire(),
            ..an_end()
        };
        let Ok(Said::Finished(bent)) = said(&framed(kind::FINISHED, &extreme)) else { panic!("no end") };
        assert_eq!((bent.started_ms, bent.ended_ms, bent.cpu_ms, bent.rss_peak), (0, LAST_MS, MOST, MOST));
        assert_eq!(bent.cause.detail.len(), DETAIL);
        assert!(reeve_protocol::time::Wall(LAST_MS).to_string().starts_with("9999-"));
        let sample = wire::Sample { cpu: f64::NAN, memory_used: 1, load1: f64::INFINITY, disk: -3.0 };
        let bent = wire::Sample { cpu: 0.0, memory_used: 1, load1: 0.0, disk: 0.0 };
        assert_eq!(said(&framed(kind::SAMPLE, &sample)), Ok(Said::Core(AgentSaid::Sample(bent))));
        let machine = wire::Machine {
            memory_bytes: u64::MAX,
            gpus: vec!["a".into(), "a".into()],
            named: vec![("n".into(), u64::MAX)],
            ..Default::default()
        };
        let Ok(Said::Core(AgentSaid::Machine(bent))) = said(&framed(kind::MACHINE, &machine)) else {
            panic!("no machine")
        };
        assert_eq!((bent.memory_bytes, bent.gpus.len(), bent.named[0].1), (MOST, 1, MOST));
    }

    #[test]
    fn a_fraction_that_makes_no_sense_is_bent() {
        for (given, wanted) in
            [(Some(f64::NAN), None), (Some(1.5), Some(1.0)), (Some(-1.0), Some(0.0)), (Some(0.4), Some(0.4))]
        {
            let frame = framed(
                kind::PROGRESS,
                &wire::Progress { attempt: attempt(), fraction: given, message: None },
            );
            assert!(
                matches!(said(&frame), Ok(Said::Core(AgentSaid::Progress(p))) if p.fraction == wanted),
                "{given:?}"
            );
        }
    }
}
