//! Which jobs a command is about: selectors, or a filter.
use super::error::Error;
use super::values;
use crate::client::{Client, escape};
use reeve_protocol::api::{JobView, List};
use reeve_protocol::selector::Selector;

/// A range names each of its jobs; for more there is `-f id:FROM-TO`.
const WIDEST: u64 = 100_000;

/// Jobs by name or by filter.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Jobs: 7, 7.3 (task of an array), 7.2-4, 5-9, last or @NAME
    #[arg(value_name = "JOB", value_parser = values::selector, required_unless_present = "filter")]
    pub jobs: Vec<Selector>,
    /// Jobs that match, such as 'state:failed since:2h'
    #[arg(long, short, value_name = "FILTER", conflicts_with = "jobs")]
    pub filter: Option<String>,
}

/// One job each, as paths name them, and whether it was named by itself.
pub type Named = (String, bool);

impl Selection {
    /// Checks the filter here, where the mistake can be pointed at.
    pub fn check(&self) -> Result<(), Error> {
        self.filter.as_deref().map_or(Ok(()), check_filter)
    }

    /// The one job this names, if it names one.
    pub fn single(&self) -> Option<&Selector> {
        match self.jobs.as_slice() {
            [one @ (Selector::Job(_) | Selector::Last | Selector::Alias(_))] => Some(one),
            [one @ Selector::Tasks(_, from, to)] if from == to => Some(one),
            _ => None,
        }
    }

    /// Every job, one by one.
    pub async fn each(&self, client: &Client) -> Result<Vec<Named>, Error> {
        self.check()?;
        if let Some(filter) = &self.filter {
            return matching(client, filter).await;
        }
        let mut named = Vec::new();
        for selector in &self.jobs {
            expand(selector, &mut named)?;
        }
        Ok(named)
    }
}

/// The caret under the wrong term, as a usage error.
pub fn check_filter(text: &str) -> Result<(), Error> {
    reeve_protocol::filter::parse(text).map(|_| ()).map_err(|error| {
        Error::Usage(format!(
            "{error}\n  fields: {}, label.KEY=VALUE",
            reeve_protocol::filter::FIELDS.join(", ")
        ))
    })
}

fn expand(selector: &Selector, named: &mut Vec<Named>) -> Result<(), Error> {
    let many = |count: u64| {
        (count <= WIDEST).then_some(()).ok_or_else(|| {
            Error::Usage(format!("{selector} names {count} jobs; more than {WIDEST} need -f 'id:{selector}'"))
        })
    };
    match selector {
        Selector::Jobs(from, to) => {
            many(to - from + 1)?;
            named.extend((*from..=*to).map(|id| (id.to_string(), false)));
        }
        Selector::Tasks(job, from, to) => {
            many(u64::from(to - from) + 1)?;
            named.extend((*from..=*to).map(|index| (format!("{job}.{index}"), from == to)));
        }
        one => named.push((one.to_string(), true)),
    }
    Ok(())
}

async fn matching(client: &Client, filter: &str) -> Result<Vec<Named>, Error> {
    let mut named = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("filter", filter), ("order", "id"), ("limit", "1000")];
        if let Some(cursor) = &cursor {
            query.push(("cursor", cursor));
        }
        let page: List<JobView> = client.get(&with_query("/v1/jobs", &query)).await?;
        named.extend(page.items.iter().map(|job| (job.id.to_string(), true)));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(named);
        }
    }
}

/// A path with its query.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (at, (key, value)) in query.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        out.push_str(&escape(value));
    }
    out
}

/// The path of one job.
pub fn job_path(job: &str, rest: &str) -> String {
    format!("/v1/jobs/{}{rest}", escape(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(words: &[&str]) -> Selection {
        Selection { jobs: words.iter().map(|w| Selector::parse(w).unwrap()).collect(), filter: None }
    }

    fn expanded(words: &[&str]) -> Vec<String> {
        let mut named = Vec::new();
        for selector in selection(words).jobs {
            expand(&selector, &mut named).unwrap();
        }
        named.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn ranges_become_single_jobs() {
        assert_eq!(
            expanded(&["7", "5-7", "9.2-3", "last", "@x"]),
            ["7", "5", "6", "7", "9.2", "9.3", "last", "@x"]
        );
        assert!(expand(&Selector::Jobs(1, 1_000_000), &mut Vec::new()).is_err());
    }

    #[test]
    fn one_job_is_one_job_however_it_is_named() {
        for (words, wanted) in [
            (vec!["7"], true),
            (vec!["7.3"], true),
            (vec!["last"], true),
            (vec!["@x"], true),
            (vec!["7.2-4"], false),
            (vec!["5-9"], false),
            (vec!["7", "8"], false),
        ] {
            assert_eq!(selection(&words).single().is_some(), wanted, "{words:?}");
        }
    }

    #[test]
    fn a_wrong_filter_is_pointed_at() {
        let text = check_filter("stat:failed").unwrap_err().to_string();
        assert!(text.contains("^^^^") && text.contains("fields: state"), "{text}");
        assert!(check_filter("state:failed train").is_ok());
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            with_query("/v1/jobs", &[("filter", "a b&c"), ("limit", "1")]),
            "/v1/jobs?filter=a%20b%26c&limit=1"
        );
    }
}
