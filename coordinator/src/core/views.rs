//! The live picture for people: queues, machines, statistics, and why a job is not running.
use super::Core;
use crate::cluster::machine::{Held, Machine};
use crate::input::{Now, Stored, Target};
use crate::job_manager::{Body, Job, Task};
use crate::orchestrator::queue::{Queue, Rate};
use crate::row::QueueKind;
use reeve_protocol::api::{
    Alert, GpuView, HeldView, MachineView, QueueView, StateCounts, Stats, Why, WhyLine,
};
use reeve_protocol::time::Wall;
use reeve_protocol::{AttemptId, Problem, State, Substate};
use std::collections::BTreeMap;

impl Core {
    /// When the oldest job that waits for a slot was submitted.
    pub(super) fn oldest_waiting(&self, q: &Queue) -> Option<i64> {
        let at_hand = q.oldest().and_then(|id| self.jobs.get(id)).map(|j| j.created_at);
        at_hand.into_iter().chain(q.oldest_parked()).min()
    }

    /// One queue as shown.
    pub(super) fn queue_view(&self, now: Now, name: &str) -> QueueView {
        let Some(q) = self.queues.get(name) else { return QueueView::default() };
        let oldest = match q.row.kind {
            QueueKind::Messages => q.messages.oldest(),
            QueueKind::Jobs | QueueKind::Unset => self.oldest_waiting(q),
        };
        let (ready, delayed, leased, dead) = q.messages.counts();
        let ready = ready + if q.row.kind == QueueKind::Messages { q.depth } else { 0 };
        let link = self.queues.link_of(q);
        let counts = if q.row.kind == QueueKind::Messages {
            StateCounts { queued: ready + delayed, running: leased, failed: dead, ..StateCounts::default() }
        } else {
            q.counts
        };
        let mut waiting: BTreeMap<String, u64> = Substate::ALL
            .iter()
            .filter(|s| q.waiting_in(**s) > 0)
            .map(|s| (s.to_string(), q.waiting_in(*s)))
            .collect();
        if q.row.kind == QueueKind::Messages {
            waiting = [("waiting", ready), ("delayed", delayed)]
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .map(|(k, n)| (k.to_owned(), n))
                .collect();
        }
        QueueView {
            name: name.to_owned(),
            kind: q.row.kind.as_str().to_owned(),
            backend: q.row.backend.as_str().to_owned(),
            degraded: self.degraded(q),
            degraded_since: link.filter(|l| !l.up).and_then(|l| l.since).map(Wall),
            backend_version: link.map(|l| l.version.clone()).filter(|v| !v.is_empty()),
            capabilities: crate::orchestrator::capability::of(&q.row.backend, link),
            moving_from: q.row.moving_from.as_ref().map(ToString::to_string),
            moving_left: q.drain.as_ref().and_then(|d| d.left).map(|(lying, coming)| lying + coming),
            ingress: q.row.ingress.as_ref().map(|(_, user)| format!("as={user}")),
            hints: (!q.away.is_empty()).then(|| q.away.len()),
            paused_by: q.row.paused_by.as_ref().map(|p| p.by.to_string()),
            paused_why: q.row.paused_by.as_ref().and_then(|p| p.why.clone()),
            paused_at: q.row.paused_by.as_ref().map(|p| Wall(p.at)),
            paused: q.row.paused,
            weight: q.row.weight,
            limit: q.row.limit,
            max_len: q.row.max_len,
            counts,
            waiting,
            oldest_age_s: oldest.map(|at| (now.wall - at).max(0) as f64 / 1000.0),
            started_per_s: q.rates.per_second(now.mono, Rate::Started),
            ended_per_s: q.rates.per_second(now.mono, Rate::Ended),
            failed_per_s: q.rates.per_second(now.mono, Rate::Failed),
            wait_p50_s: q.rates.wait_s(0.5),
            wait_p95_s: q.rates.wait_s(0.95),
            owner: q.row.owner.to_string(),
            history: q.rates.history(),
        }
    }

    /// Every queue as shown.
    pub(super) fn queue_views(&mut self, now: Now) -> Vec<QueueView> {
        for q in self.queues.iter_mut() {
            q.rates.advance(now.mono);
        }
        let shown = self.queues.iter().filter(|q| !q.row.name.starts_with('.'));
        let names: Vec<_> = shown.map(|q| q.row.name.clone()).collect();
        names.iter().map(|name| self.queue_view(now, name)).collect()
    }

    /// Every machine as shown.
    pub(super) fn machine_views(&self, now: Now) -> Vec<MachineView> {
        self.cluster.iter().filter(|m| !m.revoked).map(|m| Self::machine_view(now, m)).collect()
    }

    /// Every machine, with what each attempt holds and uses.
    pub(super) fn top(&self, now: Now) -> Vec<MachineView> {
        let shown = self.cluster.iter().filter(|m| !m.revoked);
        shown.map(|m| MachineView { attempts: held_views(m), ..Self::machine_view(now, m) }).collect()
    }

    /// One machine as shown.
    pub(super) fn machine_view(now: Now, m: &Machine) -> MachineView {
        let (total, free) = (m.total(), m.free());
        let running = m.held().values().filter(|h| !h.ahead && !h.exited).count() as u32;
        MachineView {
            id: m.id.to_string(),
            name: m.name.to_string(),
            state: m.state().to_owned(),
            hostname: m.info.hostname.clone(),
            address: m.session.as_ref().map(|s| s.address.clone()),
            agent_version: m.version.clone(),
            os: m.info.os.clone(),
            cpu_milli: total.cpu_milli,
            cpu_milli_used: total.cpu_milli - free.cpu_milli,
            memory_bytes: total.memory_bytes,
            memory_used: total.memory_bytes - free.memory_bytes,
            gpus: m.info.gpus.clone(),
            gpus_used: (total.gpu_milli - free.gpu_milli).div_ceil(1000),
            running,
            labels: m.info.labels.iter().cloned().collect(),
            devices: device_views(m),
            attempts: Vec::new(),
            capabilities: m.info.capabilities.iter().chain(&m.enforced).cloned().collect(),
            cpu_busy: m.sample.as_ref().map(|s| s.cpu),
            memory_busy: m.sample.as_ref().map(|s| s.memory_used),
            load1: m.sample.as_ref().map(|s| s.load1),
            disk: m.sample.as_ref().map(|s| s.disk),
            seen_s: m.heard.map(|at| now.mono.saturating_sub(at) as f64 / 1000.0),
            rtt_ms: m.rtt_us.map(|us| us as f64 / 1000.0),
            joined_at: Some(Wall(m.joined_at)),
            orphans: m.orphans,
            unrecorded: m.exited() as u32,
            refuses: m.refuses.clone(),
            warning: m.clash.as_ref().map(|(at, address)| {
                let at = Wall(*at);
                format!(
                    "another keeper with this identity was refused at {at} (from {address}): is there a copy of this machine?"
                )
            }),
            cordoned: m.cordoned,
            drain_until: m.drain_until.map(Wall),
            certificate_until: Some(m.certificates.good_until()).filter(|at| *at > 0).map(Wall),
            renewal_failed_at: m.certificates.failed.as_ref().map(|f| Wall(f.0)),
            renewal_error: m.certificates.failed.as_ref().map(|f| f.1.clone()),
        }
    }

    /// `get_queue_stats`.
    pub(super) fn stats(&mut self, now: Now) -> Stats {
        let queues = self.queue_views(now);
        let mut stats = Stats {
            cluster: self.identity.name.clone(),
            at: Some(Wall(now.wall)),
            as_of_seq: self.seq(),
            ..Stats::default()
        };
        for q in queues.iter().filter(|q| q.kind != "messages") {
            for state in State::ALL {
                *stats.counts.get_mut(state) += q.counts.get(state);
            }
            for (word, n) in &q.waiting {
                *stats.waiting.entry(word.clone()).or_default() += n;
            }
        }
        for m in self.cluster.iter().filter(|m| !m.revoked) {
            *stats.machines.entry(m.state().to_owned()).or_default() += 1;
            if m.session.is_some() {
                stats.cpu_milli_total += u64::from(m.total().cpu_milli);
                stats.cpu_milli_used += u64::from(m.total().cpu_milli - m.free().cpu_milli);
                stats.memory_total += m.total().memory_bytes;
                stats.memory_used += m.total().memory_bytes - m.free().memory_bytes;
            }
        }
        stats.changes_per_s = self.changes.per_second(now.mono);
        stats.causes = self.causes.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
        stats.stale = self.stale;
        stats.alerts = self.alerts(now, &queues);
        stats.queues = queues;
        stats
    }

    fn alerts(&self, now: Now, queues: &[QueueView]) -> Vec<Alert> {
        let degraded = |q: &QueueView| {
            let text = format!("backend {} is degraded: {}", q.backend, q.degraded.as_ref()?);
            Some(Alert { level: 2, subject: format!("queue {}", q.name), text })
        };
        let mut alerts: Vec<Alert> = queues.iter().filter_map(degraded).collect();
        for m in self.cluster.iter().filter(|m| !m.revoked) {
            let n = m.held().len();
            if m.disconnected {
                alerts.push(Alert {
                    level: 2,
                    subject: m.name.to_string(),
                    text: format!("disconnected, {n} running jobs unconfirmed"),
                });
            }
            if let Some(why) = &m.refuses {
                alerts.push(Alert {
                    level: 1,
                    subject: m.name.to_string(),
                    text: format!("takes no jobs: {why}"),
                });
            }
            if m.is_ahead {
                alerts.push(Alert {
                    level: 2,
                    subject: m.name.to_string(),
                    text: super::sessions::AHEAD.to_owned(),
                });
            }
            if m.orphans > 0 {
                alerts.push(Alert {
                    level: 2,
                    subject: m.name.to_string(),
                    text: format!("holds {} attempts that this coordinator does not know", m.orphans),
                });
            }
            if m.is_cloned(now.wall) {
                alerts.push(Alert {
                    level: 2,
                    subject: m.name.to_string(),
                    text: "another keeper with its identity is refused: is there a copy of it?".to_owned(),
                });
            }
            if let Some((at, why)) = &m.certificates.failed {
                let (since, until) = (Wall(*at), Wall(m.certificates.good_until()));
                alerts.push(Alert {
                    level: 2,
                    subject: m.name.to_string(),
                    text: format!("its certificate ends at {until} and is not renewed since {since}: {why}"),
                });
            }
            if m.sample.as_ref().is_some_and(|s| s.disk > 0.95) {
                alerts.push(Alert {
                    level: 1,
                    subject: m.name.to_string(),
                    text: "disk is more than 95 % full".to_owned(),
                });
            }
        }
        for q in queues.iter().filter(|q| q.paused && q.counts.queued > 0) {
            alerts.push(Alert {
                level: 1,
                subject: format!("queue {}", q.name),
                text: format!("paused with {} waiting", q.counts.queued),
            });
        }
        alerts.extend(self.reply_alerts());
        alerts.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.subject.cmp(&b.subject)));
        alerts
    }

    /// Why it is not running: the job's own reasons first, then a verdict per machine.
    pub(super) fn why(&self, now: Now, target: Target, stored: &Stored) -> Result<Why, Problem> {
        let say = |text: String| WhyLine { machine: None, text };
        let parked = self.parked_job(target.job, stored);
        let Some(job) = self.jobs.get(target.job).or(parked.as_ref()) else {
            if self.queues.find_parked(target.job).is_some() {
                return Err(super::calls_jobs::read_again());
            }
            let row = stored
                .job
                .as_ref()
                .filter(|r| r.id == target.job)
                .ok_or_else(|| Self::unknown_job(target.job))?;
            let cause = row.standing.cause.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
            let reasons = vec![say(format!("it has ended: {}{cause}", row.standing.state))];
            return Ok(Why { id: target.job, state: row.standing.state, substate: None, reasons });
        };
        let one = target.tasks.map(|(a, _)| a);
        let standing = one.and_then(|i| job.task(Some(i))).map_or_else(|| job.standing(), Task::standing);
        let mut reasons = Vec::new();
        match (standing.state, standing.substate) {
            (State::Running, Some(Substate::Unconfirmed)) => {
                let machine = standing.machine.as_deref().unwrap_or("its machine");
                let then = job.lost_after_ms.map_or_else(
                    || "it is never taken for lost".to_owned(),
                    |ms| format!("after {} s of silence it is queued again", ms / 1000),
                );
                reasons
                    .push(say(format!("{machine} is not heard: whether it still runs is not known; {then}")));
            }
            (State::Running, _) => reasons.push(say(format!(
                "it is running on {}",
                standing.machine.as_deref().unwrap_or("a machine")
            ))),
            (_, Some(Substate::Held)) => reasons.push(say("it is held: reeve release lets it go".to_owned())),
            (_, Some(Substate::Delayed | Substate::Retrying)) => {
                let at = standing
                    .run_at
                    .map(|at| format!(" until {} (in {} s)", Wall(at), (at - now.wall).max(0) / 1000))
                    .unwrap_or_default();
                reasons.push(say(format!("it waits for its time{at}")));
            }
            (_, Some(Substate::Assigned)) => {
                reasons.push(say("it has been handed to a machine and starts next there".to_owned()));
            }
            _ => {}
        }
        if standing.state == State::Queued && standing.cause == Some(reeve_protocol::Cause::Lost) {
            reasons.push(say(format!(
                "its last attempt was taken for lost, since {} was not heard; if it comes back before another attempt \
                 starts, it goes on",
                standing.machine.as_deref().unwrap_or("its machine")
            )));
        }
        if standing.state == State::Queued && job.external {
            reasons.push(say("it runs elsewhere: whoever runs it updates its status".to_owned()));
        } else if matches!(standing.substate, Some(Substate::Waiting)) {
            self.why_waiting(job, &mut reasons);
        }
        Ok(Why { id: target.job, state: standing.state, substate: standing.substate, reasons })
    }

    fn why_waiting(&self, job: &Job, reasons: &mut Vec<WhyLine>) {
        let say = |text: String| WhyLine { machine: None, text };
        if let Some(q) = self.queues.get(&job.queue) {
            if q.row.paused {
                reasons.push(say(format!("queue {} is paused: reeve queue resume {0}", job.queue)));
            }
            if q.row.limit > 0 && q.out >= u64::from(q.row.limit) {
                reasons.push(say(format!("queue {} runs its limit of {} at once", job.queue, q.row.limit)));
            }
        }
        if let Body::Array(array) = &job.body
            && array.limit.is_some_and(|l| array.out >= l)
        {
            reasons.push(say(format!("the array runs its limit of {} at once", array.out)));
        }
        if self.cluster.iter().all(|m| m.revoked) {
            reasons.push(say("no machine has joined yet: reeve machine token".to_owned()));
        }
        if let Some(worker) = &self.cluster.shapes.get(job.shape).worker {
            return reasons.push(say(self.why_not_asked(worker)));
        }
        match self.cluster.choose(job.shape) {
            Ok(_) => reasons.push(say("a machine has room: it goes as soon as its turn comes".to_owned())),
            Err(verdicts) => {
                if !verdicts.is_empty() && verdicts.iter().all(|v| !v.ever) {
                    reasons.push(say("no machine can ever run it: none has what it asks for".to_owned()));
                }
                reasons.extend(
                    verdicts
                        .into_iter()
                        .map(|v| WhyLine { machine: Some(v.machine.to_string()), text: v.reason }),
                );
            }
        }
    }
}

/// The gpus of a machine, with who holds them.
fn device_views(m: &Machine) -> Vec<GpuView> {
    let holders = |uuid: &String| {
        let held = m.held().iter().filter(|(_, held)| !held.exited && held.gpus.contains(uuid));
        held.map(|(attempt, _)| attempt.task.to_string()).collect()
    };
    let view = |device: &crate::cluster::gpus::Device| {
        let told = device.told.clone().unwrap_or_default();
        GpuView {
            uuid: device.uuid.clone(),
            model: told.model,
            memory_bytes: told.memory_bytes,
            memory_used: told.memory_used,
            busy: told.busy_permille.map(|busy| f64::from(busy) / 1000.0),
            free: f64::from(device.free) / 1000.0,
            quarantine: told.quarantine,
            holders: holders(&device.uuid),
        }
    };
    m.gpus().devices().iter().map(view).collect()
}

/// What the attempts of a machine hold and use.
fn held_views(m: &Machine) -> Vec<HeldView> {
    let view = |(attempt, held): (&AttemptId, &Held)| HeldView {
        job: attempt.task.job,
        index: attempt.task.index,
        attempt: attempt.attempt,
        cpu_milli: held.ask().cpu_milli,
        memory_bytes: held.ask().memory_bytes,
        gpu: held.ask().gpus(),
        gpus: held.gpus.clone(),
        cpu_milli_used: held.activity.cpu_milli,
        rss_bytes: held.activity.usage.as_ref().map(|usage| usage.rss),
        warning: held.activity.warned().map(str::to_owned),
    };
    m.held().iter().filter(|(_, held)| !held.ahead && !held.exited).map(view).collect()
}
