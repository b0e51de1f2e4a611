//! Counting, looking, cleaning, pausing, bounds, and a restart.
use super::{Bench, Case, texts};
use rustix::process::Signal;
use serde_json::json;

pub(super) const CASES: &[Case] = &[
    ("counts are those of one instant", counts),
    ("looking takes nothing", peek),
    ("cleaning says first what it would do, then does exactly that", clean),
    ("a filter cleans exactly what it matches, or is refused as the backend says", clean_by_filter),
    ("what waits moves to another queue in its order, paused or not", moves),
    ("messages that go to and fro between backends are all there, in order, and counted", to_and_fro),
    ("a paused queue takes in and hands nothing out", pause),
    ("a full queue says so", bounds),
    ("a restart of the coordinator keeps what the backend says it keeps", restart),
];

fn counts(bench: &mut Bench) {
    let queue = bench.queue();
    for n in 0..7 {
        let delay = if n < 2 { json!(600) } else { json!(null) };
        bench.publish(&queue, &json!({"body_text": n.to_string(), "delay_s": delay}));
        assert_eq!(bench.counts(&queue), [(n + 1_u64).saturating_sub(2), (n + 1).min(2), 0, 0]);
    }
    let held = bench.receive(&queue, 2, 20.0);
    let held = if held.len() == 2 { held } else { [held, bench.receive(&queue, 1, 20.0)].concat() };
    assert_eq!(bench.counts(&queue), [3, 2, 2, 0]);
    bench.ack(&queue, &held[0]);
    bench.post(&queue, "nack", &json!({"lease": held[1]["lease"]}));
    assert_eq!(bench.counts(&queue), [4, 2, 0, 0]);
}

fn peek(bench: &mut Bench) {
    let queue = bench.queue();
    for n in 0..5 {
        bench.publish(&queue, &json!({"body_text": n.to_string()}));
    }
    if bench.says(&queue, "peek") == "yes" {
        for _ in 0..2 {
            let looked = bench.server.get(&format!("/v1/queues/{queue}/peek?limit=3")).json();
            assert_eq!(texts(looked["items"].as_array().unwrap()), ["0", "1", "2"]);
        }
    } else {
        let refused = bench.server.get(&format!("/v1/queues/{queue}/peek?limit=3"));
        assert_eq!(refused.code(), "backend-cannot", "{}", refused.text());
    }
    assert_eq!(bench.counts(&queue), [5, 0, 0, 0]);
    assert_eq!(texts(&bench.receive_all(&queue, 5)), ["0", "1", "2", "3", "4"]);
}

fn clean(bench: &mut Bench) {
    let queue = bench.queue();
    for n in 0..5 {
        bench.publish(&queue, &json!({"body_text": n.to_string()}));
    }
    bench.publish(&queue, &json!({"body_text": "later", "delay_s": 600}));
    let held = bench.receive(&queue, 1, 20.0).remove(0);
    let dry = bench.post(&queue, "clean", &json!({"dry_run": true})).json();
    assert_eq!((dry["removed"].as_u64(), dry["dry_run"].as_bool()), (Some(5), Some(true)));
    let done = bench.post(&queue, "clean", &json!({})).json();
    assert_eq!(done["removed"], 5);
    assert_eq!(bench.counts(&queue), [0, 0, 1, 0], "what is held is never cleaned");
    assert_eq!(bench.ack(&queue, &held).status, 200);
}

fn clean_by_filter(bench: &mut Bench) {
    let queue = bench.queue();
    for n in 0..6 {
        let headers = json!({"kind": if n % 2 == 0 { "even" } else { "odd" }});
        bench.publish(&queue, &json!({"body_text": "x".repeat(n * 100), "headers": headers}));
    }
    if !bench.says(&queue, "clean").starts_with("all or by filter") {
        let refused = bench.post(&queue, "clean", &json!({"filter": "header.kind=odd"}));
        assert_eq!(refused.code(), "backend-cannot", "{}", refused.text());
        assert_eq!(bench.counts(&queue), [6, 0, 0, 0]);
        return;
    }
    for (filter, n) in [
        ("header.kind=odd", 3),
        ("header.kind=o*,even", 6),
        ("-header.kind=odd size:>300", 1),
        ("size:0,<200", 2),
        ("since:1h priority:0 deliveries:0", 6),
        ("until:1h", 0),
        ("text:xxx -size:>200", 2),
    ] {
        let dry = bench.post(&queue, "clean", &json!({"filter": filter, "dry_run": true})).json();
        assert_eq!(dry["removed"], n, "{filter}");
    }
    let wrong = bench.post(&queue, "clean", &json!({"filter": "state:failed"}));
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "bad-filter"));
    let held = bench.receive(&queue, 1, 20.0).remove(0);
    let done = bench.post(&queue, "clean", &json!({"filter": "size:<250"})).json();
    assert_eq!(done["removed"], 2, "what is held is never cleaned");
    assert_eq!(bench.counts(&queue), [3, 0, 1, 0]);
    let other = bench.queue();
    let dry = bench.post(&queue, "move", &json!({"to": other, "filter": "header.kind=odd", "dry_run": true}));
    assert_eq!(dry.json()["moved"], 2);
    let moved = bench.post(&queue, "move", &json!({"to": other, "filter": "header.kind=odd"})).json();
    assert_eq!((&moved["moved"], &moved["left"]), (&json!(2), &json!(0)));
    assert_eq!((bench.counts(&queue), bench.counts(&other)), ([1, 0, 1, 0], [2, 0, 0, 0]));
    bench.server.signal(Signal::KILL);
    bench.server.up();
    assert_eq!(bench.counts(&other), [2, 0, 0, 0]);
    assert_eq!(bench.ack(&queue, &held).status, 200);
}

fn moves(bench: &mut Bench) {
    let (queue, same) = (bench.queue(), bench.queue());
    let local = format!("{queue}.local");
    bench.put(&local, &json!({"kind": "messages", "backend": "local"}));
    // More than one portion of a broker.
    let lines: String = (0..1_205).map(|n| format!("{{\"body_text\":\"{n}\"}}\n")).collect();
    bench.lines(&queue, &lines, None);
    bench.publish(&queue, &json!({"body_text": "later", "delay_s": 600}));
    let held = bench.receive(&queue, 1, 20.0).remove(0);
    bench.post(&queue, "pause", &json!({}));
    let all = |from: &str, to: &str| {
        let mut total = 0;
        loop {
            // A broker may need longer for what it was given than a caller waits: that is said, and asked again.
            let moved = crate::eventually("the broker to give", || {
                Some(bench.post(from, "move", &json!({"to": to}))).filter(|moved| moved.status != 503)
            });
            assert_eq!(moved.status, 200, "{}", moved.text());
            let moved = moved.json();
            total += moved["moved"].as_u64().unwrap();
            if moved["left"] == 0 {
                return total;
            }
            assert_ne!(moved["moved"], 0, "{moved}");
        }
    };
    if bench.says(&queue, "restart").starts_with("messages are gone") {
        let refused = bench.post(&queue, "move", &json!({"to": local}));
        assert_eq!(refused.code(), "backend-cannot", "{}", refused.text());
    } else {
        let dry = bench.post(&queue, "move", &json!({"to": local, "dry_run": true})).json();
        assert_eq!((&dry["moved"], &dry["left"]), (&json!(1_205), &json!(0)), "{dry}");
        assert_eq!(all(&queue, &local), 1_205);
        assert_eq!((bench.counts(&queue), bench.counts(&local)), ([0, 0, 1, 0], [1_204, 1, 0, 0]));
        assert_eq!(all(&local, &queue), 1_205);
    }
    assert_eq!(all(&queue, &same), 1_205);
    assert_eq!(bench.ack(&queue, &held).status, 200);
    let counts = || bench.counts(&same);
    crate::eventually_or(|| format!("{:?}", counts()), || (counts() == [1_204, 1, 0, 0]).then_some(()));
    let wanted: Vec<String> = (1..1_205).map(|n| n.to_string()).collect();
    assert_eq!(texts(&bench.receive_all(&same, 1_204)), wanted);
}

fn to_and_fro(bench: &mut Bench) {
    let queue = bench.queue();
    if bench.says(&queue, "restart").starts_with("messages are gone") {
        let refused = bench.post(&queue, "migrate", &json!({"to": "local"}));
        return assert_eq!(refused.code(), "backend-cannot", "{}", refused.text());
    }
    // Fewer than are asked for again, and one more than a portion.
    for n in [1, 1_001] {
        let lines: String = (0..n).map(|n| format!("{{\"body_text\":\"{n}\"}}\n")).collect();
        bench.lines(&queue, &lines, None);
        for to in ["local", &bench.backend, "local", &bench.backend] {
            assert_eq!(bench.post(&queue, "migrate", &json!({"to": to})).status, 200);
            let view = || bench.server.get(&format!("/v1/queues/{queue}")).json();
            crate::eventually_or(|| view().to_string(), || view()["moving_from"].is_null().then_some(()));
        }
        let counts = || bench.counts(&queue);
        crate::eventually_or(|| format!("{:?}", counts()), || (counts() == [n, 0, 0, 0]).then_some(()));
        let all = bench.receive_all(&queue, n as usize);
        let wanted: Vec<String> = (0..n).map(|n| n.to_string()).collect();
        assert_eq!(texts(&all), wanted);
        for message in &all {
            assert_eq!(bench.ack(&queue, message).status, 200);
        }
        assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
    }
}

fn pause(bench: &mut Bench) {
    let queue = bench.queue();
    assert_eq!(bench.post(&queue, "pause", &json!({"reason": "repairs"})).status, 200);
    let view = bench.server.get(&format!("/v1/queues/{queue}")).json();
    assert_eq!(view["paused_why"], "repairs");
    assert!(view["paused_by"].as_str().is_some_and(|by| !by.is_empty()), "{view}");
    bench.publish(&queue, &json!({"body_text": "a"}));
    assert!(bench.receive(&queue, 1, 0.0).is_empty());
    assert_eq!(bench.counts(&queue), [1, 0, 0, 0]);
    assert_eq!(bench.post(&queue, "resume", &json!({})).status, 200);
    assert_eq!(texts(&bench.receive(&queue, 1, 20.0)), ["a"]);
}

fn bounds(bench: &mut Bench) {
    let queue = bench.queue_with(&json!({"max_len": 2}));
    for n in 0..2 {
        bench.publish(&queue, &json!({"body_text": n.to_string()}));
    }
    let full = bench.post(&queue, "messages", &json!({"body_text": "x"}));
    assert_eq!((full.status, full.code().as_str()), (409, "queue-state"), "{}", full.text());
    let first = bench.receive(&queue, 1, 20.0).remove(0);
    bench.ack(&queue, &first);
    bench.publish(&queue, &json!({"body_text": "fits"}));
}

fn restart(bench: &mut Bench) {
    let queue = bench.queue();
    for n in 0..4 {
        bench.publish(&queue, &json!({"body_text": n.to_string()}));
    }
    let held = bench.receive(&queue, 1, 20.0).remove(0);
    let kept = !bench.says(&queue, "restart").contains("messages are gone");
    bench.server.signal(Signal::KILL);
    bench.server.up();
    if !kept {
        assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
        return;
    }
    assert_eq!(bench.ack(&queue, &held).status, 200, "a lease outlives the coordinator");
    assert_eq!(texts(&bench.receive_all(&queue, 3)), ["1", "2", "3"]);
    assert_eq!(bench.counts(&queue), [0, 0, 3, 0]);
}
