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
/// Bytes of a name, label or identity.
const WORD: usize = 512;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// For the core.
    Core(AgentSaid),
    /// An end whose tape may still be on its way.
    Finished(Box<wire::Finished>),
    /// For this layer.
    Beat(wire::Beat),
}

/// Reads one admitted frame of a session.
///
/// # Errors
/// The end of the session: a body that does not decode, or is above a limit.
pub(super) fn said(frame: &Frame) -> Result<Said, End> {
    let core = match frame.kind {
        kind::BEAT => return Ok(Said::Beat(frame.decode()?)),
        kind::FINISHED => return finished(frame.decode()?),
        kind::MACHINE => machine(frame.decode()?)?,
        kind::INVENTORY => inventory(frame.decode()?)?,
        kind::INVENTORY_END => AgentSaid::InventoryEnd(frame.decode::<wire::InventoryEnd>()?.count),
        kind::STARTED => AgentSaid::Started(frame.decode()?),
        kind::PROGRESS => progress(frame.decode()?)?,
        kind::RETURNED => AgentSaid::Returned(frame.decode::<wire::Revoke>()?.attempt),
        kind::USAGE => AgentSaid::Usage(frame.decode()?),
        kind::SAMPLE => AgentSaid::Sample(frame.decode()?),
        // Leave has no body; a later version may give it one.
        kind::LEAVE => AgentSaid::Leave,
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

fn finished(finished: wire::Finished) -> Result<Said, End> {
    limit("the output inside Finished", finished.output.len(), wire::INLINE_OUTPUT)?;
    limit("a result", finished.result.as_ref().map_or(0, Vec::len), RESULT)?;
    Ok(Said::Finished(Box::new(finished)))
}

fn inventory(page: wire::Inventory) -> Result<AgentSaid, End> {
    limit("a page of the inventory", page.items.len(), PAGE)?;
    Ok(AgentSaid::Inventory(page.items))
}

fn machine(machine: wire::Machine) -> Result<AgentSaid, End> {
    let lists = [machine.gpus.len(), machine.named.len(), machine.labels.len(), machine.capabilities.len()];
    limit("a list of Machine", lists.into_iter().max().unwrap_or(0), LIST)?;
    let pairs = machine.labels.iter().chain(&machine.capabilities).flat_map(|(a, b)| [a, b]);
    let words = machine.gpus.iter().chain(machine.named.iter().map(|(name, _)| name)).chain(pairs);
    let longest = words.chain([&machine.hostname, &machine.os]).map(String::len).max();
    limit("a word of Machine", longest.unwrap_or(0), WORD)?;
    Ok(AgentSaid::Machine(machine))
}

/// A fraction comes from the job's own file: what makes no sense is bent, not punished.
fn progress(mut progress: wire::Progress) -> Result<AgentSaid, End> {
    limit("a progress message", progress.message.as_ref().map_or(0, String::len), MESSAGE)?;
    progress.fraction = progress.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
    Ok(AgentSaid::Progress(progress))
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
