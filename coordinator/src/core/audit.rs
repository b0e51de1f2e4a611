//! The audit: who asked for what, and what was decided. One line for each call that can change something, made in the
//! step that answers it, so that it is on disk before the caller hears. Nothing but [`subject`] has to know a new call,
//! and without an arm there it does not compile.
use crate::effect::{Effect, Reply, Step};
use crate::input::{Call, Now, Scale, Settle, Target, Ticket};
use crate::row::{AuditRow, Caller, Via};
use reeve_protocol::JobId;
use std::collections::HashMap;

/// Refusals written per minute. A caller that is refused in a loop must not fill the disk; the rest is counted.
const REFUSALS: u32 = 60;
const MINUTE_MS: u64 = 60_000;

/// A call that has not been answered.
#[derive(Clone, Debug)]
struct Open {
    caller: Caller,
    call: &'static str,
    object: String,
}

/// Calls in flight, and how many refusals were written lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    open: HashMap<Ticket, Open>,
    since: u64,
    written: u32,
    unwritten: u32,
    /// Lines made outside of an answer in this step.
    extra: Vec<AuditRow>,
}

impl Audit {
    /// A call comes in.
    pub(super) fn enter(&mut self, ticket: Ticket, caller: &Caller, call: &Call) {
        if let Some((call, object)) = subject(call) {
            self.open.insert(ticket, Open { caller: caller.clone(), call, object });
        }
    }

    /// Its caller went away before it was answered: nothing was given to it.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
    }

    /// A machine changed something about itself.
    pub(super) fn note(&mut self, now: Now, caller: &Caller, call: &'static str, object: String) {
        let open = Open { caller: caller.clone(), call, object };
        self.extra.push(row(now, open, None, 0));
    }

    /// A portion of what other programs published was taken in: jobs of that user, and what was no job.
    pub(super) fn took_in(
        &mut self,
        now: Now,
        user: &Caller,
        (name, broker): (&str, &str),
        jobs: Vec<JobId>,
        refused: usize,
    ) {
        // What came twice changes nothing.
        if jobs.is_empty() && refused == 0 {
            return;
        }
        let done = span(" jobs", jobs.into_iter());
        let object = match refused {
            0 => format!("{}{done} from {broker}", queue(name)),
            n => format!("{}{done} from {broker}, {n} refused", queue(name)),
        };
        self.note(now, user, "ingress", object);
    }

    /// A request of the socket was refused, by whichever part of the coordinator.
    pub(super) fn refused(&mut self, now: Now, caller: Caller, object: String, code: String) {
        if let Some(unwritten) = self.admit(now) {
            self.extra.push(row(now, Open { caller, call: "request", object }, Some(code), unwritten));
        }
    }

    /// Makes the lines of everything that this step answers. `seq` is its last event.
    pub(super) fn close(&mut self, now: Now, seq: u64, step: &mut Step) {
        let mut rows = std::mem::take(&mut self.extra);
        for effect in &step.effects {
            let (ticket, refused) = match effect {
                Effect::Reply(ticket, answer) => (ticket, answer.as_ref().as_ref().err()),
                Effect::ReplyMessages(ticket, _) => (ticket, None),
                Effect::Send(..) | Effect::Close(..) | Effect::Broker(..) | Effect::Load(..) => continue,
            };
            let Some(mut open) = self.open.remove(ticket) else { continue };
            match (effect, refused) {
                // Whatever was refused to a caller of the socket is told by the API, which refuses much by itself.
                (_, Some(_)) if open.caller.via == Via::Socket => {}
                (_, Some(problem)) => {
                    if let Some(unwritten) = self.admit(now) {
                        rows.push(row(now, open, Some(problem.code.clone()), unwritten));
                    }
                }
                (Effect::Reply(_, answer), None) => {
                    if let Some(object) =
                        answer.as_ref().as_ref().ok().and_then(|reply| outcome(&open.object, reply))
                    {
                        rows.push(row(now, Open { object, ..open }, None, 0));
                    }
                }
                (Effect::ReplyMessages(_, leased), None) if !leased.is_empty() => {
                    open.object.push_str(&span(" messages", leased.iter().map(|l| l.id)));
                    rows.push(row(now, open, None, 0));
                }
                _ => {}
            }
        }
        for row in &mut rows {
            row.seq = seq;
        }
        step.audit = rows;
    }

    /// Whether one more refusal may be written now, and how many before it were not.
    fn admit(&mut self, now: Now) -> Option<u32> {
        if now.mono.saturating_sub(self.since) >= MINUTE_MS {
            (self.since, self.written) = (now.mono, 0);
        }
        if self.written >= REFUSALS {
            self.unwritten = self.unwritten.saturating_add(1);
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

fn row(now: Now, open: Open, refused: Option<String>, unwritten: u32) -> AuditRow {
    let Open { caller, call, object } = open;
    let of_socket = caller.via == Via::Socket;
    AuditRow {
        at: now.wall,
        uid: of_socket.then_some(caller.uid),
        name: caller.name,
        via: caller.via,
        call,
        object,
        request: caller.request,
        refused,
        unwritten,
        seq: 0,
    }
}

/// A call that can change something, by its name, and what it is about; `None` for reads.
#[expect(clippy::too_many_lines, reason = "one arm per call: a table, which nothing is gained by cutting")]
fn subject(call: &Call) -> Option<(&'static str, String)> {
    Some(match call {
        Call::Submit { spec, .. } => ("submit", queue(spec.queue_name())),
        Call::SubmitMany { specs, .. } => ("submit", format!("{} jobs", specs.len())),
        Call::RegisterWorker { name, .. } => ("register_worker", format!("worker:{name}")),
        Call::LaunchWorker { name, .. } => ("launch_worker", format!("worker:{name}")),
        Call::ScaleWorker { name, how } => (
            match how {
                Scale::To(_) | Scale::Between(..) => "scale_worker",
                Scale::Drain => "drain_worker",
                Scale::Stop => "stop_worker",
            },
            format!("worker:{name}"),
        ),
        Call::RemoveWorker { name, .. } => ("remove_worker", format!("worker:{name}")),
        Call::CancelJob { target, .. } => ("cancel_job", job(*target)),
        Call::RegisterJob { id, cluster_id, .. } => {
            ("register_job", cluster_id.map_or_else(|| format!("@{id}"), |job| format!("job:{job} @{id}")))
        }
        Call::UpdateJobStatus { target, .. } => ("update_job_status", job(*target)),
        Call::RestartJob { target, .. } => ("restart_job", job(*target)),
        Call::HoldJob { target, hold, .. } => (if *hold { "hold" } else { "release" }, job(*target)),
        Call::Publish { queue: name, .. } | Call::PublishMany { queue: name, .. } => {
            ("publish", queue(name))
        }
        Call::ReceiveMessage { queue: name, .. } => ("receive_message", queue(name)),
        Call::Settle { queue: name, how, .. } => (
            match how {
                Settle::Ack => "ack",
                Settle::Nack => "nack",
                Settle::Extend => "extend",
            },
            queue(name),
        ),
        Call::CleanQueue { queue: name, dry_run: false, .. } => ("clean_queue", queue(name)),
        Call::MigrateQueue { queue: name, to } => {
            ("migrate_queue", format!("{} to {}", queue(name), short(to)))
        }
        Call::MoveQueue { from, to, dry_run: false, .. } => {
            ("move_queue", format!("{} to {}", queue(from), short(to)))
        }
        Call::ReturnDead { queue: name, dry_run: false, .. } => ("return_dead", queue(name)),
        Call::PutRoutes { routes } => ("put_routes", format!("{} routes", routes.len())),
        Call::PublishRouted { .. } => ("publish", "by labels".to_owned()),
        Call::SetQueue { queue: name, .. } => ("set_queue", queue(name)),
        Call::PauseQueue { queue: name, paused, .. } => {
            (if *paused { "pause_queue" } else { "resume_queue" }, queue(name))
        }
        Call::PutPlan { plan, .. } => ("plan", format!("{} of {} jobs", plan.action, plan.matched)),
        Call::BulkAction { plan, action, jobs } => (
            "bulk_action",
            format!("plan:{plan} {action}{}", span(" jobs", jobs.iter().map(|(target, _)| target.job))),
        ),
        Call::PutToken { id, .. } => ("machine_token", format!("token:{id}")),
        Call::Join { token_id, name, .. } => ("join", format!("token:{} {name}", short(token_id))),
        Call::RenewCertificate { machine, .. } => ("renew_certificate", format!("machine:{machine}")),
        Call::CordonMachine { machine, cordon } => {
            (if *cordon { "cordon_machine" } else { "uncordon_machine" }, format!("machine:{machine}"))
        }
        Call::DrainMachine { machine, .. } => ("drain_machine", format!("machine:{machine}")),
        Call::RemoveMachine { machine, .. } => ("remove_machine", format!("machine:{machine}")),
        // The end of a plan is our own note: its portions are the changes.
        Call::PlanDone { .. }
        | Call::CleanQueue { dry_run: true, .. }
        | Call::ReturnDead { dry_run: true, .. }
        | Call::MoveQueue { dry_run: true, .. }
        | Call::ListRoutes
        | Call::ExplainRoute { .. }
        | Call::CountQueueMessages { .. }
        | Call::Peek { .. }
        | Call::GetQueueStats
        | Call::ListQueues
        | Call::ListMachines
        | Call::ListWorkers
        // Not stored, as the contract says: a line of the audit would cost what a call saves.
        | Call::CallWorker { .. }
        | Call::Top
        | Call::Why { .. }
        | Call::DryRun { .. }
        | Call::HoldsAttempt { .. }
        | Call::OpenSession { .. } => return None,
    })
}

/// What it was about, with what only the answer says. `None`: nothing was changed.
fn outcome(object: &str, reply: &Reply) -> Option<String> {
    Some(match reply {
        // The key was used before: the change has its line already.
        Reply::Submitted(_, true)
        | Reply::Published(_, true)
        | Reply::Fanned(_, true)
        | Reply::SettledMany(0, _) => {
            return None;
        }
        Reply::ReceivedJobs(jobs) if jobs.is_empty() => return None,
        Reply::ReceivedMessages(messages) if messages.is_empty() => return None,
        Reply::Many(results, _) if results.iter().all(Result::is_err) => return None,
        Reply::PublishedMany(results, _) => {
            let new = results.iter().filter_map(|r| r.as_ref().ok()).filter(|(_, again)| !again);
            let done = span(" messages", new.map(|(id, _)| *id));
            if done.ends_with(":none") {
                return None;
            }
            match results.iter().filter(|r| r.is_err()).count() {
                0 => format!("{object}{done}"),
                failed => format!("{object}{done}, {failed} refused"),
            }
        }
        Reply::SettledMany(n, refused) if refused.is_empty() => format!("{object}, {n} settled"),
        Reply::SettledMany(n, refused) => format!("{object}, {n} settled, {} refused", refused.len()),
        Reply::Submitted(submitted, false) => format!("job:{}", submitted.id),
        Reply::Many(results, _) => {
            let done = span("jobs", results.iter().filter_map(|r| r.as_ref().ok()).copied());
            match results.iter().filter(|r| r.is_err()).count() {
                0 => done,
                failed => format!("{done}, {failed} refused"),
            }
        }
        Reply::Registered(id, _) if !object.starts_with("job:") => format!("job:{id} {object}"),
        Reply::Published(published, false) => format!("{object} message:{}", published.id),
        Reply::ReceivedJobs(jobs) => {
            format!("{object}{}", span(" jobs", jobs.iter().map(|(task, ..)| task.job)))
        }
        Reply::Returned(n, _) if object.contains(" to ") => format!("{object}, {n} moved"),
        Reply::Returned(n, _) => format!("{object}, {n} returned"),
        Reply::Fanned(list, false) => {
            let each: Vec<String> =
                list.iter().map(|p| format!("{} message:{}", queue(&p.queue), p.id)).collect();
            format!("{object}: {}", each.join(", "))
        }
        Reply::Settled(id) => format!("{object} {id}"),
        Reply::Cleaned(cleaned, _) => format!("{object}, {} removed", cleaned.removed),
        Reply::Plan(plan) => format!("plan:{} {object}", plan.id),
        Reply::Removed(id, lost) if *lost > 0 => format!("{object} ({id}), {lost} attempts lost"),
        Reply::Removed(id, _) => format!("{object} ({id})"),
        Reply::Joined(_, machine) => format!("{object} machine:{machine}"),
        _ => object.to_owned(),
    })
}

fn queue(name: &str) -> String {
    format!("queue:{name}")
}

/// What a stranger wrote is not kept at any length.
fn short(word: &str) -> String {
    reeve_protocol::text::Clean::short(word, 32).into_string()
}

fn job(target: Target) -> String {
    match target.tasks {
        None => format!("job:{}", target.job),
        Some((from, to)) if from == to => format!("job:{}.{from}", target.job),
        Some((from, to)) => format!("job:{}.{from}-{to}", target.job),
    }
}

/// `jobs:8-1007 (1000)`: the first and the last number, and how many if some are missing between.
fn span(what: &str, ids: impl Iterator<Item = u64>) -> String {
    let (mut first, mut last, mut n) = (u64::MAX, 0, 0u64);
    for id in ids {
        (first, last, n) = (first.min(id), last.max(id), n + 1);
    }
    match n {
        0 => format!("{what}:none"),
        1 => format!("{what}:{first}"),
        _ if last - first + 1 == n => format!("{what}:{first}-{last}"),
        _ => format!("{what}:{first}-{last} ({n})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_how_many_it_has_only_where_that_is_not_plain() {
        for (ids, wanted) in [
            (vec![], "jobs:none"),
            (vec![7], "jobs:7"),
            (vec![7, 8, 9], "jobs:7-9"),
            (vec![9, 7], "jobs:7-9 (2)"),
        ] {
            assert_eq!(span("jobs", ids.into_iter()), wanted);
        }
    }

    #[test]
    fn refusals_are_bounded_and_what_was_left_out_is_counted() {
        let mut audit = Audit::default();
        let now = |mono| Now { mono, wall: 0 };
        let admitted = (0..1_000).filter(|_| audit.admit(now(100_000)).is_some()).count();
        assert_eq!(admitted, REFUSALS as usize);
        assert_eq!(audit.admit(now(100_000 + MINUTE_MS)), Some(1_000 - REFUSALS));
        assert_eq!(audit.admit(now(100_000 + MINUTE_MS)), Some(0));
    }
}
