//! A plan in the making: which jobs are meant, what would become of each, and the fixed set as it is written down.
use crate::api::listing::parse;
use crate::api::reply::Failure;
use crate::input::Target;
use crate::row::Caller;
use crate::store;
use crate::store::filter::Asker;
use crate::store::query::sets::{self, Candidate};
use crate::store::{query, read};
use reeve_protocol::api::{Plan, PlanRequest, PlanSample};
use reeve_protocol::filter::{Filter, Term, Test};
use reeve_protocol::nearest::nearest;
use reeve_protocol::selector::Selector;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, JobId, Problem, Substate};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// Jobs shown with a plan.
const SAMPLE: usize = 5;
/// Selectors in a request.
const IDS: usize = 10_000;

const ACTIONS: [&str; 4] = ["cancel", "restart", "hold", "release"];
const LATER: [&str; 5] = ["priority", "move", "label", "delete", "pin"];

pub(super) fn check_action(action: &str) -> Result<&'static str, Problem> {
    if let Some(known) = ACTIONS.iter().find(|a| **a == action) {
        return Ok(known);
    }
    let word = action.split('=').next().unwrap_or("");
    if LATER.contains(&word) {
        return Err(Problem::new(Code::NotYet, format!("the action {word} is not in this version"))
            .hint(format!("actions: {}", ACTIONS.join(", "))));
    }
    let problem =
        Problem::new(Code::BadValue, format!("there is no action {:?}", Clean::short(word, 40).as_str()));
    Err(match nearest(word, ACTIONS) {
        Some(near) => problem.hint(format!("did you mean {near:?}?")),
        None => problem.hint(format!("actions: {}", ACTIONS.join(", "))),
    })
}

/// Which jobs a request means.
#[derive(Debug)]
pub(super) struct Choice {
    filter: Filter,
    /// Tasks of arrays, named one by one.
    tasks: Vec<(JobId, u32, u32)>,
    jobs: bool,
}

/// A job, or some tasks of one, that was chosen.
pub(super) struct Chosen {
    pub(super) candidate: Candidate,
    tasks: Option<(u32, u32)>,
}

impl Choice {
    pub(super) fn from(request: &PlanRequest) -> Result<Self, Failure> {
        if request.ids.is_empty() && request.filter.is_none() {
            let problem = Problem::new(Code::BadValue, "neither filter nor ids is given");
            return Err(problem
                .hint("an empty filter means every job: say \"filter\": \"\" if that is meant")
                .into());
        }
        if request.ids.len() > IDS {
            return Err(Problem::new(Code::TooLarge, format!("at most {IDS} ids can be named"))
                .hint("use ranges or a filter")
                .into());
        }
        let mut filter = parse(request.filter.as_deref().unwrap_or(""))?;
        let (mut jobs, mut tasks) = (Vec::new(), Vec::new());
        for id in &request.ids {
            match Selector::parse(id)? {
                Selector::Tasks(job, from, to) => tasks.push((job, from, to)),
                other => jobs.push(other),
            }
        }
        let only_tasks = jobs.is_empty() && !tasks.is_empty();
        if !jobs.is_empty() {
            filter.terms.push(Term { not: false, test: Test::Id(jobs) });
        }
        Ok(Self { filter, tasks, jobs: !only_tasks })
    }

    pub(super) fn find(&self, conn: &Connection, asker: Asker) -> Result<Vec<Chosen>, store::Error> {
        let jobs = if self.jobs { sets::candidates(conn, &self.filter, asker)? } else { Vec::new() };
        let mut chosen: Vec<Chosen> =
            jobs.into_iter().map(|candidate| Chosen { candidate, tasks: None }).collect();
        for &(job, from, to) in &self.tasks {
            let Some(row) = read::job_row(conn, job)? else { continue };
            let Some(array) = &row.array else { continue };
            let (from, to) = (from.max(array.from), to.min(array.to));
            let known = read::task_rows(conn, job, Some((from, to)), false)?;
            let mut known = known.into_iter().peekable();
            for index in from..=to {
                let (state, substate) = match known.next_if(|task| task.index == index) {
                    Some(task) => (task.standing.state, task.standing.substate),
                    None => query::undispatched_standing(&row, array, index),
                };
                let title = format!("{}.{index}", row.title);
                let owner_uid = row.owner_uid;
                let candidate =
                    Candidate { id: job, owner_uid, title, state, substate, tasks: None, some_held: false };
                chosen.push(Chosen { candidate, tasks: Some((index, index)) });
            }
        }
        Ok(chosen)
    }
}

/// A plan in the making.
pub(super) struct Draft {
    pub(super) plan: Plan,
    pub(super) ids: Runs,
}

impl Draft {
    pub(super) fn new(action: &str, seq: u64) -> Self {
        let plan = Plan {
            kind: "BulkPlan".to_owned(),
            id: 0,
            action: action.to_owned(),
            seq,
            matched: 0,
            will_change: 0,
            no_change: BTreeMap::new(),
            refused: BTreeMap::new(),
            sample: Vec::new(),
            running: 0,
        };
        Self { plan, ids: Runs::default() }
    }

    pub(super) fn take(&mut self, chosen: &Chosen, caller: &Caller) {
        let job = &chosen.candidate;
        let all = job.tasks.map_or(1, |tasks| tasks.total());
        self.plan.matched += all;
        if job.owner_uid != caller.uid && caller.uid != 0 {
            *self.plan.refused.entry("not yours".to_owned()).or_default() += all;
            return;
        }
        let fate = Fate::of(&self.plan.action, job);
        for (why, count) in fate.no_change {
            *self.plan.no_change.entry(why.to_owned()).or_default() += count;
        }
        if fate.change == 0 {
            return;
        }
        self.plan.will_change += fate.change;
        self.plan.running += fate.running;
        if self.plan.sample.len() < SAMPLE {
            self.plan.sample.push(PlanSample { id: job.id, name: job.title.clone(), state: job.state });
        }
        self.ids.push(job.id, chosen.tasks);
    }
}

/// What an action would do to one job, in tasks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fate {
    change: u64,
    running: u64,
    no_change: Vec<(&'static str, u64)>,
}

impl Fate {
    fn of(action: &str, job: &Candidate) -> Self {
        let counts = job.tasks.unwrap_or_else(|| {
            let mut one = reeve_protocol::api::StateCounts::default();
            *one.get_mut(job.state) = 1;
            one
        });
        let held = job.substate == Some(Substate::Held) || job.some_held;
        let (change, running, rest) = match action {
            "cancel" => (
                counts.queued + counts.running,
                counts.running,
                [("already ended", counts.ended()), ("", 0), ("", 0)],
            ),
            "restart" => (
                counts.failed + counts.cancelled,
                0,
                [("completed", counts.completed), ("not ended", counts.queued + counts.running), ("", 0)],
            ),
            "hold" if held && job.tasks.is_none() => (0, 0, [("already held", 1), ("", 0), ("", 0)]),
            "hold" => {
                (counts.queued, 0, [("running", counts.running), ("already ended", counts.ended()), ("", 0)])
            }
            _ if held => {
                (counts.queued, 0, [("running", counts.running), ("already ended", counts.ended()), ("", 0)])
            }
            _ => (
                0,
                0,
                [("not held", counts.queued), ("running", counts.running), ("already ended", counts.ended())],
            ),
        };
        Self { change, running, no_change: rest.into_iter().filter(|(_, count)| *count > 0).collect() }
    }
}

/// The fixed set as selectors; neighbours are one range, since a million ids would be a large plan.
#[derive(Debug, Default)]
pub(super) struct Runs {
    done: Vec<String>,
    jobs: Option<(JobId, JobId)>,
    tasks: Option<(JobId, u32, u32)>,
}

impl Runs {
    fn push(&mut self, job: JobId, tasks: Option<(u32, u32)>) {
        match (tasks, &mut self.jobs, &mut self.tasks) {
            (None, Some((_, last)), _) if *last + 1 == job => *last = job,
            (Some((from, to)), _, Some((same, _, last)))
                if *same == job && last.checked_add(1) == Some(from) =>
            {
                *last = to;
            }
            (None, ..) => {
                self.close();
                self.jobs = Some((job, job));
            }
            (Some((from, to)), ..) => {
                self.close();
                self.tasks = Some((job, from, to));
            }
        }
    }

    fn close(&mut self) {
        if let Some((from, to)) = self.jobs.take() {
            let selector = if from == to { Selector::Job(from) } else { Selector::Jobs(from, to) };
            self.done.push(selector.to_string());
        }
        if let Some((job, from, to)) = self.tasks.take() {
            self.done.push(Selector::Tasks(job, from, to).to_string());
        }
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        self.close();
        self.done
    }
}

/// The targets that [`Runs`] wrote down.
pub(super) fn targets(ids: &[String]) -> impl Iterator<Item = Target> + '_ {
    ids.iter()
        .filter_map(|id| Selector::parse(id).ok())
        .filter_map(|selector| {
            let (jobs, tasks) = match selector {
                Selector::Job(job) => (job..=job, None),
                Selector::Jobs(from, to) => (from..=to, None),
                Selector::Tasks(job, from, to) => (job..=job, Some((from, to))),
                // Never written down.
                Selector::Last | Selector::Alias(_) => return None,
            };
            Some(jobs.map(move |job| Target { job, tasks }))
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::State;
    use reeve_protocol::api::StateCounts;

    fn job(state: State, substate: Option<Substate>, tasks: Option<StateCounts>) -> Candidate {
        Candidate { id: 1, owner_uid: 1, title: "t".into(), state, substate, tasks, some_held: false }
    }

    #[test]
    fn each_action_says_what_it_would_change_and_why_the_rest_stays() {
        let cases: &[(&str, State, Option<Substate>, u64, &str)] = &[
            ("cancel", State::Queued, Some(Substate::Waiting), 1, ""),
            ("cancel", State::Running, Some(Substate::Running), 1, ""),
            ("cancel", State::Completed, None, 0, "already ended"),
            ("restart", State::Failed, None, 1, ""),
            ("restart", State::Cancelled, None, 1, ""),
            ("restart", State::Completed, None, 0, "completed"),
            ("restart", State::Running, Some(Substate::Running), 0, "not ended"),
            ("hold", State::Queued, Some(Substate::Waiting), 1, ""),
            ("hold", State::Queued, Some(Substate::Held), 0, "already held"),
            ("hold", State::Running, Some(Substate::Running), 0, "running"),
            ("release", State::Queued, Some(Substate::Held), 1, ""),
            ("release", State::Queued, Some(Substate::Waiting), 0, "not held"),
            ("release", State::Failed, None, 0, "already ended"),
        ];
        for (action, state, substate, change, why) in cases {
            let fate = Fate::of(action, &job(*state, *substate, None));
            assert_eq!(fate.change, *change, "{action} {state}");
            assert_eq!(fate.no_change.first().map_or("", |(w, _)| w), *why, "{action} {state}");
        }
    }

    #[test]
    fn arrays_count_their_tasks() {
        let tasks = StateCounts { queued: 5, running: 2, completed: 3, failed: 1, cancelled: 1 };
        let array = job(State::Running, None, Some(tasks));
        let cancel = Fate::of("cancel", &array);
        assert_eq!((cancel.change, cancel.running, cancel.no_change), (7, 2, vec![("already ended", 5)]));
        let restart = Fate::of("restart", &array);
        assert_eq!((restart.change, restart.no_change), (2, vec![("completed", 3), ("not ended", 7)]));
    }

    #[test]
    fn a_set_is_written_down_as_ranges_and_read_back_as_it_was() {
        let mut runs = Runs::default();
        for job in [1, 2, 3, 7] {
            runs.push(job, None);
        }
        for index in [4, 5, 9] {
            runs.push(8, Some((index, index)));
        }
        runs.push(9, None);
        let ids = runs.finish();
        assert_eq!(ids, ["1-3", "7", "8.4-5", "8.9", "9"]);
        let back: Vec<_> = targets(&ids).map(|t| (t.job, t.tasks)).collect();
        let tasks = |from, to| Some((from, to));
        assert_eq!(
            back,
            [(1, None), (2, None), (3, None), (7, None), (8, tasks(4, 5)), (8, tasks(9, 9)), (9, None)]
        );
    }

    #[test]
    fn an_unknown_action_is_told_from_one_that_comes_later() {
        assert_eq!(check_action("cancel").unwrap(), "cancel");
        assert!(check_action("cancle").unwrap_err().hint.contains("cancel"));
        assert_eq!(check_action("priority=5").unwrap_err().code, "not-yet");
        assert_eq!(check_action("").unwrap_err().code, "bad-value");
    }

    #[test]
    fn a_plan_must_say_what_it_is_about() {
        let choice = |json: &str| Choice::from(&serde_json::from_str(json).unwrap()).map_err(|f| f.0.code);
        assert_eq!(choice(r#"{"action":"cancel"}"#).unwrap_err(), "bad-value");
        assert_eq!(choice(r#"{"action":"cancel","ids":["x"]}"#).unwrap_err(), "bad-id");
        assert!(choice(r#"{"action":"cancel","filter":""}"#).unwrap().jobs);
        assert!(!choice(r#"{"action":"cancel","ids":["7.3"]}"#).unwrap().jobs, "tasks alone choose no job");
    }
}
