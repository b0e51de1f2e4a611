//! Static workers under load on real binaries: how many replicas there are, and how requests reach them.
#![allow(clippy::unwrap_used, reason = "tests")]

use reeve_tests::bank::Bank;
use reeve_tests::processes_with;
use reeve_tests::server::Server;
use rustix::process::Signal;
use serde_json::json;

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
