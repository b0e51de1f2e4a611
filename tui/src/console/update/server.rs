//! What the coordinator sends. Answers to what is no longer wanted are dropped.
use super::super::model::{Link, Model};
use super::super::msg::{Command, Kind};
use super::{dialog, overlay};
use reeve_protocol::api::{JobView, ViewUpdate};
use reeve_protocol::{Code, Problem};

/// Takes one piece of news.
pub(super) fn take(model: &mut Model, news: Kind) -> Vec<Command> {
    let frozen = model.frozen.is_some();
    match news {
        Kind::LinkUp => model.link = Link::Live,
        Kind::LinkDown { error, attempt, retry_ms } => down(model, &error, attempt, retry_ms),
        Kind::Who(who) => model.user = super::super::format::text(&who.name),
        Kind::Stats(stats) => {
            model.heard_at = model.now.ms;
            model.stats.set(*stats, frozen);
        }
        Kind::Machines(machines) => model.machines.set(machines, frozen),
        Kind::Workers(workers) => model.workers.set(workers, frozen),
        Kind::WorkerSet { ticket, result } => dialog::worker_set(model, ticket, result),
        Kind::View { generation, update } if generation == model.generations.view => {
            view(model, *update, frozen);
        }
        Kind::ViewRefused { generation, problem } if generation == model.generations.view => {
            model.jobs.problem = Some(problem);
        }
        Kind::Job { generation, result } if generation == model.generations.job => job(model, result),
        Kind::Log { generation, lines } if generation == model.generations.log => {
            if let Some(open) = &mut model.detail {
                for line in &lines {
                    open.log.take(line);
                }
            }
        }
        Kind::LogEnded { generation } if generation == model.generations.log => {
            if let Some(open) = &mut model.detail {
                open.log.end();
            }
        }
        Kind::Why { ticket, result } => overlay::explained(model, ticket, result),
        Kind::Planned { ticket, result } => dialog::planned(model, ticket, result),
        Kind::Ran { ticket, result } => dialog::ran(model, ticket, result),
        Kind::QueueSet { ticket, result } => dialog::queue_set(model, ticket, result),
        // News of an older generation; keys and the like do not come here.
        _ => {}
    }
    Vec::new()
}

/// The moment of the loss stays while tries go on: it is the age of what is shown.
fn down(model: &mut Model, error: &str, attempt: u32, retry_ms: u64) {
    let error = super::super::format::text(error);
    let (now, retry_at) = (model.now.ms, model.now.ms + retry_ms);
    model.link = match model.link {
        Link::Live => Link::Down { since: now, error, attempt, retry_at },
        Link::Down { since, .. } => Link::Down { since, error, attempt, retry_at },
        Link::Connecting { .. } => Link::Connecting { error: Some(error), attempt, retry_at },
    };
}

/// The view belongs to the list of jobs, or to the overview's latest failures.
fn view(model: &mut Model, update: ViewUpdate, frozen: bool) {
    let Some(request) = &model.wants.view else { return };
    if super::wants::is_failures(request) {
        if let Some(order) = update.order {
            let rows = order.iter().filter_map(|id| {
                let known = update.rows.iter().chain(&model.failures);
                known.into_iter().find(|row| (row.id, row.index) == *id).cloned()
            });
            model.failures = rows.collect();
        }
        return;
    }
    let (offset, visible) = (request.offset, usize::from(super::super::layout::list_rows(model)));
    model.jobs.take(offset, update, frozen, visible);
}

/// The open job, or why it cannot be read.
fn job(model: &mut Model, result: Result<Box<JobView>, Box<Problem>>) {
    let Some(open) = &mut model.detail else { return };
    match result {
        Ok(job) => {
            open.problem = None;
            open.job = Some(*job);
        }
        // While the link is down the last picture stays; the tab line says how old it is.
        Err(problem) if problem.is(Code::NoCoordinator) || problem.is(Code::Unavailable) => {}
        Err(problem) => open.problem = Some(problem),
    }
}
