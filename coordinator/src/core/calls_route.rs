//! Rules that say which queues a message goes to: the first whose labels the message has decides, and each of its queues
//! gets the message in one commit. A message that no rule takes is refused.
use super::Core;
use crate::effect::{Fact, Reply, Step};
use crate::input::{NewMessage, Now};
use crate::row::{Caller, QueueKind};
use reeve_protocol::api::{Published, Route};
use reeve_protocol::spec_check::check_name;
use reeve_protocol::{Code, Problem};
use std::collections::{BTreeMap, BTreeSet};

/// Rules, and queues of one.
const MOST: (usize, usize) = (1_000, 100);

impl Core {
    /// The rule that decides about these labels.
    pub(super) fn route_of(&self, labels: &BTreeMap<String, String>) -> Option<&Route> {
        self.routes.iter().find(|r| r.labels.iter().all(|(k, v)| labels.get(k) == Some(v)))
    }

    /// Puts these rules in place of those there are.
    pub(super) fn put_routes(
        &mut self,
        now: Now,
        caller: &Caller,
        routes: Vec<Route>,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        if routes.len() > MOST.0 || routes.iter().any(|r| r.queues.len() > MOST.1) {
            let text = format!("there may be {} routes of {} queues each", MOST.0, MOST.1);
            return Err(Problem::new(Code::TooLarge, text));
        }
        let mut names = BTreeSet::new();
        for route in &routes {
            check_name("route", &route.name)?;
            if !names.insert(&route.name) {
                return Err(Problem::new(Code::BadValue, format!("two routes are called {}", route.name)));
            }
            if route.queues.is_empty() {
                return Err(Problem::new(Code::BadValue, format!("route {} leads nowhere", route.name)));
            }
            let distinct: BTreeSet<&String> = route.queues.iter().collect();
            if distinct.len() < route.queues.len() {
                return Err(Problem::new(
                    Code::BadValue,
                    format!("route {} names a queue twice", route.name),
                ));
            }
            for queue in &route.queues {
                check_name("queue", queue)?;
                if let Some(q) = self.queues.get(queue).filter(|q| q.row.kind == QueueKind::Jobs) {
                    return Err(super::calls_cluster::wrong_kind(queue, q.row.kind));
                }
            }
        }
        self.routes.clone_from(&routes);
        step.facts.push(Fact::RoutesPut(routes));
        self.events.note(now.wall, "route", "routes", "set", &caller.actor());
        Ok(Reply::Routes(self.routes.clone()))
    }

    /// `publish` to every queue of the rule that decides: all of them, or none.
    pub(super) fn publish_routed(
        &mut self,
        now: Now,
        caller: &Caller,
        labels: &BTreeMap<String, String>,
        message: NewMessage,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let Some(route) = self.route_of(labels).cloned() else {
            return Err(Problem::new(Code::Unroutable, "no route takes these labels")
                .hint("reeve queue route --explain K=V tells why; reeve queue route set makes one"));
        };
        for queue in &route.queues {
            match self.queues.get(queue).map(|q| q.row.kind) {
                Some(QueueKind::Jobs) => {
                    return Err(super::calls_cluster::wrong_kind(queue, QueueKind::Jobs));
                }
                _ => self.check_room(queue, 1)?,
            }
            if let Some(key) = &message.key
                && let Some(Err(_)) = self.recent.used(caller.uid, queue, key)
            {
                return Err(Problem::new(Code::KeyReused, "the key was used for another message")
                    .hint("use a new key for a new message"));
            }
        }
        let (mut all, mut replayed) = (Vec::<Published>::new(), true);
        for queue in &route.queues {
            let Reply::Published(published, again) =
                self.publish_stored(now, caller, queue, message.clone(), step)?
            else {
                continue;
            };
            replayed &= again;
            all.push(published);
        }
        Ok(Reply::Fanned(all, replayed))
    }
}
