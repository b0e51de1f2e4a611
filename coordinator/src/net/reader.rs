//! The receiving half of a session: every frame that has arrived becomes one input. Waiting for the engine is the
//! back-pressure that QUIC passes on to the machine.
use super::Context;
use super::beats::Beats;
use super::decode::{self, Said};
use super::end::End;
use super::held::Held;
use super::order::Order;
use super::renewal;
use super::streams::Upload;
use super::writer::Note;
use crate::input::{AgentSaid, Input};
use bytes::Bytes;
use quinn::{Connection, RecvStream};
use reeve_protocol::frame;
use reeve_protocol::wire::{self, close};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Datagrams' worth of bytes taken at once.
const CHUNKS: usize = 64;
/// Between two requests for a certificate in one session.
const BETWEEN_RENEWALS: Duration = Duration::from_secs(1);
/// When there is nothing to wait for.
const LONG: Duration = Duration::from_hours(1);

/// The receiving half.
pub(super) struct Reader<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) connection: &'a Connection,
    pub(super) machine: &'a str,
    pub(super) session: u64,
    pub(super) recv: RecvStream,
    pub(super) frames: frame::Reader,
    pub(super) notes: mpsc::Sender<Note>,
    pub(super) uploads: mpsc::UnboundedReceiver<Upload>,
    pub(super) unsent: mpsc::UnboundedReceiver<Vec<AgentSaid>>,
    pub(super) state: State,
}

/// What a session remembers.
pub(super) struct State {
    order: Order,
    beats: Beats,
    held: Held,
    /// When a certificate was asked for last.
    renewed_at: Option<Instant>,
}

impl State {
    /// A session that starts now; `beat` is what the machine was asked for between beats.
    pub(super) fn new(beat: Duration) -> Self {
        Self {
            order: Order::default(),
            beats: Beats::new(Instant::now(), beat),
            held: Held::default(),
            renewed_at: None,
        }
    }
}

/// Whichever half ends the session: nothing that has arrived will be asked for.
impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // What is reported from now on is given back by the stream that reports it.
        self.uploads.close();
        while let Ok(upload) = self.uploads.try_recv() {
            self.state.held.arrived_late(upload);
        }
        for segment in self.state.held.give_up() {
            self.context.segments.discard(segment);
        }
    }
}

impl Reader<'_> {
    /// Reads until the session ends.
    pub(super) async fn run(mut self) -> End {
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        let timer = tokio::time::sleep(LONG);
        tokio::pin!(timer);
        loop {
            let mut said = Vec::new();
            let end = self.step(&mut chunks, timer.as_mut(), &mut said).await.err();
            if let Err(stopping) = self.tell(said).await {
                return stopping;
            }
            if let Some(end) = end {
                tracing::debug!(machine = self.machine, skipped = self.state.order.skipped(), "session over");
                return end;
            }
        }
    }

    /// Waits for one thing and puts what it means into `said`. An error comes with what was said before it.
    async fn step(
        &mut self,
        chunks: &mut [Bytes; CHUNKS],
        mut timer: std::pin::Pin<&mut Sleep>,
        said: &mut Vec<AgentSaid>,
    ) -> Result<(), End> {
        let due = tokio::time::Instant::from_std(self.due());
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        tokio::select! {
            // What has arrived comes before what time says: a beat may be among it.
            biased;
            read = self.recv.read_chunks(chunks) => {
                let count = read?.ok_or_else(|| End::gone("the machine ended its session"))?;
                for chunk in &mut chunks[..count] {
                    self.frames.feed(&std::mem::take(chunk));
                }
                return self.decode(said);
            }
            Some(upload) = self.uploads.recv() => {
                said.extend(self.state.held.uploaded(upload));
                self.state.held.dead().into_iter().for_each(|segment| self.context.segments.discard(segment));
            }
            Some(unsent) = self.unsent.recv() => said.extend(unsent),
            () = timer => {
                let now = Instant::now();
                said.extend(self.state.held.overdue(now));
                if self.state.beats.falls_silent(&self.context.pulse, now) {
                    said.push(AgentSaid::Silent);
                }
            }
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        let now = Instant::now();
        let silence = self.state.beats.due(&self.context.pulse, now);
        [silence, self.state.held.due()].into_iter().flatten().min().unwrap_or(now + LONG)
    }

    fn decode(&mut self, said: &mut Vec<AgentSaid>) -> Result<(), End> {
        while let Some(frame) = self.frames.next_frame()? {
            if !self.state.order.admit(&frame)? {
                continue;
            }
            match decode::said(&frame)? {
                Said::Core(what) => {
                    self.state.order.inventory(&what)?;
                    if what == AgentSaid::Leave {
                        self.context.machines.revoke(self.machine);
                    }
                    said.push(what);
                }
                Said::Finished(finished) => said.extend(self.state.held.finished(finished, Instant::now())),
                Said::Artifacts(promised) => self.state.held.promised(promised.attempt),
                Said::Renew(renew) => self.renew(renew)?,
                Said::Beat(beat) => {
                    let answer = self.state.beats.beat(beat, Instant::now());
                    if answer.flood {
                        return Err(End::new(close::RATE, "more beats than any machine has reason to send"));
                    }
                    if answer.tell {
                        said.push(AgentSaid::Heard { rtt_us: self.connection.rtt().as_micros() as u64 });
                    }
                    // Full only when the writer is stuck, and then the writer ends the session.
                    let _ = self.notes.try_send(Note::Echo(answer.echo));
                }
            }
        }
        Ok(())
    }

    /// A certificate costs a signature and a commit: one at a time, and not often.
    fn renew(&mut self, renew: wire::Renew) -> Result<(), End> {
        let now = Instant::now();
        if self.state.renewed_at.is_some_and(|at| now.duration_since(at) < BETWEEN_RENEWALS) {
            return Err(End::new(close::RATE, "the machine asks for certificates too often"));
        }
        self.state.renewed_at = Some(now);
        let (context, notes) = (self.context.clone(), self.notes.clone());
        let (machine, session) = (self.machine.to_owned(), self.session);
        tokio::spawn(async move {
            let note = renewal::answer(&context, &machine, session, &renew).await;
            // An error means that the session is over: the machine asks again in its next one.
            let _ = notes.send(note).await;
        });
        Ok(())
    }

    async fn tell(&self, said: Vec<AgentSaid>) -> Result<(), End> {
        if said.is_empty() {
            return Ok(());
        }
        let input = Input::Agent { machine: self.machine.to_owned(), session: self.session, said };
        self.context.handle.tell(input).await.map_err(|_| End::stopping())
    }
}
