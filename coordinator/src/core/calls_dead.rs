//! Messages that were given up: returned to their queue, or removed.
use super::Core;
use crate::effect::{Fact, Reply, Step};
use crate::input::Now;
use crate::orchestrator::messages::Where;
use crate::row::{Caller, QueueKind};
use reeve_protocol::{Code, Problem};

/// Returned in one step.
const AT_ONCE: usize = 2_000;

impl Core {
    /// Messages that were given up can be received again, with their deliveries counted anew.
    pub(super) fn return_dead(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        ids: Option<Vec<u64>>,
        dry_run: bool,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        self.known_queue(queue)?;
        let Some(q) = self.queues.get_mut(queue) else { return Err(Self::unknown_job(queue)) };
        if q.row.kind == QueueKind::Jobs {
            return Err(Problem::new(Code::QueueKind, "what is dead in a queue of jobs never was a job")
                .hint("look with reeve queue dead, publish it again as it should be, then clean --dead"));
        }
        let chosen = ids.unwrap_or_else(|| q.messages.dead(AT_ONCE));
        for id in &chosen {
            if q.messages.get(*id).is_none_or(|m| m.place != Where::Dead) {
                return Err(Problem::new(
                    Code::NotFound,
                    format!("message {id} is not among the dead of {queue}"),
                )
                .hint(format!("reeve queue dead {queue} lists them")));
            }
        }
        let chosen = &chosen[..chosen.len().min(AT_ONCE)];
        let dead = q.messages.counts().3;
        if dry_run {
            return Ok(Reply::Returned(chosen.len() as u64, dead));
        }
        for id in chosen {
            q.messages.revive(*id);
            q.messages.note_dead(*id, None);
            if q.has_rows() {
                step.facts.push(Fact::MessageMoved {
                    id: *id,
                    deliveries: 0,
                    lease: None,
                    run_at: None,
                    dead: None,
                });
            }
        }
        if !chosen.is_empty() {
            self.events.note(now.wall, "queue", queue, "returned", &caller.actor());
        }
        Ok(Reply::Returned(chosen.len() as u64, dead - chosen.len() as u64))
    }

    /// Removes what other programs published without sense into a queue of jobs.
    pub(super) fn clean_dead(
        &mut self,
        now: Now,
        caller: &Caller,
        queue: &str,
        ids: Option<Vec<u64>>,
        dry_run: bool,
        step: &mut Step,
    ) -> u64 {
        let Some(q) = self.queues.get_mut(queue) else { return 0 };
        let mut list = q.messages.ids(true);
        list.retain(|id| ids.as_ref().is_none_or(|wanted| wanted.contains(id)));
        if !dry_run && !list.is_empty() {
            for id in &list {
                q.messages.remove(*id);
            }
            step.facts.push(Fact::MessagesCleaned(q.row.name.clone(), list.clone()));
            self.events.note(now.wall, "queue", queue, "cleaned", &caller.actor());
        }
        list.len() as u64
    }
}
