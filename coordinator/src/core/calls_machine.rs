//! What is done to machines: cordon, drain, removal. All three are kept in the machine's row, so that a restart changes
//! nothing about them.
use super::Core;
use super::calls_cluster::ended;
use super::due::What;
use crate::effect::{Effect, Fact, Reply, Step, ToAgent};
use crate::input::{Call, Now};
use crate::job_manager::lifecycle::Move;
use crate::row::Caller;
use reeve_protocol::nearest::nearest;
use reeve_protocol::wire::close;
use reeve_protocol::{AttemptId, Cause, Code, Problem};
use std::sync::Arc;

/// What a removed machine is told: its agent shows it to whoever looks there.
const REMOVED: &str = "this machine was removed from the cluster; to take it in again: reeve machine token on the coordinator's machine, \
     then here reeve-agent leave and reeve-agent join HOST --token-file FILE";

impl Core {
    /// One arm per call about a machine as a whole.
    pub(super) fn machine_call(
        &mut self,
        now: Now,
        caller: &Caller,
        call: Call,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        match call {
            Call::CordonMachine { machine, cordon } => {
                self.cordon_machine(now, caller, &machine, cordon, step)
            }
            Call::DrainMachine { machine, deadline_ms } => {
                self.drain_machine(now, caller, &machine, deadline_ms, step)
            }
            Call::RemoveMachine { machine, force } => self.remove_machine(now, caller, &machine, force, step),
            other => Err(Problem::new(Code::Internal, format!("{other:?} is not about a machine"))),
        }
    }

    /// `machine cordon`, `machine uncordon`: whether new work goes there. Uncordon ends a drain, too; what the drain has
    /// stopped stays stopped.
    fn cordon_machine(
        &mut self,
        now: Now,
        caller: &Caller,
        machine: &str,
        cordon: bool,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let id = self.known_machine(machine)?;
        let Some(m) = self.cluster.get_mut(&id) else { return Err(Self::no_machine(machine)) };
        let (was, drained) = (m.cordoned, std::mem::replace(&mut m.draining, false));
        m.cordoned = cordon;
        m.drain_until = None;
        if was != cordon || drained {
            self.draining.remove(&id);
            self.put_machine(&id, step);
            let what = if cordon { "cordoned" } else { "uncordoned" };
            self.note_machine(now, &id, what, &caller.actor());
        }
        if was != cordon {
            self.note_cordon(&id, cordon, caller, step);
        }
        if cordon {
            self.take_back_waiting(&id, step);
        }
        self.shown(now, &id)
    }

    /// `machine drain`: nothing new, and what runs may end; after the deadline it is stopped and queued again.
    fn drain_machine(
        &mut self,
        now: Now,
        caller: &Caller,
        machine: &str,
        deadline_ms: Option<u64>,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let id = self.known_machine(machine)?;
        let Some(m) = self.cluster.get_mut(&id) else { return Err(Self::no_machine(machine)) };
        let was = std::mem::replace(&mut m.cordoned, true);
        m.draining = true;
        m.drain_until = deadline_ms.map(|ms| now.wall.saturating_add(ms.cast_signed()));
        self.put_machine(&id, step);
        self.note_machine(now, &id, "draining", &caller.actor());
        if !was {
            self.note_cordon(&id, true, caller, step);
        }
        self.arm_drain(now, &id);
        self.take_back_waiting(&id, step);
        self.shown(now, &id)
    }

    /// Watches a machine that is being emptied, and arms its deadline.
    pub(super) fn arm_drain(&mut self, now: Now, id: &Arc<str>) {
        let Some(m) = self.cluster.get(id).filter(|m| m.draining) else { return };
        if let Some(until) = m.drain_until {
            self.due.at(now, until, What::DrainDeadline(id.clone()));
        }
        self.draining.insert(id.clone());
    }

    /// The deadline of a drain has come: whatever still runs there is stopped, and queued again at no charge to the job.
    pub(super) fn drain_deadline(&mut self, now: Now, id: &Arc<str>, step: &mut Step) {
        let Some(m) = self.cluster.get(id).filter(|m| m.draining) else { return };
        match m.drain_until {
            // The deadline was moved, or the wall clock was.
            Some(until) if until > now.wall => self.due.at(now, until, What::DrainDeadline(id.clone())),
            Some(_) => self.stop_drained(id, step),
            None => {}
        }
    }

    /// Tells a machine past its deadline to stop what it holds. Said again when it comes back: it may not have heard.
    pub(super) fn stop_drained(&self, id: &str, step: &mut Step) {
        for attempt in self.held_on(id) {
            let grace = self.jobs.get(attempt.task.job).map_or(0, |j| j.grace_ms);
            self.send_stop(id, attempt, Cause::Drained, grace, step);
        }
    }

    /// Whether what runs on a machine is to be stopped because its drain is past the deadline.
    pub(super) fn past_drain(&self, now: Now, id: &str) -> bool {
        self.cluster
            .get(id)
            .is_some_and(|m| m.draining && m.drain_until.is_some_and(|until| until <= now.wall))
    }

    /// Says once that a machine has become empty.
    pub(super) fn note_drained(&mut self, now: Now) {
        let empty: Vec<_> = self
            .draining
            .iter()
            .filter(|id| self.cluster.get(id).is_none_or(|m| m.held().is_empty()))
            .cloned()
            .collect();
        for id in empty {
            self.draining.remove(&id);
            if self.cluster.get(&id).is_some_and(|m| m.draining && !m.revoked) {
                self.note_machine(now, &id, "drained", "coordinator");
            }
        }
    }

    /// `machine rm`: its certificates open nothing any more, for ever. What ran there counts as lost, and runs again
    /// elsewhere; its agent ends it when it hears of the removal.
    fn remove_machine(
        &mut self,
        now: Now,
        caller: &Caller,
        machine: &str,
        force: bool,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let id = self.known_machine(machine)?;
        let held = self.held_on(&id);
        if !held.is_empty() && !force {
            let n = held.len();
            let problem = Problem::new(
                Code::WrongState,
                format!("{n} {} on machine {machine}", if n == 1 { "attempt runs" } else { "attempts run" }),
            );
            return Err(problem.hint(format!(
                "let them end first: reeve machine drain {machine}; or count them as lost: reeve machine rm --force {machine}"
            )));
        }
        self.note_machine(now, &id, "removed", &caller.actor());
        let session = self.revoke_machine(now, &id, step);
        let lost = held.len() as u64;
        self.lose_all(now, &id, held, step);
        if let Some(session) = session {
            step.effects.push(Effect::Close(id.to_string(), session, close::REVOKED, REMOVED.to_owned()));
        }
        Ok(Reply::Removed(id.to_string(), lost))
    }

    /// Marks a machine as removed and takes its session away; that session's number.
    pub(super) fn revoke_machine(&mut self, now: Now, id: &str, step: &mut Step) -> Option<u64> {
        let m = self.cluster.get_mut(id)?;
        m.revoked = true;
        m.draining = false;
        let session = m.session.take().map(|s| s.number);
        m.down_since.get_or_insert(now.mono);
        m.disconnected = true;
        self.draining.remove(id);
        self.deployments.untold.remove(id);
        self.told.remove(id);
        self.put_machine(id, step);
        session
    }

    /// What ran on a removed machine. It can never come back, so its attempts end now; exclusive ones end when their
    /// guardians have certainly stopped them, by their own clocks.
    pub(super) fn lose_all(&mut self, now: Now, id: &Arc<str>, held: Vec<AttemptId>, step: &mut Step) {
        let since = self.cluster.get(id).and_then(|m| m.down_since).unwrap_or(now.mono);
        for attempt in held {
            let lost_after = self.jobs.get(attempt.task.job).and_then(|j| j.lost_after_ms);
            let exclusive = self.spec_of(attempt.task.job).is_some_and(|spec| spec.exclusive);
            match lost_after {
                Some(_) if exclusive => {
                    self.go(now, attempt.task, Move::Disconnect, "coordinator");
                    self.arm_loss(now, id, attempt, since, lost_after);
                }
                _ => self.end_attempt(now, ended(attempt, Cause::Lost, now), "coordinator", step),
            }
        }
    }

    pub(super) fn held_on(&self, id: &str) -> Vec<AttemptId> {
        let mut held: Vec<AttemptId> =
            self.cluster.get(id).map(|m| m.held().keys().copied().collect()).unwrap_or_default();
        held.sort_unstable();
        held
    }

    /// What waits in the keeper ahead of a slot comes back, and goes elsewhere.
    fn take_back_waiting(&self, id: &str, step: &mut Step) {
        let Some(m) = self.cluster.get(id) else { return };
        let Some(session) = m.ready_session() else { return };
        let mut waiting: Vec<_> = m.held().iter().filter(|(_, held)| held.ahead).map(|(a, _)| *a).collect();
        waiting.sort_unstable();
        for attempt in waiting {
            step.effects.push(Effect::Send(id.to_owned(), session, ToAgent::Revoke(attempt)));
        }
    }

    fn known_machine(&self, wanted: &str) -> Result<Arc<str>, Problem> {
        if let Some(m) = self.cluster.find(wanted) {
            return Ok(m.id.clone());
        }
        let names: Vec<_> = self.cluster.iter().filter(|m| !m.revoked).map(|m| m.name.clone()).collect();
        let problem = Self::no_machine(wanted);
        Err(match nearest(wanted, names.iter().map(|n| &**n)) {
            Some(near) => problem.hint(format!("did you mean {near:?}?")),
            None => problem.hint("see: reeve machine ls"),
        })
    }

    fn no_machine(wanted: &str) -> Problem {
        Problem::new(Code::NotFound, format!("there is no machine {wanted:?}"))
    }

    pub(super) fn put_machine(&self, id: &str, step: &mut Step) {
        if let Some(m) = self.cluster.get(id) {
            step.facts.push(Fact::MachinePut(Box::new(m.row())));
        }
    }

    pub(super) fn note_machine(&mut self, now: Now, id: &str, what: &str, actor: &str) {
        if let Some(name) = self.cluster.get(id).map(|m| m.name.clone()) {
            self.events.note(now.wall, "machine", &name, what, actor);
        }
    }

    fn note_cordon(&self, id: &str, began: bool, caller: &Caller, step: &mut Step) {
        if let Some(m) = self.cluster.get(id) {
            step.facts.push(Fact::Interval("machine_cordoned", m.name.to_string(), began, caller.actor()));
        }
    }

    fn shown(&self, now: Now, id: &str) -> Result<Reply, Problem> {
        let m = self.cluster.get(id).ok_or_else(|| Self::no_machine(id))?;
        Ok(Reply::Machine(Box::new(Self::machine_view(now, m))))
    }
}
