//! Screens, lists and details: where the user is.
use super::super::keymap::Action;
use super::super::model::{self, Detail, Model, OverviewRow, Screen, Tab};
use super::super::msg::Stamp;
use super::select;

/// Puts every cursor where it belongs after anything may have changed.
pub(super) fn settle(model: &mut Model) {
    let visible = model.rows_visible();
    let overview: Vec<String> = model::overview(model).iter().map(OverviewRow::key).collect();
    let queues: Vec<String> = model::queues(model).iter().map(|q| q.name.clone()).collect();
    let machines: Vec<String> = model::machines(model).iter().map(|m| m.name.clone()).collect();
    model.overview.settle(&overview, visible);
    model.queue_names.settle(&queues, visible);
    model.machine_names.settle(&machines, visible);
    let workers: Vec<String> = model::workers(model).iter().map(|w| w.name.clone()).collect();
    model.worker_names.settle(&workers, visible);
    if model.screen == Screen::Jobs && model.detail.is_none() {
        model.jobs.settle(visible);
    }
}

/// The names on this screen, as listed.
fn names(model: &Model) -> Vec<String> {
    match model.screen {
        Screen::Overview => model::overview(model).iter().map(OverviewRow::key).collect(),
        Screen::Queues => model::queues(model).iter().map(|q| q.name.clone()).collect(),
        Screen::Machines => model::machines(model).iter().map(|m| m.name.clone()).collect(),
        Screen::Workers => model::workers(model).iter().map(|w| w.name.clone()).collect(),
        Screen::Jobs | Screen::Events | Screen::Operations => Vec::new(),
    }
}

/// Moves in whatever is shown: the log or spec of a detail, the list of jobs, a short list.
pub(super) fn move_cursor(model: &mut Model, action: Action) {
    let page = model.rows_visible() as i64;
    let by = match action {
        Action::Down => 1,
        Action::Up => -1,
        Action::HalfDown => (page / 2).max(1),
        Action::HalfUp => -(page / 2).max(1),
        Action::PageDown => page,
        Action::PageUp => -page,
        Action::Top => i64::MIN,
        _ => i64::MAX,
    };
    let visible = model.rows_visible();
    if let Some(open) = &mut model.detail {
        return scroll_detail(open, by, visible);
    }
    if model.screen == Screen::Jobs {
        let to = model.jobs.position.saturating_add_signed(by);
        return model.jobs.move_to(to, visible);
    }
    let rows = names(model);
    if let Some(list) = model.names_mut() {
        let by = isize::try_from(by).unwrap_or(if by < 0 { isize::MIN } else { isize::MAX });
        list.go(list.index.saturating_add_signed(by), &rows, visible);
    }
}

/// `G` in a log means "the end, whatever comes", so it starts following.
fn scroll_detail(open: &mut Detail, by: i64, visible: usize) {
    match open.tab {
        Tab::Spec => {
            let most = open.spec_lines().len().saturating_sub(visible);
            let by = isize::try_from(by).unwrap_or(if by < 0 { isize::MIN } else { isize::MAX });
            open.spec_top = open.spec_top.saturating_add_signed(by).min(most);
        }
        Tab::Summary | Tab::Log if by == i64::MAX => open.log.set_follow(true, visible),
        Tab::Summary | Tab::Log => open.log.scroll(by, visible),
    }
}

/// Everything that changes which part of the console is shown.
pub(super) fn go(model: &mut Model, action: Action) {
    let visible = model.rows_visible();
    match action {
        Action::Screen(screen) => show(model, screen),
        Action::Open => open(model, Tab::Summary),
        Action::Log if model.detail.is_none() => open(model, Tab::Log),
        Action::Back | Action::Quit => back(model),
        Action::Escape => escape(model),
        _ => {
            let Some(open) = &mut model.detail else { return };
            match action {
                Action::Log => open.tab = Tab::Log,
                Action::NextTab => open.tab = open.tab.step(true),
                Action::PreviousTab => open.tab = open.tab.step(false),
                Action::OlderAttempt => open.choose(true),
                Action::NewerAttempt => open.choose(false),
                Action::Follow => open.log.set_follow(!open.log.follow, visible),
                _ => open.log.wrap = !open.log.wrap,
            }
        }
    }
}

/// A screen as it was left: cursors, filters and marks stay.
fn show(model: &mut Model, screen: Screen) {
    model.detail = None;
    model.screen = screen;
}

/// What Enter means: queues and machines open their jobs, since those are what can be acted on.
fn open(model: &mut Model, tab: Tab) {
    match model.screen {
        Screen::Jobs => open_job(model, tab),
        Screen::Queues => {
            if let Some(name) = model.queue_names.cursor.clone() {
                show_jobs(model, &format!("queue:{}", quoted(&name)));
            }
        }
        Screen::Machines => {
            if let Some(name) = model.machine_names.cursor.clone() {
                show_jobs(model, &format!("machine:{}", quoted(&name)));
            }
        }
        Screen::Overview => open_overview(model),
        Screen::Workers => {
            if let Some(name) = model.worker_names.cursor.clone() {
                show_jobs(model, &format!("worker:{}", quoted(&name)));
            }
        }
        Screen::Events | Screen::Operations => {}
    }
}

/// Goes to the thing behind the line, not to a text about it.
fn open_overview(model: &mut Model) {
    let rows = model::overview(model);
    match rows.get(model.overview.index) {
        Some(OverviewRow::Queue(queue)) => {
            let filter = format!("queue:{}", quoted(&queue.name));
            show_jobs(model, &filter);
        }
        Some(OverviewRow::Alert(alert)) => {
            let subject = alert.subject.clone();
            let machines = model.machines.shown.as_deref().unwrap_or_default();
            if machines.iter().any(|m| m.name == subject) {
                model.machine_names.cursor = Some(subject);
                model.machine_names.filter.clear();
                show(model, Screen::Machines);
            } else if model.stats.shown.as_ref().is_some_and(|s| s.queues.iter().any(|q| q.name == subject)) {
                model.queue_names.cursor = Some(subject);
                model.queue_names.filter.clear();
                show(model, Screen::Queues);
            } else {
                model.say("This is about the coordinator itself: `reeve status` says more.");
            }
        }
        None => {}
    }
}

/// Enter on an array lists its tasks, on anything else opens it; `l` opens the log of both.
fn open_job(model: &mut Model, tab: Tab) {
    let Some(job) = model.jobs.at_cursor() else { return };
    let (id, row, is_array) = (job.id, (job.id, job.index), job.array.is_some());
    if is_array && tab == Tab::Summary {
        model.jobs.scope = Some(id);
        model.jobs.filter.clear();
        new_list(model);
        return;
    }
    let mut detail = Detail::new(row, Some(job.clone()));
    detail.tab = tab;
    model.detail = Some(detail);
}

/// The jobs that match a filter.
pub(super) fn show_jobs(model: &mut Model, filter: &str) {
    show(model, Screen::Jobs);
    model.jobs.scope = None;
    set_filter(model, filter);
}

/// Filters are remembered once each time they change.
pub(super) fn set_filter(model: &mut Model, filter: &str) {
    if !filter.is_empty() && model.jobs.history.last().is_none_or(|last| last != filter) {
        model.jobs.history.push(filter.to_owned());
        let more = model.jobs.history.len().saturating_sub(100);
        model.jobs.history.drain(..more);
    }
    filter.clone_into(&mut model.jobs.filter);
    new_list(model);
}

/// After another filter, order or array.
pub(super) fn new_list(model: &mut Model) {
    if model.jobs.replace_list() {
        model.say("Unmarked: the marks meant all that matched the filter before.");
    }
}

/// Out of a detail, else out of an array.
fn back(model: &mut Model) {
    if model.detail.take().is_none() && model.screen == Screen::Jobs && model.jobs.scope.take().is_some() {
        model.jobs.filter.clear();
        new_list(model);
    }
}

/// One thing at a time: a range, the marks, the filter, then back.
fn escape(model: &mut Model) {
    if model.detail.is_some() {
        return back(model);
    }
    if model.screen != Screen::Jobs {
        if let Some(list) = model.names_mut() {
            list.filter.clear();
        }
        return;
    }
    if select::unmark(model) {
        return;
    }
    if model.jobs.filter.is_empty() {
        back(model);
    } else {
        set_filter(model, "");
    }
}

/// A name as a value of a filter.
fn quoted(name: &str) -> String {
    if name.contains([' ', ',', ':']) { format!("\"{}\"", name.replace('"', "")) } else { name.to_owned() }
}

/// How long ago, in whole seconds.
pub(in super::super) const fn seconds_since(now: Stamp, ms: u64) -> u64 {
    now.ms.saturating_sub(ms) / 1000
}
