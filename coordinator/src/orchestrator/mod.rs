//! Orchestrator: queues. Their order, their bounds, which may hand out next, messages and their leases. Knows jobs by
//! number, needs by number, and no machine.
pub mod capability;
pub mod distant;
pub mod link;
pub mod messages;
pub mod parked;
pub mod queue;

use link::Link;
use parked::Owner;
use queue::{Place, Queue};
use reeve_protocol::JobId;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Every queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orchestrator {
    queues: BTreeMap<Arc<str>, Queue>,
    /// Every broker that a queue is kept at, as last heard.
    pub links: BTreeMap<Arc<str>, Link>,
}

impl Orchestrator {
    /// Takes a queue in.
    pub fn insert(&mut self, queue: Queue) {
        self.queues.insert(queue.row.name.clone(), queue);
    }

    /// A queue.
    pub fn get(&self, name: &str) -> Option<&Queue> {
        self.queues.get(name)
    }

    /// A queue, to change.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Queue> {
        self.queues.get_mut(name)
    }

    /// Every queue, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    /// Every queue, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.queues.values_mut()
    }

    /// Puts a job's place into its queue: at hand, or as a hint at the queue's broker while that one can be relied on.
    pub fn offer(&mut self, name: &str, place: Place) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let trusted =
            queue.row.backend.broker().and_then(|b| self.links.get(b)).is_some_and(Link::is_trusted);
        if queue.away.has(place) || queue.has(place.priority, place.job, place.need) {
            return;
        }
        if trusted && queue.trouble.is_none() { queue.away.offer(place) } else { queue.offer(place) }
    }

    /// Parks a new job, if it is to be parked in that queue: what comes before it is parked, or `window` jobs of its need
    /// are at hand, all before it. At a broker: as many are there that are in memory.
    pub fn park(&mut self, name: &str, place: Place, window: usize, owner: &Owner, created_at: i64) -> bool {
        let Some(queue) = self.queues.get_mut(name) else { return false };
        let trusted =
            queue.row.backend.broker().and_then(|b| self.links.get(b)).is_some_and(Link::is_trusted);
        if trusted && queue.trouble.is_none() {
            let parks = queue.away.whole() >= window;
            if parks {
                queue.away.distant.insert(place, owner, created_at);
            }
            return parks;
        }
        let parks = queue.parks(place, window);
        if parks {
            queue.parked.insert(place, owner, created_at);
        }
        parks
    }

    /// Where a parked job stands, and whose it is.
    pub fn find_parked(&self, job: JobId) -> Option<(Arc<str>, Place, Owner)> {
        let found = |q: &Queue| {
            let found = q.parked.find(job).or_else(|| q.away.distant.find(job));
            found.map(|(place, owner)| (q.row.name.clone(), place, owner))
        };
        self.queues.values().find_map(found)
    }

    /// The broker that a queue is kept at.
    pub fn link_of(&self, queue: &Queue) -> Option<&Link> {
        queue.row.backend.broker().and_then(|name| self.links.get(name))
    }

    /// The job that comes next among all queues, leaving out needs that fit nowhere now: the queue with the least use
    /// per weight first, inside it higher priority, then age.
    pub fn next(&self, blocked: &HashSet<u32>) -> Option<(Arc<str>, Place)> {
        self.queues
            .values()
            .filter(|q| q.may_hand_out())
            .filter_map(|q| q.first(blocked).map(|place| (q, place)))
            .min_by(|(a, _), (b, _)| a.share().total_cmp(&b.share()))
            .map(|(q, place)| (q.row.name.clone(), place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{QueueKind, QueueRow};

    fn queue(name: &str, weight: u32) -> Queue {
        Queue::new(QueueRow {
            weight,
            ..QueueRow::new(name.into(), QueueKind::Jobs, crate::row::Backend::Local, (0, &"a".into()), 0)
        })
    }

    #[test]
    fn the_least_used_queue_per_weight_is_next_and_blocked_needs_are_left_out() {
        let mut all = Orchestrator::default();
        let (mut a, mut b) = (queue("a", 1), queue("b", 2));
        a.offer(Place { priority: 9, job: 1, need: 0 });
        b.offer(Place { priority: 0, job: 2, need: 1 });
        a.used_milli = 1000;
        b.used_milli = 1000;
        all.insert(a);
        all.insert(b);
        assert_eq!(all.next(&HashSet::new()).unwrap().1.job, 2, "1000/2 is less than 1000/1");
        assert_eq!(all.next(&[1].into()).unwrap().1.job, 1);
        assert_eq!(all.next(&[0, 1].into()), None);
        all.get_mut("a").unwrap().row.paused = true;
        assert_eq!(all.next(&[1].into()), None);
    }
}
