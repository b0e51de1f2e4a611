//! Requests of one replica, gathered: they go together when there are enough of them, or when the first has waited long enough.
//! Pure but for its lock; whoever calls it has the clock. A tracked request that was tried before goes alone, so that
//! one that ruins its batch cannot ruin others twice.
use reeve_protocol::wire::{Batch, Request, RequestId};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What waits to go together.
pub(super) struct Gather {
    size: usize,
    delay: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    /// Counts batches, so that the time of one that has gone does not end the next.
    round: u64,
}

/// What becomes of one more request.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// These go now.
    Go(Vec<Request>),
    /// It is the first of a batch: `due` with this number is to be called after so long.
    Wait(u64, Duration),
    /// It goes with those that wait already.
    With,
}

impl Gather {
    /// `None`: requests go one by one.
    pub(super) fn new(batch: Batch) -> Option<Self> {
        (batch.size > 0).then(|| Self {
            size: batch.size as usize,
            delay: Duration::from_millis(batch.delay_ms),
            waiting: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more request.
    pub(super) fn push(&self, request: Request) -> Next {
        if request.id.attempt.is_some_and(|attempt| attempt.attempt > 1) || self.size == 1 {
            return Next::Go(vec![request]);
        }
        let mut waiting = self.lock();
        waiting.requests.push(request);
        if waiting.requests.len() >= self.size {
            waiting.round += 1;
            return Next::Go(std::mem::take(&mut waiting.requests));
        }
        if waiting.requests.len() == 1 { Next::Wait(waiting.round, self.delay) } else { Next::With }
    }

    /// The first of that batch has waited long enough: what goes now.
    pub(super) fn due(&self, round: u64) -> Vec<Request> {
        let mut waiting = self.lock();
        if waiting.round != round {
            return Vec::new();
        }
        waiting.round += 1;
        std::mem::take(&mut waiting.requests)
    }

    /// Nobody waits for it any more; true if it had not gone.
    pub(super) fn withdraw(&self, id: RequestId) -> bool {
        let mut waiting = self.lock();
        let before = waiting.requests.len();
        waiting.requests.retain(|request| request.id != id);
        if waiting.requests.is_empty() && before > 0 {
            waiting.round += 1;
        }
        waiting.requests.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::ids::TaskId;

    fn request(call: u64, attempt: Option<u32>) -> Request {
        let id = RequestId { attempt: attempt.map(|n| TaskId::single(call).attempt(n)), call };
        Request { replica: TaskId::single(1).attempt(1), id, payload: vec![], timeout_ms: 0 }
    }

    fn calls(requests: &[Request]) -> Vec<u64> {
        requests.iter().map(|r| r.id.call).collect()
    }

    #[test]
    fn a_full_batch_goes_at_once_and_a_lonely_request_after_the_delay() {
        let gather = Gather::new(Batch { size: 3, delay_ms: 5 }).unwrap();
        assert_eq!(gather.push(request(1, None)), Next::Wait(0, Duration::from_millis(5)));
        assert_eq!(gather.push(request(2, Some(1))), Next::With);
        assert!(matches!(gather.push(request(3, None)), Next::Go(all) if calls(&all) == [1, 2, 3]));
        assert!(matches!(gather.push(request(4, None)), Next::Wait(1, _)));
        assert!(gather.due(0).is_empty(), "the time of the batch before");
        assert_eq!(calls(&gather.due(1)), [4]);
        assert!(gather.due(1).is_empty());
        assert!(Gather::new(Batch::default()).is_none());
    }

    #[test]
    fn what_was_tried_before_goes_alone_and_what_nobody_wants_goes_never() {
        let gather = Gather::new(Batch { size: 3, delay_ms: 5 }).unwrap();
        assert!(matches!(gather.push(request(1, None)), Next::Wait(0, _)));
        assert!(matches!(gather.push(request(2, Some(2))), Next::Go(all) if calls(&all) == [2]));
        assert!(gather.withdraw(request(1, None).id) && !gather.withdraw(request(1, None).id));
        assert!(matches!(gather.push(request(3, None)), Next::Wait(1, _)), "a delay of its own");
        assert!(gather.due(0).is_empty());
        let single = Gather::new(Batch { size: 1, delay_ms: 5 }).unwrap();
        assert!(matches!(single.push(request(1, None)), Next::Go(_)));
    }
}
