//! `reeve ls`.
use super::context::Context;
use super::error::{Error, note};
use super::select::{check_filter, with_query};
use super::table::{Cell, Table};
use reeve_protocol::State;
use reeve_protocol::api::{JobView, List, StateCounts};
use reeve_protocol::time::Wall;
use reeve_protocol::units::{show_count, show_duration};
use serde_json::Value;

/// List jobs, newest first.
#[derive(Debug, Default, clap::Args)]
pub struct Ls {
    /// Terms such as state:failed queue:vision since:2h; a bare word is part of the name
    #[arg(value_name = "TERM")]
    pub terms: Vec<String>,
    /// The same as one word
    #[arg(long, short, value_name = "FILTER")]
    pub filter: Option<String>,
    /// id, -id, created, priority, -priority, name or queue [default: -id]
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true)]
    pub order: Option<String>,
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// All of them
    #[arg(long, short, conflicts_with = "limit")]
    pub all: bool,
    /// The tasks of arrays, one by one
    #[arg(long)]
    pub tasks: bool,
    /// The replicas of static workers, which are jobs too
    #[arg(long)]
    pub replicas: bool,
}

impl Ls {
    fn filter(&self) -> String {
        // A term that holds a space was quoted for the shell only.
        let quoted = |term: &String| match term.split_once(':') {
            Some((field, value)) if value.contains(' ') && !value.contains('"') => {
                format!("{field}:\"{value}\"")
            }
            None if term.contains(' ') && !term.contains('"') => format!("\"{term}\""),
            _ => term.clone(),
        };
        let replicas = self.replicas.then(|| "queue:.replicas".to_owned());
        self.filter
            .iter()
            .cloned()
            .chain(replicas)
            .chain(self.terms.iter().map(quoted))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Runs it.
pub async fn run(ls: Ls, context: &mut Context) -> Result<(), Error> {
    let filter = ls.filter();
    check_filter(&filter)?;
    let client = context.client()?;
    let limit = if ls.all { 1000 } else { ls.limit }.to_string();
    let (mut cursor, mut first): (Option<String>, Option<Value>) = (None, None);
    loop {
        let mut query = vec![("limit", limit.as_str())];
        query.extend((!filter.is_empty()).then_some(("filter", filter.as_str())));
        query.extend(ls.order.as_deref().map(|order| ("order", order)));
        query.extend(ls.tasks.then_some(("tasks", "true")));
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: Value = client.get(&with_query("/v1/jobs", &query)).await?;
        cursor = page["next"].as_str().map(str::to_owned).filter(|_| ls.all);
        match &mut first {
            None => first = Some(page),
            Some(list) => append(list, page),
        }
        if cursor.is_none() {
            break;
        }
    }
    let list = first.unwrap_or_default();
    if context.json {
        return context.json_line(&list);
    }
    let list: List<JobView> = serde_json::from_value(list).map_err(|e| {
        reeve_protocol::Problem::new(reeve_protocol::Code::Internal, format!("a strange list: {e}"))
    })?;
    print(&list, &filter, context)
}

/// Adds the items of a further page.
fn append(list: &mut Value, mut page: Value) {
    if let (Some(items), Value::Array(more)) = (list["items"].as_array_mut(), page["items"].take()) {
        items.extend(more);
    }
    list["next"] = page["next"].take();
}

fn print(list: &List<JobView>, filter: &str, context: &mut Context) -> Result<(), Error> {
    let now = Wall::now();
    let mut table = job_table();
    for job in &list.items {
        table.row(row(job, now));
    }
    context.table(&table)?;
    context.flush()?;
    if table.is_empty() {
        note(if filter.is_empty() {
            "no jobs yet; try: reeve submit -- echo hello"
        } else {
            "no job matches the filter"
        });
    } else if list.next.is_some() {
        let least = if list.total.exact { "" } else { "at least " };
        note(format!(
            "{} of {least}{} jobs; --all shows every one",
            list.items.len(),
            show_count(list.total.value)
        ));
    }
    Ok(())
}

/// The head of a table of jobs.
pub fn job_table() -> Table {
    Table::new(&[">ID", "STATE", "NAME", "QUEUE", ">PRI", "USER", "MACHINE", ">AGE", ">RUN", "RESULT"])
}

/// One job as cells of that table.
pub fn row(job: &JobView, now: Wall) -> Vec<Cell> {
    let run = job.started_at.map(|start| job.ended_at.unwrap_or(now).seconds_since(start));
    vec![
        id_of(job).into(),
        job.state.into(),
        job.spec.title().into(),
        job.queue.as_str().into(),
        job.priority.to_string().into(),
        job.owner.as_str().into(),
        job.machine.as_deref().unwrap_or("").into(),
        show_duration(now.seconds_since(job.created_at)).into(),
        run.map(show_duration).unwrap_or_default().into(),
        result(job).into(),
    ]
}

/// `7`, or `7.3` for a task.
pub fn id_of(job: &JobView) -> String {
    job.index.map_or_else(|| job.id.to_string(), |index| format!("{}.{index}", job.id))
}

/// The last column: an array's counts, a cause, progress, or what is waited for.
fn result(job: &JobView) -> String {
    if let Some(array) = &job.array {
        return counts(&array.counts, array.total);
    }
    if let Some(cause) = &job.cause {
        return cause.to_string();
    }
    match (job.progress, job.substate) {
        (Some(progress), _) => format!("{:.0} %", progress * 100.0),
        (None, Some(substate)) => substate.to_string(),
        (None, None) => String::new(),
    }
}

/// `1000: 990 queued, 4 running`: states without tasks are left out.
pub fn counts(counts: &StateCounts, total: u64) -> String {
    let parts: Vec<String> = State::ALL
        .into_iter()
        .filter(|state| counts.get(*state) > 0)
        .map(|state| format!("{} {}", counts.get(state), state.as_str().to_ascii_lowercase()))
        .collect();
    format!("{total}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::tests::job;
    use reeve_protocol::api::ArrayView;
    use reeve_protocol::{Cause, Substate};
    use serde_json::json;

    #[test]
    fn the_last_column_says_the_most_useful_thing() {
        let array = ArrayView {
            total: 10,
            counts: StateCounts { queued: 4, completed: 6, ..StateCounts::default() },
            ..ArrayView::default()
        };
        for (job, wanted) in [
            (JobView { cause: Some(Cause::Exit { code: 3 }), ..job() }, "exit 3"),
            (JobView { progress: Some(0.4), ..job() }, "40 %"),
            (JobView { substate: Some(Substate::Held), ..job() }, "held"),
            (JobView { array: Some(array), ..job() }, "10: 4 queued, 6 completed"),
            (job(), ""),
        ] {
            assert_eq!(result(&job), wanted);
        }
    }

    #[test]
    fn a_running_job_shows_how_long_it_has_run() {
        let job = JobView { started_at: Some(Wall(1_000)), created_at: Wall(0), ..job() };
        let mut table = job_table();
        table.row(row(&job, Wall(61_000)));
        let text = table.render(None, false);
        assert!(text.contains("1m01s  1m00s"), "{text}");
    }

    #[test]
    fn tasks_are_written_with_their_index() {
        assert_eq!(id_of(&JobView { index: Some(3), ..job() }), "7.3");
    }

    #[test]
    fn words_with_spaces_stay_one_term() {
        let terms = ["text:out of memory", "state:failed", "two words"].map(str::to_owned).to_vec();
        let ls = Ls { terms, ..Ls::default() };
        assert_eq!(ls.filter(), "text:\"out of memory\" state:failed \"two words\"");
        assert!(check_filter(&ls.filter()).is_ok());
    }

    #[test]
    fn pages_become_one_list() {
        let mut list = json!({"items": [1], "next": "a", "total": {"value": 2}});
        append(&mut list, json!({"items": [2], "next": null}));
        assert_eq!(list, json!({"items": [1, 2], "next": null, "total": {"value": 2}}));
    }
}
