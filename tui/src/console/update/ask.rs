//! From a key to a question: what is meant, and whether it can be asked now. Nothing here changes the cluster.
use super::super::format;
use super::super::keymap::Action;
use super::super::model::{Asked, Dialog, Marks, Model, Overlay, Screen, WhyBox, selectors};
use super::super::msg::{Command, WorkerAct};
use super::dialog::ARM_MS;
use reeve_protocol::api::{PlanRequest, RowId};
use reeve_protocol::text::Clean;

/// How many selectors the equivalent command shows before it is cut.
const SHOWN: usize = 12;

/// Asks the coordinator to count what a change of the chosen jobs would do.
pub(super) fn plan(model: &mut Model, action: &str) -> Vec<Command> {
    if !may_change(model) {
        return Vec::new();
    }
    let Some(asked) = chosen(model, action) else {
        model.complain(format!("There is no job here to {action}."));
        return Vec::new();
    };
    let ticket = model.next_ticket();
    let request = asked.request.clone();
    model.overlay = Overlay::Dialog(Box::new(Dialog::Planning { ticket, asked }));
    vec![Command::Plan { ticket, request }]
}

/// Changes are refused, not queued, while what is shown may be old.
pub(super) fn may_change(model: &mut Model) -> bool {
    if model.is_live() {
        return true;
    }
    model.complain("Not connected: changes are refused until the picture is fresh.");
    false
}

/// The job of the detail, else the marks, else the row under the cursor.
fn chosen(model: &Model, action: &str) -> Option<Asked> {
    if let Some(open) = &model.detail {
        return Some(one(action, open.row, open.job.as_ref().map(|j| j.spec.title())));
    }
    if model.screen != Screen::Jobs {
        return None;
    }
    match &model.jobs.marks {
        marks if marks.is_empty() => {
            let job = model.jobs.at_cursor()?;
            Some(one(action, (job.id, job.index), job.name.clone()))
        }
        Marks::Ids(rows) => {
            let ids = selectors(rows);
            Some(Asked {
                selection: format!("{} marked", rows.len()),
                command: command(action, &ids),
                request: PlanRequest { action: action.into(), ids, ..PlanRequest::default() },
            })
        }
        Marks::All { filter, except } => Some(all(action, filter, except)),
    }
}

/// One job or task, named so that the dialog can be checked against what was meant.
fn one(action: &str, row: RowId, name: Option<String>) -> Asked {
    let ids = vec![format::id(row)];
    let name = name.map(|n| format!(" {}", Clean::short(&n, 40))).unwrap_or_default();
    Asked {
        selection: format!("job {}{name}", ids[0]),
        command: command(action, &ids),
        request: PlanRequest { action: action.into(), ids, ..PlanRequest::default() },
    }
}

/// All that match. The filter goes to the coordinator as it is, the exceptions beside it; the command line has only the
/// filter to say both.
fn all(action: &str, filter: &str, except: &std::collections::BTreeSet<RowId>) -> Asked {
    let shown = if filter.is_empty() {
        "every job".into()
    } else {
        format!("all matching  {}", format::text(filter))
    };
    let excluded = if except.is_empty() { String::new() } else { format!(", {} excluded", except.len()) };
    let text = if except.is_empty() {
        filter.to_owned()
    } else {
        format!("{filter} -id:{}", selectors(except).join(",")).trim_start().to_owned()
    };
    Asked {
        selection: format!("{shown}{excluded}"),
        command: format!("reeve bulk {action} -f {}", quote(&text)),
        request: PlanRequest {
            action: action.into(),
            filter: Some(filter.to_owned()),
            except: super::super::model::jobs_of(except),
            ..PlanRequest::default()
        },
    }
}

/// The same change as a command, cut where it would fill the box.
fn command(action: &str, ids: &[String]) -> String {
    let more = if ids.len() > SHOWN { format!("  (and {} more)", ids.len() - SHOWN) } else { String::new() };
    format!("reeve bulk {action} {}{more}", ids.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" "))
}

/// A word for a shell, safe for a terminal.
fn quote(text: &str) -> String {
    let clean = Clean::short(text, 200).into_string();
    shlex::try_quote(&clean).map_or_else(|_| clean.clone(), std::borrow::Cow::into_owned)
}

/// Opens the question whether the queue under the cursor shall be paused, or resumed.
pub(super) fn pause(model: &mut Model) {
    if !may_change(model) {
        return;
    }
    let found = if model.screen == Screen::Overview {
        let rows = super::super::model::overview(model);
        match rows.get(model.overview.index) {
            Some(super::super::model::OverviewRow::Queue(queue)) => Some((queue.name.clone(), queue.paused)),
            _ => None,
        }
    } else {
        model.queue_at_cursor().map(|q| (q.name.clone(), q.paused))
    };
    let Some((name, paused)) = found else { return model.complain("There is no queue here to pause.") };
    let armed_at = model.now.ms + ARM_MS;
    model.overlay = Overlay::Dialog(Box::new(Dialog::Queue { name, pause: !paused, armed_at, yes: false }));
}

/// Opens the question whether the worker under the cursor shall be changed.
pub(super) fn worker(model: &mut Model, action: Action) {
    if !may_change(model) {
        return;
    }
    let name = model.worker_names.cursor.clone();
    let workers = super::super::model::workers(model);
    let found = workers.iter().find(|w| Some(&w.name) == name.as_ref());
    let Some(worker) = found.filter(|w| w.kind == "static") else {
        return model.complain("There is no static worker here: others are born for each job.");
    };
    let desired = worker.status.as_ref().map(|s| s.desired);
    let name = worker.name.clone();
    let act = match (action, desired) {
        (Action::Launch, _) => WorkerAct::Launch,
        (_, None) => return model.complain("It was never launched: L launches it."),
        (Action::More, Some(n)) => WorkerAct::Scale(n.saturating_add(1)),
        (Action::Fewer, Some(n)) => WorkerAct::Scale(n.saturating_sub(1)),
        (Action::Drain, _) => WorkerAct::Drain,
        _ => WorkerAct::Stop,
    };
    let armed_at = model.now.ms + ARM_MS;
    model.overlay = Overlay::Dialog(Box::new(Dialog::Worker { name, act, armed_at, yes: false }));
}

/// Asks why the job under the cursor is where it is.
pub(super) fn why(model: &mut Model) -> Vec<Command> {
    let Some(selector) = job_here(model) else {
        model.complain("There is no job here to explain.");
        return Vec::new();
    };
    let ticket = model.next_ticket();
    model.overlay = Overlay::Why(WhyBox { selector: selector.clone(), ticket, lines: None });
    vec![Command::Why { ticket, selector }]
}

/// What single-job keys are about.
fn job_here(model: &Model) -> Option<String> {
    match &model.detail {
        Some(open) => Some(open.selector()),
        // An array without a started task has no rows; then the array itself is meant.
        None if model.screen == Screen::Jobs => match model.jobs.at_cursor() {
            Some(job) => Some(format::id((job.id, job.index))),
            None => model.jobs.scope.map(|array| array.to_string()),
        },
        None => None,
    }
}

/// Copies the id or name of what is under the cursor.
pub(super) fn copy(model: &mut Model) -> Vec<Command> {
    let name = match model.screen {
        _ if model.detail.is_some() => job_here(model),
        Screen::Jobs => job_here(model),
        _ => model.names().and_then(|list| list.cursor.clone()).map(|n| n.trim_start_matches('!').to_owned()),
    };
    let Some(name) = name else {
        model.complain("There is nothing here to copy.");
        return Vec::new();
    };
    let name = format::text(&name);
    model.say(format!("Copied {name}."));
    vec![Command::Copy(name)]
}
