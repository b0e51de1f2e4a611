//! Order, priority, delay, leases, the dead, who waits, many at once.
use super::{Bench, Case, texts};
use crate::eventually;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    ("what was published first comes first", order),
    ("higher bands come first, and inside a band as the backend says", priority),
    ("what is delayed comes when it is due, and not before", delay),
    ("a lease that ends gives the message back, with its deliveries counted", lease),
    ("a message that is given back comes again, at once or later; a settled lease is gone", nack),
    ("a message that nobody can handle is dead after four deliveries, with the cause", dead),
    ("whoever waits is served when something comes", waiting),
    ("a key publishes once, and never something else", once),
    ("what is too old is not handed out", expiry),
    ("lines become messages in portions, each line for itself, once with a key", lines),
    ("many leases are settled at once, each for itself", settle_many),
    ("of many publishers and receivers each message is had once", concurrency),
];

fn order(bench: &mut Bench) {
    let queue = bench.queue();
    let wanted: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    for text in &wanted {
        bench.publish(&queue, &json!({"body_text": text}));
    }
    assert_eq!(texts(&bench.receive_all(&queue, 60)), wanted);
    assert!(bench.receive(&queue, 1, 0.0).is_empty());
}

fn priority(bench: &mut Bench) {
    let queue = bench.queue();
    for priority in [-5, 0, 1, 7] {
        bench.publish(&queue, &json!({"body_text": priority.to_string(), "priority": priority}));
    }
    let exact = bench.says(&queue, "priority").starts_with("exact");
    let mut found = Vec::new();
    while found.len() < 4 {
        // One by one, so that the backend alone decides what comes next.
        let some = bench.receive(&queue, 1, 20.0);
        found.extend(texts(&some));
    }
    if exact {
        assert_eq!(found, ["7", "1", "0", "-5"]);
    } else {
        assert_eq!(found[2..], ["0", "-5"], "{found:?}");
    }
}

fn delay(bench: &mut Bench) {
    let queue = bench.queue();
    bench.publish(&queue, &json!({"body_text": "much later", "delay_s": 600}));
    assert_eq!(bench.counts(&queue), [0, 1, 0, 0]);
    assert!(bench.receive(&queue, 1, 0.0).is_empty());
    let began = Instant::now();
    bench.publish(&queue, &json!({"body_text": "later", "delay_s": 0.8}));
    assert_eq!(texts(&bench.receive(&queue, 1, 20.0)), ["later"]);
    assert!(began.elapsed() >= Duration::from_millis(800), "not before it was due");
}

fn lease(bench: &mut Bench) {
    let queue = bench.queue();
    bench.publish(&queue, &json!({"body_text": "a"}));
    let first = bench.receive_for(&queue, 1, 20.0, 1.0).remove(0);
    assert_eq!(first["deliveries"], 1);
    let second = bench.receive(&queue, 1, 20.0).remove(0);
    assert_eq!((second["deliveries"].as_u64(), &second["id"]), (Some(2), &first["id"]));
    let late = bench.ack(&queue, &first);
    assert_eq!((late.status, late.code().as_str()), (409, "no-lease"), "its lease has ended");
    assert!(late.text().contains("is held under another lease"), "the present state: {}", late.text());
    let other = bench.ack(&bench.queue(), &second).text();
    assert!(other.contains(&format!("it is of queue {queue}")), "{other}");
    let longer = bench.post(&queue, "extend", &json!({"lease": second["lease"], "lease_s": 120}));
    assert_eq!(longer.status, 200);
    assert_eq!(bench.ack(&queue, &second).status, 200);
}

fn nack(bench: &mut Bench) {
    let queue = bench.queue();
    bench.publish(&queue, &json!({"body_text": "a"}));
    let first = bench.receive(&queue, 1, 20.0).remove(0);
    assert_eq!(bench.post(&queue, "nack", &json!({"lease": first["lease"]})).status, 200);
    let second = bench.receive(&queue, 1, 20.0).remove(0);
    let later = json!({"lease": second["lease"], "delay_s": 0.5, "error": "not now"});
    let began = Instant::now();
    assert_eq!(bench.post(&queue, "nack", &later).status, 200);
    let counts = bench.counts(&queue);
    assert!(counts == [0, 1, 0, 0] || began.elapsed() >= Duration::from_millis(500), "{counts:?}");
    let third = bench.receive(&queue, 1, 20.0).remove(0);
    assert!(began.elapsed() >= Duration::from_millis(500), "not before it was due");
    assert_eq!(third["deliveries"], 3);
    assert_eq!(bench.ack(&queue, &third).status, 200);
    for how in ["ack", "nack", "extend"] {
        assert_eq!(bench.post(&queue, how, &json!({"lease": third["lease"]})).code(), "no-lease");
    }
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}

fn dead(bench: &mut Bench) {
    let queue = bench.queue();
    bench.publish(&queue, &json!({"body_text": "a"}));
    for _ in 0..4 {
        let message = bench.receive(&queue, 1, 20.0).remove(0);
        bench.post(&queue, "nack", &json!({"lease": message["lease"], "error": "too hard"}));
    }
    assert_eq!(bench.counts(&queue), [0, 0, 0, 1]);
    assert!(bench.receive(&queue, 1, 0.0).is_empty());
    let listed = bench.server.get(&format!("/v1/queues/{queue}/dead")).json();
    assert_eq!(
        (&listed["items"][0]["dead"], &listed["items"][0]["body_text"]),
        (&json!("too hard"), &json!("a"))
    );
    let dry = bench.post(&queue, "dead/return", &json!({"dry_run": true})).json();
    assert_eq!((&dry["returned"], &dry["left"]), (&json!(1), &json!(1)));
    let unknown = bench.post(&queue, "dead/return", &json!({"ids": ["999999"]}));
    assert_eq!(unknown.code(), "not-found");
    let back = bench.post(&queue, "dead/return", &json!({})).json();
    assert_eq!((&back["returned"], &back["left"]), (&json!(1), &json!(0)));
    for deliveries in 1..=4 {
        let message = bench.receive(&queue, 1, 20.0).remove(0);
        assert_eq!(message["deliveries"], deliveries);
        bench.post(&queue, "nack", &json!({"lease": message["lease"], "error": "still"}));
    }
    let cleaned = bench.post(&queue, "clean", &json!({"dead": true})).json();
    assert_eq!(cleaned["removed"], 1);
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}

fn waiting(bench: &mut Bench) {
    let queue = bench.queue();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let body = json!({"max": 1, "wait_s": 30});
            crate::http::post(
                bench.server.socket(),
                &format!("/v1/queues/{queue}/receive"),
                &body.to_string(),
            )
        });
        // Whether it waits already or comes a moment later makes no difference to what it gets.
        crate::http::post(
            bench.server.socket(),
            &format!("/v1/queues/{queue}/messages"),
            &json!({"body_text": "a"}).to_string(),
        );
        let answer = waiter.join().unwrap().json();
        assert_eq!(answer["items"][0]["body_text"], "a", "{answer}");
    });
}

fn once(bench: &mut Bench) {
    let queue = bench.queue();
    let publish = |body: &str| {
        let words = ["queue", "publish", &queue, body, "--key", "k1", "--json"];
        bench.server.run(&words)
    };
    let first: serde_json::Value = serde_json::from_slice(&publish("one").stdout).unwrap();
    let again: serde_json::Value = serde_json::from_slice(&publish("one").stdout).unwrap();
    assert_eq!(first["id"], again["id"]);
    assert!(String::from_utf8_lossy(&publish("two").stderr).contains("key-reused"));
    let message = bench.receive(&queue, 5, 20.0).remove(0);
    bench.ack(&queue, &message);
    let after: serde_json::Value = serde_json::from_slice(&publish("one").stdout).unwrap();
    assert_eq!(after["id"], first["id"], "a key is remembered although the message is gone");
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}

fn expiry(bench: &mut Bench) {
    let queue = bench.queue();
    bench.publish(&queue, &json!({"body_text": "short", "ttl_s": 0.3}));
    bench.publish(&queue, &json!({"body_text": "long", "delay_s": 0.6}));
    // Once this one is due the other is too old.
    eventually("it is due", || (bench.counts(&queue)[1] == 0).then_some(()));
    assert_eq!(texts(&bench.receive(&queue, 5, 20.0)), ["long"]);
    assert_eq!(bench.counts(&queue), [0, 0, 1, 0]);
}

fn lines(bench: &mut Bench) {
    let queue = bench.queue_with(&json!({"max_len": 2_503}));
    let good = |n: usize| format!("{}\n", json!({"body_text": n.to_string()}));
    let mut body: String = (0..2_500).map(good).collect();
    body += "{\"body_text\":\"x\",\"hedaers\":{}}\n\nnot json\n";
    body += &(2_500..2_510).map(good).collect::<String>();
    let answer = bench.lines(&queue, &body, Some("file-1"));
    let refused: Vec<_> = answer.iter().filter(|l| l["error"].is_object()).collect();
    let codes: Vec<_> = refused.iter().map(|l| l["error"]["code"].as_str().unwrap()).collect();
    assert_eq!(codes[..2], ["unknown-field", "json-syntax"]);
    assert_eq!((refused[0]["line"].as_u64(), refused[1]["line"].as_u64()), (Some(2_501), Some(2_503)));
    // A message that lies at a broker by now still counts; how many fit is exact.
    assert_eq!(codes[2..], ["queue-state"; 7]);
    assert_eq!(refused[2]["line"], 2_507, "what was taken before the first that did not fit stays");
    let all = answer.last().unwrap();
    assert_eq!((&all["published"], &all["failed"], &all["to"]), (&json!(2_503), &json!(9), &json!(2_513)));
    let portions = answer.iter().filter(|l| l["done"].is_null() && l["error"].is_null());
    assert_eq!(portions.map(|p| p["published"].as_u64().unwrap()).sum::<u64>(), 2_503);
    let again = bench.lines(&queue, &body, Some("file-1"));
    assert_eq!(again.last().unwrap()["replayed"], 2_503, "{}", again.last().unwrap());
    assert!(again.last().unwrap()["first"].is_null());
    let wanted: Vec<String> = (0..2_503).map(|n| n.to_string()).collect();
    let came = bench.receive_all(&queue, 2_503);
    let had = texts(&came);
    let exact = had.iter().zip(&wanted).position(|(a, b)| a != b);
    if let Some(at) = exact.filter(|_| bench.backend.starts_with("amqp")) {
        // Known: thousands read in one go from RabbitMQ may come out of order; each comes once all the same.
        eprintln!("out of order from {at} on: {:?}", &had[at..(at + 8).min(had.len())]);
        let each = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!((had.len(), each(&had)), (wanted.len(), each(&wanted)));
    } else {
        assert_eq!(had, wanted);
    }
    for portion in came.chunks(1000) {
        let leases: Vec<_> = portion.iter().map(|m| m["lease"].clone()).collect();
        let answer = bench.post(&queue, "ack", &json!({"leases": leases})).json();
        assert_eq!((&answer["ok"], &answer["settled"]), (&json!(true), &json!(portion.len())));
    }
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}

fn settle_many(bench: &mut Bench) {
    let queue = bench.queue();
    let body: String = (0..6).map(|n| format!("{}\n", json!({"body_text": n.to_string()}))).collect();
    bench.lines(&queue, &body, None);
    let came = bench.receive_all(&queue, 6);
    let lease = |n: usize| came[n]["lease"].clone();
    let longer = json!({"leases": [lease(0), lease(5)], "lease_s": 120});
    assert_eq!(bench.post(&queue, "extend", &longer).json()["settled"], 2);
    let acked = bench.post(&queue, "ack", &json!({"leases": [lease(0), "foreign", lease(1), lease(0)]}));
    let answer = acked.json();
    assert_eq!((&answer["ok"], &answer["settled"]), (&json!(false), &json!(2)));
    let refused: Vec<_> = answer["refused"].as_array().unwrap().iter().map(|r| r["lease"].clone()).collect();
    assert_eq!(refused, [json!("foreign"), lease(0)], "a lease is settled once");
    assert_eq!(answer["refused"][0]["error"]["code"], "no-lease");
    let back = json!({"leases": [lease(2), lease(3)], "delay_s": 600, "error": "later"});
    assert_eq!(bench.post(&queue, "nack", &back).json()["settled"], 2);
    assert_eq!(bench.counts(&queue), [0, 2, 2, 0]);
    let gone = bench.post(&queue, "ack", &json!({"leases": [lease(0), lease(1)]}));
    assert_eq!((gone.status, gone.code().as_str()), (409, "no-lease"), "nothing of it was settled");
    for (body, code) in [
        (json!({"leases": vec!["x"; 1001]}), "too-large"),
        (json!({"leases": ["x"], "lease": "y"}), "bad-value"),
        (json!({"leases": ["x"], "result": 1}), "bad-value"),
        (json!({"leases": [""]}), "bad-value"),
        (json!({"leases": []}), "bad-value"),
    ] {
        assert_eq!(bench.post(&queue, "ack", &body).code(), code, "{body}");
    }
}

fn concurrency(bench: &mut Bench) {
    let queue = bench.queue();
    let bench = &*bench;
    let socket = bench.server.socket();
    let path = |what: &str| format!("/v1/queues/{queue}/{what}");
    let (publishes, receives, acks) = (path("messages"), path("receive"), path("ack"));
    let left = AtomicUsize::new(160);
    let had = std::thread::scope(|scope| {
        for publisher in 0..4 {
            let publishes = &publishes;
            scope.spawn(move || {
                for n in 0..40 {
                    let body = json!({"body_text": format!("{publisher}.{n}")}).to_string();
                    assert_eq!(crate::http::post(socket, publishes, &body).status, 201);
                }
            });
        }
        let receivers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut had = Vec::new();
                    let end = Instant::now() + crate::PATIENCE;
                    while left.load(Ordering::SeqCst) > 0 && Instant::now() < end {
                        let body = json!({"max": 7, "wait_s": 2}).to_string();
                        let items = crate::http::post(socket, &receives, &body).json()["items"].clone();
                        let items = items.as_array().unwrap().clone();
                        // One that comes twice makes the rest too few.
                        left.fetch_sub(items.len().min(left.load(Ordering::SeqCst)), Ordering::SeqCst);
                        for item in &items {
                            let body = json!({"lease": item["lease"]}).to_string();
                            assert_eq!(crate::http::post(socket, &acks, &body).status, 200);
                        }
                        had.extend(texts(&items));
                    }
                    had
                })
            })
            .collect();
        receivers.into_iter().flat_map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(had.len(), 160);
    assert_eq!(had.into_iter().collect::<BTreeSet<_>>().len(), 160);
    assert_eq!(bench.counts(&queue), [0, 0, 0, 0]);
}
