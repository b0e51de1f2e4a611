//! `reeve up --demo`: a small real workload, submitted over HTTP as anybody would.
use super::front::Error;
use crate::cli::{job_table, note, row};
use crate::client::Client;
use reeve_protocol::JobId;
use reeve_protocol::api::{Changed, JobView, Submitted, WorkerView};
use reeve_protocol::time::Wall;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

/// What was submitted.
pub struct Demo {
    ids: Vec<JobId>,
    held: JobId,
}

/// Twenty steps, each told through the status file.
const PROGRESS: &str = r#"i=0
while [ $i -lt 20 ]; do
  i=$((i + 1)); p=$((i * 5))
  [ $p -lt 100 ] && share=$(printf '0.%02d' $p) || share=1.0
  printf '{"progress":%s,"message":"step %s of 20"}\n' "$share" "$i" >> "$REEVE_STATUS"
  echo "step $i"; sleep 1
done
echo '{"steps":20}' > "$REEVE_RESULT""#;

/// Something to follow, on both outputs.
const LOG: &str = r#"for i in $(seq 1 60); do
  echo "line $i of 60"
  [ $((i % 10)) -eq 0 ] && echo "warning: $i lines written" >&2
  sleep 0.2
done"#;

/// A static worker that answers with what it gets: JSON lines with nothing but a shell.
const BANK: &str = r#"echo '{"progress":0.5,"message":"loading"}'; sleep 1; echo '{"ready":true}'
while read -r line; do
  id=${line#*\"id\":\"}; id=${id%%\"*}
  payload=${line#*\"payload\":}
  case $payload in
  *,\"deadline\":*) payload=${payload%,\"deadline\":*} ;;
  *) payload=${payload%\}} ;;
  esac
  echo "asked for $payload" >&2
  printf '{"id":"%s","result":{"echo":%s}}\n' "$id" "$payload"
done"#;

/// Its registration.
fn bank() -> Value {
    json!({"kind": "static", "spec": {"command": ["sh", "-c", BANK], "resources": {"cpus": 0.1}}})
}

/// A job for it.
fn for_bank(n: u32) -> Value {
    json!({"name": format!("ask-{n}"), "worker": WORKER, "payload": {"n": n}, "labels": {"demo": "true"}})
}

/// What it is called.
const WORKER: &str = "demo-bank";

/// A job in a checkout.
fn from_git(git: &Value) -> Value {
    json!({"name": "build", "queue": "demo", "command": ["sh", "build.sh"], "git": git,
           "resources": {"cpus": 0.25}, "labels": {"demo": "true"}})
}

/// The other jobs, the held one last.
fn jobs() -> Vec<Value> {
    let shell = |name: &str, cpus: f64, script: &str| {
        json!({"name": name, "queue": "demo", "command": ["sh", "-c", script], "resources": {"cpus": cpus},
               "labels": {"demo": "true"}})
    };
    let with = |mut job: Value, field: &str, value: Value| {
        job[field] = value;
        job
    };
    let mut jobs = vec![
        shell("train", 0.25, PROGRESS),
        shell("chatter", 0.25, LOG),
        shell("report", 0.25, "uname -a; df -h ."),
    ];
    jobs.extend((1..=3).map(|n| shell(&format!("nap-{n}"), 0.5, &format!("sleep {}; echo slept", n * 2))));
    jobs.push(with(
        shell("tiles", 0.25, "sleep 0.1; echo tile $REEVE_INDEX"),
        "array",
        json!({"from": 1, "to": 200}),
    ));
    jobs.push(shell("fails", 0.25, "echo 'cannot open data.csv' >&2; exit 3"));
    jobs.push(with(shell("mistyped", 0.25, ""), "command", json!(["no-such-program", "--help"])));
    jobs.push(with(shell("later", 0.25, "echo the delay is over"), "delay_s", json!(10)));
    jobs.push(with(shell("held", 0.25, "echo released"), "hold", json!(true)));
    jobs
}

/// A repository to check out, made with git itself in the server's own directory. `None`: this machine has no git.
fn repository(dir: &Path) -> Option<Value> {
    let dir = dir.join("demo-repository");
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&dir)
            .args(["-c", "user.name=reeve", "-c", "user.email=reeve@localhost"])
            .args(words);
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    std::fs::create_dir_all(&dir).ok()?;
    std::fs::write(dir.join("build.sh"), "echo \"built from $REEVE_COMMIT\"\n").ok()?;
    let made = git(&["init", "-q", "-b", "main"])
        && git(&["add", "build.sh"])
        && git(&["commit", "-q", "--allow-empty", "-m", "demo"]);
    made.then(|| json!({"url": format!("file://{}", dir.display()), "ref": "main"}))
}

/// Submits the workload.
pub async fn submit(client: &Client, dir: &Path) -> Result<Demo, Error> {
    let mut ids = Vec::new();
    let mut jobs = jobs();
    match repository(dir) {
        Some(git) => jobs.insert(0, from_git(&git)),
        None => note("demo: without git there is no job in a checkout"),
    }
    client.put::<_, WorkerView>(&format!("/v1/workers/{WORKER}"), &bank()).await?;
    client.post::<_, WorkerView>(&format!("/v1/workers/{WORKER}/launch"), &json!({"replicas": 1})).await?;
    jobs.splice(0..0, (1..=3).map(for_bank));
    for job in jobs {
        ids.push(client.post::<_, Submitted>("/v1/jobs", &job).await?.id);
    }
    // `jobs` is never empty.
    let held = ids.pop().unwrap_or_default();
    note(format!(
        "demo: {} jobs submitted to the queue `demo`; `reeve release {held}` starts the held one",
        ids.len() + 1
    ));
    Ok(Demo { ids, held })
}

impl Demo {
    /// Waits until every job has ended, the held one last, and gives them as a table.
    pub async fn finish(self, client: &Client) -> Result<String, Error> {
        let mut table = job_table();
        for id in self.ids {
            table.row(row(&ended(client, id).await?, Wall::now()));
        }
        let path = format!("/v1/jobs/{}", self.held);
        // Somebody may have released or cancelled it by hand.
        if client.get::<JobView>(&path).await?.substate == Some(reeve_protocol::Substate::Held) {
            client.post::<_, Changed>(&format!("{path}/release"), &json!({})).await?;
        }
        table.row(row(&ended(client, self.held).await?, Wall::now()));
        client.post::<_, WorkerView>(&format!("/v1/workers/{WORKER}/stop"), &json!({})).await?;
        Ok(table.render(None, false))
    }
}

async fn ended(client: &Client, id: JobId) -> Result<JobView, Error> {
    loop {
        let job: JobView = client.get(&format!("/v1/jobs/{id}?wait_s=3600")).await?;
        if job.state.is_terminal() {
            return Ok(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::JobSpec;

    #[test]
    fn every_job_of_the_demo_is_valid_and_the_last_is_held() {
        let specs: Vec<JobSpec> = [from_git(&json!({"url": "file:///demo"}))]
            .into_iter()
            .chain((1..=3).map(for_bank))
            .chain(jobs())
            .map(|job| serde_json::from_value(job).unwrap())
            .collect();
        for spec in &specs {
            spec.validate().unwrap();
        }
        assert!(specs.iter().rev().skip(1).all(|spec| !spec.hold) && specs.last().unwrap().hold);
        assert_eq!(specs.iter().filter_map(|spec| spec.array).map(|a| a.len()).sum::<u64>(), 200);
    }
}
