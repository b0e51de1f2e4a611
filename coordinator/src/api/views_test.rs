//! What a reader of a view is sent.
use super::*;

fn row(id: u64, attempt: u32) -> JobView {
    let json = format!(
        r#"{{"id":{id},"alias":null,"name":null,"owner":"a","queue":"q","state":"QUEUED","substate":null,"cause":null,
           "attempt":{attempt},"priority":0,"created_at":"2026-11-24T10:00:00Z","progress":null,"result":null,"labels":{{}},"spec":{{}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn total(value: u64) -> Total {
    Total { value, exact: true }
}

#[test]
fn the_first_update_has_every_row_and_later_ones_only_what_changed() {
    let mut sent = Sent::default();
    let first = sent.update(vec![row(1, 0), row(2, 0)], total(2), 5, true).unwrap();
    assert_eq!((first.kind.as_str(), first.rows.len(), first.seq), ("snapshot", 2, 5));
    assert!(sent.update(vec![row(1, 0), row(2, 0)], total(2), 6, false).is_none(), "nothing changed");
    let diff = sent.update(vec![row(1, 0), row(2, 1)], total(2), 7, false).unwrap();
    assert_eq!((diff.kind.as_str(), diff.rows.len(), diff.rows[0].id), ("diff", 1, 2));
    let moved = sent.update(vec![row(2, 1), row(1, 0)], total(2), 8, false).unwrap();
    assert!(moved.rows.is_empty());
    assert_eq!(moved.order.unwrap(), [(2, None), (1, None)]);
    let counted = sent.update(vec![row(2, 1), row(1, 0)], total(3), 9, false).unwrap();
    assert_eq!((counted.rows.len(), counted.total.value), (0, 3));
    let back = sent.update(vec![row(3, 0)], total(1), 10, false).unwrap();
    assert_eq!(back.rows.len(), 1);
    let again = sent.update(vec![row(2, 1)], total(1), 11, false).unwrap();
    assert_eq!(again.rows.len(), 1, "a row that had left the window is sent whole when it comes back");
}

#[test]
fn an_empty_view_still_has_a_snapshot() {
    let mut sent = Sent::default();
    assert!(sent.update(Vec::new(), total(0), 1, true).is_some());
    assert!(sent.update(Vec::new(), total(0), 2, false).is_none());
}

#[test]
fn a_view_is_of_jobs_or_of_the_tasks_of_one_array() {
    let of = |of: &str, id| {
        source(&ViewRequest { of: of.into(), id, ..ViewRequest::default() }).map_err(|f| f.0.code)
    };
    assert_eq!(of("jobs", None).unwrap(), Source::Jobs);
    assert_eq!(of("tasks", Some(7)).unwrap(), Source::TasksOf(7));
    assert_eq!(of("tasks", Some(u64::MAX)).unwrap_err(), "not-found");
    for (what, id) in [("tasks", None), ("jobs", Some(1)), ("", None), ("machines", None)] {
        assert_eq!(of(what, id).unwrap_err(), "bad-value", "{what}");
    }
}
