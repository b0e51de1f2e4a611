//! `move` out of a queue whose messages lie at a broker: the broker is asked how many there are, gives them one portion after
//! the other, and each goes on to the other queue in the step that takes it in. A coordinator that dies meanwhile has moved
//! what it has moved; the rest lies where it lay.
use super::Core;
use super::calls_move::AT_ONCE;
use super::due::What;
use crate::effect::{Effect, Reply, Step};
use crate::input::{Now, Ticket};
use crate::orchestrator::link::Order;
use crate::orchestrator::messages::Where;
use crate::row::{Caller, QueueKind};
use reeve_protocol::{Code, Problem};
use std::sync::Arc;

/// For a broker to say something, and for the next portion to come.
const PATIENCE_MS: u64 = 2_000;

/// Asked of a broker at once.
const PORTION: u64 = 1_000;

/// A move that waits for a broker.
pub(super) struct Moving {
    caller: Caller,
    from: Arc<str>,
    to: String,
    dry_run: bool,
    /// The broker is asked once it has confirmed the messages up to this one: it does not count what is under way.
    after: Option<u64>,
    /// The broker has said how much lies there.
    counted: bool,
    /// Messages that are to come still.
    wanted: u64,
    moved: u64,
    /// What was moved when it was last looked at.
    seen: u64,
}

impl Core {
    /// Whether messages of this queue may lie at a broker that can be asked for them.
    pub(super) fn lies_outside(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|q| {
            let up = self.queues.link_of(q).is_some_and(|link| link.up);
            q.row.kind == QueueKind::Messages && up && q.trouble.is_none() && !q.is_moving()
        })
    }

    /// Begins with the question how much there is.
    pub(super) fn move_outside(
        &mut self,
        now: Now,
        (ticket, caller): (Ticket, &Caller),
        (from, to): (&str, &str),
        dry_run: bool,
        step: &mut Step,
    ) {
        let Some(q) = self.queues.get(from) else { return };
        let after = q.messages.flight().map_or(0, |(_, newest)| newest);
        let (caller, from, to) = (caller.clone(), q.row.name.clone(), to.to_owned());
        let after = Some(after);
        let moving =
            Moving { caller, from, to, dry_run, after, counted: false, wanted: 0, moved: 0, seen: 0 };
        self.moving.insert(ticket, moving);
        self.due.after(now, PATIENCE_MS, What::Moving(ticket));
        self.ask_for_moves(step);
    }

    /// Asks brokers how much lies there for those moves whose time has come.
    fn ask_for_moves(&mut self, step: &mut Step) {
        for (ticket, moving) in &mut self.moving {
            let Some(q) = self.queues.get(&moving.from) else { continue };
            let settled = |after| q.messages.flight().is_none_or(|(oldest, _)| oldest > after);
            let Some(broker) = q.row.backend.broker().filter(|_| moving.after.is_some_and(settled)) else {
                continue;
            };
            moving.after = None;
            step.effects.push(Effect::Broker(broker.clone(), Order::Depth(moving.from.clone(), *ticket)));
        }
    }

    /// The broker has said how much lies there: what is at hand moves now, and room is made for the rest.
    pub(super) fn move_counted(&mut self, now: Now, ticket: Ticket, coming: u64, step: &mut Step) {
        let Some(mut moving) = self.moving.remove(&ticket) else { return };
        let Some(q) = self.queues.get(&moving.from) else { return };
        moving.counted = true;
        let depth = q.depth + coming;
        // What is on its way to the broker is newer than all that lies there.
        let mut list = q.messages.ids(false);
        list.retain(|id| {
            depth == 0 || !q.messages.get(*id).is_some_and(|m| matches!(m.place, Where::Outgoing(_)))
        });
        let all = list.len() as u64 + depth;
        if let Err(problem) = self.check_move((&moving.from, &moving.to), QueueKind::Messages, all) {
            return Self::reply(step, ticket, Err(problem));
        }
        if moving.dry_run {
            return Self::reply(step, ticket, Ok(Reply::Returned(all, 0)));
        }
        if all == 0 {
            return self.move_answered(now, ticket, &moving, step);
        }
        if let Err(problem) = self.queue_for(now, &moving.caller, &moving.to, QueueKind::Messages, step) {
            return Self::reply(step, ticket, Err(problem));
        }
        list.truncate(AT_ONCE);
        moving.moved = list.len() as u64;
        moving.wanted = depth.min((AT_ONCE - list.len()) as u64).min(PORTION);
        self.move_waiting(now, (&moving.from, &moving.to), &list, step);
        if moving.wanted == 0 {
            return self.move_answered(now, ticket, &moving, step);
        }
        self.want(&moving.from, moving.wanted);
        self.moving.insert(ticket, moving);
    }

    /// Moves on what has come.
    pub(super) fn serve_moves(&mut self, now: Now, step: &mut Step) {
        self.ask_for_moves(step);
        let waiting = self.moving.iter().filter(|(_, m)| m.wanted > 0);
        for ticket in waiting.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            let Some(mut moving) = self.moving.remove(&ticket) else { continue };
            let ids = self.queues.get(&moving.from).map(|q| q.messages.peek(moving.wanted as usize));
            let ids = ids.unwrap_or_default();
            let n = ids.len() as u64;
            let fits = n > 0 && self.check_move((&moving.from, &moving.to), QueueKind::Messages, n).is_ok();
            if n > 0 && !fits {
                self.unwant(&moving);
                self.move_answered(now, ticket, &moving, step);
                continue;
            }
            self.move_waiting(now, (&moving.from, &moving.to), &ids, step);
            (moving.moved, moving.wanted) = (moving.moved + n, moving.wanted - n);
            if let Some(q) = self.queues.get_mut(&moving.from) {
                q.wanted = q.wanted.saturating_sub(n);
            }
            if moving.wanted == 0 {
                self.move_answered(now, ticket, &moving, step);
            } else {
                self.moving.insert(ticket, moving);
            }
            if n > 0 {
                // Whoever waits there.
                self.serve_waiters(now, step);
            }
        }
    }

    /// Queues want of their brokers what moves want of them.
    pub(super) fn check_moving(&self, wrong: &mut Vec<String>) {
        for q in self.queues.iter() {
            let of_it = self.moving.values().filter(|m| m.from == q.row.name);
            let wanted: u64 = of_it.map(|m| m.wanted).sum();
            if wanted != q.wanted {
                wrong.push(format!("queue {} wants {}, moves want {wanted}", q.row.name, q.wanted));
            }
        }
    }

    /// It is time to look whether anything came since.
    pub(super) fn moving_due(&mut self, now: Now, ticket: Ticket, step: &mut Step) {
        let Some(moving) = self.moving.get_mut(&ticket) else { return };
        if moving.moved > moving.seen {
            moving.seen = moving.moved;
            return self.due.after(now, PATIENCE_MS, What::Moving(ticket));
        }
        self.move_over(now, ticket, step);
    }

    /// Nothing more comes, or nobody waits for it: it ends with what was moved. False: there was no such move.
    pub(super) fn move_over(&mut self, now: Now, ticket: Ticket, step: &mut Step) -> bool {
        let Some(moving) = self.moving.remove(&ticket) else { return false };
        self.unwant(&moving);
        if moving.moved == 0 && (moving.wanted > 0 || !moving.counted) {
            let text = format!("the broker of {} gives nothing: nothing was moved", moving.from);
            let problem = Problem::new(Code::BackendUnusable, text)
                .hint(format!("reeve queue show {} says how it stands; then try again", moving.from));
            Self::reply(step, ticket, Err(problem));
            return true;
        }
        self.move_answered(now, ticket, &moving, step);
        true
    }

    fn move_answered(&mut self, now: Now, ticket: Ticket, moving: &Moving, step: &mut Step) {
        let left = self.queues.get(&moving.from).map_or(0, |q| q.depth + q.messages.waiting());
        if moving.moved > 0 {
            let what = format!("moved to {}", moving.to);
            let actor = moving.caller.actor();
            self.events.note_many(now.wall, ("queue", &moving.from, &what), moving.moved, &actor);
        }
        Self::reply(step, ticket, Ok(Reply::Returned(moving.moved, left)));
    }

    fn want(&mut self, queue: &str, n: u64) {
        if let Some(q) = self.queues.get_mut(queue) {
            q.wanted += n;
        }
    }

    fn unwant(&mut self, moving: &Moving) {
        if let Some(q) = self.queues.get_mut(&moving.from) {
            q.wanted = q.wanted.saturating_sub(moving.wanted);
        }
    }
}
