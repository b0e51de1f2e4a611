//! Jobs that wait and were never touched, as a start reads them: their numbers, in sets. A backlog of a million is never
//! in memory as rows.
use super::Error;
use crate::cluster::shape::Shape;
use crate::row::REPLICAS;
use reeve_protocol::resources::ResourceAsk;
use reeve_protocol::{JobId, JobSpec, State, Substate};
use roaring::RoaringTreemap;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::HashMap;
use std::sync::Arc;

/// Texts of specs whose needs are remembered: many jobs have the same.
const TEXTS: usize = 1_024;
/// Milliseconds between two jobs whose times are kept.
const MARK_MS: i64 = 1_000;

/// Jobs of one queue, need, priority and owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The queue.
    pub queue: Arc<str>,
    /// What they need.
    pub shape: Arc<Shape>,
    /// Higher first.
    pub priority: i32,
    /// Whose they are.
    pub owner_uid: u32,
    /// Whose they are.
    pub owner: Arc<str>,
    /// Their numbers.
    pub ids: RoaringTreemap,
    /// When some of them were submitted, wall milliseconds, in the order of numbers: about one a second.
    pub times: Vec<(JobId, i64)>,
}

/// Gathers them.
#[derive(Default)]
pub(super) struct Gathering {
    groups: Vec<Waiting>,
    by_shape: HashMap<Arc<Shape>, Vec<usize>>,
    texts: HashMap<Box<str>, Option<Arc<Shape>>>,
    last: usize,
}

/// What of a spec says what a job needs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Need {
    command: Option<IgnoredAny>,
    worker: Option<IgnoredAny>,
    reply_to: Option<IgnoredAny>,
    resources: ResourceAsk,
    on: Vec<String>,
    not_on: Vec<String>,
}

impl Gathering {
    /// Takes a row in, whose columns are those of [`super::read::live_jobs`]. False: it is to be read as a whole.
    ///
    /// # Errors
    /// From SQLite, or a value that makes no sense.
    pub(super) fn take(&mut self, row: &Row<'_>) -> Result<bool, Error> {
        if !is_plain(row)? {
            return Ok(false);
        }
        let text =
            |at| row.get_ref(at).map_err(Error::from)?.as_str().map_err(|e| Error::Value(e.to_string()));
        let (queue, spec) = (text(13)?, text(15)?);
        if queue == REPLICAS {
            return Ok(false);
        }
        let Some(shape) = self.shape_of(spec) else { return Ok(false) };
        let (uid, priority): (u32, i32) = (row.get(11)?, row.get(14)?);
        let (id, created_at) = (row.get::<_, i64>(10)? as JobId, row.get::<_, i64>(23)?);
        let is_of = |g: &Waiting| {
            g.owner_uid == uid && g.priority == priority && *g.queue == *queue && g.shape == shape
        };
        if self.groups.get(self.last).is_none_or(|g| !is_of(g)) {
            let known = self.by_shape.entry(shape.clone()).or_default();
            self.last =
                known.iter().copied().find(|at| is_of(&self.groups[*at])).unwrap_or(self.groups.len());
            if self.last == self.groups.len() {
                known.push(self.last);
                self.groups.push(Waiting {
                    queue: queue.into(),
                    shape,
                    priority,
                    owner_uid: uid,
                    owner: text(12)?.into(),
                    ids: RoaringTreemap::new(),
                    times: Vec::new(),
                });
            }
        }
        let group = &mut self.groups[self.last];
        group.ids.insert(id);
        if group.times.last().is_none_or(|(_, at)| created_at - at >= MARK_MS) {
            group.times.push((id, created_at));
        }
        Ok(true)
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<Waiting> {
        self.groups
    }

    /// `None`: it asks a static worker, has somebody to tell of its changes, or cannot be understood.
    fn shape_of(&mut self, text: &str) -> Option<Arc<Shape>> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let shape = need_of(text).map(|shape| match self.by_shape.get_key_value(&shape) {
            Some((known, _)) => known.clone(),
            None => Arc::new(shape),
        });
        if self.texts.len() < TEXTS {
            self.texts.insert(text.into(), shape.clone());
        }
        shape
    }
}

fn need_of(text: &str) -> Option<Shape> {
    let need: Need = serde_json::from_str(text).ok()?;
    if need.reply_to.is_some() || need.worker.is_some() && need.command.is_none() {
        return None;
    }
    let Need { resources, on, not_on, .. } = need;
    Shape::of(&JobSpec { resources, on, not_on, ..JobSpec::default() }).ok()
}

/// As the core's own word for it: no array, not elsewhere, without an end of its waiting, and everything that could have
/// moved as it was made.
fn is_plain(row: &Row<'_>) -> Result<bool, Error> {
    let number = |at| row.get::<_, Option<i64>>(at);
    let is_null = |at| row.get_ref(at).map(|v| v == ValueRef::Null);
    let fresh = number(0)? == Some(State::Queued as i64) && number(1)? == Some(Substate::Waiting as i64);
    let zeros = [3, 4, 5, 22];
    let nulls = [2, 6, 7, 8, 9, 24, 27];
    for at in zeros {
        if number(at)? != Some(0) {
            return Ok(false);
        }
    }
    for at in nulls {
        if !is_null(at)? {
            return Ok(false);
        }
    }
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spec_needs_is_found_without_reading_the_rest() {
        let of = |text: &str| {
            let whole: JobSpec = serde_json::from_str(text).unwrap();
            (need_of(text), Shape::of(&whole).unwrap())
        };
        for text in [
            r#"{"command":["true"]}"#,
            r#"{"command":["a"],"worker":"w","payload":{"on":1},"resources":{"cpus":2,"gpus":1},"on":["a*"]}"#,
            r#"{"not_on":["b"],"name":"n","env":{"a":"b"},"command":["x"]}"#,
        ] {
            let (need, shape) = of(text);
            assert_eq!(need, Some(shape), "{text}");
        }
        assert_eq!(need_of(r#"{"worker":"w","payload":1}"#), None, "a request is placed on a replica");
        assert_eq!(need_of("no spec"), None);
    }
}
