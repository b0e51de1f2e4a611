//! The checker itself is tested: a small true history has no violation, and every way in which it can be falsified is
//! found, under the right rule.
use super::check;
use super::generate::Output;
use super::history::{History, parse};
use super::report::Report;
use serde_json::{Value, json};

const HEAD: u64 = 1_000_000_000;

/// Two jobs that ended well (7 exclusive, twice run after its guardian was killed), one that was cancelled (8), an array
/// of two (9), one that was refused, a kill that explains the loss.
fn honest() -> History {
    let mut h = History {
        run: json!({"drained_ms": 5, "drain_bound_ms": 10, "limits": {"coordinator": {"rss": 100, "wal": 0}}}),
        submits: vec![
            json!({"op": "I", "key": "a", "out": 100, "retries": 0, "exclusive": true, "lost_after_ms": 20_000}),
            json!({"op": "U", "key": "a"}),
            json!({"op": "A", "key": "a", "job": 7}),
            json!({"op": "M", "key": "a", "status": 409, "code": "key-reused"}),
            json!({"op": "I", "key": "b", "out": 0, "retries": 0}),
            json!({"op": "A", "key": "b", "job": 8}),
            json!({"op": "CI", "job": 8}),
            json!({"op": "CA", "job": 8, "seq": 7, "t": HEAD}),
            json!({"op": "I", "key": "c", "out": 0, "retries": 0, "tasks": 2}),
            json!({"op": "A", "key": "c", "job": 9}),
            json!({"op": "I", "key": "d"}),
            json!({"op": "R", "key": "d", "status": 507}),
        ],
        nemesis: vec![
            json!({"op": "start", "id": 1, "fault": "kill -9 guardian", "machine": "m1", "w": 1}),
            json!({"op": "guardian", "id": 1, "job": 7, "index": null, "attempt": 1, "machine": "m1"}),
            json!({"op": "end", "id": 1, "w": 2}),
            json!({"op": "heal", "t": HEAD}),
        ],
        events: events(),
        logs: vec![
            json!({"job": 7, "index": null, "bytes": 100, "digest": Output::new("a", None, 100).digest()}),
        ],
        samples: vec![json!({"who": "coordinator", "rss": 50})],
        ..History::default()
    };
    h.streams = vec![h.events.clone()];
    h.polls = vec![vec![
        json!({"job": 7, "n": 0, "state": "QUEUED", "substate": "waiting"}),
        json!({"job": 7, "n": 1, "state": "RUNNING", "substate": "running"}),
        json!({"job": 7, "n": 2, "state": "COMPLETED"}),
    ]];
    for row in rows() {
        h.rows.insert((row["id"].as_u64().unwrap(), row["index"].as_u64()), row);
    }
    for (name, body) in [
        ("7_-_1", "S r a 7 - 1 m1 10 1 boot 0 100\nB 150\nB 2"),
        ("7_-_2", "S r a 7 - 2 m1 11 1 boot 0 300\nB 350\nF 0 400\n"),
        ("8_-_1", "S r b 8 - 1 m1 12 1 boot 0 500\nB 600\n"),
        ("9_1_1", "S r c 9 1 1 m1 13 1 boot 0 500\nF 0 510\n"),
        ("9_2_1", "S r c 9 2 1 m1 14 1 boot 0 500\nF 0 510\n"),
    ] {
        h.life(name.to_owned(), body);
    }
    h
}

fn events() -> Vec<Value> {
    let lines = [
        json!({"id": 7, "count": 3, "to": "QUEUED", "substate": "waiting", "actor": "user:a"}),
        json!({"id": 7, "count": 2, "attempt": 1, "from": "QUEUED", "to": "QUEUED", "substate": "assigned", "actor": "coordinator"}),
        json!({"id": 7, "count": 2, "attempt": 1, "from": "QUEUED", "to": "RUNNING", "substate": "running", "actor": "agent:m1"}),
        json!({"id": 7, "attempt": 1, "from": "RUNNING", "to": "QUEUED", "substate": "waiting", "actor": "agent:m1"}),
        json!({"id": 7, "attempt": 2, "from": "QUEUED", "to": "RUNNING", "substate": "running", "actor": "agent:m1"}),
        json!({"id": 7, "attempt": 2, "from": "RUNNING", "to": "COMPLETED", "actor": "agent:m1"}),
        json!({"id": 8, "attempt": 1, "from": "RUNNING", "to": "RUNNING", "substate": "cancelling", "actor": "user:a"}),
        json!({"id": 8, "attempt": 1, "from": "RUNNING", "to": "CANCELLED", "actor": "agent:m1"}),
        json!({"id": 9, "indices": "1-2", "count": 2, "attempt": 1, "from": "QUEUED", "to": "RUNNING", "substate": "running", "actor": "agent:m1"}),
        json!({"id": 9, "index": 1, "attempt": 1, "from": "RUNNING", "to": "COMPLETED", "actor": "agent:m1"}),
        json!({"id": 9, "index": 2, "attempt": 1, "from": "RUNNING", "to": "COMPLETED", "actor": "agent:m1"}),
    ];
    let number = |(at, mut line): (usize, Value)| {
        (line["seq"], line["kind"]) = ((at + 1).into(), "job".into());
        line
    };
    lines.into_iter().enumerate().map(number).collect()
}

fn rows() -> Vec<Value> {
    let attempt = |n: u64, cause: Value| json!({"attempt": n, "machine": "m1", "cause": cause, "ended_at": "1970-01-01T00:01:40.5Z"});
    let ok = || json!({"kind": "ok"});
    vec![
        json!({"id": 7, "state": "COMPLETED", "attempt": 2, "labels": {"key": "a"},
            "attempts": [attempt(1, json!({"kind": "keeper_lost"})), attempt(2, ok())]}),
        json!({"id": 8, "state": "CANCELLED", "attempt": 1, "labels": {"key": "b"},
            "attempts": [attempt(1, json!({"kind": "cancelled"}))]}),
        json!({"id": 9, "state": "COMPLETED", "attempt": 0, "labels": {"key": "c"}, "attempts": [],
            "array": {"from": 1, "to": 2, "counts": {"QUEUED": 0, "RUNNING": 0, "COMPLETED": 2, "FAILED": 0, "CANCELLED": 0}}}),
        json!({"id": 9, "index": 1, "state": "COMPLETED", "attempt": 1, "attempts": [attempt(1, ok())]}),
        json!({"id": 9, "index": 2, "state": "COMPLETED", "attempt": 1, "attempts": [attempt(1, ok())]}),
    ]
}

fn broken(report: &Report) -> Vec<&'static str> {
    let mut rules: Vec<_> = report.violations.iter().map(|v| v.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[test]
fn a_true_history_is_clean_and_every_rule_has_looked_at_something() {
    let report = check(&honest());
    assert!(report.is_clean(), "{}", report.text());
    for (rule, _) in super::report::RULES {
        assert!(report.facts(rule) > 0, "{rule} looked at nothing");
    }
    assert!(report.text().ends_with("lost 0 · doubled 0 · backward 0 · unaccounted 0\n"));
}

#[test]
fn a_run_without_jobs_proves_nothing() {
    assert!(
        !check(&History { run: json!({"drained_ms": 0, "drain_bound_ms": 1}), ..History::default() })
            .is_clean()
    );
}

type Doctor = fn(&mut History);

/// What is done to the true history, and the rules that must find it.
const CASES: &[(&str, &[&str], Doctor)] = &[
    ("an acknowledged job is gone", &["I1"], |h| {
        h.rows.remove(&(8, None));
        h.lives.remove(&(8, None, 1));
    }),
    ("an acknowledged job still waits", &["I1", "I4"], |h| row(h, 8)["state"] = "QUEUED".into()),
    ("a task still runs", &["I1", "I4", "I6"], |h| {
        let task = h.rows.get_mut(&(9, Some(2))).unwrap();
        (task["state"], task["attempts"][0]["cause"]) =
            ("RUNNING".into(), json!({"kind": "exit", "code": 3}));
    }),
    ("a number belongs to another job", &["I1", "I9"], |h| h.submits[5]["job"] = 7.into()),
    ("what was refused exists", &["I2"], |h| h.submits[11]["key"] = "b".into()),
    ("a job that nobody sent", &["I2"], |h| {
        h.submits[4]["key"] = "x".into();
    }),
    ("a stream sees a state undone", &["I3", "I4"], |h| {
        h.streams[0].swap(2, 4);
    }),
    ("a poll sees an attempt go back", &["I3"], |h| h.polls[0].swap(0, 1)),
    ("a poll sees a job leave its end", &["I3"], |h| {
        h.polls[0].push(json!({"job": 7, "n": 2, "state": "RUNNING", "substate": "running"}));
    }),
    ("the store undoes an end", &["I3", "I4"], |h| {
        let mut last = h.events[4].clone();
        last["seq"] = 12.into();
        h.events.push(last);
    }),
    ("running comes back although nobody gave it up", &["I3"], |h| {
        // Attempt 1 waits for a retry of its own, not after a verdict, and runs again under the same number.
        h.events[4]["attempt"] = 1.into();
        h.streams[0][4]["attempt"] = 1.into();
    }),
    ("an event is missing", &["I4"], |h| {
        h.events.remove(8);
    }),
    ("events and row differ", &["I4"], |h| row(h, 8)["attempt"] = 2.into()),
    ("an array counts wrong", &["I4"], |h| row(h, 9)["array"]["counts"]["COMPLETED"] = 1.into()),
    ("a stream saw another event", &["I4"], |h| h.streams[0][10]["actor"] = "agent:m2".into()),
    ("a second start of one attempt", &["I5"], |h| h.life("dup_7_-_2_99".to_owned(), "")),
    ("a start without a record", &["I5", "I7"], |h| {
        h.life("7_-_3".to_owned(), "S r a 7 - 3 m1 10 1 boot 0 900\n");
    }),
    ("a start on another machine than recorded", &["I5"], |h| {
        h.lives.get_mut(&(8, None, 1)).unwrap().machine = "m2".into();
    }),
    ("a start of what was given back unstarted", &["I5"], |h| {
        row(h, 8)["attempts"][0]["cause"] = json!({"kind": "rejected", "detail": "not started, given back"});
    }),
    ("completed without an end", &["I6"], |h| h.lives.get_mut(&(9, Some(1), 1)).unwrap().finish = None),
    ("completed with another code", &["I6"], |h| {
        h.lives.get_mut(&(7, None, 2)).unwrap().finish = Some((3, 400));
    }),
    ("an invented exit code", &["I6"], |h| {
        row(h, 8)["attempts"][0]["cause"] = json!({"kind": "exit", "code": 1});
    }),
    ("a start that nothing explains", &["I7"], |h| {
        row(h, 7)["attempts"][0]["cause"] = json!({"kind": "cancelled"});
    }),
    ("more losses than the budget", &["I7", "I7b"], |h| {
        let lost = json!({"attempt": 9, "machine": "m1", "cause": {"kind": "keeper_lost"}});
        row(h, 7)["attempts"].as_array_mut().unwrap().extend([
            lost.clone(),
            lost.clone(),
            lost.clone(),
            lost,
        ]);
    }),
    ("a guardian lost that nobody killed", &["I7b"], |h| h.nemesis[1]["attempt"] = 2.into()),
    ("lost although its machine was only stopped for a moment", &["I7b"], |h| {
        row(h, 7)["attempts"][0]["cause"] = json!({"kind": "lost"});
    }),
    ("lost because the coordinator was away", &["I7b"], |h| {
        row(h, 7)["attempts"][0]["cause"] = json!({"kind": "lost"});
        h.nemesis.push(
            json!({"op": "start", "id": 2, "fault": "kill -9 coordinator", "machine": "*", "w": 70_000}),
        );
        h.nemesis.push(json!({"op": "end", "id": 2, "w": 95_000}));
    }),
    ("a machine restarted that nobody restarted", &["I7b"], |h| {
        row(h, 7)["attempts"][0]["cause"] = json!({"kind": "rebooted"});
    }),
    ("exclusive attempts overlap", &["I8"], |h| h.lives.get_mut(&(7, None, 1)).unwrap().beat = 301),
    ("a key has two jobs", &["I9"], |h| {
        let mut twin = h.rows[&(8, None)].clone();
        (twin["id"], twin["labels"]["key"]) = (10.into(), "a".into());
        twin["attempts"] = json!([]);
        twin["attempt"] = 0.into();
        h.rows.insert((10, None), twin);
        let born = json!({"seq": 12, "kind": "job", "id": 10, "to": "CANCELLED", "actor": "user:a"});
        h.events.push(born);
    }),
    ("another content under a used key is taken", &["I9"], |h| {
        (h.submits[3]["status"], h.submits[3]["code"]) = (200.into(), Value::Null);
    }),
    ("handed out after a cancel", &["I10"], |h| h.submits[7]["seq"] = 1.into()),
    ("alive long after a cancel", &["I10"], |h| h.lives.get_mut(&(8, None, 1)).unwrap().beat = 47 * HEAD),
    ("a process is left over", &["I11"], |h| h.left.push("process 5 sleep".into())),
    ("it took too long to end", &["I12"], |h| h.run["drained_ms"] = 11.into()),
    ("output is cut", &["I13"], |h| h.logs[0]["bytes"] = 99.into()),
    ("output is another", &["I13"], |h| h.logs[0]["digest"] = "0".into()),
    ("memory above its limit", &["I15"], |h| h.samples[0]["rss"] = 101.into()),
    ("a daemon ended by itself", &["I15"], |h| {
        h.nemesis.push(json!({"op": "exit", "daemon": "m1", "code": 1, "w": 5}));
    }),
    ("the coordinator gave up its store without a full disk", &["I15"], |h| {
        h.nemesis.push(json!({"op": "exit", "daemon": "coordinator", "code": 74, "w": 5}));
    }),
    ("somebody panicked", &["I15"], |h| h.panics.push("log: panicked".into())),
];

fn row(h: &mut History, job: u64) -> &mut Value {
    h.rows.get_mut(&(job, None)).unwrap()
}

#[test]
fn whatever_is_falsified_is_found_under_its_rule() {
    for (what, rules, doctor) in CASES {
        let mut history = honest();
        doctor(&mut history);
        let report = check(&history);
        assert_eq!(broken(&report), *rules, "{what}:\n{}", report.text());
        assert!(!report.is_clean());
        for violation in &report.violations {
            assert!(!violation.history.is_empty(), "{what}: a violation tells what happened");
        }
    }
}

#[test]
fn what_may_be_so_is_no_violation() {
    let legal: &[(&str, Doctor)] = &[
        ("a verdict taken back: the machine came back in time", |h| {
            for list in [&mut h.events, &mut h.streams[0]] {
                list[3]["actor"] = "coordinator".into();
                list[4]["attempt"] = 1.into();
                list[5]["attempt"] = 1.into();
            }
            row(h, 7)["attempt"] = 1.into();
            row(h, 7)["attempts"] = json!([{"attempt": 1, "machine": "m1", "cause": {"kind": "ok"}}]);
            h.lives.remove(&(7, None, 2));
            h.lives.get_mut(&(7, None, 1)).unwrap().finish = Some((0, 400));
            h.polls[0][2]["n"] = 1.into();
        }),
        ("lost by a machine that was away for longer than it may", |h| {
            row(h, 7)["attempts"][0]["cause"] = json!({"kind": "lost"});
            h.nemesis.push(
                json!({"op": "start", "id": 2, "fault": "link blackhole", "machine": "m1", "w": 70_000}),
            );
            h.nemesis.push(json!({"op": "end", "id": 2, "w": 95_000}));
        }),
        ("a coordinator that gave up while its disk was full", |h| {
            h.nemesis.push(
                json!({"op": "start", "id": 2, "fault": "coordinator disk full", "machine": "*", "w": 4}),
            );
            h.nemesis.push(json!({"op": "exit", "daemon": "coordinator", "code": 74, "w": 5}));
            h.nemesis.push(json!({"op": "end", "id": 2, "w": 6}));
        }),
        ("overlap while a guardian was stopped on purpose", |h| {
            h.lives.get_mut(&(7, None, 1)).unwrap().beat = 301;
            h.nemesis[0]["fault"] = "kill -9 guardian".into();
            h.nemesis
                .push(json!({"op": "start", "id": 3, "fault": "SIGSTOP guardian", "machine": "m1", "w": 1}));
            h.nemesis.push(json!({"op": "guardian", "id": 3, "job": 7, "index": null, "attempt": 1}));
        }),
    ];
    for (what, change) in legal {
        let mut history = honest();
        change(&mut history);
        let report = check(&history);
        assert!(report.is_clean(), "{what}:\n{}", report.text());
    }
}

#[test]
fn a_line_that_a_kill_has_cut_is_no_line_and_nonsense_is_an_error() {
    assert_eq!(parse("x", "{\"a\":1}\n{\"b\"").unwrap(), [json!({"a": 1})]);
    assert!(parse("x", "{\"a\"\n{\"b\":1}\n").unwrap_err().contains("x: "));
    let history = honest();
    assert_eq!(history.lives[&(7, None, 1)].beat, 150, "a beat that was cut does not count");
}

#[test]
fn wall_time_is_read_to_the_millisecond() {
    for (text, ms) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:01:40.5Z", 100_500),
        ("2000-02-29T12:00:00.001Z", 951_825_600_001),
        ("2026-11-24T17:07:43.123456Z", 1_795_540_063_123),
    ] {
        assert_eq!(super::rules_execution::wall_ms(&text.into()), Some(ms), "{text}");
    }
    assert_eq!(super::rules_execution::wall_ms(&"yesterday".into()), None);
}
