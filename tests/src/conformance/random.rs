//! Random operations on one queue, each held against a model: what is handed out, in which order, how often, how many lie
//! where after every operation. A seed repeats a run; what differs between backends is what their capability lists name.
use super::Bench;
use super::model::{Model, Place};
use crate::chaos::rng::Rng;
use crate::eventually_or;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than any run.
const LATER_S: u64 = 3_600;
/// What is waited for: a delay, a time to live.
const SOON: Duration = Duration::from_millis(300);
/// The shortest lease there is.
const LEASE: Duration = Duration::from_secs(1);
const PRIORITIES: [i64; 3] = [-2, 0, 3];

/// One run, and what it did so far: printed when it fails.
struct Run<'a> {
    bench: &'a mut Bench,
    queue: String,
    rng: Rng,
    model: Model,
    seed: u64,
    made: u64,
    trace: Vec<String>,
    /// One order over all, by priority and age.
    is_exact: bool,
    /// What lies there has left the store.
    is_outside: bool,
    /// A restart of the coordinator loses messages.
    is_forgetful: bool,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.trace.join("\n  ");
            eprintln!("REEVE_SEED={} on {} repeats it; it did:\n  {trace}", self.seed, self.bench.backend);
        }
    }
}

/// So many operations on a new queue.
pub fn run(bench: &mut Bench, seed: u64, operations: usize) {
    let queue = bench.queue();
    let (is_exact, is_outside, is_forgetful) = (
        bench.says(&queue, "order") == "exact",
        bench.says(&queue, "other programs").starts_with("yes"),
        bench.says(&queue, "restart").contains("messages are gone"),
    );
    let mut run = Run {
        bench,
        queue,
        rng: Rng::new(seed),
        model: Model::default(),
        seed,
        made: 0,
        trace: Vec::new(),
        is_exact,
        is_outside,
        is_forgetful,
    };
    for _ in 0..operations {
        run.operation();
        run.compare();
    }
    run.empty();
}

impl Run<'_> {
    fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    fn operation(&mut self) {
        match self.rng.range(0, 99) {
            0..30 => self.publish(),
            30..34 => self.publish_soon(),
            34..37 => self.publish_brief(),
            37..42 => self.publish_once(),
            42..62 => self.receive(),
            62..65 => self.receive_and_lose(),
            65..75 => self.acknowledge(),
            75..77 => self.settle_stale(),
            77..87 => self.give_back(),
            87..89 => self.extend(),
            89..92 => self.pause_or_resume(),
            92..94 => self.peek(),
            94..96 => self.clean(),
            96..98 => self.dead(),
            _ => self.restart(),
        }
    }

    fn message(&mut self) -> (String, i64) {
        self.made += 1;
        (format!("m{}", self.made), *self.rng.pick(&PRIORITIES))
    }

    fn publish(&mut self) {
        let (body, priority) = self.message();
        let delayed = self.rng.chance(15.0);
        let mut message = json!({"body_text": body, "priority": priority});
        if delayed {
            message["delay_s"] = json!(LATER_S);
        }
        if self.rng.chance(20.0) {
            message["ttl_s"] = json!(LATER_S);
        }
        let id = self.bench.publish(&self.queue, &message).parse().unwrap();
        self.note(format!("published {id}: {message}"));
        self.model.add(id, &body, priority, delayed);
    }

    /// With a delay that is waited for: it cannot be had earlier.
    fn publish_soon(&mut self) {
        let (body, priority) = self.message();
        let message = json!({"body_text": body, "priority": priority, "delay_s": SOON.as_secs_f64()});
        let id = self.bench.publish(&self.queue, &message).parse().unwrap();
        self.note(format!("published {id}, and waited until it was due: {message}"));
        self.model.add(id, &body, priority, true);
        self.due(id);
    }

    fn due(&mut self, id: u64) {
        self.model.all.get_mut(&id).unwrap().place = Place::Ready;
        self.until_same();
    }

    /// With a time to live that is waited for: nobody gets it, though a broker may count it until somebody would.
    fn publish_brief(&mut self) {
        let (body, priority) = self.message();
        let began = Instant::now();
        let message = json!({"body_text": body, "priority": priority, "ttl_s": SOON.as_secs_f64()});
        let id = self.bench.publish(&self.queue, &message);
        self.note(format!("published {id}, and waited until it was too old: {message}"));
        std::thread::sleep((SOON + Duration::from_millis(50)).saturating_sub(began.elapsed()));
        self.model.ghosts += u64::from(self.is_outside);
        self.until_same();
    }

    fn publish_once(&mut self) {
        let key = self.rng.range(0, 2);
        let other = self.rng.chance(20.0);
        let known = self.model.keys.get(&key).copied();
        let body = format!("of key {key}");
        let asked = json!({"body_text": if other && known.is_some() { "another" } else { &body }});
        let answer = self.bench.publish_once(&self.queue, &asked, &format!("k{key}"));
        self.note(format!("published {asked} with key {key}: {}", answer.text()));
        match known {
            Some(_) if other => assert_eq!(answer.code(), "key-reused"),
            Some(id) => assert_eq!(answer.json()["id"], id.to_string()),
            None => {
                assert_eq!(answer.status, 201, "{}", answer.text());
                let id = answer.json()["id"].as_str().unwrap().parse().unwrap();
                self.model.keys.insert(key, id);
                self.model.add(id, &body, 0, false);
            }
        }
    }

    fn receive(&mut self) {
        let max = self.rng.range(1, 6);
        self.take(max, LATER_S as f64);
    }

    /// Receives as many as there may be, up to so many; every message is one that could be had.
    fn take(&mut self, max: u64, lease_s: f64) -> Vec<u64> {
        let ready = self.model.ready();
        let wanted = if self.model.paused { 0 } else { ready.len().min(max as usize) };
        let wait = if wanted > 0 && self.is_outside { 30.0 } else { 0.0 };
        let items = self.bench.receive_for(&self.queue, max as u32, wait, lease_s);
        let ids: Vec<u64> = items.iter().map(|m| m["id"].as_str().unwrap().parse().unwrap()).collect();
        self.note(format!("received up to {max}: {ids:?}"));
        if self.is_exact {
            assert_eq!(ids, ready[..wanted]);
        }
        assert!(ids.len() <= wanted && ids.is_empty() == (wanted == 0), "{wanted} could be had, not {ids:?}");
        for (id, item) in ids.iter().zip(&items) {
            self.model.hand_out(*id, item["lease"].as_str().unwrap());
            let known = &self.model.all[id];
            assert_eq!(
                (item["body_text"].as_str(), item["priority"].as_i64(), item["deliveries"].as_u64()),
                (Some(known.body.as_str()), Some(known.priority), Some(known.deliveries)),
                "{item}"
            );
        }
        ids
    }

    /// Holds some until their leases have ended.
    fn receive_and_lose(&mut self) {
        let ids = self.take(2, LEASE.as_secs_f64());
        self.note("and held them until their leases had ended".to_owned());
        for id in ids {
            self.model.back(id, false);
        }
        self.until_same();
    }

    fn held(&mut self) -> Option<u64> {
        let held = self.model.of(|p| matches!(p, Place::Leased(_)));
        (!held.is_empty()).then(|| *self.rng.pick(&held))
    }

    fn settle(&mut self, how: &str, more: &Value, lease: &str) -> crate::http::Answer {
        let mut body = json!({"lease": lease});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.bench.post(&self.queue, how, &body);
        self.note(format!("{how} {body}: {}", answer.status));
        answer
    }

    fn acknowledge(&mut self) {
        let Some(id) = self.held() else { return };
        let lease = self.model.lease(id);
        assert_eq!(self.settle("ack", &json!({}), &lease).status, 200);
        self.model.acknowledge(id);
    }

    fn settle_stale(&mut self) {
        let lease = if self.model.stale.is_empty() {
            "0123456789abcdef".to_owned()
        } else {
            self.rng.pick(&self.model.stale).clone()
        };
        let how = *self.rng.pick(&["ack", "nack", "extend"]);
        let answer = self.settle(how, &json!({}), &lease);
        assert_eq!((answer.status, answer.code().as_str()), (409, "no-lease"));
    }

    fn give_back(&mut self) {
        let Some(id) = self.held() else { return };
        let lease = self.model.lease(id);
        let (delay, how) =
            *self.rng.pick(&[(0.0, 0), (0.0, 0), (SOON.as_secs_f64(), 1), (LATER_S as f64, 2)]);
        assert_eq!(self.settle("nack", &json!({"delay_s": delay, "error": "no"}), &lease).status, 200);
        self.model.back(id, how == 2);
        if how == 1 {
            self.until_same();
        }
    }

    /// A lease that would have ended is made longer.
    fn extend(&mut self) {
        let Some(id) = self.held() else { return };
        let lease = self.model.lease(id);
        assert_eq!(self.settle("extend", &json!({"lease_s": LATER_S}), &lease).status, 200);
    }

    fn pause_or_resume(&mut self) {
        self.model.paused = !self.model.paused;
        let how = if self.model.paused { "pause" } else { "resume" };
        self.note(how.to_owned());
        assert_eq!(self.bench.post(&self.queue, how, &json!({})).status, 200);
    }

    fn peek(&mut self) {
        let answer = self.bench.server.get(&format!("/v1/queues/{}/peek?limit=4", self.queue));
        self.note("peeked".to_owned());
        let said = answer.json();
        if self.bench.says(&self.queue, "peek") != "yes" && said["items"].is_null() {
            return assert_eq!(answer.code(), "backend-cannot");
        }
        // What came back to the store is ahead of what lies at a broker, and enough of it can be shown everywhere.
        let items = said["items"].as_array().unwrap();
        let ids: Vec<u64> = items.iter().map(|m| m["id"].as_str().unwrap().parse().unwrap()).collect();
        let ready = self.model.ready();
        if self.is_exact {
            assert_eq!(ids, ready[..ready.len().min(4)]);
        }
        assert!(ids.iter().all(|id| ready.contains(id) || self.model.ghosts > 0), "{ids:?} of {ready:?}");
    }

    /// Says first what it would do, and does exactly that.
    fn clean(&mut self) {
        let dead = self.rng.chance(30.0);
        let removed = |run: &Self, dry: bool| {
            let body = json!({"dead": dead, "dry_run": dry});
            run.bench.post(&run.queue, "clean", &body).json()["removed"].as_u64().unwrap()
        };
        let (would, did) = (removed(self, true), removed(self, false));
        self.note(format!("cleaned, dead {dead}: would {would}, did {did}"));
        let gone = self.model.of(|p| match p {
            Place::Dead => dead,
            Place::Ready | Place::Delayed => !dead,
            Place::Leased(_) => false,
        });
        let ghosts = if dead { 0 } else { std::mem::take(&mut self.model.ghosts) };
        let may_be = gone.len() as u64..=gone.len() as u64 + ghosts;
        assert!(may_be.contains(&would) && would == did, "{may_be:?} were there; would {would}, did {did}");
        self.model.all.retain(|id, _| !gone.contains(id));
    }

    fn dead(&mut self) {
        let dead = self.model.of(|p| *p == Place::Dead);
        let chosen = match dead.first() {
            Some(first) if self.rng.chance(50.0) => vec![*first],
            _ => dead,
        };
        let ids: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        let answer = self.bench.post(&self.queue, "dead/return", &json!({"ids": ids}));
        self.note(format!("returned the dead {ids:?}: {}", answer.text()));
        assert_eq!(answer.json()["returned"].as_u64(), Some(chosen.len() as u64));
        for id in chosen {
            self.model.revive(id);
        }
    }

    /// The coordinator is killed, and started again.
    fn restart(&mut self) {
        self.note("killed and started again".to_owned());
        self.bench.server.signal(Signal::KILL);
        self.bench.server.up();
        if self.is_forgetful {
            self.model.forget();
        }
        if self.is_outside {
            // Counts are the broker's again once it is there.
            let queue = format!("/v1/queues/{}", self.queue);
            let is_there =
                || self.bench.server.get(&queue).json()["backend_version"].is_string().then_some(());
            eventually_or(|| "its broker to be there".to_owned(), is_there);
            self.until_same();
        }
    }

    fn is_same(&self, counts: [u64; 4]) -> bool {
        let wanted = self.model.counts();
        let may_be = wanted[0]..=wanted[0] + self.model.ghosts;
        may_be.contains(&counts[0]) && counts[1..] == wanted[1..]
    }

    fn compare(&self) {
        let counts = self.bench.counts(&self.queue);
        assert!(self.is_same(counts), "counted {counts:?}, not {:?}", self.model.counts());
    }

    fn until_same(&self) {
        let say = || format!("{:?}, not {:?}", self.model.counts(), self.bench.counts(&self.queue));
        eventually_or(say, || self.is_same(self.bench.counts(&self.queue)).then_some(()));
    }

    /// Everything that can be had comes, and nothing else; then nothing is left.
    fn empty(&mut self) {
        if self.model.paused {
            self.pause_or_resume();
        }
        while !self.model.ready().is_empty() {
            self.take(1_000, LATER_S as f64);
        }
        for id in self.model.of(|p| matches!(p, Place::Leased(_))) {
            let lease = self.model.lease(id);
            assert_eq!(self.settle("ack", &json!({}), &lease).status, 200);
            self.model.acknowledge(id);
        }
        self.compare();
        for dead in [false, true] {
            self.bench.post(&self.queue, "clean", &json!({"dead": dead}));
        }
        assert_eq!(self.bench.counts(&self.queue), [0; 4]);
    }
}
