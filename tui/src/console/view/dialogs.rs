//! The boxes between a key and a change: what is chosen, what will change, what will not, and how to say yes.
use super::super::format::{jobs, text};
use super::super::layout::centred;
use super::super::model::{Asked, Confirm, Dialog, Model, Preview, confirm_for};
use super::super::msg::WorkerAct;
use super::super::theme::Role;
use super::paint::{Painter, padded, wrapped};
use ratatui::layout::{Position, Rect};
use reeve_protocol::api::{Plan, PlanResult};
use reeve_protocol::error::Outcome;
use reeve_protocol::units::show_count;
use reeve_protocol::{Problem, State};
use std::collections::BTreeMap;

/// A line of a box: a head and what it says, or a whole line.
struct Line {
    head: &'static str,
    text: String,
    role: Role,
}

fn fact(head: &'static str, text: impl Into<String>, role: Role) -> Line {
    Line { head, text: text.into(), role }
}

/// Dropped first when the box has to be small.
fn blank() -> Line {
    fact("", "", Role::Plain)
}

/// Widest box.
const WIDEST: u16 = 76;
/// Columns of the heads.
const HEAD: usize = 12;

/// Every state of a change has a box, so that the user is never left without an answer.
pub(super) fn draw(model: &Model, open: &Dialog, p: &mut Painter<'_>, screen: Rect) -> Option<Position> {
    let (title, lines, foot) = match open {
        Dialog::Planning { asked, .. } => {
            let lines = vec![fact("selection", &asked.selection, Role::Plain), blank()];
            (title(&asked.request.action, "counting what would change..."), lines, Foot::Hint("esc close"))
        }
        Dialog::Preview(preview) => {
            let title = title(&preview.asked.request.action, "what will change");
            (title, preview_lines(&preview.asked, &preview.plan), confirm_foot(preview))
        }
        Dialog::Running { asked, plan, .. } => {
            let lines = vec![
                fact("selection", &asked.selection, Role::Plain),
                fact("changing", jobs(plan.will_change), Role::Busy),
                blank(),
            ];
            (title(&asked.request.action, "running"), lines, Foot::Hint("esc closes this box, it goes on"))
        }
        Dialog::Done { asked, result } => {
            (title(&asked.request.action, "done"), done_lines(asked, result), Foot::Hint("Enter close"))
        }
        Dialog::Queue { name, pause, yes, .. } => {
            (queue_title(name, *pause), queue_lines(name, *pause), Foot::Choice { yes: *yes })
        }
        Dialog::QueueRunning { name, pause, .. } => (
            queue_title(name, *pause),
            vec![fact("", "asking the coordinator...", Role::Busy)],
            Foot::Hint("esc close"),
        ),
        Dialog::Worker { name, act, yes, .. } => {
            (worker_title(name, *act), worker_lines(name, *act), Foot::Choice { yes: *yes })
        }
        Dialog::WorkerRunning { name, act, .. } => (
            worker_title(name, *act),
            vec![fact("", "asking the coordinator...", Role::Busy)],
            Foot::Hint("esc close"),
        ),
        Dialog::Failed { what, problem } => {
            let word = if problem.outcome == Outcome::Unknown { "No answer" } else { "Refused" };
            (format!("{word}: {what}"), problem_lines(problem), Foot::Hint("Enter close"))
        }
    };
    paint(p, screen, &title, &lines, &foot).filter(|_| model.is_live())
}

/// `Cancel jobs: what will change`.
fn title(action: &str, what: &str) -> String {
    let mut letters = action.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase()).into_iter();
    text(&format!("{} jobs: {what}", first.chain(letters).collect::<String>()))
}

fn worker_title(name: &str, act: WorkerAct) -> String {
    let word = match act {
        WorkerAct::Launch => "Launch",
        WorkerAct::Scale(_) => "Scale",
        WorkerAct::Drain => "Drain",
        WorkerAct::Stop => "Stop",
    };
    format!("{word} worker {}", text(name))
}

fn worker_lines(name: &str, act: WorkerAct) -> Vec<Line> {
    let (what, words) = match act {
        WorkerAct::Launch => (
            "its newest version runs; an older one is replaced, new replicas ready first".to_owned(),
            "launch",
        ),
        WorkerAct::Scale(n) => (format!("it shall have {n} replicas; those that go answer first"), "scale"),
        WorkerAct::Drain => ("no replicas, once they have answered; jobs wait".to_owned(), "drain"),
        WorkerAct::Stop => {
            ("no replicas, now; what they work on is tried again later, calls fail".to_owned(), "stop")
        }
    };
    let count = if let WorkerAct::Scale(n) = act { format!(" {n}") } else { String::new() };
    let command = format!("reeve worker {words} {}{count}", text(name));
    vec![fact("", what, Role::Plain), blank(), fact("as a command", command, Role::Dim)]
}

fn queue_title(name: &str, pause: bool) -> String {
    format!("{} queue {}", if pause { "Pause" } else { "Resume" }, text(name))
}

/// `queued 4   no permission 3`.
fn counted(counts: &BTreeMap<String, u64>) -> String {
    let words: Vec<String> =
        counts.iter().map(|(why, n)| format!("{} {}", show_count(*n), text(why))).collect();
    words.join("   ")
}

/// In the order of the questions: what did I choose, how much changes, what does not and why, what is lost, is it what I
/// meant, how do I say it without the console.
fn preview_lines(asked: &Asked, plan: &Plan) -> Vec<Line> {
    let verb = |running: bool| match (plan.action.as_str(), running) {
        ("cancel", true) => "stopped",
        ("cancel", false) => "cancelled before they start",
        (_, true) => "running",
        (_, false) => "not running",
    };
    let idle = plan.will_change.saturating_sub(plan.running);
    let mut lines = vec![
        fact("selection", &asked.selection, Role::Plain),
        fact(
            "",
            format!("{}, fixed at event {} (later ones stay out)", jobs(plan.matched), show_count(plan.seq)),
            Role::Dim,
        ),
        blank(),
        fact("will change", show_count(plan.will_change), Role::Head),
    ];
    if plan.running > 0 {
        let split = format!(
            "{} running: {}   {} {}",
            show_count(plan.running),
            verb(true),
            show_count(idle),
            verb(false)
        );
        lines.push(fact("", split, Role::Warn));
    }
    if !plan.no_change.is_empty() {
        lines.push(fact("no change", counted(&plan.no_change), Role::Plain));
    }
    if !plan.refused.is_empty() {
        lines.push(fact("not allowed", counted(&plan.refused), Role::Warn));
    }
    if plan.action == "cancel" && plan.running > 0 {
        let text = "their process trees get SIGTERM, and SIGKILL after the grace time";
        lines.push(fact("effects", text, Role::Warn));
    }
    lines.push(blank());
    for (at, sample) in plan.sample.iter().take(5).enumerate() {
        let state = sample.state;
        let text = format!("{:<8} {:<9} {}", sample.id, state.as_str().to_lowercase(), text(&sample.name));
        let role = if state == State::Running { Role::Busy } else { Role::Plain };
        lines.push(fact(if at == 0 { "sample" } else { "" }, text, role));
    }
    lines.push(blank());
    lines.push(fact("same as", &asked.command, Role::Dim));
    lines
}

/// Jobs that had moved on since the preview are skipped, never forced; the reasons say so.
fn done_lines(asked: &Asked, result: &PlanResult) -> Vec<Line> {
    let role = if result.skipped > 0 { Role::Warn } else { Role::Plain };
    let mut lines = vec![
        fact("selection", &asked.selection, Role::Plain),
        blank(),
        fact("changed", show_count(result.changed), Role::Good),
        fact("skipped", show_count(result.skipped), role),
    ];
    if !result.reasons.is_empty() {
        lines.push(fact("because", counted(&result.reasons), Role::Plain));
    }
    lines.push(blank());
    lines
}

fn queue_lines(name: &str, pause: bool) -> Vec<Line> {
    let effect = if pause {
        "Nothing is handed out from it until it is resumed. Running jobs go on."
    } else {
        "Its jobs are handed out again."
    };
    let verb = if pause { "pause" } else { "resume" };
    vec![
        fact("effect", effect, Role::Plain),
        blank(),
        fact("same as", format!("reeve queue {verb} {}", text(name)), Role::Dim),
    ]
}

/// What failed, what to do next, and whether it can have happened all the same.
fn problem_lines(problem: &Problem) -> Vec<Line> {
    let mut lines = vec![fact("why", text(&problem.detail), Role::Bad)];
    if !problem.hint.is_empty() {
        lines.push(fact("next", text(&problem.hint), Role::Plain));
    }
    if problem.outcome == Outcome::Unknown {
        lines.push(fact(
            "outcome",
            "unknown: it may have happened all the same, so look before trying again",
            Role::Warn,
        ));
    }
    lines.push(fact("code", text(&problem.code), Role::Dim));
    lines.push(blank());
    lines
}

/// How the box ends.
enum Foot {
    Hint(&'static str),
    Choice { yes: bool },
    Letter(String),
    Count { typed: String, wrong: bool },
}

/// The more changes, the more has to be done to say yes.
fn confirm_foot(preview: &Preview) -> Foot {
    let count = preview.plan.will_change;
    if count == 0 {
        return Foot::Hint("Nothing would change.   Enter close");
    }
    match confirm_for(count) {
        Confirm::Choose => Foot::Choice { yes: preview.yes },
        Confirm::Letter => Foot::Letter(format!("y changes {}", jobs(count))),
        Confirm::Count => Foot::Count { typed: preview.typed.text(), wrong: preview.wrong },
    }
}

/// The foot always fits: when the screen is small, lines above it go first.
fn paint(p: &mut Painter<'_>, screen: Rect, title: &str, lines: &[Line], foot: &Foot) -> Option<Position> {
    let width = WIDEST.min(screen.width);
    let room = usize::from(width).saturating_sub(HEAD + 4).max(8);
    let mut rows: Vec<(&str, String, Role)> = Vec::new();
    for line in lines {
        for (at, part) in wrapped(&line.text, room).into_iter().enumerate() {
            rows.push((if at == 0 { line.head } else { "" }, part, line.role));
        }
    }
    let most = usize::from(screen.height.saturating_sub(4));
    if rows.len() > most {
        rows.retain(|(head, text, _)| !(head.is_empty() && text.is_empty()));
    }
    rows.truncate(most);
    let area = centred(screen, width, rows.len() as u16 + 4);
    let inner = padded(p.popup(area, title));
    for (at, (head, text, role)) in rows.iter().enumerate() {
        p.line(inner, at as u16, &[(&format!("{head:<HEAD$}"), Role::Dim), (text, *role)]);
    }
    let last = inner.height.saturating_sub(1);
    match foot {
        Foot::Hint(text) => p.line(inner, last, &[(text, Role::Key)]),
        Foot::Choice { yes } => {
            // The brackets say which one has the focus even where nothing can be reversed.
            let (y, n) = if *yes { ("[ yes ]", "  no  ") } else { ("  yes  ", "[ no ]") };
            let role = |focus: bool| if focus { Role::Selected } else { Role::Plain };
            p.line(
                inner,
                last,
                &[
                    (y, role(*yes)),
                    ("   ", Role::Plain),
                    (n, role(!*yes)),
                    ("     y", Role::Key),
                    (" yes   ", Role::Dim),
                    ("tab", Role::Key),
                    (" switch   ", Role::Dim),
                    ("esc", Role::Key),
                    (" no", Role::Dim),
                ],
            );
        }
        Foot::Letter(text) => {
            p.line(inner, last, &[(text, Role::Key), ("     any of  n esc q  closes this box", Role::Dim)]);
        }
        Foot::Count { typed, wrong } => {
            let ask = if inner.width >= 70 {
                "type the number of jobs that will change: "
            } else {
                "type the count: "
            };
            let end = p.at(inner, last, 0, &[(ask, Role::Plain), ("[ ", Role::Dim), (typed, Role::Head)]);
            let after = if *wrong { "_ ]  not that number" } else { "_ ]  Enter" };
            p.at(inner, last, end, &[(after, if *wrong { Role::Bad } else { Role::Dim })]);
            return Some(Position::new((inner.x + end).min(inner.right().saturating_sub(1)), inner.y + last));
        }
    }
    None
}
