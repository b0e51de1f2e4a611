//! Filters as SQL: every word of a filter becomes a parameter, none becomes text of the statement.
//!
//! The parser is `protocol::filter`; this module knows the columns. A condition may be NULL for a row without that
//! column, so each is made false then, or `-machine:x` would hide the jobs that never had a machine.
use crate::row::REPLICAS;
use reeve_protocol::filter::{Filter, Test};
use reeve_protocol::selector::Selector;
use reeve_protocol::{State, Substate};
use rusqlite::types::Value;

/// What one row of the statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// A job, `j`; an array is one row and matches when any of its tasks does.
    Jobs,
    /// A task of an array that was dispatched once, `t`, with its job `j`.
    Tasks,
}

impl Rows {
    /// The table whose columns change while it runs.
    pub const fn alias(self) -> char {
        match self {
            Self::Jobs => 'j',
            Self::Tasks => 't',
        }
    }

    /// The task's index as an expression; -1 for a job.
    pub const fn index(self) -> &'static str {
        match self {
            Self::Jobs => "-1",
            Self::Tasks => "t.idx",
        }
    }
}

/// Who asks, and when: what `last`, `@alias`, `since` and `until` are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The caller's uid.
    pub uid: u32,
    /// Wall milliseconds.
    pub now: i64,
}

/// A part of a statement with the values of its `?`, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sql {
    /// The text.
    pub text: String,
    /// The values.
    pub values: Vec<Value>,
}

impl Sql {
    /// Appends text.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a value, its `?` belongs to text that was or will be pushed.
    pub fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self
    }
}

/// The whole filter as a condition; `1` when it is empty.
pub fn condition(filter: &Filter, rows: Rows, asker: Asker) -> Sql {
    let mut sql = Sql::default();
    if filter.terms.is_empty() {
        sql.push("1");
    }
    for (at, term) in filter.terms.iter().enumerate() {
        if at > 0 {
            sql.push(" AND ");
        }
        // Without `coalesce` the planner may use an index, so only the negated form pays for it.
        sql.push(if term.not { "NOT coalesce((" } else { "(" });
        test(&term.test, rows, asker, &mut sql);
        sql.push(if term.not { "), 0)" } else { ")" });
    }
    // Replicas of static workers are jobs to whoever asks for them by queue or number, and part of the worker to others.
    let asked = |test: &Test| matches!(test, Test::Queue(_) | Test::Id(_));
    if !filter.terms.iter().any(|term| !term.not && asked(&term.test)) {
        sql.push(&format!(" AND j.queue <> '{REPLICAS}'"));
    }
    sql
}

fn test(test: &Test, rows: Rows, asker: Asker, sql: &mut Sql) {
    match test {
        Test::State(states) => state(states, rows, sql),
        Test::Substate(substates) => substate(substates, rows, sql),
        Test::Queue(globs) => any_glob("j.queue", globs, sql),
        Test::Worker(globs) => any_glob("j.worker", globs, sql),
        Test::User(globs) => any_glob("j.owner", globs, sql),
        // The title is the name, or else the command: it is what stands in the column "name" of every table.
        Test::Name(globs) => any_glob("j.title", globs, sql),
        Test::Machine(globs) => {
            of_any_task(rows, sql, |table, sql| any_glob(&format!("{table}.machine"), globs, sql));
        }
        Test::Cause(kinds) => of_any_task(rows, sql, |table, sql| {
            one_of(&format!("{table}.cause_kind"), kinds.iter().map(|k| Value::from(k.clone())), sql);
        }),
        Test::Warning(kinds) => of_any_task(rows, sql, |table, sql| {
            // The kind stands before the colon.
            any_glob(&format!("substr({table}.warning, 1, instr({table}.warning, ':') - 1)"), kinds, sql);
        }),
        Test::Exit(codes) => of_any_task(rows, sql, |table, sql| {
            one_of(&format!("{table}.exit_code"), codes.iter().map(|c| Value::from(i64::from(*c))), sql);
        }),
        Test::Since(seconds) => {
            sql.push("j.created_at >= ?").bind(before(asker, *seconds));
        }
        Test::Until(seconds) => {
            sql.push("j.created_at <= ?").bind(before(asker, *seconds));
        }
        Test::Id(selectors) => ids(selectors, rows, asker, sql),
        Test::Text(text) => contains(text, rows, sql),
        Test::Label(key, globs) => {
            sql.push("EXISTS (SELECT 1 FROM json_each(j.spec, '$.labels') AS l WHERE l.key = ? AND (")
                .bind(key.clone());
            any_glob("l.value", globs, sql);
            sql.push("))");
        }
    }
}

fn before(asker: Asker, seconds: f64) -> i64 {
    asker.now.saturating_sub((seconds * 1000.0) as i64)
}

fn state(states: &[State], rows: Rows, sql: &mut Sql) {
    let numbers = || states.iter().map(|s| Value::from(s.slot() as i64));
    if rows == Rows::Tasks {
        return one_of("t.state", numbers(), sql);
    }
    // An array is RUNNING while a task runs, QUEUED while one waits, and ends as its worst task: its own state is never
    // wrong, only not all of it. The two filters that are asked most are worded so that the index on the state serves
    // them, and the rows are not looked at.
    let has = |state| states.contains(&state);
    match (states.iter().any(|s| s.is_terminal()), has(State::Queued), has(State::Running)) {
        (false, false, _) => {
            sql.push("j.state = 1");
        }
        (false, true, false) => {
            sql.push("j.state IN (0, 1) AND (j.state = 0 OR j.n_queued > 0)");
        }
        (false, true, true) => {
            sql.push("j.state IN (0, 1)");
        }
        (true, ..) => {
            one_of("j.state", numbers(), sql);
            for state in states {
                sql.push(&format!(" OR j.n_{} > 0", state.as_str().to_lowercase()));
            }
        }
    }
}

fn substate(substates: &[Substate], rows: Rows, sql: &mut Sql) {
    of_any_task(rows, sql, |table, sql| {
        one_of(&format!("{table}.substate"), substates.iter().map(|s| Value::from(*s as i64)), sql);
    });
    if rows == Rows::Jobs && substates.contains(&Substate::Held) {
        sql.push(" OR coalesce(j.array_held, '[]') <> '[]'");
    }
}

/// A condition on a column that tasks have too: an array matches when one of its tasks does.
fn of_any_task(rows: Rows, sql: &mut Sql, condition: impl Fn(&str, &mut Sql)) {
    match rows {
        Rows::Tasks => condition("t", sql),
        Rows::Jobs => {
            sql.push("(");
            condition("j", sql);
            sql.push(") OR (j.array_from IS NOT NULL AND EXISTS (SELECT 1 FROM tasks AS x WHERE x.job = j.id AND (");
            condition("x", sql);
            sql.push(")))");
        }
    }
}

fn one_of(column: &str, values: impl Iterator<Item = Value>, sql: &mut Sql) {
    sql.push(column).push(" IN (");
    for (at, value) in values.enumerate() {
        sql.push(if at > 0 { ", ?" } else { "?" }).bind(value);
    }
    sql.push(")");
}

/// A plain word is compared, so that an index can serve it.
fn any_glob(column: &str, globs: &[String], sql: &mut Sql) {
    for (at, glob) in globs.iter().enumerate() {
        if at > 0 {
            sql.push(" OR ");
        }
        let is_glob = glob.contains(['*', '?']);
        sql.push(column).push(if is_glob { " GLOB ?" } else { " = ?" });
        // Only `*` and `?` are wild in reeve; SQLite's sets are switched off.
        sql.bind(if is_glob { glob.replace('[', "[[]") } else { glob.clone() });
    }
}

fn ids(selectors: &[Selector], rows: Rows, asker: Asker, sql: &mut Sql) {
    for (at, selector) in selectors.iter().enumerate() {
        if at > 0 {
            sql.push(" OR ");
        }
        match selector {
            Selector::Job(id) => {
                sql.push("j.id = ?").bind(*id as i64);
            }
            Selector::Jobs(from, to) => {
                sql.push("j.id BETWEEN ? AND ?").bind(*from as i64).bind(*to as i64);
            }
            Selector::Tasks(id, from, to) if rows == Rows::Tasks => {
                sql.push("(t.job = ? AND t.idx BETWEEN ? AND ?)");
                sql.bind(*id as i64).bind(i64::from(*from)).bind(i64::from(*to));
            }
            Selector::Tasks(id, from, to) => {
                sql.push("(j.id = ? AND j.array_from <= ? AND j.array_to >= ?)");
                sql.bind(*id as i64).bind(i64::from(*to)).bind(i64::from(*from));
            }
            Selector::Last => {
                sql.push("j.id = (SELECT max(id) FROM jobs WHERE owner_uid = ? AND queue <> '.replicas')")
                    .bind(i64::from(asker.uid));
            }
            Selector::Alias(name) => {
                sql.push("(j.owner_uid = ? AND j.alias = ?)").bind(i64::from(asker.uid)).bind(name.clone());
            }
        }
    }
}

fn contains(text: &str, rows: Rows, sql: &mut Sql) {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    let like = " LIKE ? ESCAPE '\\'";
    sql.push("j.title").push(like).bind(pattern.clone());
    sql.push(" OR (SELECT group_concat(value, ' ') FROM json_each(j.spec, '$.command'))")
        .push(like)
        .bind(pattern.clone());
    sql.push(" OR ");
    of_any_task(rows, sql, |table, sql| {
        // The words of a failure are in its cause, the job's own in its message.
        for (column, or) in [("message", " OR "), ("cause", "")] {
            sql.push(&format!("{table}.{column}{like}{or}")).bind(pattern.clone());
        }
    });
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
