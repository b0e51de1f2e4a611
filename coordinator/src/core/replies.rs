//! Egress: what `reply_to` of a job is told, and the record of every end for the history queue. Each becomes a message in
//! the commit that makes it true, and then goes the way of the messages of its queue, so a crash loses none. Places at brokers
//! that are no queues of ours are reached through an outbox queue per broker, which nobody sees.
use super::Core;
use crate::effect::{Fact, Step};
use crate::input::{NewMessage, Now};
use crate::job_manager::{Address, Body, Job};
use crate::orchestrator::link::{PLACE, REPLIES};
use crate::row::{Backend, Caller, QueueKind, QueueRow, Standing, Via};
use reeve_protocol::api::Alert;
use reeve_protocol::reply_to::ReplyTo;
use reeve_protocol::spec_check::MAX_MESSAGE;
use reeve_protocol::time::Wall;
use reeve_protocol::{Cause, JobId, Problem, State, Substate, TaskId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Answers that may wait for one broker. More are counted as lost: a broker that never comes back must not fill the disk.
const WAITING: u64 = 1_000_000;

/// What has to be told in this step, and what could not be.
#[derive(Default)]
pub(super) struct Replies {
    pending: Vec<Pending>,
    history: Option<String>,
    /// Answers that could not even be kept.
    pub(super) lost: u64,
    /// Answers that a broker had no place for: how many, and the last reason.
    pub(super) unroutable: BTreeMap<Arc<str>, (u64, String)>,
}

impl Replies {
    /// Whether the record of every end is published.
    pub(super) const fn keeps_history(&self) -> bool {
        self.history.is_some()
    }
}

/// A change of state.
struct Pending {
    task: TaskId,
    /// Several tasks of an array at once.
    indices: Option<String>,
    from: Option<State>,
    standing: Standing,
    seq: u64,
}

impl Core {
    /// Publishes the record of every end into this queue of messages; `None`: nowhere.
    pub fn keep_history_in(&mut self, queue: Option<String>) {
        self.replies.history = queue;
    }

    /// A job or task has another state: `seq` is the event that says so.
    pub(super) fn note_reply(&mut self, task: TaskId, from: Option<State>, standing: Standing, seq: u64) {
        let Some(job) = self.jobs.get(task.job) else { return };
        let ends = standing.state.is_terminal() && task.index.is_none() && self.replies.history.is_some();
        if from != Some(standing.state) && (job.reply.is_some() || ends) {
            self.replies.pending.push(Pending { task, indices: None, from, standing, seq });
        }
    }

    /// Tasks of an array that were never handed out have another state.
    pub(super) fn note_replies(
        &mut self,
        job: JobId,
        indices: String,
        (from, to): (State, State),
        substate: Option<Substate>,
        cause: Option<&Cause>,
        seq: u64,
    ) {
        if from != to && self.jobs.get(job).is_some_and(|j| j.reply.is_some()) {
            let standing = Standing { cause: cause.cloned(), ..Standing::new(to, substate) };
            let (task, indices, from) = (TaskId::single(job), Some(indices), Some(from));
            self.replies.pending.push(Pending { task, indices, from, standing, seq });
        }
    }

    /// A queue that answers go to exists from the submit on, and holds messages.
    pub(super) fn prepare_reply(
        &mut self,
        now: Now,
        caller: &Caller,
        to: Option<&str>,
        step: &mut Step,
    ) -> Result<(), Problem> {
        if let Some(ReplyTo::Queue(name)) = to.map(ReplyTo::parse).transpose()? {
            self.queue_for(now, caller, &name, QueueKind::Messages, step)?;
        }
        Ok(())
    }

    /// Turns what happened in this step into messages. Whoever waits for one is served at once, which may hand out a job, and
    /// so on until nothing more happens.
    pub(super) fn send_replies(&mut self, now: Now, step: &mut Step) {
        let mut told = HashSet::new();
        loop {
            let pending = std::mem::take(&mut self.replies.pending);
            let over = self.arrays_over(&mut told);
            if pending.is_empty() && over.is_empty() {
                return;
            }
            let results = results_of(step);
            for one in pending {
                // A job may start and end in one step: the result belongs to the end.
                let result = results.get(&one.task).filter(|_| one.standing.state.is_terminal());
                self.tell_change(now, &one, result, step);
            }
            for job in over {
                self.tell_array_end(now, job, step);
            }
            self.serve_waiters(now, step);
        }
    }

    /// Arrays that ended in this step and were not told before.
    fn arrays_over(&self, told: &mut HashSet<JobId>) -> Vec<JobId> {
        let is_over = |id: &&JobId| {
            self.jobs.get(**id).is_some_and(|job| {
                matches!(job.body, Body::Array(_))
                    && job.is_over()
                    && (job.reply.is_some() || self.replies.history.is_some())
            })
        };
        let ended = self.dirty_arrays.iter().filter(is_over).copied();
        ended.filter(|id| told.insert(*id)).collect()
    }

    fn tell_change(&mut self, now: Now, one: &Pending, result: Option<&Value>, step: &mut Step) {
        let Some(job) = self.jobs.get(one.task.job) else { return };
        let (reply, owner) = (job.reply.clone(), owner_of(job));
        let ends = one.standing.state.is_terminal() && one.task.index.is_none() && one.indices.is_none();
        let record = (ends && self.replies.history.is_some())
            .then(|| record(job, &one.standing, result, one.seq, &Map::new()));
        if let Some(address) = reply {
            let mut body = Map::new();
            body.insert("job".into(), json!(one.task.job));
            if let Some(index) = one.task.index {
                body.insert("index".into(), json!(index));
            }
            if let Some(indices) = &one.indices {
                body.insert("indices".into(), json!(indices));
            }
            describe(&mut body, one.from, &one.standing, one.seq, now);
            body.insert("result".into(), result.cloned().unwrap_or(Value::Null));
            self.answer(now, &owner, &address, body, step);
        }
        if let Some(record) = record {
            self.tell_history(now, record, step);
        }
    }

    /// An array as a whole has ended: its tasks were told one by one.
    fn tell_array_end(&mut self, now: Now, id: JobId, step: &mut Step) {
        let seq = self.seq();
        let Some(job) = self.jobs.get(id) else { return };
        let Body::Array(array) = &job.body else { return };
        let (reply, owner, standing) = (job.reply.clone(), owner_of(job), array.standing());
        let mut counts = Map::new();
        counts.insert("counts".into(), json!(array.counts));
        let record = self.replies.history.is_some().then(|| record(job, &standing, None, seq, &counts));
        if let Some(address) = reply {
            let mut body = Map::new();
            body.insert("job".into(), json!(id));
            describe(&mut body, None, &standing, seq, now);
            body.append(&mut counts);
            self.answer(now, &owner, &address, body, step);
        }
        if let Some(record) = record {
            self.tell_history(now, record, step);
        }
    }

    /// Somebody who named a place for answers published what is no job.
    pub(super) fn answer_refusal(
        &mut self,
        now: Now,
        caller: &Caller,
        address: &Address,
        problem: &Problem,
        step: &mut Step,
    ) {
        let mut body = Map::new();
        body.insert("job".into(), Value::Null);
        body.insert("state".into(), json!("REFUSED"));
        body.insert("error".into(), json!(problem));
        self.answer(now, caller, address, body, step);
    }

    fn answer(
        &mut self,
        now: Now,
        owner: &Caller,
        address: &Address,
        mut body: Map<String, Value>,
        step: &mut Step,
    ) {
        let mut headers = BTreeMap::new();
        if let Some(id) = &address.correlation_id {
            headers.insert("correlation_id", id.clone());
            body.insert("correlation_id".into(), json!(id));
        }
        let queue = match ReplyTo::parse(&address.to) {
            Ok(ReplyTo::Queue(name)) => name,
            Ok(ReplyTo::Broker { backend, place }) => {
                headers.insert(PLACE, place);
                self.outbox(now, &backend, step)
            }
            // It was checked when the job was made.
            Err(_) => return self.replies.lost += 1,
        };
        self.put_message(now, owner, &queue, Value::Object(body), &json!(headers), step);
    }

    /// The queue in which answers wait for a broker.
    fn outbox(&mut self, now: Now, backend: &str, step: &mut Step) -> String {
        let name = format!("{REPLIES}{backend}");
        if self.queues.get(&name).is_none() {
            let backend = Backend::Broker(backend.into());
            let own = (0, &"coordinator".into());
            let row = QueueRow::new(name.as_str().into(), QueueKind::Messages, backend, own, now.wall);
            step.facts.push(Fact::QueuePut(Box::new(row.clone())));
            self.insert_queue(row);
        }
        name
    }

    fn tell_history(&mut self, now: Now, mut record: Map<String, Value>, step: &mut Step) {
        let Some(queue) = self.replies.history.clone() else { return };
        let caller = Caller::internal();
        if self.queue_for(now, &caller, &queue, QueueKind::Messages, step).is_err() {
            return self.replies.lost += 1;
        }
        if json!(record).to_string().len() > MAX_MESSAGE {
            record.insert("spec".into(), json!({"left_out": "it is too large for a message"}));
        }
        self.put_message(now, &caller, &queue, Value::Object(record), &json!({}), step);
    }

    /// Answers are not held back by a queue's bound: who submitted was promised them.
    fn put_message(
        &mut self,
        now: Now,
        owner: &Caller,
        queue: &str,
        body: Value,
        headers: &Value,
        step: &mut Step,
    ) {
        let fits = |q: &crate::orchestrator::queue::Queue| {
            q.row.kind == QueueKind::Messages && q.messages.waiting() < WAITING
        };
        if !self.queues.get(queue).is_some_and(fits) {
            return self.replies.lost += 1;
        }
        let id = self.message_number();
        let message = NewMessage {
            kind: 0,
            body: body.to_string().into_bytes().into(),
            headers: headers.to_string().into(),
            priority: 0,
            delay_ms: 0,
            ttl_ms: None,
            key: None,
        };
        self.enter_message(now, owner, queue, (id, None), message, step);
        if !queue.starts_with(REPLIES) {
            self.events.note(now.wall, "message", queue, "published", "coordinator");
        }
    }

    /// What people should know about answers that went nowhere.
    pub(super) fn reply_alerts(&self) -> Vec<Alert> {
        let nowhere = |(broker, (n, why)): (&Arc<str>, &(u64, String))| Alert {
            level: 1,
            subject: format!("backend {broker}"),
            text: format!("{n} answers to jobs had no place to go to; the last: {why}"),
        };
        let mut alerts: Vec<Alert> = self.replies.unroutable.iter().map(nowhere).collect();
        let waiting = self.queues.iter().filter_map(|q| {
            let broker = q.row.name.strip_prefix(REPLIES).filter(|_| q.messages.waiting() > 0)?;
            let why = self.degraded(q)?;
            let text = format!("{} answers to jobs wait for it: {why}", q.messages.waiting());
            Some(Alert { level: 1, subject: format!("backend {broker}"), text })
        });
        alerts.extend(waiting);
        if self.replies.lost > 0 {
            alerts.push(Alert {
                level: 2,
                subject: "answers to jobs".to_owned(),
                text: format!(
                    "{} could not be kept: a queue of the other kind, or too many wait",
                    self.replies.lost
                ),
            });
        }
        alerts
    }

    /// A broker has no such place.
    pub(super) fn unroutable(&mut self, now: Now, broker: &Arc<str>, n: u64, why: String) {
        let entry = self.replies.unroutable.entry(broker.clone()).or_default();
        (entry.0, entry.1) = (entry.0 + n, why);
        self.events.note(now.wall, "backend", broker, "reply unroutable", "coordinator");
    }
}

fn owner_of(job: &Job) -> Caller {
    Caller { uid: job.owner_uid, name: job.owner.clone(), via: Via::Inside, request: None }
}

/// What this step keeps as results, by task.
fn results_of(step: &Step) -> HashMap<TaskId, Value> {
    let result = |fact: &Fact| match fact {
        Fact::ResultKept(task, json) => {
            let value = serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.clone()));
            Some((*task, value))
        }
        _ => None,
    };
    step.facts.iter().filter_map(result).collect()
}

fn describe(body: &mut Map<String, Value>, from: Option<State>, s: &Standing, seq: u64, now: Now) {
    body.insert("seq".into(), json!(seq));
    body.insert("at".into(), json!(Wall(now.wall)));
    body.insert("from".into(), json!(from));
    body.insert("state".into(), json!(s.state));
    body.insert("substate".into(), json!(s.substate));
    body.insert("attempt".into(), json!(s.attempt));
    body.insert("cause".into(), json!(s.cause));
    body.insert("machine".into(), json!(s.machine));
}

/// The finished record of a job.
fn record(
    job: &Job,
    s: &Standing,
    result: Option<&Value>,
    seq: u64,
    more: &Map<String, Value>,
) -> Map<String, Value> {
    let time = |at: Option<i64>| json!(at.map(Wall));
    let mut body = Map::new();
    body.insert("job".into(), json!(job.id));
    body.insert("seq".into(), json!(seq));
    body.insert("owner".into(), json!(&*job.owner));
    body.insert("queue".into(), json!(&*job.queue));
    body.insert("state".into(), json!(s.state));
    body.insert("cause".into(), json!(s.cause));
    body.insert("attempt".into(), json!(s.attempt));
    body.insert("machine".into(), json!(s.machine));
    body.insert("created_at".into(), time(Some(job.created_at).filter(|at| *at > 0)));
    body.insert("started_at".into(), time(s.started_at));
    body.insert("ended_at".into(), time(s.ended_at));
    body.insert("result".into(), result.cloned().unwrap_or(Value::Null));
    body.insert("spec".into(), serde_json::from_str(&job.spec).unwrap_or(Value::Null));
    body.extend(more.clone());
    body
}
