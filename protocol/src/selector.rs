//! Which jobs are meant: `7`, `7.3`, `7.2-4`, `7[3]`, `7[2-4]`, `5-9`, `last`, `@mgr-42`.
use crate::error::{Code, Problem};
use crate::ids::JobId;
use crate::text::Clean;

/// One selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// One job, whole.
    Job(JobId),
    /// Jobs with ids in this range, both ends included.
    Jobs(JobId, JobId),
    /// Tasks of an array, both ends included.
    Tasks(JobId, u32, u32),
    /// The caller's newest job.
    Last,
    /// A name given by `register_job`, without the `@`.
    Alias(String),
}

impl Selector {
    /// Parses one word.
    ///
    /// # Errors
    /// `bad-id` with the accepted forms.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::read(text).ok_or_else(|| {
            Problem::new(Code::BadId, format!("{:?} is not a job", Clean::short(text, 64).as_str()))
                .hint("write 7, 7.3 (task of an array), 7.2-4, 5-9, last or @NAME")
        })
    }

    fn read(text: &str) -> Option<Self> {
        if text == "last" {
            return Some(Self::Last);
        }
        if let Some(name) = text.strip_prefix('@') {
            return crate::spec_check::check_key("id", name).is_ok().then(|| Self::Alias(name.to_owned()));
        }
        if let Some((job, tasks)) = text.split_once('[') {
            return tasks_of(job, tasks.strip_suffix(']')?);
        }
        if let Some((job, tasks)) = text.split_once('.') {
            return tasks_of(job, tasks);
        }
        if let Some((from, to)) = text.split_once('-') {
            let (from, to) = (number(from)?, number(to)?);
            return (from <= to && from > 0).then_some(Self::Jobs(from, to));
        }
        number(text).filter(|id| *id > 0).map(Self::Job)
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Job(id) => write!(f, "{id}"),
            Self::Jobs(from, to) => write!(f, "{from}-{to}"),
            Self::Tasks(job, from, to) if from == to => write!(f, "{job}.{from}"),
            Self::Tasks(job, from, to) => write!(f, "{job}.{from}-{to}"),
            Self::Last => f.write_str("last"),
            Self::Alias(name) => write!(f, "@{name}"),
        }
    }
}

fn tasks_of(job: &str, tasks: &str) -> Option<Selector> {
    let job = number(job).filter(|id| *id > 0)?;
    let (from, to) = match tasks.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(tasks)?, number(tasks)?),
    };
    let (from, to) = (u32::try_from(from).ok()?, u32::try_from(to).ok()?);
    (from <= to).then_some(Selector::Tasks(job, from, to))
}

/// Digits only: `+7` and ` 7` are not ids. Ids fit SQLite's integers.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let ok = |t: &str| Selector::parse(t).unwrap();
        assert_eq!(ok("7"), Selector::Job(7));
        assert_eq!(ok("7.3"), Selector::Tasks(7, 3, 3));
        assert_eq!(ok("7[3]"), Selector::Tasks(7, 3, 3));
        assert_eq!(ok("7.2-4"), Selector::Tasks(7, 2, 4));
        assert_eq!(ok("7[2-4]"), Selector::Tasks(7, 2, 4));
        assert_eq!(ok("5-9"), Selector::Jobs(5, 9));
        assert_eq!(ok("last"), Selector::Last);
        assert_eq!(ok("@mgr-42"), Selector::Alias("mgr-42".into()));
        for text in ["7", "7.3", "7.2-4", "5-9", "last", "@x"] {
            assert_eq!(ok(text).to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_forms() {
        for bad in [
            "",
            "0",
            "-1",
            "+7",
            " 7",
            "7.",
            "7[",
            "7[3",
            "9-5",
            "7.4-2",
            "x",
            "../..",
            "@",
            "99999999999999999999",
            "7.99999999999",
        ] {
            let problem = Selector::parse(bad).unwrap_err();
            assert_eq!(problem.code, "bad-id", "{bad}");
            assert!(problem.hint.contains("@NAME"));
        }
    }
}
