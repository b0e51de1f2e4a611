//! The engine's orders into frames, appended to one buffer that is written at once.
use crate::effect::ToAgent;
use crate::input::AgentSaid;
use reeve_protocol::wire::{self, kind};
use reeve_protocol::{Cause, codec, frame};
use serde::Serialize;

/// Attempts in one frame: far below the limit of a body.
const PAGE: usize = 20_000;
/// Bytes of requests in one frame: one more fits in any case.
const REQUESTS: usize = 512 * 1024;

/// Appends the frames of one step. What cannot be sent comes back as the end that its attempt then has: an attempt that
/// no frame can carry would otherwise wait for ever.
pub(super) fn frames(orders: Vec<ToAgent>, out: &mut Vec<u8>) -> Vec<AgentSaid> {
    let mut unsent = Vec::new();
    let mut together = Together::default();
    for order in orders {
        let order = match order {
            ToAgent::Request(request) => {
                together.add(*request, out);
                continue;
            }
            other => {
                together.flush(out);
                other
            }
        };
        match order {
            ToAgent::Request(_) => {}
            ToAgent::StartReplica(start) => {
                if let Err(error) = frame::append(kind::START_REPLICA, 0, start.as_ref(), out) {
                    unsent.push(rejected(start.start.attempt, &error));
                }
            }
            ToAgent::LaunchReplica(launch) => {
                if let Err(error) = frame::append(kind::LAUNCH_REPLICA, 0, launch.as_ref(), out) {
                    unsent.push(rejected(launch.start.attempt, &error));
                }
            }
            ToAgent::CancelRequest(replica, id) => {
                append(kind::CANCEL_REQUESTS, &wire::CancelRequests { items: vec![(replica, id)] }, out);
            }
            ToAgent::Start(start) => {
                if let Err(error) = frame::append(kind::START, 0, start.as_ref(), out) {
                    unsent.push(rejected(start.attempt, &error));
                }
            }
            ToAgent::StartGit(start) => {
                if let Err(error) = frame::append(kind::START_GIT, 0, start.as_ref(), out) {
                    unsent.push(rejected(start.start.attempt, &error));
                }
            }
            ToAgent::Stop(mut stop) => {
                stop.cause.detail.truncate(stop.cause.detail.floor_char_boundary(4096));
                append(kind::STOP, &stop, out);
            }
            ToAgent::Collect(collect) => {
                if let Err(error) = frame::append(kind::COLLECT, frame::OPTIONAL, &collect, out) {
                    tracing::error!(%error, "what is collected of an attempt could not be said");
                }
            }
            ToAgent::Revoke(attempt) => append(kind::REVOKE, &wire::Revoke { attempt }, out),
            ToAgent::Forget(attempts) => {
                for page in attempts.chunks(PAGE) {
                    append(kind::FORGET, &wire::Forget { attempts: page.to_vec() }, out);
                }
            }
            // An empty one is sent too: it says that dispatch may begin.
            ToAgent::Reconcile(verdicts) if verdicts.len() <= PAGE => {
                append(kind::RECONCILE, &wire::Reconcile { verdicts }, out);
            }
            ToAgent::Reconcile(verdicts) => {
                for page in verdicts.chunks(PAGE) {
                    append(kind::RECONCILE, &wire::Reconcile { verdicts: page.to_vec() }, out);
                }
            }
        }
    }
    together.flush(out);
    unsent
}

/// Requests that follow each other go in one frame, as many as fit well below its limit.
#[derive(Default)]
struct Together {
    items: Vec<wire::Request>,
    bytes: usize,
}

impl Together {
    fn add(&mut self, request: wire::Request, out: &mut Vec<u8>) {
        // Ids and lengths of one are below 100 bytes.
        let bytes = request.payload.len() + 100;
        if self.bytes + bytes > REQUESTS {
            self.flush(out);
        }
        self.bytes += bytes;
        self.items.push(request);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.items.is_empty() {
            append(kind::REQUESTS, &wire::Requests { items: std::mem::take(&mut self.items) }, out);
            self.bytes = 0;
        }
    }
}

/// Appends a frame whose body is always small.
pub(super) fn append<T: Serialize>(kind: u16, body: &T, out: &mut Vec<u8>) {
    if let Err(error) = frame::append(kind, 0, body, out) {
        tracing::error!(kind, %error, "a frame could not be written");
    }
}

fn rejected(attempt: reeve_protocol::AttemptId, error: &codec::Error) -> AgentSaid {
    let detail = format!("its spec does not fit into one frame: {error}");
    let finished = wire::Finished {
        attempt,
        cause: Cause::Rejected { detail }.to_wire(),
        started_ms: 0,
        ended_ms: crate::clock::now().wall,
        pid: 0,
        cpu_ms: 0,
        rss_peak: 0,
        output: Vec::new(),
        spooled: 0,
        result: None,
    };
    AgentSaid::Finished(Box::new(finished), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::AttemptId;
    use reeve_protocol::ids::TaskId;

    fn attempt(job: u64) -> AttemptId {
        TaskId::single(job).attempt(1)
    }

    fn kinds(bytes: &[u8]) -> Vec<frame::Frame> {
        let mut reader = frame::Reader::new();
        reader.feed(bytes);
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    #[test]
    fn one_step_becomes_frames_in_its_order() {
        let mut out = Vec::new();
        let stop = wire::Stop { attempt: attempt(2), cause: Cause::Cancelled.to_wire(), grace_ms: 5 };
        let orders = vec![
            ToAgent::Reconcile(vec![]),
            ToAgent::Start(Box::new(wire::Start { attempt: attempt(1), ..Default::default() })),
            ToAgent::Stop(stop.clone()),
            ToAgent::Forget(vec![attempt(3)]),
            ToAgent::Revoke(attempt(4)),
        ];
        assert!(frames(orders, &mut out).is_empty());
        let frames = kinds(&out);
        let seen: Vec<u16> = frames.iter().map(|f| f.kind).collect();
        assert_eq!(seen, [kind::RECONCILE, kind::START, kind::STOP, kind::FORGET, kind::REVOKE]);
        assert_eq!(frames[2].decode::<wire::Stop>(), Ok(stop));
        assert_eq!(frames[4].decode::<wire::Revoke>().unwrap().attempt, attempt(4));
    }

    #[test]
    fn long_lists_are_cut_into_pages_and_nothing_is_lost() {
        let mut out = Vec::new();
        let many: Vec<AttemptId> = (1..=2 * PAGE as u64 + 1).map(attempt).collect();
        let verdicts = many.iter().map(|a| (*a, wire::Verdict::Keep)).collect();
        assert!(
            frames(vec![ToAgent::Forget(many.clone()), ToAgent::Reconcile(verdicts)], &mut out).is_empty()
        );
        let frames = kinds(&out);
        assert_eq!(frames.len(), 6);
        let forgotten: Vec<_> =
            frames[..3].iter().flat_map(|f| f.decode::<wire::Forget>().unwrap().attempts).collect();
        let judged: Vec<_> = frames[3..]
            .iter()
            .flat_map(|f| f.decode::<wire::Reconcile>().unwrap().verdicts)
            .map(|v| v.0)
            .collect();
        assert!(forgotten == many && judged == many);
    }

    #[test]
    fn a_start_that_no_frame_can_carry_is_rejected_and_the_others_go() {
        let mut out = Vec::new();
        let huge = wire::Start {
            attempt: attempt(1),
            payload: Some(vec![0; codec::MAX_BODY]),
            ..Default::default()
        };
        let fits = wire::Start { attempt: attempt(2), ..Default::default() };
        let unsent = frames(vec![ToAgent::Start(Box::new(huge)), ToAgent::Start(Box::new(fits))], &mut out);
        assert!(
            matches!(&unsent[..], [AgentSaid::Finished(f, None)] if f.attempt == attempt(1) && Cause::from_wire(f.cause.clone()).code() == Cause::Rejected { detail: String::new() }.code())
        );
        assert_eq!(kinds(&out).len(), 1);
    }
}
