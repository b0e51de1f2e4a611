//! The simulated process of a coordinator, after `coordinator/src/engine.rs` and `coordinator/src/recorder.rs`: a batch is
//! decided by the real core, committed, and only then released; it may die at every line between.
use super::Sabotage;
use super::agenda::{Down, Due};
use super::world::{Crash, World};
use reeve_coordinator::clock::Steady;
use reeve_coordinator::core::Core;
use reeve_coordinator::effect::{Effect, Fact, Leased, Portion, Reply, Step, ToAgent};
use reeve_coordinator::input::{AgentSaid, Call, Input, Now};
use reeve_protocol::api::MessageView;
use reeve_protocol::{Problem, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tickets of calls that cancel: the job, and which of its tasks.
type Cancels = BTreeMap<u64, (u64, Option<(u32, u32)>)>;

impl World {
    /// Puts an input into the inbox and wakes the engine.
    pub(super) fn put(&mut self, input: Input) {
        self.inbox.push(input);
        self.wake(self.now);
    }

    /// Wakes the engine at a time, unless it is awake before.
    pub(super) fn wake(&mut self, at: u64) {
        if self.engine_at.is_none_or(|already| at < already) {
            self.engine_at = Some(at);
            self.agenda.at(at, Due::Engine);
        }
    }

    /// A coordinator starts on what the disk holds.
    pub(super) fn head_start(&mut self) {
        if self.core.is_some() {
            return;
        }
        let loaded = match self.store.start() {
            Ok(loaded) => loaded,
            Err(error) => return self.fail(format!("the store cannot be loaded: {error}")),
        };
        self.epoch += 1;
        self.last_session = 0;
        self.was_full = false;
        let raw = self.raw();
        self.clock = Steady::since(raw.mono, loaded.at);
        let now = self.clock.read(raw);
        let mut core = Core::restore(loaded, format!("{} {}", self.options.seed, self.epoch), now);
        core.set_window(self.options.window);
        let epoch = self.epoch;
        self.note(|| format!("coordinator starts, life {epoch}"));
        self.check(&core);
        self.core = Some(Box::new(core));
        self.engine_at = None;
        self.wake(self.now);
    }

    fn check(&mut self, core: &Core) {
        self.count.checks += 1;
        if let Some(wrong) = core.check().into_iter().next() {
            self.fail(wrong);
        }
    }

    /// One batch.
    pub(super) fn engine(&mut self) {
        if self.engine_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.engine_at = None;
        let Some(mut core) = self.core.take() else { return };
        let mut batch = std::mem::take(&mut self.inbox);
        self.tamper(&mut batch);
        let raw = self.raw();
        let now = self.clock.read(raw);
        let cancels = self.look_at(&batch);
        let mut step = Step::default();
        core.decide(now, Input::Tick, &mut step);
        if let Some(disk) = self.look_at_disk() {
            core.decide(now, disk, &mut step);
        }
        let passed = super::disk::adds(&batch);
        for input in batch {
            self.count.inputs += 1;
            self.count_held(&input);
            core.decide(now, input, &mut step);
        }
        core.plan(now, &mut step);
        self.count.steps += 1;
        self.note_step(&step);
        self.check_full(&step, passed);
        self.check(&core);
        self.check_workers(&mut core);
        let next = core.next_due();
        if self.finish(core, step, now, &cancels)
            && let Some(next) = next
        {
            self.wake(next.max(self.now + 1));
        }
    }

    /// Records and releases. False: the coordinator has died.
    fn finish(&mut self, core: Box<Core>, mut step: Step, now: Now, cancels: &Cancels) -> bool {
        let writes = !step.is_read_only();
        let crash = if writes { self.crash.take() } else { None };
        if crash == Some(Crash::BeforeCommit) {
            if self.sabotage(Sabotage::ReleaseBeforeRecord) {
                self.release(step.effects, cancels);
            }
            self.head_dies("before a commit");
            return false;
        }
        self.drop_fact(&mut step);
        if writes {
            if let Err(error) = self.store.commit(&step) {
                self.fail(format!("the step could not be recorded: {error}"));
                return true;
            }
            self.watch.committed(&step, &mut self.count);
        } else {
            self.watch.restarting.clear();
        }
        self.mix(
            step.facts.len() as u64 ^ (step.events.len() as u64) << 16 ^ (step.effects.len() as u64) << 32,
        );
        self.mix(core.seq() ^ now.mono << 20);
        if crash.is_none() && writes && self.rng.chance(self.options.compare_percent) {
            self.compare(&core, now);
        }
        self.core = Some(core);
        let mut effects = ordered(step.effects);
        if let Some(Crash::Released(percent)) = crash {
            effects.truncate(effects.len() * percent as usize / 100);
        }
        self.release(effects, cancels);
        if let Some(wrong) = self.watch.wrong.first().cloned() {
            self.fail(wrong);
        }
        match crash {
            Some(Crash::Released(0)) => self.head_dies("with nothing released"),
            Some(Crash::Released(100)) => self.head_dies("with all released"),
            Some(_) => self.head_dies("with half released"),
            None => return true,
        }
        false
    }

    /// A restart at this very moment would bring everything back.
    fn compare(&mut self, core: &Core, now: Now) {
        self.count.hit("restore compared");
        let loaded = match self.store.load() {
            Ok(loaded) => loaded,
            Err(error) => return self.fail(format!("the store cannot be loaded: {error}")),
        };
        let (live, restored) = (core.picture(), Core::restore(loaded, String::new(), now).picture());
        if live != restored {
            let only = |a: &[String], b: &[String]| {
                a.iter().filter(|line| !b.contains(line)).take(3).cloned().collect::<Vec<_>>().join("; ")
            };
            let (lost, made) = (only(&live, &restored), only(&restored, &live));
            self.fail(format!("a restart would bring back: {made}; of: {lost}"));
        }
        if let Err(error) = self.watch.compare(&self.store) {
            self.fail(format!("the store cannot be read: {error}"));
        }
        if let Some(wrong) = self.watch.wrong.first().cloned() {
            self.fail(wrong);
        }
    }

    fn head_dies(&mut self, how: &str) {
        self.count.hit(&format!("fault: coordinator killed {how}"));
        self.note(|| format!("coordinator dies {how}"));
        self.core = None;
        self.inbox.clear();
        self.opening.clear();
        self.engine_at = None;
        self.watch.restarting.clear();
        self.head_gone();
        self.clients_see_death();
        let pause = *self.rng.pick(&[50, 1_000, 8_000, 40_000]);
        self.agenda.at(self.now + pause, Due::HeadStart);
    }

    fn release(&mut self, effects: Vec<Effect>, cancels: &Cancels) {
        for effect in effects {
            match effect {
                Effect::Reply(ticket, answer) => {
                    if let (Some((job, range)), true) = (cancels.get(&ticket), answer.is_ok()) {
                        self.watch.cancel_answered(*job, *range);
                    }
                    self.answer(ticket, *answer);
                }
                Effect::ReplyMessages(ticket, leased) => {
                    let answer = self.messages(&leased);
                    self.answer(ticket, Ok(answer));
                }
                Effect::Send(machine, session, frame) => self.send(&machine, session, frame),
                Effect::Broker(_, order) => self.order_broker(order),
                Effect::Load(queue, portion, jobs) => self.load(queue, portion, jobs),
                Effect::Close(_, session, ..) => self.head_closes(session),
            }
        }
    }

    /// Parked jobs are read now, and come when much else may have happened to them.
    fn load(&mut self, queue: Arc<str>, portion: Portion, mut jobs: Vec<u64>) {
        self.count.hit(match portion {
            Portion::Need(_) => "parked jobs read",
            Portion::Clean(_) => "parked jobs read to be cancelled",
        });
        // Not all of them fit into one portion.
        if jobs.len() > 1 && self.rng.chance(20) {
            jobs.truncate(self.rng.range(1, jobs.len() as u64) as usize);
        }
        let mut rows = Vec::new();
        for job in &jobs {
            match self.store.job(*job) {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => self.fail(format!("job {job} is parked and has no row")),
                Err(error) => self.fail(format!("the store cannot be read: {error}")),
            }
        }
        let delay = if self.rng.chance(70) { self.rng.below(3) } else { self.rng.below(2_000) };
        let input = Input::Loaded { queue, portion, jobs, rows };
        self.agenda.at(self.now + delay, Due::Inbox(self.epoch, Box::new(input)));
    }

    fn answer(&mut self, ticket: u64, answer: Result<Reply, Problem>) {
        if !self.clients.answered.insert(ticket) {
            self.fail(format!("ticket {ticket} was answered twice"));
        }
        if let Some(conn) = self.opening.remove(&ticket) {
            self.opened(conn, answer);
        } else {
            let at = self.now + self.rng.below(5);
            self.agenda.at(at, Due::Answer(ticket, Box::new(answer)));
        }
    }

    fn messages(&mut self, leased: &[Leased]) -> Reply {
        let mut views = Vec::new();
        for l in leased {
            match self.store.message(l.id) {
                Ok(Some(body)) => views.push(MessageView {
                    id: l.id.to_string(),
                    body_text: String::from_utf8(body).ok(),
                    lease: Some(l.lease.clone()),
                    ..MessageView::default()
                }),
                Ok(None) => self.fail(format!("message {} was handed out and has no row", l.id)),
                Err(error) => self.fail(format!("the store cannot be read: {error}")),
            }
        }
        Reply::ReceivedMessages(views)
    }

    fn send(&mut self, machine: &str, session: u64, mut frame: ToAgent) {
        self.watch.sent(&frame, &mut self.count);
        if matches!(frame, ToAgent::Start(_)) && self.sabotage(Sabotage::DoubleStart) {
            self.send_to(session, frame.clone(), Some(machine));
        }
        if let ToAgent::Start(start) = &mut frame
            && !start.gpus.is_empty()
            && self.sabotage(Sabotage::WrongGpu)
        {
            "GPU-9-9".clone_into(&mut start.gpus[0]);
        }
        self.send_to(session, frame, None);
    }

    /// To the session of that number; with `not` to one of another machine.
    fn send_to(&mut self, number: u64, frame: ToAgent, not: Option<&str>) {
        let conn = self
            .sessions
            .iter()
            .find(|(_, s)| s.head_open && not.map_or(s.number == number, |not| self.hosts[s.host].id != not));
        if let Some(conn) = conn.map(|(conn, _)| *conn) {
            self.send_down(conn, Down::Orders(vec![frame]));
        }
    }

    /// Notes what the inputs will do that an observer cannot tell from the facts: restarts, and cancels by ticket.
    fn look_at(&mut self, batch: &[Input]) -> Cancels {
        self.watch.messages.look_at(batch);
        self.watch.gpus.look_at(batch);
        let mut cancels = BTreeMap::new();
        let mut restarts: BTreeMap<u64, u32> = BTreeMap::new();
        for input in batch {
            self.note(|| short(input));
            let Input::Call { ticket, call, .. } = input else { continue };
            match call {
                Call::RestartJob { target, .. } => *restarts.entry(target.job).or_default() += 1,
                Call::BulkAction { action, jobs, .. } if action == "restart" => {
                    for (target, _) in jobs {
                        *restarts.entry(target.job).or_default() += 1;
                    }
                }
                Call::CancelJob { target, .. } => drop(cancels.insert(*ticket, (target.job, target.tasks))),
                _ => {}
            }
        }
        cancels.retain(|_, (job, _)| !restarts.contains_key(job));
        self.watch.restarting = restarts;
        cancels
    }

    fn note_step(&mut self, step: &Step) {
        if self.options.trace {
            for fact in &step.facts {
                self.note(|| format!("    fact {}", cut(&format!("{fact:?}"))));
            }
            for event in &step.events {
                self.note(|| format!("    event {}", event_line(event)));
            }
            for effect in &step.effects {
                self.note(|| format!("    effect {}", cut(&format!("{effect:?}"))));
            }
        }
    }

    fn drop_fact(&mut self, step: &mut Step) {
        let Some(Sabotage::DropFact(kind)) = self.options.sabotage else { return };
        let wanted = |fact: &Fact| format!("{fact:?}").starts_with(kind);
        if self.sabotaged == 0
            && self.count.steps > 50
            && let Some(at) = step.facts.iter().position(wanted)
        {
            self.sabotaged += 1;
            step.facts.remove(at);
        }
    }

    /// Sabotage: the end of an attempt passes for the end of the one after it.
    fn tamper(&mut self, batch: &mut [Input]) {
        if self.options.sabotage != Some(Sabotage::StaleEnd) {
            return;
        }
        for input in batch {
            let Input::Agent { said, .. } = input else { continue };
            for word in said {
                if let AgentSaid::Finished(finished, _) = word
                    && finished.attempt.attempt == 1
                    && self.ledger.runs.contains_key(&finished.attempt.task.attempt(2))
                {
                    self.sabotaged += 1;
                    finished.attempt.attempt = 2;
                }
            }
        }
    }
}

/// As the recorder releases: answers in order, then each machine's frames.
fn ordered(effects: Vec<Effect>) -> Vec<Effect> {
    let (mut sends, mut rest): (Vec<_>, Vec<_>) =
        effects.into_iter().partition(|e| matches!(e, Effect::Send(..)));
    let key = |e: &Effect| match e {
        Effect::Send(machine, session, _) => (machine.clone(), *session),
        _ => (String::new(), 0),
    };
    sends.sort_by_key(key);
    rest.append(&mut sends);
    rest
}

fn cut(text: &str) -> String {
    text.chars().take(220).collect()
}

fn event_line(e: &reeve_protocol::api::Event) -> String {
    let task = e.id.map(|id| TaskId { job: id, index: e.index }.to_string()).unwrap_or_default();
    format!(
        "{} {} {task} {:?} x{:?} #{:?} {:?} -> {:?} {:?} by {} {:?} {:?}",
        e.seq, e.kind, e.indices, e.count, e.attempt, e.from, e.to, e.substate, e.actor, e.subject, e.what
    )
}

fn short(input: &Input) -> String {
    match input {
        Input::Call { ticket, call, .. } => format!("call {ticket} {}", cut(&format!("{call:?}"))),
        Input::Agent { machine, session, said } => {
            format!("{machine} session {session} says {}", cut(&format!("{said:?}")))
        }
        other => format!("{other:?}"),
    }
}
