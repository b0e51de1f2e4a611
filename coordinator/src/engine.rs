//! The loop: inbox -> decide all -> place once -> record -> release. One thread, one inbox, one order.
//!
//! While a step is being committed the next inputs gather in the inbox, so batches form by themselves and grow with the
//! load; there is no timer in this path. Deciding and recording share the thread: deciding takes less than a tenth
//! of the time of a commit, and a second thread would add a wake-up (40 us on a quiet machine) to every quiet submit.
use crate::admission;
use crate::clock;
use crate::core::Core;
use crate::effect::Reply;
use crate::input::{Call, Input, Ticket};
use crate::recorder::Recorder;
use crate::row::Caller;
use crate::store::writer::Full;
use reeve_protocol::{Code, Problem};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Inputs that may wait. Full means `overloaded` to callers and back-pressure to machines' sessions.
const INBOX: usize = 4096;
/// Words of machines that may wait, all together: an input of a machine has as many as arrived at once, so that the
/// bound on inputs alone would let a flood fill the memory.
const WORDS: usize = 65_536;
/// Inputs decided in one step.
const BATCH: usize = 1024;
/// Between two looks whether a full disk has room again.
const FULL_LOOK: Duration = Duration::from_secs(1);
/// Longest sleep: a bound on the effect of a clock that was read wrongly.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

type Answer = Result<Reply, Problem>;

/// Waiting callers by ticket.
#[derive(Default)]
pub struct Callers {
    waiting: Mutex<(Ticket, HashMap<Ticket, oneshot::Sender<Answer>>)>,
}

impl Callers {
    fn enter(&self) -> (Ticket, oneshot::Receiver<Answer>) {
        let (tx, rx) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += 1;
        let ticket = waiting.0;
        waiting.1.insert(ticket, tx);
        (ticket, rx)
    }

    /// Answers a caller; one that went away is ignored.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        let sender = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket);
        if let Some(sender) = sender {
            let _ = sender.send(answer);
        }
    }

    fn forget(&self, ticket: Ticket) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket).is_some()
    }

    /// The engine is gone: whoever still waits hears that the outcome is unknown.
    pub(crate) fn abandon(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
    }
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    callers: Arc<Callers>,
    words: Arc<Semaphore>,
    full: Full,
}

/// Tells the core when an asker goes away before the answer.
struct Asking<'a> {
    handle: &'a Handle,
    ticket: Ticket,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.handle.callers.forget(self.ticket) {
            let _ = self.handle.inbox.try_send(Input::Gone(self.ticket));
        }
    }
}

impl Handle {
    /// Asks, and waits for the answer, which is released after everything it depends on is on disk.
    ///
    /// # Errors
    /// The core's own problem; `overloaded` when the inbox is full; `unavailable` with outcome unknown when the engine
    /// stopped before it answered.
    pub async fn ask(&self, caller: &Caller, call: Call) -> Result<Reply, Problem> {
        admission::check(&self.full, &call)?;
        let (ticket, answer) = self.callers.enter();
        let _asking = Asking { handle: self, ticket };
        match self.inbox.try_send(Input::Call { ticket, caller: caller.clone(), call }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(Problem::new(
                    Code::Overloaded,
                    "the coordinator has more to do than it can hold",
                )
                .hint("try again in a moment"));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(stopped()),
        }
        answer.await.unwrap_or_else(|_| Err(stopped().unknown()))
    }

    /// Hands in a note that nobody waits for; dropped when the inbox is full.
    pub(crate) fn note(&self, input: Input) {
        let _ = self.inbox.try_send(input);
    }

    /// Hands in what a machine said; waits while the inbox is full.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn tell(&self, input: Input) -> Result<(), Problem> {
        // Given back by the engine. Waiting is in turn, so a machine that floods waits behind the others' words.
        self.words.acquire_many(weight(&input)).await.map_err(|_| stopped())?.forget();
        self.inbox.send(input).await.map_err(|_| stopped())
    }

    /// The same way in, but while this is set what would add to the store is refused.
    pub(crate) fn guarded(mut self, full: Full) -> Self {
        self.full = full;
        self
    }

    /// A way in for a part of the engine itself.
    pub(crate) fn weak(&self) -> Weak {
        Weak(self.inbox.downgrade())
    }

    /// The waiting callers.
    pub(crate) fn callers(&self) -> Arc<Callers> {
        self.callers.clone()
    }

    /// Whether the disk is too full for new work.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
}

/// A way in that does not keep the engine running.
pub(crate) struct Weak(mpsc::WeakSender<Input>);

impl Weak {
    /// Hands an input in; waits while the inbox is full. False: the engine has ended.
    pub(crate) fn put(&self, input: Input) -> bool {
        self.0.upgrade().is_some_and(|inbox| inbox.blocking_send(input).is_ok())
    }

    /// Whether the engine has ended, or soon will.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.upgrade().is_none()
    }
}

#[cfg(test)]
impl Handle {
    /// A way into an engine that a test plays: the inputs come out, the callers take the answers.
    pub(crate) fn for_tests() -> (Self, mpsc::Receiver<Input>, Arc<Callers>) {
        let (inbox, inputs) = mpsc::channel(INBOX);
        let callers = Arc::new(Callers::default());
        let words = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        (Self { inbox, callers: callers.clone(), words, full: Full::default() }, inputs, callers)
    }
}

/// What an input takes of [`WORDS`]. One that has more than all takes all.
fn weight(input: &Input) -> u32 {
    match input {
        Input::Agent { said, .. } => said.len().min(WORDS) as u32,
        Input::Call { .. }
        | Input::Gone(_)
        | Input::Refused { .. }
        | Input::Broker { .. }
        | Input::Disk { .. }
        | Input::Loaded { .. }
        | Input::Tick => 0,
    }
}

fn stopped() -> Problem {
    Problem::new(Code::Unavailable, "the coordinator is stopping")
        .hint("try again; a submit with the same Idempotency-Key is never done twice")
}

/// The engine before it runs.
pub struct Engine {
    core: Core,
    recorder: Recorder,
    inbox: mpsc::Receiver<Input>,
    words: Room,
    clock: clock::Steady,
    full: Full,
    /// What the core was told of it.
    was_full: bool,
}

/// The engine's end of [`WORDS`].
struct Room(Arc<Semaphore>);

impl Drop for Room {
    /// Machines that wait to be heard learn that nobody listens.
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Engine {
    /// An engine over a core that was restored at that time, and the way in.
    pub fn new(
        core: Core,
        clock: clock::Steady,
        recorder: impl FnOnce(Arc<Callers>) -> Recorder,
    ) -> (Self, Handle) {
        let (tx, inbox) = mpsc::channel(INBOX);
        let callers = Arc::new(Callers::default());
        let words = Arc::new(Semaphore::new(WORDS));
        (
            Self {
                core,
                recorder: recorder(callers.clone()),
                inbox,
                words: Room(words.clone()),
                clock,
                full: Full::default(),
                was_full: false,
            },
            Handle { inbox: tx, callers, words, full: Full::default() },
        )
    }

    /// The same engine, which tells the core whenever this is set or cleared.
    pub(crate) fn watching(mut self, full: Full) -> Self {
        self.full = full;
        self
    }

    /// What the core has to hear of the disk. Before anything else of its step: what brokers deliver passes no gate.
    fn look_at_disk(&mut self) -> Option<Input> {
        let full = self.full.load(Ordering::Relaxed);
        (std::mem::replace(&mut self.was_full, full) != full).then_some(Input::Disk { full })
    }

    /// Runs until every [`Handle`] is gone. Blocks: give it a thread of its own.
    ///
    /// # Errors
    /// When a step could not be recorded: the outcome of what is in flight is unknown, the process must end.
    pub fn run(mut self, runtime: &tokio::runtime::Runtime) -> Result<(), crate::store::Error> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.core.next_due().into_iter().chain(self.recorder.due()).min();
            let sleep =
                due.map_or(LONGEST_SLEEP, |due| Duration::from_millis(due.saturating_sub(clock::now().mono)));
            let longest = if self.was_full { FULL_LOOK } else { LONGEST_SLEEP };
            let received = runtime.block_on(async {
                tokio::time::timeout(sleep.min(longest), self.inbox.recv_many(&mut batch, BATCH)).await
            });
            if received == Ok(0) {
                return self.recorder.close();
            }
            let now = self.clock.read(clock::now());
            if self.recorder.due().is_some_and(|due| due <= now.mono) {
                self.recorder.sync()?;
            }
            let mut step = crate::effect::Step::default();
            self.core.decide(now, Input::Tick, &mut step);
            if let Some(disk) = self.look_at_disk() {
                self.core.decide(now, disk, &mut step);
            }
            for input in batch.drain(..) {
                let words = weight(&input);
                self.core.decide(now, input, &mut step);
                self.words.0.add_permits(words as usize);
            }
            self.core.plan(now, &mut step);
            self.recorder.record(step)?;
        }
    }
}
