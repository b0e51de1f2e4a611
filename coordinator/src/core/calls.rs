//! Calls to static workers: somebody waits for the answer, nothing is stored. They wait in a bounded queue of the worker, and take
//! the same way to a replica as tracked jobs.
use super::Core;
use super::requests::LIFE_BITS;
use super::serving::{Key, Waiting};
use crate::effect::{Effect, Reply, Step, ToAgent};
use crate::input::{Now, Ticket};
use reeve_protocol::wire::{self, RequestId, outcome};
use reeve_protocol::{Code, Problem};
use std::sync::Arc;

impl Core {
    /// `call`: answered by a replica, or refused; nothing of it is stored. `None`: the caller waits.
    pub(super) fn call_worker(
        &mut self,
        now: Now,
        ticket: Ticket,
        name: &str,
        payload: Arc<[u8]>,
        deadline_ms: Option<u64>,
    ) -> Option<Problem> {
        let Some(worker) = self.workers.get(name) else { return Some(self.no_worker(name)) };
        if worker.kind != "static" {
            let problem = Problem::new(
                Code::WrongState,
                format!("worker {name} is of kind {}: it is born for each job", worker.kind),
            );
            return Some(problem.hint(format!("submit a job to it: reeve submit --worker {name}")));
        }
        let Some(d) = self.deployments.get_mut(name).filter(|d| d.may_serve()) else {
            return Some(no_replicas(name));
        };
        if d.is_full() {
            let waiting = d.calls.len();
            let why = self.not_ready_words(name);
            let problem = Problem::new(
                Code::Busy,
                format!("{waiting} calls wait for worker {name}, as many as may{why}"),
            );
            return Some(
                problem.hint(format!("try again in a second; more replicas: reeve worker scale {name} N")),
            );
        }
        let until = now.mono + deadline_ms.unwrap_or_else(|| d.serving.deadline_ms()).max(1);
        d.calls.push_back(Waiting { ticket, payload, since: now.mono, until });
        d.deadlines.insert((until, Key::Call(ticket)));
        self.arm_deadlines(now, name);
        self.deployments.eager.insert(name.to_owned());
        None
    }

    /// Hands waiting calls to replicas.
    pub(super) fn serve_calls(&mut self, now: Now, name: &str, step: &mut Step) {
        while self.deployments.get(name).is_some_and(|d| !d.calls.is_empty()) {
            let Some((replica, machine, session)) = self.choose_replica(now, name, false) else {
                return self.note_hungry(name);
            };
            let Some(waiting) = self.deployments.get_mut(name).and_then(|d| d.calls.pop_front()) else {
                return;
            };
            let Waiting { ticket, payload, until, .. } = waiting;
            self.enter_request(now, replica.task.job, Key::Call(ticket), Some(until));
            let request = wire::Request {
                replica,
                id: self.call_id(ticket),
                payload: payload.to_vec(),
                timeout_ms: until.saturating_sub(now.mono).max(1),
            };
            step.effects.push(Effect::Send(
                machine.to_string(),
                session,
                ToAgent::Request(Box::new(request)),
            ));
        }
    }

    pub(super) fn call_id(&self, ticket: Ticket) -> RequestId {
        let life = self.identity.epoch << LIFE_BITS;
        RequestId { attempt: None, call: life | (ticket & ((1 << LIFE_BITS) - 1)) }
    }

    /// A caller went away.
    pub(super) fn caller_gone(&mut self, now: Now, ticket: Ticket) {
        let key = Key::Call(ticket);
        let mut found = None;
        for d in self.deployments.iter_mut() {
            if let Some(at) = d.calls.iter().position(|w| w.ticket == ticket) {
                if let Some(waiting) = d.calls.remove(at) {
                    d.deadlines.remove(&(waiting.until, key));
                }
                return;
            }
            found = found.or_else(|| {
                d.replicas.values().find(|r| r.requests.contains_key(&key)).map(super::serving::Replica::id)
            });
        }
        if let Some(replica) = found {
            self.abandon(now, replica, key);
        }
    }
}

fn no_replicas(name: &str) -> Problem {
    Problem::new(Code::NoReplicas, format!("worker {name} has no replicas"))
        .hint(format!("start some: reeve worker launch {name}"))
}

pub(super) fn answer_of(answer: wire::Answer) -> Result<Reply, Problem> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).chars().take(4096).collect::<String>();
    match answer.outcome {
        outcome::RESULT => Ok(Reply::Called(answer.body)),
        outcome::ERROR => {
            let again = if answer.retry {
                "the worker says that another try may succeed"
            } else {
                "the worker says that another try would not help"
            };
            Err(Problem::new(Code::WorkerError, text(&answer.body)).hint(again))
        }
        outcome::BAD => Err(Problem::new(Code::WorkerLost, text(&answer.body))
            .unknown()
            .hint("reeve logs JOB of the replica may say more; see reeve worker show NAME")),
        _ => {
            Err(Problem::new(Code::WorkerLost, "the replica that worked on it went away before it answered")
                .unknown())
        }
    }
}
