//! The events of a step: one per range of like changes, never one per job of a batch or per task of an array.
use reeve_protocol::api::Event;
use reeve_protocol::intervals::Intervals;
use reeve_protocol::time::Wall;
use reeve_protocol::{Cause, State, Substate, TaskId};
use std::collections::HashMap;

/// What makes two changes alike.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Like {
    job: u64,
    attempt: u32,
    from: Option<State>,
    to: (State, Option<Substate>),
    cause: Option<Cause>,
    actor: String,
}

/// Collects the events of a step and numbers them.
pub(super) struct Events {
    seq: u64,
    list: Vec<Event>,
    /// Open groups of array tasks: where their event stands, and which indices it has.
    groups: HashMap<Like, (usize, Intervals)>,
    /// The last event that names a task: a group before it must not take the task again, or an observer would see its
    /// changes out of order.
    last: HashMap<(u64, u32), usize>,
    /// The last event that names a range of an array's tasks.
    ranges: HashMap<u64, usize>,
    /// The last event is about single jobs: the next number may join it.
    open: bool,
}

/// A change of state.
pub(super) struct Change<'a> {
    pub(super) at: i64,
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) from: Option<State>,
    pub(super) to: (State, Option<Substate>),
    pub(super) cause: Option<&'a Cause>,
    pub(super) actor: &'a str,
}

impl Events {
    pub(super) fn new(seq: u64) -> Self {
        Self {
            seq,
            list: Vec::new(),
            groups: HashMap::new(),
            last: HashMap::new(),
            ranges: HashMap::new(),
            open: false,
        }
    }

    /// The last number, this step's included.
    pub(super) fn seq(&self) -> u64 {
        self.seq + self.list.len() as u64
    }

    /// Notes a change of state; its event's number.
    pub(super) fn change(&mut self, change: Change<'_>) -> u64 {
        match change.task.index {
            None => self.single(change),
            Some(index) => {
                let mut set = Intervals::new();
                set.insert(index);
                self.tasks(change, set)
            }
        }
    }

    fn single(&mut self, c: Change<'_>) -> u64 {
        let event = Self::event(&c);
        if let Some(last) = self.list.last_mut().filter(|_| self.open) {
            let n = last.count.unwrap_or(1);
            let next = last.id.is_some_and(|id| id + n == c.task.job);
            if next
                && (last.attempt, last.from, last.to, last.substate)
                    == (event.attempt, event.from, event.to, event.substate)
                && last.cause == event.cause
                && last.actor == event.actor
            {
                last.count = Some(n + 1);
                return self.seq();
            }
        }
        self.push(event);
        self.open = true;
        self.seq()
    }

    fn push(&mut self, event: Event) {
        self.open = false;
        self.list.push(event);
    }

    /// Notes a change of many tasks of one array.
    pub(super) fn tasks(&mut self, c: Change<'_>, set: Intervals) -> u64 {
        let like = Like {
            job: c.task.job,
            attempt: c.attempt,
            from: c.from,
            to: c.to,
            cause: c.cause.cloned(),
            actor: c.actor.to_owned(),
        };
        let newest = if set.len() == 1 {
            let of_task = set.iter().next().and_then(|i| self.last.get(&(c.task.job, i)));
            of_task.max(self.ranges.get(&c.task.job)).copied()
        } else {
            Some(usize::MAX)
        };
        let open = self.groups.get(&like).map(|(at, _)| *at).filter(|at| newest.is_none_or(|n| n <= *at));
        let at = if let Some(at) = open {
            at
        } else {
            self.push(Self::event(&c));
            let at = self.list.len() - 1;
            // A group that is closed keeps its indices in its event.
            if let Some((old, indices)) = self.groups.insert(like.clone(), (at, Intervals::new())) {
                name_indices(&mut self.list[old], &indices);
            }
            at
        };
        if let Some((_, indices)) = self.groups.get_mut(&like) {
            for (low, high) in set.ranges() {
                indices.insert_range(*low, *high);
            }
        }
        if set.len() == 1 {
            self.last.extend(set.iter().map(|i| ((c.task.job, i), at)));
        } else {
            self.ranges.insert(c.task.job, at);
        }
        self.seq + at as u64 + 1
    }

    /// Notes anything else.
    pub(super) fn note(&mut self, at: i64, kind: &str, subject: &str, what: &str, actor: &str) -> u64 {
        let mut event = blank(at, kind, actor);
        event.subject = Some(subject.to_owned());
        event.what = Some(what.to_owned());
        self.push(event);
        self.seq()
    }

    /// Notes that it happened so many times.
    pub(super) fn note_many(
        &mut self,
        at: i64,
        (kind, subject, what): (&str, &str, &str),
        n: u64,
        actor: &str,
    ) -> u64 {
        let seq = self.note(at, kind, subject, what, actor);
        if let Some(last) = self.list.last_mut().filter(|_| n > 1) {
            last.count = Some(n);
        }
        seq
    }

    /// Notes something about a job that is no change of state.
    pub(super) fn note_job(&mut self, at: i64, job: u64, what: &str, actor: &str) -> u64 {
        let mut event = blank(at, "job", actor);
        event.id = Some(job);
        event.what = Some(what.to_owned());
        self.push(event);
        self.seq()
    }

    /// The step's events, numbered.
    pub(super) fn take(&mut self) -> Vec<Event> {
        for (at, indices) in std::mem::take(&mut self.groups).into_values() {
            name_indices(&mut self.list[at], &indices);
        }
        self.last.clear();
        self.ranges.clear();
        self.open = false;
        let mut list = std::mem::take(&mut self.list);
        for event in &mut list {
            self.seq += 1;
            event.seq = self.seq;
        }
        list
    }

    fn event(c: &Change<'_>) -> Event {
        Event {
            id: Some(c.task.job),
            attempt: (c.attempt > 0).then_some(c.attempt),
            from: c.from,
            to: Some(c.to.0),
            substate: c.to.1,
            cause: c.cause.cloned(),
            ..blank(c.at, "job", c.actor)
        }
    }
}

fn name_indices(event: &mut Event, indices: &Intervals) {
    if let [(low, high)] = indices.ranges()
        && low == high
    {
        event.index = Some(*low);
        return;
    }
    event.indices = Some(indices.to_string());
    event.count = Some(indices.len());
}

fn blank(at: i64, kind: &str, actor: &str) -> Event {
    Event {
        seq: 0,
        at: Wall(at),
        kind: kind.to_owned(),
        id: None,
        index: None,
        indices: None,
        count: None,
        attempt: None,
        from: None,
        to: None,
        substate: None,
        cause: None,
        actor: actor.to_owned(),
        subject: None,
        what: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(task: TaskId, from: State, to: State) -> Change<'static> {
        Change { at: 1, task, attempt: 1, from: Some(from), to: (to, None), cause: None, actor: "agent:m" }
    }

    #[test]
    fn neighbours_and_tasks_of_one_array_share_an_event() {
        let mut events = Events::new(10);
        for id in [5, 6, 7, 9] {
            events.change(change(TaskId::single(id), State::Queued, State::Running));
        }
        for index in [1, 2, 3, 8] {
            events.change(change(TaskId::of_array(20, index), State::Queued, State::Running));
        }
        assert_eq!(events.seq(), 13);
        let list = events.take();
        assert_eq!(
            list.iter().map(|e| (e.seq, e.id, e.count)).collect::<Vec<_>>(),
            [(11, Some(5), Some(3)), (12, Some(9), None), (13, Some(20), Some(4))]
        );
        assert_eq!(list[2].indices.as_deref(), Some("1-3,8"));
    }

    #[test]
    fn a_job_never_joins_the_event_of_the_array_before_it() {
        let mut events = Events::new(0);
        let (from, to) = (State::Running, State::Completed);
        for task in
            [TaskId::of_array(128, 4), TaskId::single(129), TaskId::single(130), TaskId::of_array(128, 5)]
        {
            events.change(change(task, from, to));
        }
        let seen: Vec<_> = events.take().iter().map(|e| (e.id, e.indices.clone(), e.count)).collect();
        assert_eq!(seen, [(Some(128), Some("4-5".to_owned()), Some(2)), (Some(129), None, Some(2))]);
    }

    #[test]
    fn a_task_never_joins_an_event_before_one_that_names_it_in_a_range() {
        let mut events = Events::new(0);
        let gone = |index| change(TaskId::of_array(1, index), State::Queued, State::Cancelled);
        events.change(gone(7));
        events
            .tasks(change(TaskId::single(1), State::Cancelled, State::Queued), [7, 8].into_iter().collect());
        events.change(gone(7));
        let seen: Vec<_> = events.take().iter().map(|e| (e.to, e.index, e.indices.clone())).collect();
        assert_eq!(
            seen,
            [
                (Some(State::Cancelled), Some(7), None),
                (Some(State::Queued), None, Some("7-8".to_owned())),
                (Some(State::Cancelled), Some(7), None)
            ]
        );
    }

    #[test]
    fn a_job_never_joins_the_event_of_an_array_that_has_the_number_before() {
        let mut events = Events::new(0);
        events.change(change(TaskId::of_array(3, 1), State::Queued, State::Running));
        events.change(change(TaskId::single(4), State::Queued, State::Running));
        events.note_job(1, 5, "progress", "agent:m");
        events.change(change(TaskId::single(6), State::Queued, State::Running));
        let seen: Vec<_> = events.take().iter().map(|e| (e.id, e.index, e.count)).collect();
        assert_eq!(
            seen,
            [(Some(3), Some(1), None), (Some(4), None, None), (Some(5), None, None), (Some(6), None, None)]
        );
    }

    #[test]
    fn no_task_is_seen_going_backwards() {
        let mut events = Events::new(0);
        let task = TaskId::of_array(1, 1);
        events.change(change(task, State::Queued, State::Running));
        events.change(change(task, State::Running, State::Completed));
        events.change(change(TaskId::of_array(1, 2), State::Queued, State::Running));
        events.change(change(task, State::Queued, State::Running));
        let seen: Vec<_> = events.take().iter().map(|e| (e.to, e.index, e.indices.clone())).collect();
        assert_eq!(
            seen,
            [
                (Some(State::Running), None, Some("1-2".to_owned())),
                (Some(State::Completed), Some(1), None),
                (Some(State::Running), Some(1), None)
            ]
        );
    }
}
