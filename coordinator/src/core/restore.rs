//! What a start makes of live jobs and their attempts as the store has them.
use super::Core;
use super::due::What;
use crate::cluster::shape::Shape;
use crate::input::Now;
use crate::job_manager::{Holder, Job};
use crate::orchestrator::parked::Owner;
use crate::store::waiting::Waiting;
use reeve_protocol::{AttemptId, JobSpec, State, Substate};

impl Core {
    /// What had ended before.
    pub(super) fn count_restored(&mut self, queue: &str, counts: reeve_protocol::api::StateCounts) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.counts.completed += counts.completed;
            queue.counts.failed += counts.failed;
            queue.counts.cancelled += counts.cancelled;
        }
    }

    /// Takes jobs in that wait and were never touched: parked, until the first step asks for those that come next.
    pub(super) fn restore_waiting(&mut self, now: Now, waiting: Waiting) {
        let need = self.cluster.shapes.intern_arc(waiting.shape);
        let Some(q) = self.queues.get_mut(&waiting.queue) else { return };
        q.count_new(Some(Substate::Waiting), State::Queued, waiting.ids.len());
        let owner = Owner { uid: waiting.owner_uid, name: waiting.owner };
        q.parked.insert_all(need, waiting.priority, &owner, waiting.ids, &waiting.times);
        self.due.push(now.mono, What::Again);
    }

    /// Takes a live job in, with its live tasks, and arms what it waits for.
    pub(super) fn restore_job(&mut self, row: &crate::row::JobRow, tasks: &[crate::row::TaskRow], now: Now) {
        let Ok(spec) = serde_json::from_str::<JobSpec>(&row.spec) else { return };
        let Ok(shape) = Shape::of(&spec) else { return };
        let shape = self.cluster.shapes.intern(shape);
        if row.array.is_none() && &*row.queue != crate::row::REPLICAS {
            return self.take_in(now, row, &spec, shape);
        }
        let Some(mut job) = Job::restore(row, &spec, shape) else { return };
        if let Some(array) = job.array_mut() {
            crate::job_manager::restore_tasks(array, tasks);
        }
        if &*row.queue == crate::row::REPLICAS {
            self.restore_replica(row, &spec, now);
        }
        self.adopt(job, now);
    }

    /// An attempt that had not ended: its holder has it until it says otherwise, with a fresh window.
    pub(super) fn restore_attempt(&mut self, live: &crate::row::LiveAttempt, now: Now) {
        let attempt = live.attempt;
        let Some(job) = self.jobs.get(attempt.task.job) else { return };
        let (shape, queue, lost_after) = (job.shape, job.queue.clone(), job.lost_after_ms);
        if job.task(attempt.task.index).is_none_or(|t| t.attempt != attempt.attempt) {
            return;
        }
        // A job that was taken for lost waits in its queue: its attempt holds no room until the machine still has it.
        let out = job.task(attempt.task.index).is_some_and(|t| super::moves::is_out(t.phase()));
        let holder = match (&live.machine_id, &live.lease) {
            (Some(machine), _) => {
                if out {
                    self.cluster.reserve(machine, attempt, shape, live.gpus.clone(), false);
                }
                if let Some(m) = self.cluster.get_mut(machine) {
                    if !out {
                        m.remember_lost(attempt, live.gpus.clone());
                    }
                    m.down_since = Some(now.mono);
                }
                self.arm_loss(now, machine, attempt, now.mono, lost_after);
                self.due.after(now, super::time::DISCONNECTED_MS, What::Disconnect(machine.as_str().into()));
                if let Some(replica) = self.deployments.replica_mut(attempt.task.job).filter(|_| out) {
                    replica.machine = Some(machine.as_str().into());
                    self.arm_requests(machine, now.mono);
                }
                Holder::Machine(machine.as_str().into())
            }
            (None, Some(lease)) if lease.starts_with(super::moves::REPLICA) => {
                let replica = AttemptId::from_file_name(&lease[super::moves::REPLICA.len()..]);
                let replica = replica.unwrap_or(attempt);
                self.restore_request(now, attempt, replica);
                Holder::Replica(replica)
            }
            (None, Some(lease)) => {
                self.due.after(now, 60_000, What::JobLease(attempt, lease.clone()));
                self.lease_until.insert(attempt, now.mono + 60_000);
                Holder::Consumer(lease.clone())
            }
            (None, None) => Holder::Outside,
        };
        let milli = u64::from(self.cluster.shapes.get(shape).ask.cpu_milli);
        if let Some(task) = self.jobs.task_mut(attempt.task) {
            let from_machine = matches!(holder, Holder::Machine(_));
            task.holder = holder;
            if let (true, Some(q)) = (out, self.queues.get_mut(&queue)) {
                q.out += 1;
                q.used_milli += if from_machine { milli } else { 0 };
            }
        }
    }
}
