//! Names of things: jobs, tasks of an array, attempts, machines.
use serde::{Deserialize, Serialize};
use std::fmt;

/// The number of a job. Minted by the store, never reused, from 1.
pub type JobId = u64;

/// One unit that can run: a job, or one task of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The index inside an array; `None` for a job that is no array.
    pub index: Option<u32>,
}

impl TaskId {
    /// A job that is no array.
    pub const fn single(job: JobId) -> Self {
        Self { job, index: None }
    }

    /// A task of an array.
    pub const fn of_array(job: JobId, index: u32) -> Self {
        Self { job, index: Some(index) }
    }

    /// The attempt of this task with the given number.
    pub const fn attempt(self, attempt: u32) -> AttemptId {
        AttemptId { task: self, attempt }
    }

    /// How the store spells the index: -1 stands for "no array", so that it can be part of a primary key.
    pub fn index_key(self) -> i64 {
        self.index.map_or(-1, i64::from)
    }

    /// The inverse of [`TaskId::index_key`].
    pub fn from_key(job: JobId, key: i64) -> Self {
        Self { job, index: u32::try_from(key).ok() }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}.{index}", self.job),
            None => write!(f, "{}", self.job),
        }
    }
}

/// The fence of everything that is said about a running process: `(job, index, attempt)`. Attempts count from 1 and
/// only the store raises the number, when the attempt is dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The task that is attempted.
    pub task: TaskId,
    /// From 1.
    pub attempt: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}

impl AttemptId {
    /// A file name for this attempt, made of digits only: paths come from ids, never from names.
    pub fn file_name(&self) -> String {
        format!("{}.{}.{}", self.task.job, self.task.index_key(), self.attempt)
    }

    /// The inverse of [`AttemptId::file_name`]; `None` for any other name.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let job = parts.next()?.parse().ok()?;
        let key: i64 = parts.next()?.parse().ok()?;
        let attempt = parts.next()?.parse().ok()?;
        let id =
            (parts.next().is_none() && attempt > 0).then(|| TaskId::from_key(job, key).attempt(attempt))?;
        // One name for one attempt: "+7" and "007" are numbers too.
        (id.file_name() == name).then_some(id)
    }
}

/// The stable identity of a machine, given to it when it joined: 16 lower-case hex digits. Its *name* may change.
pub type MachineId = String;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_there_and_back_and_nothing_else_parses() {
        for id in [
            TaskId::single(7).attempt(1),
            TaskId::of_array(7, 0).attempt(3),
            TaskId::of_array(1, u32::MAX).attempt(2),
        ] {
            assert_eq!(AttemptId::from_file_name(&id.file_name()), Some(id));
        }
        for bad in [
            "",
            "7",
            "7.1",
            "7.1.0",
            "7.1.2.3",
            "../7.1.2",
            "7.-1.x",
            "+7.-1.1",
            "07.-1.1",
            "7.4294967296.1",
            "7.-2.1",
        ] {
            assert_eq!(AttemptId::from_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_read_as_people_write_them() {
        assert_eq!(TaskId::single(7).to_string(), "7");
        assert_eq!(TaskId::of_array(7, 3).attempt(2).to_string(), "7.3#2");
    }
}
