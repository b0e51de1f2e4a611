//! What the console needs from the coordinator follows from what it shows: worked out anew after every message, and
//! compared with what was asked for. Nothing else starts or stops a subscription.
use super::super::model::{Log, Model, Screen, Wants};
use super::super::msg::{Command, LogWant};
use reeve_protocol::api::ViewRequest;

/// How many failures the overview shows at most.
const FAILURES: u32 = 12;

/// Starts what is needed and was not, stops what was and is not.
pub(super) fn reconcile(model: &mut Model) -> Vec<Command> {
    let wants = needed(model);
    let mut commands = Vec::new();
    if wants.view != model.wants.view {
        model.generations.view += 1;
        commands.push(Command::View { generation: model.generations.view, request: wants.view.clone() });
    }
    if wants.machines != model.wants.machines {
        commands.push(Command::Machines(wants.machines));
    }
    if wants.workers != model.wants.workers {
        commands.push(Command::Workers(wants.workers));
    }
    if wants.job != model.wants.job {
        model.generations.job += 1;
        commands.push(Command::Job { generation: model.generations.job, selector: wants.job.clone() });
    }
    if wants.log != model.wants.log {
        model.generations.log += 1;
        if let Some(open) = &mut model.detail {
            open.log = Log::new(open.log.wrap);
        }
        commands.push(Command::Log { generation: model.generations.log, want: wants.log.clone() });
    }
    model.wants = wants;
    commands
}

/// Asks for everything again.
pub(super) fn renew(model: &mut Model) -> Vec<Command> {
    let mut commands = vec![Command::RetryNow];
    if let Some(request) = model.wants.view.clone() {
        model.generations.view += 1;
        commands.push(Command::View { generation: model.generations.view, request: Some(request) });
    }
    commands
}

/// A screen that is not shown needs nothing: an idle console costs the coordinator one stream of counters.
fn needed(model: &Model) -> Wants {
    if let Some(open) = &model.detail {
        let selector = open.selector();
        let attempt = open.attempt();
        let log = (attempt > 0).then(|| LogWant { selector: selector.clone(), attempt });
        return Wants { job: Some(selector), log, ..Wants::default() };
    }
    let visible = model.rows_visible();
    match model.screen {
        Screen::Overview => Wants { view: Some(failures()), machines: true, ..Wants::default() },
        Screen::Jobs => {
            let had = model.wants.view.as_ref().filter(|v| !is_failures(v));
            Wants { view: Some(model.jobs.view(had, visible)), ..Wants::default() }
        }
        Screen::Machines => Wants { machines: true, ..Wants::default() },
        Screen::Workers => Wants { workers: true, ..Wants::default() },
        Screen::Queues | Screen::Events | Screen::Operations => Wants::default(),
    }
}

/// The view of the overview: the newest failed jobs.
fn failures() -> ViewRequest {
    ViewRequest {
        of: "jobs".into(),
        filter: "state:failed".into(),
        order: "-id".into(),
        offset: 0,
        limit: FAILURES,
        every_ms: 1000,
        id: None,
    }
}

/// Whether a view is that one. A list of jobs is never refreshed so slowly.
pub(super) fn is_failures(request: &ViewRequest) -> bool {
    *request == failures()
}
