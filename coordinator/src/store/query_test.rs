//! Views, pages, records and sets over the fixture's jobs.
use super::list::{Cursor, Listing, Order, Source, page, total};
use super::*;
use crate::input::Segment;
use crate::store::filter::Asker;
use crate::store::read::fixture::{Fixture, NOW, UID};
use crate::store::workers;
use reeve_protocol::Cause;

const ASKER: Asker = Asker { uid: UID, now: NOW };

fn listing(filter: &str, order: &str, limit: u32, source: Source) -> Listing {
    let filter = reeve_protocol::filter::parse(filter).unwrap();
    Listing {
        filter,
        source,
        order: Order::parse(order).unwrap(),
        limit,
        offset: 0,
        after: None,
        asker: ASKER,
    }
}

fn names(items: &[JobView]) -> String {
    let name = |row: &JobView| row.index.map_or(row.id.to_string(), |index| format!("{}.{index}", row.id));
    items.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_job_is_shown_with_its_newest_attempts_oldest_first() {
    let fixture = Fixture::new();
    for attempt in 1..=25 {
        fixture.run(&format!(
            "INSERT INTO attempts (job, idx, attempt, machine, dispatched_at, cpu_ms) VALUES (2, -1, {attempt}, 'gpu-02', {NOW}, 1500)"
        ));
    }
    let view = job_view(&fixture.conn, 2, Detail::Whole).unwrap().unwrap();
    assert_eq!(view.attempts.len(), 20);
    assert_eq!((view.attempts[0].attempt, view.attempts[19].attempt), (6, 25));
    assert!((view.attempts[0].cpu_s - 1.5).abs() < f64::EPSILON);
    assert_eq!(view.labels["team"], "nlp");
    assert_eq!(view.spec.command.as_deref().unwrap(), ["python", "train.py"]);
    assert!(job_view(&fixture.conn, 2, Detail::Row).unwrap().unwrap().attempts.is_empty());
    assert!(job_view(&fixture.conn, 99, Detail::Whole).unwrap().is_none());
}

#[test]
fn an_array_is_shown_with_counts_and_its_tasks_also_before_they_have_a_row() {
    let fixture = Fixture::new();
    let array = job_view(&fixture.conn, 6, Detail::Whole).unwrap().unwrap().array.unwrap();
    assert_eq!((array.total, array.counts.total(), array.limit), (100, 100, Some(4)));
    let task = |index| task_view(&fixture.conn, 6, index, Detail::Whole).unwrap();
    let failed = task(2).unwrap();
    assert_eq!(
        (failed.state, failed.cause, failed.index),
        (State::Failed, Some(Cause::Exit { code: 137 }), Some(2))
    );
    assert!(failed.array.is_none());
    let standing = |index| task(index).map(|t| (t.state, t.substate));
    assert_eq!(standing(4), Some((State::Queued, Some(Substate::Waiting))));
    assert_eq!(standing(55), Some((State::Queued, Some(Substate::Held))));
    assert_eq!(standing(100), Some((State::Cancelled, None)));
    assert_eq!(standing(101), None);
    assert!(task_view(&fixture.conn, 1, 1, Detail::Whole).unwrap().is_none(), "job 1 is no array");
}

#[test]
fn a_large_spec_is_shown_in_lists_without_its_large_parts() {
    let fixture = Fixture::new();
    let spec = format!(
        r#"{{"command":["x"],"payload":"{}","env":{{"K":"V"}},"labels":{{"l":"1"}}}}"#,
        "p".repeat(5000)
    );
    fixture.job(7, "ana", "default", 0, NOW, &spec);
    let row = job_view(&fixture.conn, 7, Detail::Row).unwrap().unwrap();
    assert!(row.spec.payload.is_none() && row.spec.env.is_empty() && row.labels["l"] == "1");
    assert!(job_view(&fixture.conn, 7, Detail::Whole).unwrap().unwrap().spec.payload.is_some());
}

#[test]
fn pages_join_to_the_whole_list_in_every_order() {
    let fixture = Fixture::new();
    for (order, wanted) in [
        ("", "6 5 4 3 2 1"),
        ("id", "1 2 3 4 5 6"),
        ("-created", "6 5 4 3 2 1"),
        ("-priority", "5 6 4 3 2 1"),
        ("priority", "1 2 3 4 6 5"),
        ("name", "4 5 3 6 1 2"),
        ("-queue", "2 1 6 5 4 3"),
    ] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let listing = Listing { after, ..listing("", order, 2, Source::Jobs) };
            let found = page(&fixture.conn, &listing, "").unwrap();
            assert!(found.items.len() <= 2);
            seen.extend(found.items);
            let Some(next) = found.next else { break };
            after = Some(Cursor::decode(&next, "", listing.order, Source::Jobs).unwrap());
        }
        assert_eq!(names(&seen), wanted, "{order}");
    }
}

#[test]
fn expanded_lists_show_tasks_in_place_of_their_array_and_page_too() {
    let fixture = Fixture::new();
    let all = listing("", "id", 100, Source::Expanded);
    assert_eq!(names(&page(&fixture.conn, &all, "").unwrap().items), "1 2 3 4 5 6.1 6.2 6.3");
    let failed = listing("state:failed", "id", 100, Source::Expanded);
    assert_eq!(names(&page(&fixture.conn, &failed, "").unwrap().items), "2 6.2");
    let first = page(&fixture.conn, &listing("", "id", 6, Source::Expanded), "").unwrap();
    let after =
        Cursor::decode(&first.next.unwrap(), "", Order::parse("id").unwrap(), Source::Expanded).unwrap();
    let rest = Listing { after: Some(after), ..all };
    assert_eq!(names(&page(&fixture.conn, &rest, "").unwrap().items), "6.2 6.3");
    let tasks = Listing { offset: 1, ..listing("", "-id", 10, Source::TasksOf(6)) };
    assert_eq!(names(&page(&fixture.conn, &tasks, "").unwrap().items), "6.2 6.1");
    assert_eq!(total(&fixture.conn, &tasks).unwrap().value, 3);
}

#[test]
fn the_total_is_exact_up_to_a_bound_and_says_so() {
    let fixture = Fixture::new();
    let count = |filter| total(&fixture.conn, &listing(filter, "", 1, Source::Jobs)).unwrap();
    assert_eq!((count("").value, count("").exact), (6, true));
    assert_eq!(count("state:failed").value, 2);
    fixture.run(
        "WITH RECURSIVE n(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n WHERE x < 100200)
         INSERT INTO jobs (id, owner_uid, owner, title, queue, state, created_at, spec) SELECT x, 1, 'x', 't', 'q', 0, 0, '{}' FROM n",
    );
    assert_eq!((count("").value, count("").exact), (100_000, false));
}

#[test]
fn a_cursor_fits_its_own_list_alone() {
    let fixture = Fixture::new();
    let order = Order::parse("id").unwrap();
    let next =
        page(&fixture.conn, &listing("user:ana", "id", 1, Source::Jobs), "user:ana").unwrap().next.unwrap();
    assert!(next.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(Cursor::decode(&next, "user:ana", order, Source::Jobs).is_ok());
    for (text, filter, order, source) in [
        (next.as_str(), "user:bob", "id", Source::Jobs),
        (next.as_str(), "user:ana", "-id", Source::Jobs),
        (next.as_str(), "user:ana", "id", Source::Expanded),
        ("", "user:ana", "id", Source::Jobs),
        ("zz", "user:ana", "id", Source::Jobs),
        ("7b7d", "user:ana", "id", Source::Jobs),
    ] {
        let problem = Cursor::decode(text, filter, Order::parse(order).unwrap(), source).unwrap_err();
        assert_eq!(problem.code, "bad-cursor");
    }
    assert!(Order::parse("size").unwrap_err().hint.contains("priority"));
}

#[test]
fn output_is_found_in_the_store_or_in_a_segment() {
    let fixture = Fixture::new();
    fixture.run(&format!(
        "INSERT INTO attempts (job, idx, attempt, machine_id, machine, dispatched_at, ended_at, out_seg, out_off, out_len) VALUES
           (1, -1, 1, 'm', 'gpu-01', {NOW}, {NOW}, NULL, NULL, 3), (2, -1, 1, 'm', 'gpu-01', {NOW}, {NOW}, 4, 100, 50),
           (4, -1, 1, 'm', 'gpu-01', {NOW}, NULL, NULL, NULL, 0);
         INSERT INTO outputs VALUES (1, -1, 1, x'616263');"
    ));
    let output = |job| records::attempt_output(&fixture.conn, job, -1, 1).unwrap();
    assert_eq!(output(2).unwrap().segment, Some(Segment { file: 4, offset: 100, len: 50 }));
    assert!(output(1).unwrap().segment.is_none() && output(1).unwrap().ended);
    assert!(!output(4).unwrap().ended);
    assert_eq!(output(3), None);
    assert_eq!(records::small_tape(&fixture.conn, 1, -1, 1).unwrap(), b"abc");
    assert!(records::small_tape(&fixture.conn, 2, -1, 1).unwrap().is_empty());
}

#[test]
fn events_come_in_order_from_any_number() {
    let fixture = Fixture::new();
    assert_eq!(records::event_bounds(&fixture.conn).unwrap(), (0, 0));
    fixture.run("INSERT INTO events VALUES (5, 1, 1, 'five'), (6, 1, 1, 'six'), (7, 1, NULL, 'seven')");
    assert_eq!(records::event_bounds(&fixture.conn).unwrap(), (5, 7));
    let found = records::events(&fixture.conn, 6, 10).unwrap();
    assert_eq!(found, [(6, "six".to_owned()), (7, "seven".to_owned())]);
    assert_eq!(records::events(&fixture.conn, 0, 1).unwrap().len(), 1);
    assert_eq!(records::first_event(&fixture.conn, 1).unwrap(), Some(5));
    assert_eq!(records::first_event(&fixture.conn, 2).unwrap(), None);
}

#[test]
fn messages_keep_their_kind_of_body() {
    let fixture = Fixture::new();
    fixture.run(
        "INSERT INTO messages (id, queue, owner_uid, owner, kind, body, headers, priority, published_at) VALUES
           (1, 'q', 1, 'a', 0, '{\"a\":1}', '{\"h\":\"v\"}', 3, 0), (2, 'q', 1, 'a', 1, 'hi', '{}', 0, 0), (3, 'q', 1, 'a', 2, x'00ff', '{}', 0, 0)",
    );
    fixture.run("UPDATE messages SET body = CAST(body AS BLOB)");
    let message = |id| records::message(&fixture.conn, id).unwrap().unwrap();
    assert_eq!(message(1).body, Some(serde_json::json!({"a": 1})));
    assert_eq!((message(1).headers["h"].as_str(), message(1).priority), ("v", 3));
    assert_eq!(message(2).body_text.as_deref(), Some("hi"));
    assert_eq!(message(3).body_base64.as_deref(), Some("AP8="));
    assert!(message(1).lease.is_none() && records::message(&fixture.conn, 9).unwrap().is_none());
}

#[test]
fn the_newest_registration_of_a_worker_counts_and_the_older_ones_stay() {
    let fixture = Fixture::new();
    fixture.run(
        "INSERT INTO workers (name, version, kind, queue, owner_uid, owner, spec, created_at, removed_at) VALUES ('b', 1, 'command', 'jobs.b', 1, 'a', '{\"command\":[\"x\"]}', 5, NULL),
           ('b', 2, 'command', 'jobs.b', 1, 'a', '{\"command\":[\"y\"]}', 6, NULL), ('a', 1, 'command', 'jobs.a', 1, 'a', '{}', 5, NULL),
           ('gone', 1, 'command', 'q', 1, 'a', '{}', 5, 7)",
    );
    let all = workers::newest(&fixture.conn).unwrap();
    assert_eq!(all.iter().map(|w| (w.name.as_str(), w.version)).collect::<Vec<_>>(), [("a", 1), ("b", 2)]);
    let of = |name, version| workers::registration(&fixture.conn, name, version).unwrap();
    assert_eq!(of("b", 1).unwrap().spec.command.unwrap(), ["x"]);
    assert!(of("gone", 1).is_some() && of("b", 3).is_none());
    assert_eq!(workers::versions(&fixture.conn).unwrap().len(), 3);
}

#[test]
fn sets_for_bulk_carry_what_decides() {
    let fixture = Fixture::new();
    let filter = |text| reeve_protocol::filter::parse(text).unwrap();
    let found = sets::candidates(&fixture.conn, &filter("id:4-6"), ASKER).unwrap();
    assert_eq!(
        found.iter().map(|c| (c.id, c.owner_uid)).collect::<Vec<_>>(),
        [(4, 1001), (5, UID), (6, UID)]
    );
    assert_eq!((found[1].state, found[1].substate), (State::Queued, Some(Substate::Held)));
    assert!(found[2].some_held && found[2].tasks.unwrap().failed == 1);
    assert_eq!(sets::waiting_in(&fixture.conn, "default", &filter(""), ASKER).unwrap(), [5]);
    assert!(sets::waiting_in(&fixture.conn, "default", &filter("user:bob"), ASKER).unwrap().is_empty());
}
