//! What machines can say: one short function each. Remote input never panics: it is accepted, stale (counted, without
//! effect), or, in the net layer, refused.
use super::Core;
use super::calls_cluster::{arc, ended};
use super::due::What;
use super::time::DISCONNECTED_MS;
use crate::cluster::reconcile;
pub(super) use crate::cluster::reconcile::Record;
use crate::effect::{Effect, Ended, Fact, Step, ToAgent};
use crate::input::{AgentSaid, Now, Segment};
use crate::job_manager::Holder;
use crate::job_manager::lifecycle::Move;
use crate::row::Caller;
use reeve_protocol::wire::{self, Verdict};
use reeve_protocol::{AttemptId, Cause, State};

impl Core {
    /// Everything a machine said, in order. Anything of an older session is dropped.
    pub(super) fn agent(
        &mut self,
        now: Now,
        machine: &str,
        session: u64,
        said: Vec<AgentSaid>,
        step: &mut Step,
    ) {
        for word in said {
            let Some(m) = self.cluster.get_mut(machine) else { return };
            if m.session.as_ref().is_none_or(|s| s.number != session) {
                return;
            }
            m.heard = Some(now.mono);
            match word {
                AgentSaid::Machine(info) => self.described(machine, info, step),
                AgentSaid::Inventory(items) => m.inventory.extend(items),
                AgentSaid::InventoryEnd(_) => self.inventory_end(now, machine, session, step),
                AgentSaid::Preparing(preparing) => self.preparing(now, machine, &preparing),
                AgentSaid::Resolved(attempt, commit) => self.resolved(now, machine, attempt, &commit, step),
                AgentSaid::Started(started) => self.started(now, machine, &started, step),
                AgentSaid::Progress(progress) => self.progress(now, machine, progress, step),
                AgentSaid::Finished(finished, segment) => {
                    self.finished(now, machine, session, *finished, segment, step);
                }
                AgentSaid::Returned(attempt) => self.returned(now, machine, attempt, step),
                AgentSaid::Artifacts(kept) => self.artifacts(machine, kept, step),
                AgentSaid::Exited(attempt) => self.exited(machine, attempt),
                AgentSaid::Taking(refuses) => self.taking(now, machine, refuses, step),
                AgentSaid::Replicas(items) => self.replicas_said(now, machine, session, items, step),
                AgentSaid::Answers(items) => self.answered(now, machine, items, step),
                AgentSaid::InFlight(items, last) => self.in_flight(now, machine, items, last, step),
                AgentSaid::Usage(usage) => self.used(now, machine, &usage),
                AgentSaid::Sample(sample) => m.sample = Some(sample),
                AgentSaid::Enforced(words) => m.enforced = words,
                AgentSaid::Gpus(gpus) => self.told_gpus(now, machine, gpus, step),
                AgentSaid::Quiet(quiet) => self.quiet(now, machine, &quiet, step),
                AgentSaid::Silent => self.down(now, machine, true),
                AgentSaid::Heard { rtt_us } => {
                    m.rtt_us = Some(rtt_us);
                    if m.down_since.is_some() && m.ready_session().is_some() {
                        self.heard_again(now, machine, session, step);
                    }
                }
                AgentSaid::Closed => {
                    m.session = None;
                    self.down(now, machine, false);
                }
                AgentSaid::Leave => self.leave_cluster(now, machine, step),
                AgentSaid::RenewalKept(fingerprint) => {
                    if m.certificates.kept(&fingerprint) {
                        self.put_machine(machine, step);
                    }
                }
                AgentSaid::RenewalFailed(why) => self.renewal_failed(now, machine, &why, step),
            }
        }
    }

    fn described(&mut self, machine: &str, info: wire::Machine, step: &mut Step) {
        let Some(m) = self.cluster.get_mut(machine) else { return };
        if m.info != info {
            m.describe(info);
            step.facts.push(Fact::MachinePut(Box::new(m.row())));
        }
    }

    /// The inventory is complete: each attempt gets its verdict, and only then is anything dispatched.
    fn inventory_end(&mut self, now: Now, machine: &str, session: u64, step: &mut Step) {
        let Some(m) = self.cluster.get_mut(machine) else { return };
        let mut items = std::mem::take(&mut m.inventory);
        // An attempt that is listed twice must not take its room twice.
        let mut seen = std::collections::HashSet::new();
        items.retain(|item| seen.insert(item.attempt));
        let hello = self.hellos.remove(machine).unwrap_or_default();
        let same_life = m.life.as_ref().is_none_or(|l| *l == hello.0);
        let same_keeper = m.keeper.as_ref().is_none_or(|k| *k == hello.1);
        (m.life, m.keeper) = (Some(hello.0), Some(hello.1));
        let row = m.row();
        let held: Vec<AttemptId> = m.held().keys().copied().collect();
        step.facts.push(Fact::MachinePut(Box::new(row)));
        let mut verdicts = Vec::with_capacity(items.len());
        for item in &items {
            let record = self.record_of(machine, item.attempt);
            let verdict = reconcile::judge(item, item.lineage == self.identity.lineage, record);
            match verdict {
                Verdict::Keep => self.confirm(now, machine, item),
                Verdict::Report => self.exited(machine, item.attempt),
                _ => {}
            }
            verdicts.push((item.attempt, verdict));
        }
        // An attempt that was lost and released may be in the inventory; one that is held may be missing.
        for attempt in reconcile::absent(held.iter(), &items) {
            self.missing(now, machine, attempt, same_life, same_keeper, step);
        }
        if let Some(m) = self.cluster.get_mut(machine) {
            m.orphans = verdicts.iter().filter(|(_, v)| *v == Verdict::Orphan).count() as u32;
            m.must_tell = false;
            if let Some(s) = m.session.as_mut() {
                s.reconciled = true;
            }
        }
        let waiting = items.iter().filter(|item| item.phase == 0).map(|item| item.attempt).collect();
        self.wait_in_keeper(now, machine, waiting);
        self.await_in_flight(now, machine, session);
        step.effects.push(Effect::Send(machine.to_owned(), session, ToAgent::Reconcile(verdicts)));
        self.resend_stops(now, machine, step);
        self.up(now, machine);
    }

    /// What waits there ahead of a slot is taken back when it waits long: whoever was told to has perhaps not heard of it.
    fn wait_in_keeper(&mut self, now: Now, machine: &str, waiting: Vec<AttemptId>) {
        let Some(m) = self.cluster.get_mut(machine) else { return };
        m.wait_ahead(&waiting);
        for attempt in m.waiting_ahead() {
            self.due.after(now, super::place::REVOKE_AFTER_MS, What::Revoke(attempt));
        }
    }

    pub(super) fn record_of(&self, machine: &str, attempt: AttemptId) -> Record {
        if attempt.task.job >= self.next_job {
            return Record::Unknown;
        }
        match self.jobs.task(attempt.task) {
            Some(t) if t.attempt == attempt.attempt && t.holder == Holder::Machine(arc(machine)) => {
                Record::Current
            }
            _ => Record::Past,
        }
    }

    /// An attempt is still there. One that was taken for lost goes on, as long as no newer one was dispatched.
    fn confirm(&mut self, now: Now, machine: &str, item: &wire::InventoryItem) {
        let actor = self.agent_actor(machine);
        let task = item.attempt.task;
        let Some(t) = self.jobs.task(task) else { return };
        let phase = t.phase();
        self.take_back(machine, item.attempt);
        if item.phase > 0
            && let Some(m) = self.cluster.get_mut(machine)
        {
            m.started(item.attempt);
        }
        if item.phase > 0 && phase.state() == State::Queued {
            let mv = self.begun(item);
            if let Some(t) = self.jobs.task_mut(task) {
                // A guardian that was stopped has not said when; nobody started in 1970.
                let at = if item.started_ms > 0 { item.started_ms } else { now.wall };
                t.started_at = Some(at).filter(|_| mv == Move::Start);
                t.run_at = None;
            }
            self.go(now, task, mv, &actor);
        } else {
            self.go(now, task, Move::Reconnect, &actor);
        }
    }

    /// An attempt that was taken for lost gave its room back; it is there after all, and has it again.
    fn take_back(&mut self, machine: &str, attempt: AttemptId) {
        let held = self.cluster.get(machine).is_some_and(|m| m.held().contains_key(&attempt));
        if let (false, Some(job)) = (held, self.jobs.get(attempt.task.job)) {
            let ask = self.cluster.shapes.get(job.shape).ask.clone();
            if let Some(m) = self.cluster.get_mut(machine) {
                m.take_back(attempt, ask);
            }
        }
    }

    /// An attempt that the records give to the machine is not there.
    fn missing(
        &mut self,
        now: Now,
        machine: &str,
        attempt: AttemptId,
        same_life: bool,
        same_keeper: bool,
        step: &mut Step,
    ) {
        let actor = self.agent_actor(machine);
        let Some(t) = self.jobs.task(attempt.task).filter(|t| t.attempt == attempt.attempt) else {
            self.cluster.release(machine, attempt);
            return;
        };
        let started = t.phase().state() == State::Running;
        let cancelled = t.cancel;
        match reconcile::missing(started, same_life, same_keeper) {
            None if !cancelled => {
                step.facts.push(Fact::AttemptReturned(attempt, now.wall));
                self.leave(now, attempt, Move::Ready, &actor);
            }
            cause => {
                let cause = if cancelled { Cause::Cancelled } else { cause.unwrap_or(Cause::Rebooted) };
                self.end_attempt(now, ended(attempt, cause, now), &actor, step);
            }
        }
    }

    /// Stops that were asked for while the machine was away.
    fn resend_stops(&mut self, now: Now, machine: &str, step: &mut Step) {
        let held: Vec<AttemptId> =
            self.cluster.get(machine).map(|m| m.held().keys().copied().collect()).unwrap_or_default();
        for attempt in held {
            let grace = self.jobs.get(attempt.task.job).map_or(0, |j| j.grace_ms);
            if self.jobs.task(attempt.task).is_some_and(|t| t.cancel && t.attempt == attempt.attempt) {
                self.send_stop(machine, attempt, Cause::Cancelled, grace, step);
            }
        }
        if self.past_drain(now, machine) {
            self.stop_drained(machine, step);
        }
    }

    /// Its process exists.
    fn started(&mut self, now: Now, machine: &str, started: &wire::Started, step: &mut Step) {
        if self.record_of(machine, started.attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        let actor = self.agent_actor(machine);
        let task = started.attempt.task;
        let at = if started.at_ms > 0 { started.at_ms.min(now.wall) } else { now.wall };
        step.facts.push(Fact::AttemptStarted(started.attempt, started.pid, at));
        let cancel = self.jobs.task_mut(task).is_some_and(|t| {
            t.started_at = Some(at);
            t.cancel
        });
        self.take_back(machine, started.attempt);
        if let Some(m) = self.cluster.get_mut(machine) {
            m.started(started.attempt);
        }
        self.go(now, task, Move::Start, &actor);
        if cancel {
            self.go(now, task, Move::Stop, &actor);
        }
    }

    /// What the job says about itself.
    fn progress(&mut self, now: Now, machine: &str, progress: wire::Progress, step: &mut Step) {
        let of_request = self.is_request_on(machine, progress.attempt);
        if !of_request && self.record_of(machine, progress.attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        let fraction = progress.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        let message = progress.message.map(|m| m.chars().take(1024).collect());
        let actor = self.agent_actor(machine);
        self.events.note_job(now.wall, progress.attempt.task.job, "progress", &actor);
        step.facts.push(Fact::ProgressMade(progress.attempt.task, fraction, message));
    }

    /// It has ended. A late or repeated end is acknowledged too: nobody may wait for it for ever.
    fn finished(
        &mut self,
        now: Now,
        machine: &str,
        session: u64,
        finished: wire::Finished,
        segment: Option<Segment>,
        step: &mut Step,
    ) {
        let attempt = finished.attempt;
        self.forget.entry((arc(machine), session)).or_default().push(attempt);
        let cause = Cause::from_wire(finished.cause.clone());
        match self.record_of(machine, attempt) {
            Record::Current => {}
            Record::Past => {
                self.stale += 1;
                // A dead guardian says nothing about how its attempt went.
                if cause != Cause::KeeperLost {
                    step.facts.push(Fact::AttemptLate { attempt, machine: machine.to_owned(), cause });
                }
                return;
            }
            Record::Unknown => {
                self.stale += 1;
                return;
            }
        }
        if finished.started_ms > 0
            && let Some(m) = self.cluster.get_mut(machine)
        {
            m.learn(finished.ended_ms.saturating_sub(finished.started_ms).max(0) as f64);
        }
        if let Some(result) = finished.result.as_ref().and_then(|r| String::from_utf8(r.clone()).ok())
            && result.len() <= reeve_protocol::spec_check::MAX_PAYLOAD
            && serde_json::from_str::<serde_json::Value>(&result).is_ok()
        {
            step.facts.push(Fact::ResultKept(attempt.task, result));
        }
        let actor = self.agent_actor(machine);
        self.note_last_words(attempt.task.job, &finished.output);
        self.make_started(now, attempt, &finished, &actor);
        let end = Ended {
            attempt,
            cause,
            started_at: (finished.started_ms > 0).then(|| finished.started_ms.min(now.wall)),
            ended_at: now.wall,
            pid: (finished.pid > 0).then_some(finished.pid),
            cpu_ms: finished.cpu_ms,
            rss_peak: finished.rss_peak,
            output: if segment.is_some() { Vec::new() } else { finished.output },
            segment,
        };
        self.end_attempt(now, end, &actor, step);
    }

    /// An attempt that started and ended unseen went through RUNNING all the same: observers miss no state.
    fn make_started(&mut self, now: Now, attempt: AttemptId, finished: &wire::Finished, actor: &str) {
        if finished.started_ms == 0 {
            return;
        }
        if self.is_before_command(attempt) {
            let Some(t) = self.jobs.task_mut(attempt.task) else { return };
            t.started_at = Some(finished.started_ms.min(now.wall));
            self.go(now, attempt.task, Move::Start, actor);
        }
    }

    /// It had not started and never will: back to its place, uncharged.
    fn returned(&mut self, now: Now, machine: &str, attempt: AttemptId, step: &mut Step) {
        if self.record_of(machine, attempt) != Record::Current {
            self.stale += 1;
            return;
        }
        if self.jobs.task(attempt.task).is_some_and(|t| t.phase().state() == State::Running) {
            return;
        }
        let actor = self.agent_actor(machine);
        step.facts.push(Fact::AttemptReturned(attempt, now.wall));
        let cancel = self.jobs.task(attempt.task).is_some_and(|t| t.cancel);
        if let Some(t) = self.jobs.task_mut(attempt.task).filter(|t| t.cancel) {
            t.cause = Some(Cause::Cancelled);
        }
        self.leave(now, attempt, if cancel { Move::Cancel } else { Move::Ready }, &actor);
    }

    /// No session, or no beat: nothing new goes there; what runs there is not judged yet.
    fn down(&mut self, now: Now, machine: &str, silent: bool) {
        let Some(m) = self.cluster.get_mut(machine) else { return };
        // A beat missed for 10 s counts from the last beat; a closed session from now.
        let since = if silent { now.mono.saturating_sub(DISCONNECTED_MS) } else { now.mono };
        let first = m.down_since.is_none();
        let since = *m.down_since.get_or_insert(since);
        if first {
            self.arm_machine(now, machine, since);
        }
        if silent {
            self.show_disconnected(now, machine);
        } else {
            self.due.push(since + DISCONNECTED_MS, What::Disconnect(arc(machine)));
        }
    }

    /// Arms the verdict on everything that runs on a machine that went down at `since`.
    pub(super) fn arm_machine(&mut self, now: Now, machine: &str, since: u64) {
        let held: Vec<AttemptId> =
            self.cluster.get(machine).map(|m| m.held().keys().copied().collect()).unwrap_or_default();
        for attempt in held {
            let lost_after = self.jobs.get(attempt.task.job).and_then(|j| j.lost_after_ms);
            self.arm_loss(now, machine, attempt, since, lost_after);
        }
        self.arm_requests(machine, since);
    }

    /// Beats come again in a session that was silent. When something of it was taken for lost meanwhile, only an
    /// inventory tells what became of that: the machine is asked to come again. It has heard us, too, and counts from now
    /// when it has to stop what it runs; so do we with what it has not lost yet.
    fn heard_again(&mut self, now: Now, machine: &str, session: u64, step: &mut Step) {
        if let Some(m) = self.cluster.get_mut(machine).filter(|m| m.must_tell) {
            m.down_since = Some(now.mono);
            self.arm_machine(now, machine, now.mono);
            let why = "attempts were taken for lost meanwhile; tell what runs".to_owned();
            step.effects.push(Effect::Close(machine.to_owned(), session, wire::close::DONE, why));
        } else {
            self.up(now, machine);
        }
    }

    /// It is heard again, and has told what it runs.
    fn up(&mut self, now: Now, machine: &str) {
        let actor = self.agent_actor(machine);
        let Some(m) = self.cluster.get_mut(machine) else { return };
        m.down_since = None;
        let was = std::mem::replace(&mut m.disconnected, false);
        let name = m.name.to_string();
        let held: Vec<AttemptId> = m.held().keys().copied().collect();
        self.events.note(now.wall, "machine", &name, "connected", &actor);
        if was {
            for attempt in held {
                self.go(now, attempt.task, Move::Reconnect, &actor);
            }
        }
    }

    /// 10 s without a beat: its attempts are unconfirmed.
    pub(super) fn show_disconnected(&mut self, now: Now, machine: &str) {
        let Some(m) = self.cluster.get_mut(machine) else { return };
        if std::mem::replace(&mut m.disconnected, true) {
            return;
        }
        let name = m.name.to_string();
        let held: Vec<AttemptId> = m.held().keys().copied().collect();
        self.events.note(now.wall, "machine", &name, "disconnected", "coordinator");
        for attempt in held {
            self.go(now, attempt.task, Move::Disconnect, "coordinator");
        }
    }

    /// It leaves for good: its certificate is worth nothing from now on.
    fn leave_cluster(&mut self, now: Now, machine: &str, step: &mut Step) {
        let actor = self.agent_actor(machine);
        self.note_machine(now, machine, "left", &actor);
        let caller = Caller::of_agents_port(machine);
        self.audit.note(now, &caller, "leave", format!("machine:{machine}"));
        let held = self.held_on(machine);
        let Some(session) = self.revoke_machine(now, machine, step) else { return };
        self.lose_all(now, &arc(machine), held, step);
        step.effects.push(Effect::Close(
            machine.to_owned(),
            session,
            wire::close::DONE,
            "left the cluster".to_owned(),
        ));
    }
}
