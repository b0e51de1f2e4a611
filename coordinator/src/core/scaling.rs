//! How many replicas a static worker needs whose number follows its load: more when requests wait, fewer after quiet time, none
//! while nobody asks. What is decided here is stored like a number that somebody asked for, and carried out by `replicas`.
use super::Core;
use super::due::What;
use super::serving::Deployment;
use crate::cluster::shape::Shape;
use crate::effect::{Fact, Step};
use crate::input::Now;
use crate::job_manager::Body;
use reeve_protocol::JobId;
use reeve_protocol::api::Range;

/// What is remembered of a worker's load. Times are boot-time milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// When all its replicas were needed last.
    pub(super) needed_at: u64,
    /// When there was a request last.
    pub(super) asked_at: u64,
    /// The oldest tracked request that waited when it was looked, and since when it is the oldest.
    head: Option<(JobId, u64)>,
    /// That requests wait is known: a time to look again is set.
    pub(super) hungry: bool,
    /// When it is looked at again.
    look: Option<u64>,
}

impl Load {
    pub(super) fn new(now: u64) -> Self {
        Self { needed_at: now, asked_at: now, ..Self::default() }
    }
}

/// What a decision depends on.
#[derive(Clone, Copy, Debug)]
struct Seen {
    range: Range,
    /// Replicas that there shall be now.
    want: u32,
    /// Replicas that could work on everything at once.
    needed: u32,
    /// Something waits, and has waited long enough.
    waits: bool,
    starved: bool,
    /// More of them would help: there is a ready one, or at least none that fails.
    works: bool,
    /// The last one was not needed for long enough, and nothing else changes.
    quiet: bool,
    /// Nobody asked for long enough.
    idle: bool,
}

/// How many replicas there shall be.
fn decide(s: Seen) -> u32 {
    let Range { least, most, .. } = s.range;
    if s.want == 0 {
        let asked = if s.waits { least.max(1) } else { 0 };
        return if s.range.may_unload() { asked } else { least };
    }
    let want = s.want.clamp(least.max(1), most);
    if s.waits && s.starved && s.works && s.needed > want {
        return s.needed.min(most);
    }
    if s.idle {
        return 0;
    }
    if s.quiet && s.needed < want && want > least { want - 1 } else { want }
}

impl Core {
    /// Looks how many replicas a worker needs, if their number follows the load.
    pub(super) fn follow_load(&mut self, now: Now, name: &str, step: &mut Step) {
        let Some(range) = self.deployments.get(name).and_then(|d| d.serving.range()) else { return };
        let (tracked, oldest) = self.tracked_waiting(name, range);
        let Some(d) = self.deployments.get_mut(name) else { return };
        let calls = d.calls.len();
        let ongoing = d.serving.ongoing();
        let waits = tracked + calls;
        let load = waits + d.outstanding() as usize;
        let needed = u32::try_from(load.div_ceil(ongoing)).unwrap_or(u32::MAX);
        if load > 0 {
            d.load.asked_at = now.mono;
        }
        if needed >= d.row.replicas {
            d.load.needed_at = now.mono;
        }
        d.load.hungry = waits > 0;
        d.load.head = oldest.map(|job| match d.load.head {
            Some((known, since)) if known == job => (job, since),
            _ => (job, now.mono),
        });
        let (up, down) = (d.serving.scale_up_wait_ms(), d.serving.scale_down_after_ms());
        let since = d.calls.front().map(|call| call.since).into_iter().chain(d.load.head.map(|(_, at)| at));
        let since = since.min();
        let rolling = d.replicas.values().any(|r| r.draining.is_some() || !d.is_current(r));
        let seen = Seen {
            range,
            want: d.row.replicas,
            needed,
            waits: waits > 0,
            starved: since.is_some_and(|since| now.mono >= since + up),
            works: d.replicas.values().any(super::serving::Replica::is_ready)
                || !d.replicas.values().any(|r| r.reason.is_some()),
            quiet: !rolling && now.mono >= d.load.needed_at + down,
            idle: load == 0 && range.idle_ms.is_some_and(|idle| now.mono >= d.load.asked_at + idle),
        };
        let want = decide(seen);
        if want != d.row.replicas {
            self.set_wanted(now, name, want, step);
        }
        self.look_again(now, name, since.map(|since| since + up), (range, down));
    }

    /// The number of replicas changes because of the load.
    fn set_wanted(&mut self, now: Now, name: &str, want: u32, step: &mut Step) {
        let Some(d) = self.deployments.get_mut(name) else { return };
        let what = match (d.row.replicas, want) {
            (0, _) => "loaded",
            (_, 0) => "unloaded",
            (before, want) if want > before => "scaled_up",
            _ => "scaled_down",
        };
        (d.row.replicas, d.row.changed_at) = (want, now.wall);
        d.load.needed_at = now.mono;
        step.facts.push(Fact::DeploymentPut(Box::new(d.row.clone())));
        self.events.note(now.wall, "worker", name, what, "coordinator");
        self.due.push(now.mono, What::Again);
    }

    /// Sets the time for the next look: when what waits has waited long enough, or the quiet time may be over.
    fn look_again(&mut self, now: Now, name: &str, starved_at: Option<u64>, (range, down): (Range, u64)) {
        let Some(d) = self.deployments.get_mut(name) else { return };
        let want = d.row.replicas;
        let times = [
            starved_at.filter(|_| want < range.most),
            (want > range.least).then(|| d.load.needed_at + down),
            range.idle_ms.filter(|_| want > 0).map(|idle| d.load.asked_at + idle),
        ];
        let next = times.into_iter().flatten().filter(|at| *at > now.mono).min();
        d.load.look = d.load.look.filter(|at| *at > now.mono);
        if let Some(next) = next
            && d.load.look.is_none_or(|at| next < at)
        {
            d.load.look = Some(next);
            self.due.push(next, What::Steer(name.to_owned()));
        }
    }

    /// Tracked requests that wait for a worker, as far as they matter, and the oldest of them.
    fn tracked_waiting(&mut self, name: &str, range: Range) -> (usize, Option<JobId>) {
        let shape = Shape { worker: Some(name.to_owned()), ..Shape::default() };
        let need = self.cluster.shapes.intern(shape);
        let ongoing = self.deployments.get(name).map_or(1, |d| d.serving.ongoing());
        let enough = ongoing.saturating_mul(range.most as usize).saturating_add(1);
        let mut oldest = None;
        let mut n = 0;
        for queue in self.queues.iter().filter(|q| q.may_hand_out()) {
            for job in queue.waiting(need, enough) {
                oldest = Some(oldest.map_or(job, |o: JobId| o.min(job)));
                n += match self.jobs.get(job).map(|j| &j.body) {
                    Some(Body::Array(array)) => array.untouched(array.from, array.to).len().max(1) as usize,
                    _ => 1,
                };
            }
        }
        (n, oldest)
    }

    /// A request waits since no replica of its worker may take it.
    pub(super) fn note_hungry(&mut self, name: &str) {
        if let Some(d) = self.deployments.get_mut(name)
            && d.serving.range().is_some()
            && !std::mem::replace(&mut d.load.hungry, true)
        {
            self.deployments.dirty.insert(name.to_owned());
        }
    }
}

impl Deployment {
    /// It has a request now, and perhaps as many as need all its replicas.
    pub(super) fn note_load(&mut self, now: u64) {
        if self.serving.range().is_none() {
            return;
        }
        self.load.asked_at = now;
        let rest = (self.row.replicas as usize).saturating_sub(1) * self.serving.ongoing();
        if self.outstanding() as usize > rest {
            self.load.needed_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Seen = Seen {
        range: Range { least: 1, most: 4, idle_ms: None },
        want: 2,
        needed: 1,
        waits: false,
        starved: false,
        works: true,
        quiet: false,
        idle: false,
    };

    #[test]
    fn every_rule_has_its_number() {
        let busy = Seen { waits: true, starved: true, needed: 9, ..CALM };
        let lazy = |least| Range { least, most: 4, idle_ms: None };
        let idle = Range { least: 2, most: 4, idle_ms: Some(1) };
        for (seen, want) in [
            (CALM, 2),
            (busy, 4),
            (Seen { needed: 3, ..busy }, 3),
            (Seen { starved: false, ..busy }, 2),
            (Seen { works: false, ..busy }, 2),
            (Seen { needed: 2, ..busy }, 2),
            (Seen { quiet: true, ..CALM }, 1),
            (Seen { quiet: true, needed: 2, ..CALM }, 2),
            (Seen { quiet: true, want: 1, needed: 0, ..CALM }, 1),
            (Seen { quiet: true, want: 1, needed: 0, range: lazy(0), ..CALM }, 0),
            (Seen { want: 0, range: lazy(0), ..CALM }, 0),
            (Seen { want: 0, range: lazy(0), ..busy }, 1),
            (Seen { want: 0, range: lazy(2), ..CALM }, 2),
            (Seen { want: 9, ..CALM }, 4),
            (Seen { idle: true, range: idle, ..CALM }, 0),
            (Seen { want: 0, range: idle, ..CALM }, 0),
            (Seen { want: 0, range: idle, ..busy }, 2),
        ] {
            assert_eq!(decide(seen), want, "{seen:?}");
        }
    }
}
