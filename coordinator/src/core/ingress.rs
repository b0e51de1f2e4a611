//! Jobs from messages: what other programs publish for a queue of jobs becomes a job of the user who was named for it,
//! once per message id, and the broker is told after the commit. What is no job is kept among the dead, with the reason.
use super::Core;
use crate::effect::{Effect, Fact, Step};
use crate::input::Now;
use crate::job_manager::Address;
use crate::orchestrator::link::{Incoming, Order};
use crate::orchestrator::queue::Queue;
use crate::row::{Backend, Caller, QueueKind, Via};
use reeve_protocol::reply_to::{self, ReplyTo};
use reeve_protocol::{Code, JobId, JobSpec, Problem};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Behind a queue's name: where other programs publish for it. No queue can have such a name itself.
pub(super) const IN: &str = ":in";
/// Messages that may come before the broker is told again.
const ROOM: u64 = 256;

/// Keeps that place at the queue's broker, or leaves it, and reads on.
pub(super) fn tell(q: &mut Queue, links: &BTreeMap<Arc<str>, bool>, full: bool, step: &mut Step) {
    let wanted =
        q.row.backend.broker().filter(|_| q.row.ingress.is_some() && q.row.kind == QueueKind::Jobs).cloned();
    let place: Arc<str> = format!("{}{IN}", q.row.name).into();
    if q.told_in != wanted {
        if let Some(old) = q.told_in.take() {
            step.effects.push(Effect::Broker(old, Order::Leave(place.clone())));
        }
        if let Some(broker) = &wanted {
            step.effects.push(Effect::Broker(broker.clone(), Order::Use(place.clone(), QueueKind::Messages)));
        }
        q.told_in.clone_from(&wanted);
        q.room_in = 0;
    }
    let Some(broker) = wanted.filter(|b| links.get(b).is_some_and(|up| *up)) else { return };
    if full {
        if q.room_in > 0 {
            step.effects.push(Effect::Broker(broker, Order::Room(place, 0)));
            q.room_in = 0;
        }
        return;
    }
    // A full queue takes nothing in: what comes waits at the broker.
    let fits = if q.row.max_len > 0 { q.row.max_len.saturating_sub(q.len()) } else { ROOM };
    let more = fits.min(ROOM).saturating_sub(q.room_in);
    if more >= fits.clamp(1, ROOM / 2) {
        step.effects.push(Effect::Broker(broker, Order::Room(place, more)));
        q.room_in += more;
    }
}

/// Where a publisher wants answers, if that is a place.
fn address(broker: &str, (place, correlation_id): &(String, Option<String>)) -> Option<Address> {
    let to = ReplyTo::at_broker(broker, place);
    reply_to::check(Some(&to), correlation_id.as_deref()).ok()?;
    Some(Address { to, correlation_id: correlation_id.clone() })
}

/// The user that a setting names; `None`: it is switched off.
pub(super) fn user_of(word: &str, uid: Option<u32>) -> Option<(u32, Arc<str>)> {
    Some((uid?, word.strip_prefix("as=")?.into()))
}

/// Whether a queue of this kind, kept there, can take in jobs of other programs.
pub(super) fn check(queue: &str, kind: QueueKind, backend: &Backend) -> Result<(), Problem> {
    if backend.broker().is_none() {
        let text = format!("backend {} has no other programs that could publish", backend.as_str());
        return Err(Problem::new(Code::BackendCannot, text).hint("keep the queue at a broker: --backend"));
    }
    if kind == QueueKind::Messages {
        return Err(super::calls_cluster::wrong_kind(queue, kind));
    }
    Ok(())
}

impl Core {
    /// Names the user whose jobs they become, or nobody.
    pub(super) fn set_ingress(&mut self, queue: &str, user: Option<(u32, Arc<str>)>) {
        let Some(q) = self.queues.get_mut(queue) else { return };
        if user.is_some() {
            q.row.kind = QueueKind::Jobs;
        }
        q.row.ingress = user;
    }

    /// Takes in what other programs published for a queue of jobs.
    pub(super) fn ingress(
        &mut self,
        now: Now,
        broker: &Arc<str>,
        queue: &Arc<str>,
        messages: Vec<Incoming>,
        step: &mut Step,
    ) {
        let tags = messages.iter().map(|m| m.tag.clone()).collect();
        let Some(q) = self.queues.get_mut(queue) else { return };
        q.room_in = q.room_in.saturating_sub(messages.len() as u64);
        let Some((uid, user)) = q.row.ingress.clone() else {
            // It was switched off meanwhile: they stay where they are, for the next who reads. That is us if it is switched on
            // again before this step ends, so the place is left now: what was read and not taken comes again.
            if let Some(old) = q.told_in.take() {
                let place = format!("{}{IN}", q.row.name).into();
                step.effects.push(Effect::Broker(old, Order::Leave(place)));
            }
            return;
        };
        let caller = Caller { uid, name: user, via: Via::Inside, request: None };
        let (mut made, mut refused) = (Vec::new(), 0);
        for message in messages {
            let Some(own) = message.unique.clone() else {
                // It may come again with a lost connection, and nobody could tell that from another one.
                let why = "it has no message_id: publish it again with one".to_owned();
                self.keep_dead(now, queue, message, why, step);
                refused += 1;
                continue;
            };
            let source = format!("{broker} {queue}{IN} {own}");
            if !self.taken.note(source.clone()) {
                self.stale += 1;
                continue;
            }
            step.facts.push(Fact::InboxNoted(source, now.wall));
            match self.ingress_one(now, &caller, (broker, queue), &message, step) {
                Ok(job) => made.push(job),
                Err(problem) => {
                    if let Some(reply) = message.reply.as_deref().and_then(|reply| address(broker, reply)) {
                        self.answer_refusal(now, &caller, &reply, &problem, step);
                    }
                    // Without the hint: the list of the dead has a line for each.
                    let why = format!("{} [{}]", problem.detail, problem.code);
                    let why = reeve_protocol::text::Clean::short(&why, 500).into_string();
                    self.keep_dead(now, queue, message, why, step);
                    refused += 1;
                }
            }
        }
        self.audit.took_in(now, &caller, (queue, broker), made, refused);
        let place = format!("{queue}{IN}").into();
        step.effects.push(Effect::Broker(broker.clone(), Order::Taken(place, tags)));
    }

    fn ingress_one(
        &mut self,
        now: Now,
        caller: &Caller,
        (broker, queue): (&str, &str),
        message: &Incoming,
        step: &mut Step,
    ) -> Result<JobId, Problem> {
        if let Some(why) = &message.unusable {
            return Err(Problem::new(Code::BadValue, why.clone()));
        }
        let mut spec: JobSpec = reeve_protocol::error::parse_object(&message.body)?;
        if spec.queue.as_ref().is_some_and(|other| other != queue) {
            return Err(Problem::new(Code::BadValue, format!("it names another queue than {queue}")));
        }
        spec.queue = Some(queue.to_owned());
        if let Some((place, correlation_id)) = message.reply.as_deref().filter(|_| spec.reply_to.is_none()) {
            spec.reply_to = Some(ReplyTo::at_broker(broker, place));
            spec.correlation_id = spec.correlation_id.or_else(|| correlation_id.clone());
        }
        spec.validate()?;
        self.submit(now, caller, spec, None, step).map(|(submitted, _)| submitted.id)
    }

    /// A message that is no job stays with its queue.
    fn keep_dead(&mut self, now: Now, queue: &Arc<str>, message: Incoming, why: String, step: &mut Step) {
        self.events.note(now.wall, "queue", queue, "refused", "coordinator");
        let id = self.message_number();
        self.enter_incoming(now, queue, id, Incoming { unusable: Some(why), ..message }, None, step);
    }
}
