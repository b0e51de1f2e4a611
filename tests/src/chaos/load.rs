//! The submitters: they keep their own books, write down what they intend before they send it, and repeat what is
//! unknown with the same key. Cancels and restarts are kept the same way.
use super::client::{Broken, Client, Reply};
use super::generate::Digest;
use super::ledger::Ledger;
use super::rng::Rng;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two tries of what is unknown.
const AGAIN: Duration = Duration::from_millis(100);
/// After a refusal: a full disk is not emptied by asking.
const AFTER_REFUSAL: Duration = Duration::from_millis(300);
/// Orders in one request when there are many.
const BATCH: u64 = 200;
/// A job's machine may be silent for so long; short, so that runs of minutes see verdicts.
const LOST_AFTER_S: f64 = 14.0;
/// Exclusive jobs need room for grace and margin before the verdict.
const EXCLUSIVE_LOST_AFTER_S: f64 = 20.0;
/// Between TERM and KILL.
const GRACE_S: f64 = 2.0;

/// What is later done to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Later {
    Nothing,
    Cancel,
    /// Once it has failed.
    Restart,
    /// Its key is tried with another content.
    Mismatch,
}

/// One job to submit.
struct Order {
    key: String,
    spec: Value,
    facts: Value,
    later: Later,
}

/// What is submitted, where and how the books are kept.
pub struct Load {
    /// The API.
    pub socket: PathBuf,
    /// Where jobs write their ledgers.
    pub jobs: PathBuf,
    /// The program.
    pub program: PathBuf,
    /// Names the run.
    pub run: String,
    /// The submitters' book.
    pub ledger: Arc<Ledger>,
    /// Accepted so far.
    pub accepted: AtomicU64,
    /// Refused so far.
    pub refused: AtomicU64,
    /// Set when everything is healed: whatever cannot be settled then is left as unknown after a while.
    pub over: AtomicBool,
    later: Mutex<VecDeque<(Instant, u64, String, Later)>>,
}

impl Load {
    /// With empty books.
    pub fn new(socket: PathBuf, jobs: PathBuf, program: PathBuf, run: String, ledger: Arc<Ledger>) -> Self {
        let (accepted, refused, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        Self { socket, jobs, program, run, ledger, accepted, refused, over, later: Mutex::default() }
    }

    /// Submits `n` jobs of every kind, spread over `time`.
    pub fn submit_mix(&self, rng: &mut Rng, prefix: &str, n: u64, time: Duration) {
        let mut client = Client::new(&self.socket);
        let start = Instant::now();
        // Above a few thousand most are short and come in batches: the point is then their number.
        let mass = n > 4_000;
        let (mut done, mut number) = (0, 0);
        while done < n {
            let batch = if mass { BATCH.min(n - done) } else { 1 };
            let keys = (number..number + batch).map(|at| format!("{prefix}{at}"));
            let orders: Vec<Order> = keys.map(|key| self.draw(rng, &key, mass)).collect();
            number += batch;
            if !self.settle(&mut client, rng, orders) && !self.over.load(Ordering::Relaxed) {
                // What was refused is given up for good; other work is tried a little later.
                std::thread::sleep(AFTER_REFUSAL);
                continue;
            }
            done += batch;
            std::thread::sleep((time.mul_f64(done as f64 / n as f64)).saturating_sub(start.elapsed()));
        }
    }

    /// Submits `n` jobs alike; `words` are further words of the program, `out` the bytes they write.
    pub fn submit_alike(&self, rng: &mut Rng, prefix: &str, n: u64, cpus: f64, out: u64, words: &[String]) {
        let mut client = Client::new(&self.socket);
        for from in (0..n).step_by(BATCH as usize) {
            let batch = (from..n.min(from + BATCH)).map(|at| {
                let facts = json!({"out": out, "retries": 0, "lost_after_ms": 300_000});
                let words = [words, &[format!("out={out}")]].concat();
                let mut order = self.order(&format!("{prefix}{at}"), facts, &words, Later::Nothing);
                order.spec["resources"] = json!({"cpus": cpus});
                order.spec["name"] = prefix.trim_end_matches('-').into();
                order
            });
            self.settle(&mut client, rng, batch.collect());
        }
    }

    fn order(&self, key: &str, facts: Value, words: &[String], later: Later) -> Order {
        let text = |path: &PathBuf| path.display().to_string();
        let mut command = vec![text(&self.program), text(&self.jobs), self.run.clone(), key.to_owned()];
        command.extend(words.iter().cloned());
        let spec = json!({"command": command, "labels": {"key": key}, "grace_s": GRACE_S});
        Order { key: key.to_owned(), spec, facts, later }
    }

    fn draw(&self, rng: &mut Rng, key: &str, mass: bool) -> Order {
        // Of a mass, one in ten is drawn from the kinds; the rest is short.
        let kind = rng.range(0, if mass { 999 } else { 99 });
        let (mut ms, mut out, mut code, mut fails, mut retries, mut tasks) =
            (rng.range(0, 40), 0, 0, 0, 0, 0);
        let (mut name, mut later, mut exclusive) = ("short", Later::Nothing, false);
        match kind {
            0..15 => (name, ms) = ("long", rng.range(1_000, 6_000)),
            15..25 => (name, ms, exclusive) = ("exclusive", rng.range(1_000, 6_000), true),
            25..33 => (name, tasks) = ("array", rng.range(2, 8)),
            33..41 => (name, out) = ("flood", rng.range(1, 2_000_000)),
            41..46 => (name, code, fails, retries) = ("retried", rng.range(1, 20), 1, 1),
            46..51 => (name, code, fails) = ("failing", rng.range(1, 20), u64::MAX),
            51..61 => (name, ms, later) = ("cancelled", rng.range(500, 8_000), Later::Cancel),
            61..66 => (name, code, fails, later) = ("restarted", 7, 1, Later::Restart),
            // In a batch the key is the batch's: a job's own was never used, and would rightly be taken.
            66..70 if !mass => later = Later::Mismatch,
            _ => out = rng.range(0, 3_000),
        }
        let lost_after = if exclusive { EXCLUSIVE_LOST_AFTER_S } else { LOST_AFTER_S };
        let facts = json!({"out": out, "retries": retries, "exclusive": exclusive, "tasks": tasks,
            "lost_after_ms": lost_after * 1000.0});
        let words =
            [format!("ms={ms}"), format!("out={out}"), format!("code={code}"), format!("fails={fails}")];
        let mut order = self.order(key, facts, &words, later);
        let spec = &mut order.spec;
        (spec["name"], spec["retries"], spec["exclusive"]) = (name.into(), retries.into(), exclusive.into());
        spec["lost_after_s"] = lost_after.into();
        if tasks > 0 {
            spec["array"] = json!({"from": 1, "to": tasks});
        }
        order
    }

    /// Submits orders together until their outcome is known; whether they were taken.
    fn settle(&self, client: &mut Client, rng: &mut Rng, orders: Vec<Order>) -> bool {
        let specs: Vec<&Value> = orders.iter().map(|order| &order.spec).collect();
        let (key, body) = match specs.as_slice() {
            [one] => (orders[0].key.clone(), one.to_string()),
            many => (format!("batch-{}", orders[0].key), json!(many).to_string()),
        };
        let digest = {
            let mut digest = Digest::default();
            digest.feed(body.as_bytes());
            digest.text()
        };
        let intents = orders.iter().map(|order| {
            let mut line = json!({"op": "I", "key": order.key, "digest": digest});
            for (name, value) in order.facts.as_object().into_iter().flatten() {
                line[name] = value.clone();
            }
            line
        });
        self.ledger.all_synced(intents.collect());
        let Some(reply) = self.ask(client, "/v1/jobs", Some(&key), &body, &orders) else { return false };
        let answer = reply.json();
        let Some(first) = answer["id"].as_u64().or_else(|| answer["first"].as_u64()) else {
            let (status, code) = (reply.status, &answer["code"]);
            self.refused.fetch_add(orders.len() as u64, Ordering::Relaxed);
            let lines =
                orders.iter().map(|o| json!({"op": "R", "key": o.key, "status": status, "code": code}));
            self.ledger.all_synced(lines.collect());
            return false;
        };
        let replayed = reply.head.contains("idempotency-replayed");
        let lines = orders.iter().enumerate().map(|(at, order)| {
            json!({"op": "A", "key": order.key, "job": first + at as u64, "replayed": replayed})
        });
        self.ledger.all_synced(lines.collect());
        self.accepted.fetch_add(orders.len() as u64, Ordering::Relaxed);
        let mut later = self.later.lock().unwrap();
        for (at, order) in orders.into_iter().enumerate().filter(|(_, order)| order.later != Later::Nothing) {
            let when = Instant::now() + Duration::from_millis(rng.range(0, 2_000));
            later.push_back((when, first + at as u64, order.key, order.later));
        }
        true
    }

    /// Asks until there is a definite answer; `None` when it is over and there was none.
    fn ask(
        &self,
        client: &mut Client,
        path: &str,
        key: Option<&str>,
        body: &str,
        orders: &[Order],
    ) -> Option<Reply> {
        let mut healed = None;
        loop {
            match client.ask("POST", path, key, body) {
                Ok(reply) if reply.is_definite() => return Some(reply),
                Ok(_) | Err(Broken::Unknown(_)) => {
                    let lines = orders.iter().map(|order| json!({"op": "U", "key": order.key}));
                    self.ledger.all_synced(lines.collect());
                }
                Err(Broken::NotSent(_)) => {}
            }
            if self.over.load(Ordering::Relaxed) {
                let since = *healed.get_or_insert_with(Instant::now);
                if since.elapsed() > crate::PATIENCE {
                    return None;
                }
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Does to accepted jobs what is to be done to them later, until nothing is left and it is over.
    pub fn meddle(&self) {
        let mut client = Client::new(&self.socket);
        let mut healed = None;
        loop {
            // What has not come to its turn a while after healing never will: the checker says which job is stuck.
            if self.over.load(Ordering::Relaxed)
                && healed.get_or_insert_with(Instant::now).elapsed() > crate::PATIENCE
            {
                return;
            }
            let next = self.later.lock().unwrap().pop_front();
            let Some((when, job, key, what)) = next else {
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(AGAIN);
                continue;
            };
            std::thread::sleep(when.saturating_duration_since(Instant::now()).min(AGAIN));
            match what {
                _ if when > Instant::now() => self.put_back(job, key, what, when),
                Later::Cancel => self.cancel(&mut client, job),
                Later::Restart => {
                    let view = client.get(&format!("/v1/jobs/{job}")).map(|reply| reply.json());
                    match view.as_ref().and_then(|view| view["state"].as_str()) {
                        Some("FAILED") => self.change(&mut client, job, "restart", 'P'),
                        Some("COMPLETED" | "CANCELLED") => {}
                        _ => self.put_back(job, key, what, Instant::now() + AGAIN * 5),
                    }
                }
                Later::Mismatch => self.mismatch(&mut client, &key),
                Later::Nothing => {}
            }
        }
    }

    fn put_back(&self, job: u64, key: String, what: Later, when: Instant) {
        self.later.lock().unwrap().push_back((when, job, key, what));
    }

    /// Cancels a job and keeps the books of it.
    pub fn cancel(&self, client: &mut Client, job: u64) {
        self.change(client, job, "cancel", 'C');
    }

    /// A change of one job. A restart whose outcome is unknown is not repeated: it would be another.
    fn change(&self, client: &mut Client, job: u64, verb: &str, letter: char) {
        self.ledger.synced(json!({"op": format!("{letter}I"), "job": job}));
        let path = format!("/v1/jobs/{job}/{verb}");
        for _ in 0..600 {
            match client.ask("POST", &path, None, "") {
                Ok(reply) if reply.status == 200 => {
                    let answer = reply.json();
                    return self.ledger.synced(json!({"op": format!("{letter}A"), "job": job,
                        "seq": answer["seq"], "state": answer["state"]}));
                }
                Ok(reply) if reply.is_definite() => {
                    let code = reply.json()["code"].clone();
                    return self.ledger.note(json!({"op": format!("{letter}R"), "job": job, "code": code}));
                }
                Err(Broken::NotSent(_)) => {}
                Ok(_) | Err(Broken::Unknown(_)) => {
                    self.ledger.note(json!({"op": format!("{letter}U"), "job": job}));
                    if letter == 'P' {
                        return;
                    }
                }
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// The same key for something else must be refused.
    fn mismatch(&self, client: &mut Client, key: &str) {
        let body = json!({"command": ["true"], "labels": {"key": key}}).to_string();
        if let Some(reply) = self.ask(client, "/v1/jobs", Some(key), &body, &[]) {
            let code = reply.json()["code"].clone();
            self.ledger.note(json!({"op": "M", "key": key, "status": reply.status, "code": code}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_has_every_kind_and_its_facts_are_those_of_its_spec() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(Ledger::create(&dir.path().join("l")).unwrap());
        let load = Load::new("/s".into(), "/j".into(), "/p".into(), "r".into(), ledger);
        let mut rng = Rng::new(1);
        let mut names = std::collections::BTreeSet::new();
        for at in 0..500 {
            let order = load.draw(&mut rng, &format!("k{at}"), false);
            names.insert(order.spec["name"].as_str().unwrap().to_owned());
            assert_eq!(order.spec["exclusive"], order.facts["exclusive"]);
            let to = order.spec["array"]["to"].as_u64().unwrap_or(0);
            assert_eq!(Some(to), order.facts["tasks"].as_u64());
            let out = format!("out={}", order.facts["out"]);
            assert!(order.spec["command"].as_array().unwrap().contains(&out.into()));
        }
        assert_eq!(names.len(), 9, "{names:?}");
    }
}
