//! Any sequence of keys, news and sizes keeps the invariants. This is the proof of "nothing changes without a confirmed
//! plan".
use super::fixtures::{self, event};
use crate::console::keymap::TABLE;
use crate::console::model::{Dialog, Marks, Model, Overlay};
use crate::console::msg::{Command, Kind, Msg, Stamp};
use crate::console::update::update;
use crate::console::view::draw;
use proptest::prelude::*;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use reeve_protocol::api::{PlanResult, RowId, Total, ViewUpdate};
use reeve_protocol::{Code, Problem, State};
use std::collections::BTreeSet;

/// One thing that happens; news are made to fit the model when they are sent.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Wait(u64),
    Resize(u16, u16),
    Paste(String),
    /// A snapshot or diff with so many rows, the first one so far down.
    View {
        snapshot: bool,
        first: u64,
        rows: u64,
        total: u64,
        old: bool,
    },
    Planned {
        count: u64,
        old: bool,
    },
    PlanRefused,
    Ran,
    Down,
    Up,
    Stats {
        queues: usize,
    },
    Machines {
        count: usize,
    },
    Job {
        attempt: u32,
        ended: bool,
    },
    Log,
}

fn any_key() -> impl Strategy<Value = String> {
    let mut keys: Vec<String> = TABLE.iter().flat_map(|b| b.keys.iter().map(|k| (*k).to_owned())).collect();
    // Quitting ends the story.
    keys.retain(|k| !matches!(k.as_str(), "q" | "ctrl-\\"));
    keys.extend(["y", "n", "tab", "left", "0", "1", "8", "x", ":", "delete", "space"].map(str::to_owned));
    // The keys of the bulk flow, often enough for it to be walked through.
    for _ in 0..6 {
        keys.extend(["y", "enter", "X", "R", "*", "space", "3"].map(str::to_owned));
    }
    proptest::sample::select(keys)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_key().prop_map(Step::Key),
        3 => prop_oneof![Just(1u64), Just(299), Just(300), Just(5000)].prop_map(Step::Wait),
        1 => (0u16..140, 0u16..50).prop_map(|(w, h)| Step::Resize(w, h)),
        1 => "[a-zXRy:\n\u{1b}]{0,8}".prop_map(Step::Paste),
        4 => (any::<bool>(), 0u64..50, 0u64..120, 0u64..500, proptest::bool::weighted(0.1))
            .prop_map(|(snapshot, first, rows, total, old)| Step::View { snapshot, first, rows, total, old }),
        3 => (prop_oneof![Just(0u64), Just(1), Just(20), Just(21), Just(188), Just(200), Just(201)],
              proptest::bool::weighted(0.1)).prop_map(|(count, old)| Step::Planned { count, old }),
        1 => Just(Step::PlanRefused),
        1 => Just(Step::Ran),
        1 => Just(Step::Down),
        2 => Just(Step::Up),
        1 => (0usize..6).prop_map(|queues| Step::Stats { queues }),
        1 => (0usize..6).prop_map(|count| Step::Machines { count }),
        1 => (0u32..4, any::<bool>()).prop_map(|(attempt, ended)| Step::Job { attempt, ended }),
        1 => Just(Step::Log),
    ]
}

fn kind(step: &Step, model: &Model, seen: &mut BTreeSet<RowId>) -> Kind {
    match step.clone() {
        Step::Key(name) => Kind::Key(event(&name)),
        Step::Wait(_) => Kind::Tick,
        Step::Resize(w, h) => Kind::Resize(w, h),
        Step::Paste(text) => Kind::Paste(text),
        Step::View { snapshot, first, rows, total, old } => {
            let rows: Vec<_> = (first..(first + rows).min(total)).map(|n| fixtures::job(1000 - n)).collect();
            seen.extend(rows.iter().map(|j| (j.id, j.index)));
            let update = ViewUpdate {
                kind: if snapshot { "snapshot" } else { "diff" }.into(),
                seq: 1,
                total: Total { value: total, exact: true },
                order: Some(rows.iter().map(|j| (j.id, j.index)).collect()),
                rows,
            };
            let generation = model.generations.view.saturating_sub(u64::from(old));
            Kind::View { generation, update: Box::new(update) }
        }
        Step::Planned { count, old } => Kind::Planned {
            ticket: model.ticket.saturating_sub(u64::from(old)),
            result: Ok(Box::new(fixtures::plan(count))),
        },
        Step::PlanRefused => {
            let problem = Problem::new(Code::Overloaded, "later");
            Kind::Planned { ticket: model.ticket, result: Err(Box::new(problem)) }
        }
        Step::Ran => {
            let result = PlanResult { id: 105, changed: 3, skipped: 0, reasons: [].into(), seq: 2 };
            Kind::Ran { ticket: model.ticket, result: Ok(result) }
        }
        Step::Down => Kind::LinkDown { error: "gone".into(), attempt: 1, retry_ms: 500 },
        Step::Up => Kind::LinkUp,
        Step::Stats { queues } => {
            let mut stats = fixtures::stats();
            stats.queues.truncate(queues);
            stats.alerts.truncate(queues);
            Kind::Stats(Box::new(stats))
        }
        Step::Machines { count } => Kind::Machines(fixtures::machines().into_iter().take(count).collect()),
        Step::Job { attempt, ended } => {
            let mut job = fixtures::whole_job();
            job.attempt = attempt;
            if ended {
                job.state = State::Failed;
            }
            Kind::Job { generation: model.generations.job, result: Ok(Box::new(job)) }
        }
        Step::Log => Kind::Log { generation: model.generations.log, lines: fixtures::log() },
    }
}

/// What has to be true before a command that changes the cluster may leave: the box was open, armed, and this key is a
/// yes to it.
fn was_confirmed(before: &Model, at: Stamp, step: &Step, command: &Command) -> bool {
    let (Overlay::Dialog(open), Step::Key(key)) = (&before.overlay, step) else { return false };
    if at.ms < open.armed_at() || !before.is_live() {
        return false;
    }
    match (&**open, command) {
        (Dialog::Preview(preview), Command::RunPlan { id, .. }) => {
            let yes = match preview.plan.will_change {
                0 => false,
                1..=20 => key == "y" || key == "enter" && preview.yes,
                21..=200 => key == "y",
                count => key == "enter" && preview.typed.text().replace(',', "") == count.to_string(),
            };
            yes && *id == preview.plan.id
        }
        (Dialog::Worker { name, act, yes, .. }, Command::SetWorker { name: asked, act: wanted, .. }) => {
            (key == "y" || key == "enter" && *yes) && name == asked && act == wanted
        }
        (Dialog::Queue { name, pause, yes, .. }, Command::SetQueue { name: asked, pause: wanted, .. }) => {
            (key == "y" || key == "enter" && *yes) && name == asked && pause == wanted
        }
        _ => false,
    }
}

fn check(model: &Model, seen: &BTreeSet<RowId>) -> Result<(), TestCaseError> {
    let jobs = &model.jobs;
    if let Some(window) = &jobs.shown {
        prop_assert!(window.order.iter().all(|id| window.rows.contains_key(id)));
        prop_assert!(window.rows.len() == window.order.len());
    }
    if model.detail.is_none() && model.screen == crate::console::model::Screen::Jobs {
        prop_assert!(jobs.position < jobs.total().max(1), "the cursor is outside");
        prop_assert!(jobs.top <= jobs.position, "the cursor is above the screen");
        prop_assert!(
            jobs.position < jobs.top + model.rows_visible() as u64,
            "the cursor is below the screen"
        );
    }
    let marked = match &jobs.marks {
        Marks::Ids(ids) => ids,
        Marks::All { except, filter } => {
            prop_assert_eq!(filter, &jobs.filter, "all means all that match the present filter");
            except
        }
    };
    prop_assert!(marked.is_subset(seen), "a job that was never shown is marked");
    for (list, rows) in [
        (
            &model.queue_names,
            crate::console::model::queues(model).iter().map(|q| q.name.clone()).collect::<Vec<_>>(),
        ),
        (
            &model.machine_names,
            crate::console::model::machines(model).iter().map(|m| m.name.clone()).collect(),
        ),
    ] {
        prop_assert_eq!(
            list.cursor.as_ref(),
            rows.get(list.index),
            "the cursor is on a row that is not there"
        );
    }
    if let Some(view) = &model.wants.view {
        prop_assert!((1..=500).contains(&view.limit));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn nothing_changes_the_cluster_without_a_confirmed_plan(steps in proptest::collection::vec(any_step(), 1..120)) {
        let mut model = fixtures::live();
        let mut seen: BTreeSet<RowId> = (1..=fixtures::TOTAL).map(|id| (id, None)).collect();
        for step in &steps {
            let passed = if let Step::Wait(ms) = step { *ms } else { 1 };
            let at = Stamp { ms: model.now.ms + passed, wall: model.now.wall };
            let before = model.clone();
            let kind = kind(step, &model, &mut seen);
            for command in update(&mut model, Msg { at, kind }) {
                if command.changes_cluster() {
                    prop_assert!(was_confirmed(&before, at, step, &command), "{:?} after {:?}", command, step);
                }
            }
            check(&model, &seen)?;
        }
        let mut buffer = Buffer::empty(Rect::new(0, 0, model.size.0, model.size.1));
        draw(&model, &mut buffer);
    }
}
