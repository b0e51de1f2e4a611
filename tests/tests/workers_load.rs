//! Static workers under load on real binaries: how many replicas there are, and how requests reach them.
#![allow(clippy::unwrap_used, reason = "tests")]

use reeve_tests::bank::Bank;
use reeve_tests::processes_with;
use reeve_tests::repo::Repo;
use reeve_tests::server::Server;
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn the_number_of_replicas_follows_the_load_and_comes_from_none() {
    let server = Server::start();
    let flags = ["--min", "0", "--max", "3", "--scale-up-wait", "0.1s", "--scale-down-after", "0.3s"];
    let bank = Bank::launch(&server, "bank", &["--tag", "follows"], &flags);
    assert_eq!(bank.status()["phase"], "unloaded");
    assert_eq!(bank.call(json!(1)), json!(1), "the first request starts one");
    let open = server.scratch().join("open");
    std::thread::scope(|scope| {
        let slow: Vec<_> =
            (0..6).map(|_| scope.spawn(|| bank.ask(&json!({"wait_for": open}), 60.0))).collect();
        let status = bank.until(|s| s["ready"] == 3 && s["outstanding"] == 3);
        assert_eq!((&status["min"], &status["max"]), (&json!(0), &json!(3)));
        std::fs::write(&open, "").unwrap();
        for call in slow {
            assert_eq!(call.join().unwrap().status, 200);
        }
    });
    bank.until(|s| s["phase"] == "unloaded" && s["replicas"].as_array().unwrap().is_empty());
    assert!(processes_with(&["modelbank", "follows", server.scratch().to_str().unwrap()]).is_empty());
    let shown = server.ok(&["worker", "show", "bank"]);
    assert!(shown.contains("0 to 3, as the load needs"), "{shown}");
    server.ok(&["worker", "scale", "bank", "2"]);
    let status = bank.until(|s| s["ready"] == 2);
    assert!(status["max"].is_null(), "{status}");
}

#[test]
fn an_idle_worker_is_unloaded_and_a_job_brings_it_back_after_a_restart_of_everything() {
    let mut server = Server::start();
    Bank::launch(&server, "bank", &[], &["--idle-unload", "0.3s"]).until(|s| s["phase"] == "unloaded");
    server.signal(Signal::KILL);
    server.up();
    let bank = Bank::of(&server, "bank");
    assert_eq!(bank.status()["phase"], "unloaded");
    let id = server.ok(&["submit", "--worker", "bank", "--payload", "{\"y\":2}"]);
    assert_eq!(server.until(&id, "COMPLETED")["result"], json!({"y": 2}));
    bank.until(|s| s["phase"] == "unloaded");
}

/// So many calls at once, each answered with the size of its batch.
fn sizes(bank: &Bank<'_>, n: usize) -> Vec<u64> {
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..n).map(|_| scope.spawn(|| bank.call(json!({"size_of_batch": 1})))).collect();
        calls.into_iter().map(|call| call.join().unwrap()["batch"].as_u64().unwrap()).collect()
    })
}

#[test]
fn batches_form_under_load_and_a_lonely_request_waits_no_longer_than_the_delay() {
    let server = Server::start();
    let flags = ["--batch-max-size", "4", "--batch-max-delay-ms", "200"];
    let lines = Bank::launch(&server, "lines", &[], &flags);
    let web = Bank::launch_http(&server, "web", &[], &flags);
    for bank in [&lines, &web] {
        bank.until(|s| s["ready"] == 1);
        assert_eq!(sizes(bank, 1), [1], "it is not kept until others come");
        let mut largest = 0;
        for _ in 0..20 {
            let sizes = sizes(bank, 4);
            assert!(sizes.iter().all(|n| (1..=4).contains(n)), "{sizes:?}");
            largest = largest.max(sizes.into_iter().max().unwrap());
            if largest > 1 {
                break;
            }
        }
        assert!(largest > 1, "four calls at once, and no two of them go together");
    }
    // Each of a batch is answered by itself.
    std::thread::scope(|scope| {
        let good = scope.spawn(|| lines.call(json!({"x": 1})));
        let bad = scope.spawn(|| lines.refused(&json!({"error": "no such image"})));
        assert_eq!(good.join().unwrap(), json!({"x": 1}));
        assert_eq!(bad.join().unwrap()["detail"], "no such image");
    });
}

#[test]
fn what_ruins_its_batch_fails_alone_and_its_neighbours_are_done() {
    let server = Server::start();
    // The delay is long: the three are together whatever the machine does, as the third fills the batch.
    let flags = ["--batch-max-size", "3", "--batch-max-delay-ms", "60000"];
    let bank = Bank::launch_http(&server, "bank", &[], &flags);
    bank.until(|s| s["ready"] == 1);
    let submit = |payload: Value| {
        let payload = payload.to_string();
        server.ok(&["submit", "--worker", "bank", "--retries", "0", "--payload", &payload])
    };
    for (bad, why) in
        [(json!({"poison": 1}), "a bad image"), (json!({"short": 1}), "1 requests with 0 results")]
    {
        let (one, bad, two) = (submit(json!({"x": 1})), submit(bad.clone()), submit(json!({"x": 2})));
        for (id, x) in [(&one, 1), (&two, 2)] {
            let job = server.until(id, "COMPLETED");
            assert_eq!((&job["result"], &job["attempt"]), (&json!({"x": x}), &json!(1)), "{job}");
        }
        let job = server.until(&bad, "FAILED");
        assert!(job["cause"].to_string().contains(why) && job["attempt"] == 1, "{job}");
    }
    std::thread::scope(|scope| {
        let good = [1, 2].map(|x| {
            (
                x,
                scope.spawn({
                    let bank = &bank;
                    move || bank.call(json!({"x": x}))
                }),
            )
        });
        let bad = scope.spawn(|| bank.refused(&json!({"poison": 1})));
        for (x, answer) in good {
            assert_eq!(answer.join().unwrap(), json!({"x": x}));
        }
        assert!(bad.join().unwrap()["detail"].to_string().contains("a bad image"));
    });
}

#[test]
fn a_worker_from_git_runs_one_commit_until_another_version_is_launched() {
    let mut server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    let bank = |word: &str| {
        format!(
            "print('{{\"ready\": true}}', flush=True)\nimport json, sys\nfor line in sys.stdin:\n    \
                 print(json.dumps({{'id': json.loads(line)['id'], 'result': '{word}'}}), flush=True)\n"
        )
    };
    let first = repo.write("sub/bank.py", &bank("one")).commit();
    let register = |server: &Server| {
        let url = repo.url();
        let words = ["--static", "--replicas", "2", "--repo", &url, "--ref", "main", "--subdir", "sub"];
        let line = ["worker", "register", "bank"].into_iter().chain(words);
        server.ok(&line
            .chain(["--cpus", "0.1", "--", "python3", "bank.py", server.scratch().to_str().unwrap()])
            .collect::<Vec<_>>());
    };
    register(&server);
    server.ok(&["worker", "launch", "bank"]);
    let status = Bank::of(&server, "bank").until(|s| s["ready"] == 2);
    assert_eq!(status["commit"], first.as_str());
    let second = repo.write("sub/bank.py", &bank("two")).commit();
    for victim in processes_with(&["bank.py", server.scratch().to_str().unwrap()]) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(victim as i32).unwrap(),
            Signal::KILL,
        );
    }
    Bank::of(&server, "bank").until(|s| s["replicas"][0]["attempt"] == 2 && s["ready"] == 2);
    server.signal(Signal::KILL);
    server.up();
    let bank = Bank::of(&server, "bank");
    server.ok(&["worker", "scale", "bank", "3"]);
    bank.until(|s| s["ready"] == 3 && s["commit"] == first.as_str());
    for _ in 0..6 {
        assert_eq!(bank.call(json!(1)), "one", "started again, and started later: the same commit");
    }
    register(&server);
    server.ok(&["worker", "launch", "bank"]);
    bank.until(|s| {
        let all = s["replicas"].as_array().unwrap();
        s["commit"] == second.as_str() && s["ready"] == 3 && all.iter().all(|r| r["version"] == 2)
    });
    assert_eq!(bank.call(json!(1)), "two");
}

#[test]
fn a_worker_whose_ref_is_not_there_says_so_and_waits_before_it_asks_again() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    repo.write("bank.py", "").commit();
    let url = repo.url();
    let line =
        ["worker", "register", "bank", "--static", "--replicas", "3", "--repo", &url, "--ref", "nowhere"];
    server.ok(&line.into_iter().chain(["--", "python3", "bank.py"]).collect::<Vec<_>>());
    server.ok(&["worker", "launch", "bank"]);
    let bank = Bank::of(&server, "bank");
    let status = bank.until(|s| s["phase"] == "failed" && s["replicas"][0]["restart_at"].is_string());
    assert!(status["reason"].as_str().unwrap().contains("nowhere"), "{status}");
    assert_eq!(status["replicas"].as_array().unwrap().len(), 1, "one asks for all");
    let why = server.ok(&["worker", "show", "bank"]);
    assert!(why.contains("ref"), "{why}");
}
