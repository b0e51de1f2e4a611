//! Resources with real binaries: gpus that a file describes, given by name, shared, held through a restart, kept back while
//! something is wrong with them; memory that is a limit.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::machine::{Agent, Coordinator};
use reeve_tests::{eventually, eventually_or};
use serde_json::Value;
use std::path::PathBuf;

struct Site {
    head: Coordinator,
    _agent: Agent,
    gpus: PathBuf,
}

impl Site {
    /// A machine with these gpus, each with lines of its own.
    fn start(gpus: &[(&str, &str)]) -> Self {
        let head = Coordinator::start("127.0.0.1:0");
        let file = head.dir.path().join("gpus.toml");
        describe(&file, gpus);
        let config = format!("cpus = 8.0\ngpu_file = {:?}\n", file.display().to_string());
        let agent = Agent::start_with(head.dir.path(), "box", &head.token(), &[], &config);
        let site = Self { head, _agent: agent, gpus: file };
        eventually("the machine is up", || (site.machine()["state"] == "up").then_some(()));
        site
    }

    fn machine(&self) -> Value {
        self.head.machine("box")
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.head.reeve(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn running(&self, words: &[&str]) -> (String, Vec<String>) {
        let id = self.ok(words);
        let job =
            eventually("it runs", || Some(self.head.job(&id)).filter(|job| job["substate"] == "running"));
        let gpus = job["attempts"].as_array().unwrap().last().unwrap()["gpus"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        (id, gpus.iter().map(|uuid| uuid.as_str().unwrap().to_owned()).collect())
    }
}

fn describe(file: &std::path::Path, gpus: &[(&str, &str)]) {
    let text: String = gpus
        .iter()
        .map(|(uuid, more)| {
            format!("[[gpu]]\nuuid = \"{uuid}\"\nmodel = \"Test One\"\nmemory = \"8GiB\"\n{more}\n")
        })
        .collect();
    // Whole at once: it may be read at any time.
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

const SAY: [&str; 4] =
    ["--", "sh", "-c", "echo $REEVE_GPUS [$CUDA_VISIBLE_DEVICES] $CUDA_DEVICE_ORDER $REEVE_GPU_UUIDS"];
const SLEEP: [&str; 3] = ["--", "sleep", "600"];

#[test]
fn jobs_see_the_gpus_they_were_given_by_name_and_no_other() {
    let site = Site::start(&[("GPU-1", ""), ("GPU-2", "")]);
    let said = |gpus: &str| {
        let words = [&["submit", "--wait", "--gpus", gpus], &SAY[..]].concat();
        let id = site.ok(&words);
        site.ok(&["logs", &id])
    };
    assert_eq!(said("0"), "0 [] PCI_BUS_ID");
    assert_eq!(said("1"), "1 [GPU-1] PCI_BUS_ID GPU-1");
    assert_eq!(said("0.25"), "0.25 [GPU-1] PCI_BUS_ID GPU-1");
    assert_eq!(said("2"), "2 [GPU-1,GPU-2] PCI_BUS_ID GPU-1,GPU-2");
    let half = [&["submit", "--gpus", "0.5"], &SLEEP[..]].concat();
    let (first, shared) = site.running(&half);
    let (second, same) = site.running(&half);
    assert_eq!((shared.as_slice(), &same), (["GPU-1".to_owned()].as_slice(), &shared));
    let machine = site.machine();
    let device = &machine["devices"][0];
    assert_eq!(
        (device["free"].as_f64(), &device["holders"]),
        (Some(0.0), &serde_json::json!([first, second]))
    );
    assert_eq!(machine["labels"]["gpu"], "Test-One");
    let shown = site.ok(&["machine", "show", "box"]);
    assert!(shown.contains(&format!("{first} {second}")) && shown.contains("memory_limit: "), "{shown}");
    let top = site.ok(&["top"]);
    assert!(top.lines().any(|line| line.starts_with(&first) && line.contains("GPU-1")), "{top}");
    let on = [&["submit", "--wait", "--on", "label.gpu=Test*"], &SAY[..]].concat();
    site.ok(&on);
    let refused = site.head.reeve(&["submit", "--gpus", "1.5", "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a part never spans two"));
}

#[test]
fn a_gpu_stays_its_jobs_own_while_the_coordinator_is_killed_and_comes_back() {
    let mut site = Site::start(&[("GPU-1", ""), ("GPU-2", "")]);
    let one = [&["submit", "--gpus", "1"], &SLEEP[..]].concat();
    let (first, _) = site.running(&one);
    let (second, given) = site.running(&one);
    assert_eq!(given, ["GPU-2"]);
    site.ok(&["cancel", &first, "--yes"]);
    eventually("it is cancelled", || (site.head.job(&first)["state"] == "CANCELLED").then_some(()));
    site.head.daemon.take().unwrap().finish(rustix::process::Signal::KILL);
    site.head.run_again();
    eventually("the machine is up", || (site.machine()["state"] == "up").then_some(()));
    let (_, given) = site.running(&one);
    assert_eq!(given, ["GPU-1"], "the other is held by job {second}");
    let waits = site.ok(&one);
    let why = site.ok(&["why", &waits]);
    assert!(why.contains("needs 1 gpus, 0 free"), "{why}");
}

#[test]
fn a_gpu_with_foreign_memory_or_a_fault_is_kept_back_until_it_is_well() {
    let site = Site::start(&[("GPU-1", "used = \"3GiB\""), ("GPU-2", "")]);
    let one = [&["submit", "--gpus", "1"], &SLEEP[..]].concat();
    let (first, given) = site.running(&one);
    assert_eq!(given, ["GPU-2"], "the first was examined, and the attempt went elsewhere");
    let job = site.head.job(&first);
    assert_eq!((&job["cause"], job["spec"]["retries"].as_u64()), (&Value::Null, None));
    let reason = site.machine()["devices"][0]["quarantine"].as_str().unwrap().to_owned();
    assert!(reason.contains("3.0 GiB of its memory are held"), "{reason}");
    let second = site.ok(&one);
    let why = site.ok(&["why", &second]);
    assert!(why.contains("GPU-1 in quarantine"), "{why}");
    describe(&site.gpus, &[("GPU-1", ""), ("GPU-2", "busy = 0.5")]);
    let job = eventually("it gets the gpu", || {
        Some(site.head.job(&second)).filter(|job| job["substate"] == "running")
    });
    assert!(job["attempts"].as_array().unwrap().last().unwrap()["gpus"][0] == "GPU-1", "{job:#}");
    describe(&site.gpus, &[("GPU-1", "fault = \"it smokes\"")]);
    eventually_or(
        || format!("both are kept back: {:#}", site.machine()),
        || {
            let machine = site.machine();
            let why = |at: usize| machine["devices"][at]["quarantine"].as_str().map(str::to_owned);
            let both = why(0)? == "it smokes" && why(1)?.contains("not show it any more");
            both.then_some(())
        },
    );
    let events = site.ok(&["events", "--from", "1", "--json"]);
    assert!(events.contains("gpu_quarantined GPU-1") && events.contains("gpu_returned GPU-1"));
    assert_eq!(site.head.job(&first)["substate"], "running", "what runs on it goes on");
}

#[test]
fn a_memory_limit_is_one_and_says_oom() {
    let site = Site::start(&[]);
    let eater = "head -c 300000000 /dev/zero | tail | wc -c; sleep 600";
    let output = site.head.reeve(&["submit", "--wait", "--memory", "64MiB", "--", "sh", "-c", eater]);
    assert_eq!(output.status.code(), Some(137), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("oom") && said.contains("64.0 MiB"), "{said}");
}
