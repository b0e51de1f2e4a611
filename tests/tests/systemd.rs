//! The services under a real systemd, in a scratch system of their own: installed, started, restarted, upgraded, stopped,
//! removed, with a job running through all of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::systemd::Systemd;
use reeve_tests::{binary, eventually_or};
use serde_json::Value;
use std::path::{Path, PathBuf};

const INSTALL: &str = "/mnt/repository/packaging/install.sh --bin /mnt/binaries";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A scratch system where a head and a machine can be started; `None`: skipped.
fn boot(test: &str) -> Option<Systemd> {
    match Systemd::boot(&repository(), binary("reeve").parent().unwrap()) {
        Ok(system) => Some(system),
        Err(why) => {
            reeve_tests::skip(test, &why);
            None
        }
    }
}

/// Head and machine, as docs/operations.md says.
fn start_all(system: &Systemd) {
    system.ok("runuser -u reeve -- reeve-coordinator init");
    system.ok("systemctl start reeve-coordinator");
    system.ok("reeve-coordinator token > /run/token");
    system.ok("reeve-agent join 127.0.0.1:7373 --name box --token-file /run/token");
    system.ok("systemctl start reeve-agent");
    until(system, "the machine is up", || {
        let shown = system.run("reeve machine show box --json");
        (serde_json::from_slice::<Value>(&shown.stdout).ok()?["state"] == "up").then_some(())
    });
}

fn until<T>(system: &Systemd, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    let journal = || {
        String::from_utf8_lossy(&system.run("journalctl -u 'reeve-*' -n 60 --no-pager").stdout).into_owned()
    };
    eventually_or(|| format!("{what}\n{}", journal()), ask)
}

fn job(system: &Systemd, id: &str) -> Value {
    serde_json::from_str(&system.ok(&format!("reeve show {id} --json"))).unwrap()
}

/// The process of a job that wrote its own number first.
fn pid_of(system: &Systemd, id: &str) -> String {
    until(system, "the job says its process", || {
        let said = system.run(&format!("reeve logs {id}"));
        let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        (said.lines().count() == 1).then_some(said)
    })
}

fn submit(system: &Systemd, words: &str) -> String {
    system.ok(&format!("runuser -u reeve -- reeve submit --cwd / {words}"))
}

/// The same process still runs, and its first attempt is the only one.
fn goes_on(system: &Systemd, id: &str, pid: &str, after: &str) {
    until(system, &format!("the job is running after {after}"), || {
        let job = job(system, id);
        (job["substate"] == "running").then_some(())
    });
    assert!(system.run(&format!("kill -0 {pid}")).status.success(), "the process ended at: {after}");
    assert_eq!(job(system, id)["attempt"], 1, "{after}");
}

#[test]
fn a_job_outlives_every_service_but_its_own_and_stopping_that_one_drains_it() {
    const NAME: &str = "a_job_outlives_every_service_but_its_own_and_stopping_that_one_drains_it";
    let Some(system) = boot(NAME) else { return };
    system.ok(INSTALL);
    let verified =
        system.run("cd /usr/lib/systemd/system && systemd-analyze verify --man=no reeve-*.service 2>&1");
    assert!(
        verified.status.success() && verified.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&verified.stdout)
    );
    start_all(&system);
    for unit in ["reeve-coordinator", "reeve-agent", "reeve-keeper", "reeve-jobs"] {
        assert_eq!(system.property(unit, "ActiveState"), "active", "{unit}");
    }
    assert_eq!(system.ok("ps -o user= -p $(systemctl show --value -p MainPID reeve-agent)"), "reeve-agent");

    let id = submit(&system, "-- sh -c 'echo $$; exec sleep 100000'");
    let pid = pid_of(&system, &id);
    assert_eq!(system.ok(&format!("ps -o user= -p {pid}")), "reeve", "it runs as its owner");
    let groups = system.ok(&format!("cat /proc/{pid}/cgroup"));
    let place = "/system.slice/reeve-jobs.service/attempts";
    assert!(
        groups.contains(&format!("0::{place}\n")) || groups.ends_with(&format!("0::{place}")),
        "{groups}"
    );
    assert!(groups.contains(&format!("name=systemd:{place}")), "{groups}");
    for (unit, how) in [
        ("reeve-keeper", "systemctl restart reeve-keeper"),
        ("reeve-keeper", "systemctl kill -s KILL reeve-keeper"),
        ("reeve-agent", "systemctl restart reeve-agent"),
        ("reeve-agent", "systemctl kill -s KILL reeve-agent"),
        ("reeve-coordinator", "systemctl restart reeve-coordinator"),
        ("reeve-coordinator", "systemctl kill -s KILL reeve-coordinator"),
    ] {
        let before = system.property(unit, "MainPID");
        system.ok(how);
        until(&system, &format!("{unit} is back after: {how}"), || {
            let now = system.property(unit, "MainPID");
            (now != "0" && now != before && system.property(unit, "ActiveState") == "active").then_some(())
        });
        goes_on(&system, &id, &pid, how);
    }

    // More than fits into the report: the agent's user has to reach the guardian of another user's job.
    let long = submit(&system, "--cpus 0.1 --wait -- sh -c 'yes 0123456789abcde | head -c 200000'; :");
    assert_eq!(system.ok(&format!("reeve logs {} | wc -c", long.lines().next().unwrap())), "200000");

    system.ok("systemctl stop reeve-jobs");
    assert!(!system.run(&format!("kill -0 {pid}")).status.success(), "stopping reeve-jobs ends jobs");
    let ended = until(&system, "the end is told", || {
        let job = job(&system, &id);
        (!job["attempts"][0]["ended_at"].is_null()).then_some(job)
    });
    assert_eq!(ended["attempts"][0]["cause"]["kind"], "drained", "{ended}");
    until(&system, "the agent to take no work without reeve-jobs", || {
        (system.property("reeve-agent", "ActiveState") == "inactive").then_some(())
    });
    system.ok("systemctl start reeve-agent");
    until(&system, "the drained job runs again", || {
        let job = job(&system, &id);
        (job["substate"] == "running" && job["attempt"].as_u64() > Some(1)).then_some(())
    });
    // As a shutdown does: all in one transaction, whose order the units give.
    let services = "reeve-agent.service reeve-keeper.service reeve-jobs.service";
    let target = format!("[Unit]\\nConflicts={services}\\nAfter={services}\\n");
    system.ok(&format!("printf '{target}' > /run/systemd/system/shut.target && systemctl daemon-reload"));
    system.ok("systemctl start shut.target");
    let ended = until(&system, "the second end is told", || {
        let job = job(&system, &id);
        (!job["attempts"][1]["ended_at"].is_null()).then_some(job)
    });
    assert_eq!(ended["attempts"][1]["cause"]["kind"], "drained", "{ended}");
    system.ok("systemctl start reeve-agent");
    system.ok(&format!("reeve cancel {id} && timeout 60 reeve wait {id} || true"));
    assert_eq!(job(&system, &id)["state"], "CANCELLED");
}

#[test]
fn a_user_without_root_runs_all_of_it_in_a_manager_of_its_own() {
    const NAME: &str = "a_user_without_root_runs_all_of_it_in_a_manager_of_its_own";
    let Some(system) = boot(NAME) else { return };
    system.ok("echo 'u ana 4242 - /home/ana /bin/sh' | systemd-sysusers -");
    system.ok("install -d -o ana -g ana -m 0700 /home/ana /run/user/4242");
    // As the login manager does with linger: there is none here.
    let manager = "systemd-run --quiet --unit user-4242 --uid ana -p Delegate=yes -E HOME=/home/ana \
                   -E XDG_RUNTIME_DIR=/run/user/4242 /lib/systemd/systemd --user";
    if !system.run(manager).status.success() {
        return reeve_tests::skip(NAME, "no manager of a user can be started here");
    }
    let ana = |line: &str| {
        let env = "HOME=/home/ana XDG_RUNTIME_DIR=/run/user/4242 PATH=/home/ana/.local/bin:/usr/bin:/bin";
        let host = "REEVE_HOST=/run/user/4242/reeve-coordinator/coordinator.sock";
        system.ok(&format!("cd /home/ana && runuser -u ana -- env {env} {host} sh -c '{line}'"))
    };
    let socket = "/run/user/4242/systemd/private";
    until(&system, "the user's manager", || {
        system.run(&format!("test -S {socket}")).status.success().then_some(())
    });
    ana(&format!("{INSTALL} --user"));
    ana("systemctl --user daemon-reload");
    ana("reeve-coordinator init --dir ~/.local/state/reeve");
    ana("systemctl --user start reeve-coordinator");
    ana("reeve machine token | grep -o \"reeve1[.].*\" > token");
    ana("reeve-agent join 127.0.0.1:7373 --name own --dir ~/.local/state/reeve-agent --token-file token");
    ana("systemctl --user start reeve-agent");
    let id = ana("reeve submit -- sh -c \"cat /proc/self/cgroup; exec sleep 100000\"");
    let said = until(&system, "the job says its groups", || {
        let said = ana(&format!("reeve logs {id}"));
        (!said.is_empty()).then_some(said)
    });
    assert!(said.contains("reeve-jobs.service/attempts"), "{said}");
    let shown = || serde_json::from_str::<Value>(&ana(&format!("reeve show {id} --json"))).ok();
    ana("systemctl --user kill -s KILL reeve-keeper");
    until(&system, "the keeper is back", || {
        (ana("systemctl --user show --value -p NRestarts reeve-keeper") != "0").then_some(())
    });
    ana("systemctl --user restart reeve-coordinator reeve-agent");
    until(&system, "the job still runs", || {
        shown().filter(|job| job["substate"] == "running" && job["attempt"] == 1)
    });
    ana("systemctl --user stop reeve-jobs");
    until(&system, "it was drained", || {
        shown().filter(|job| job["attempts"][0]["cause"]["kind"] == "drained")
    });
}

/// As docs/operations.md says, while a job runs that the backup knows and one that it does not know.
fn backup_and_restore(system: &Systemd, id: &str) {
    system.ok("runuser -u reeve -- reeve-coordinator store verify");
    system.ok("runuser -u reeve -- reeve-coordinator store backup /var/lib/reeve/copy.db");
    // Root may have its jobs run as anybody.
    let other =
        system.ok("reeve submit --run-as nobody --cpus 0.1 --cwd / -- sh -c 'echo $$; exec sleep 100000'");
    let pid = pid_of(system, &other);
    assert_eq!(system.ok(&format!("ps -o user= -p {pid}")), "nobody");
    system.ok("systemctl stop reeve-coordinator");
    system.ok("runuser -u reeve -- reeve-coordinator store restore /var/lib/reeve/copy.db");
    system.ok("systemctl start reeve-coordinator");
    until(system, "the job that the backup knows goes on", || {
        let shown = system.run(&format!("reeve show {id} --json"));
        let job: Value = serde_json::from_slice(&shown.stdout).ok()?;
        (job["substate"] == "running" && job["attempt"] == 1).then_some(())
    });
    assert!(!system.run(&format!("reeve show {other}")).status.success(), "the store does not know it");
    assert!(system.run(&format!("kill -0 {pid}")).status.success(), "and nobody ends it");
    until(system, "the machine shows what nobody knows", || {
        system.ok("reeve machine show box").contains("orphans").then_some(())
    });
}

#[test]
fn a_package_is_installed_upgraded_under_a_running_job_removed_and_purged() {
    const NAME: &str = "a_package_is_installed_upgraded_under_a_running_job_removed_and_purged";
    if !Path::new("/usr/bin/dpkg-deb").exists() {
        return reeve_tests::skip(NAME, "there is no dpkg here");
    }
    let Some(system) = boot(NAME) else { return };
    // As a release is: without what only a debugger reads.
    system.ok("mkdir /run/small && for b in reeve reeve-agent reeve-coordinator; do strip -o /run/small/$b /mnt/binaries/$b; done");
    system.ok("/mnt/repository/packaging/deb.sh --bin /run/small --out /run/deb --compression none");
    system.ok("dpkg -i /run/deb/*.deb");
    start_all(&system);
    let id = submit(&system, "-- sh -c 'echo $$; exec sleep 100000'");
    let pid = pid_of(&system, &id);
    let pids = |units: &[&str]| units.iter().map(|unit| system.property(unit, "MainPID")).collect::<Vec<_>>();
    let restarted = ["reeve-coordinator", "reeve-keeper", "reeve-agent"];
    let (before, holder) = (pids(&restarted), pids(&["reeve-jobs"]));
    system.ok("echo '# mine' >> /etc/reeve/coordinator.toml && dpkg -i /run/deb/*.deb");
    let after = pids(&restarted);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    assert_eq!(pids(&["reeve-jobs"]), holder, "jobs live in it");
    goes_on(&system, &id, &pid, "an upgrade");

    // A coordinator that has stopped to answer is ended and started by its watchdog.
    system.ok("mkdir -p /run/systemd/system/reeve-coordinator.service.d");
    system.ok(
        "printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/reeve-coordinator.service.d/short.conf",
    );
    system.ok("systemctl daemon-reload && systemctl restart reeve-coordinator && systemctl kill -s STOP reeve-coordinator");
    until(&system, "the watchdog to start it again", || {
        let restarts = system.property("reeve-coordinator", "NRestarts");
        (restarts != "0" && system.property("reeve-coordinator", "ActiveState") == "active").then_some(())
    });
    // So short a watchdog is for this alone: what follows may take its time.
    system.ok("rm -r /run/systemd/system/reeve-coordinator.service.d && systemctl daemon-reload");
    system.ok("systemctl reset-failed reeve-coordinator; systemctl restart reeve-coordinator");
    goes_on(&system, &id, &pid, "a frozen coordinator");

    backup_and_restore(&system, &id);
    system.ok("reeve-agent doctor --keeper-dir /run/reeve-keeper");
    system.ok("systemctl stop reeve-agent && reeve-agent leave --keeper-dir /run/reeve-keeper");
    system.ok("dpkg -r reeve");
    assert!(!system.run(&format!("kill -0 {pid}")).status.success(), "nothing of it runs on");
    system.ok("test -e /var/lib/reeve/reeve.db && grep -q mine /etc/reeve/coordinator.toml");
    system.ok("dpkg -P reeve");
    system.ok("! ls -d /usr/bin/reeve* /etc/reeve /var/lib/reeve* /usr/lib/systemd/system/reeve-[acjk]* /usr/share/doc/reeve");
}
