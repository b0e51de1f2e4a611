//! Record, then release: the facts of a step are on disk before anything that depends on them leaves the process.
use crate::backend::{Backends, Work};
use crate::clock;
use crate::effect::{Effect, Fact, Leased, Reply, Step, ToAgent};
use crate::engine::Callers;
use crate::hub::Hub;
use crate::loader::Loader;
use crate::net::sessions::Sessions;
use crate::orchestrator::link::{Forwarded, Order};
use crate::row::MessageRow;
use crate::store::Error;
use crate::store::query::records;
use crate::store::writer::Writer;
use reeve_protocol::api::MessageView;
use reeve_protocol::crash;
use reeve_protocol::time::Wall;
use reeve_protocol::{Code, Problem, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the recorder releases to.
pub struct Recorder {
    writer: Writer,
    callers: Arc<Callers>,
    sessions: Arc<Sessions>,
    hub: Arc<Hub>,
    backends: Arc<Backends>,
    loader: Loader,
}

impl Recorder {
    /// Over the writer.
    pub const fn new(
        writer: Writer,
        callers: Arc<Callers>,
        sessions: Arc<Sessions>,
        hub: Arc<Hub>,
        backends: Arc<Backends>,
        loader: Loader,
    ) -> Self {
        Self { writer, callers, sessions, hub, backends, loader }
    }

    /// Records a step, tells observers, releases the effects. A step without facts is released at once: everything
    /// before it is on disk already.
    ///
    /// # Errors
    /// When it could not be recorded: its outcome is unknown, nothing of it was released.
    pub fn record(&mut self, mut step: Step) -> Result<(), Error> {
        if !step.is_read_only() {
            crash::point_of("commit.before", || step.kind());
            self.writer.commit(&step, clock::now().mono)?;
            crash::point_of("release.before", || step.kind());
            let ended = ended(&step.facts);
            let seq = step.events.last().map_or(0, |e| e.seq);
            self.sessions.set_recorded(seq);
            self.hub.publish(std::mem::take(&mut step.events), seq, &ended);
        }
        self.release(std::mem::take(&mut step.effects), &step);
        crash::point_of("release.after", || step.kind());
        Ok(())
    }

    /// `step`: what they belong to.
    fn release(&self, effects: Vec<Effect>, step: &Step) {
        let mut frames: BTreeMap<(String, u64), Vec<ToAgent>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Reply(ticket, answer) => self.callers.answer(ticket, *answer),
                Effect::ReplyMessages(ticket, leased) => {
                    let answer = self.messages(&leased).map(Reply::ReceivedMessages);
                    self.callers
                        .answer(ticket, answer.map_err(|e| Problem::new(Code::Internal, e.to_string())));
                }
                Effect::Send(machine, session, frame) => {
                    frames.entry((machine, session)).or_default().push(frame);
                }
                Effect::Broker(name, order) => self.tell_broker(&name, order),
                Effect::Load(queue, portion, jobs) => self.loader.load(queue, portion, jobs),
                Effect::Close(machine, session, code, reason) => {
                    self.sessions.close(&machine, session, code, reason);
                }
            }
        }
        // Callers have their answers, machines hear nothing yet.
        crash::point_of("release.half", || step.kind());
        for ((machine, session), list) in frames {
            self.sessions.send(&machine, session, list);
        }
    }

    /// Messages to forward that have rows are read here: these were written by this step or one before.
    fn tell_broker(&self, name: &Arc<str>, order: Order) {
        let work = match order {
            Order::Forward(queue, messages) => match self.rows(messages) {
                Ok(rows) => Work::Forward(queue, rows),
                Err(error) => {
                    tracing::error!(%error, "messages could not be read for their broker");
                    return;
                }
            },
            other => Work::Order(other),
        };
        self.backends.tell(name, work);
    }

    fn rows(&self, messages: Vec<Forwarded>) -> Result<Vec<MessageRow>, Error> {
        let _once = self.writer.read_once()?;
        let mut rows = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Forwarded::Row(id) => rows.extend(records::message_row(self.writer.conn(), id)?),
                Forwarded::Whole(row) => rows.push(Arc::unwrap_or_clone(row)),
            }
        }
        Ok(rows)
    }

    /// The bodies of messages that were just handed out.
    fn messages(&self, leased: &[Leased]) -> Result<Vec<MessageView>, Error> {
        let _once = self.writer.read_once()?;
        let mut views = Vec::with_capacity(leased.len());
        for l in leased {
            if let Some(row) = &l.kept {
                views.push(leased_view(records::view_of(row)?, l));
            } else if let Some(view) = records::message(self.writer.conn(), l.id)? {
                views.push(leased_view(view, l));
            }
        }
        Ok(views)
    }

    /// When something must be synced, boot-time milliseconds.
    pub const fn due(&self) -> Option<u64> {
        self.writer.sync_due()
    }

    /// Syncs what is due.
    ///
    /// # Errors
    /// From the file system.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.writer.sync_mark()
    }

    /// An orderly stop.
    ///
    /// # Errors
    /// From SQLite or the file system.
    pub fn close(self) -> Result<(), Error> {
        self.writer.close()
    }
}

fn leased_view(mut view: MessageView, leased: &Leased) -> MessageView {
    view.lease = Some(leased.lease.clone());
    view.lease_until = Some(Wall(leased.until));
    view
}

/// Jobs and tasks that ended with this step.
fn ended(facts: &[Fact]) -> Vec<TaskId> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::JobMoved(id, s) | Fact::ArrayMoved(id, s, _) if s.state.is_terminal() => {
                Some(TaskId::single(*id))
            }
            Fact::TaskMoved(task, s) if s.state.is_terminal() => Some(*task),
            _ => None,
        })
        .collect()
}
