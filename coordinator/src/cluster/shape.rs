//! Needs, numbered: jobs that ask for the same are placed as one, so that the cost of a placement does not grow with
//! the backlog.
use reeve_protocol::resources::Resources;
use reeve_protocol::text::glob;
use reeve_protocol::{JobSpec, Problem};
use std::collections::HashMap;
use std::sync::Arc;

/// The number of a need. Orchestrator and Job Manager carry it without looking inside.
pub type ShapeId = u32;

/// What a job asks of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Counted resources.
    pub ask: Arc<Resources>,
    /// Globs of names, or `label.key=value`; empty: any machine.
    pub on: Vec<String>,
    /// The same, excluded.
    pub not_on: Vec<String>,
    /// The static worker that is asked: it is placed on a replica, which has its room already.
    pub worker: Option<String>,
}

impl Shape {
    /// Of a spec.
    ///
    /// # Errors
    /// As [`reeve_protocol::resources::ResourceAsk::exact`].
    pub fn of(spec: &JobSpec) -> Result<Self, Problem> {
        if spec.is_request() {
            return Ok(Self { worker: spec.worker.clone(), ..Self::default() });
        }
        let ask = Arc::new(spec.resources.exact()?);
        Ok(Self { ask, on: spec.on.clone(), not_on: spec.not_on.clone(), worker: None })
    }

    /// Whether it may run on a machine of that name and with those labels, whatever is free there; else why not.
    ///
    /// # Errors
    /// The reason in words.
    pub fn allows(&self, name: &str, labels: &[(String, String)]) -> Result<(), String> {
        if !self.on.is_empty() && !self.on.iter().any(|p| selects(p, name, labels)) {
            return Err(format!("not selected by on: {}", self.on.join(", ")));
        }
        match self.not_on.iter().find(|p| selects(p, name, labels)) {
            Some(pattern) => Err(format!("excluded by not_on: {pattern}")),
            None => Ok(()),
        }
    }
}

fn selects(pattern: &str, name: &str, labels: &[(String, String)]) -> bool {
    match pattern.strip_prefix("label.").and_then(|l| l.split_once('=')) {
        Some((key, value)) => labels.iter().any(|(k, v)| k == key && glob(value, v)),
        None => glob(pattern, name),
    }
}

/// Every need that was ever seen in this run. Few: people submit the same thing many times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shapes {
    list: Vec<Arc<Shape>>,
    ids: HashMap<Arc<Shape>, ShapeId>,
}

impl Shapes {
    /// The number of a need.
    pub fn intern(&mut self, shape: Shape) -> ShapeId {
        match self.ids.get(&shape) {
            Some(id) => *id,
            None => self.intern_arc(Arc::new(shape)),
        }
    }

    /// As [`Shapes::intern`], of a need that is shared.
    pub fn intern_arc(&mut self, shape: Arc<Shape>) -> ShapeId {
        if let Some(id) = self.ids.get(&shape) {
            return *id;
        }
        let id = self.list.len() as ShapeId;
        self.list.push(shape.clone());
        self.ids.insert(shape, id);
        id
    }

    /// The need with a number that [`Shapes::intern`] gave.
    pub fn get(&self, id: ShapeId) -> &Shape {
        &self.list[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_select() {
        let labels = [("gpu".to_owned(), "a100".to_owned())];
        let shape = |on: &[&str], not_on: &[&str]| Shape {
            on: on.iter().map(|s| (*s).to_owned()).collect(),
            not_on: not_on.iter().map(|s| (*s).to_owned()).collect(),
            ..Shape::default()
        };
        assert!(shape(&[], &[]).allows("m", &labels).is_ok());
        assert!(shape(&["lab-*"], &[]).allows("lab-7", &labels).is_ok());
        assert!(shape(&["lab-*"], &[]).allows("m", &labels).unwrap_err().contains("lab-*"));
        assert!(shape(&["label.gpu=a*"], &[]).allows("m", &labels).is_ok());
        assert!(shape(&["label.gpu=h*"], &[]).allows("m", &labels).is_err());
        assert!(shape(&[], &["m"]).allows("m", &labels).unwrap_err().contains("not_on"));
    }

    #[test]
    fn the_same_need_has_one_number() {
        let mut shapes = Shapes::default();
        let a = shapes.intern(Shape::default());
        assert_eq!(shapes.intern(Shape::default()), a);
        assert_ne!(shapes.intern(Shape { on: vec!["x".into()], ..Shape::default() }), a);
    }
}
