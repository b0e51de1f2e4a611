//! What is installed: the list, the units, and what a service manager sees of the coordinator. What needs a running
//! systemd is in systemd.rs.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::machine::{Coordinator, Daemon};
use reeve_tests::{binary, eventually, skip};
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const UNITS: [&str; 4] = ["coordinator", "agent", "keeper", "jobs"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Directories of the binaries under test, and a root to install below. Links: the files are large.
struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn install(&self, words: &[&str]) -> Output {
        // Only that they are programs matters here; the real ones would be copied again and again.
        let bin = self.dir.path().join("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            for name in ["reeve", "reeve-coordinator", "reeve-agent"] {
                std::fs::copy("/bin/true", bin.join(name)).unwrap();
            }
        }
        Command::new(repository().join("packaging/install.sh"))
            .arg("--root")
            .arg(self.path())
            .arg("--bin")
            .arg(bin)
            .args(words)
            .env("HOME", "/home/ana")
            .output()
            .unwrap()
    }

    fn files(&self) -> BTreeSet<String> {
        fn walk(dir: &Path, root: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), root, found);
                } else {
                    found.insert(format!("/{}", entry.path().strip_prefix(root).unwrap().display()));
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.path(), &self.path(), &mut found);
        found
    }
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every unit of both modes, with its path and text.
fn units() -> Vec<(PathBuf, String)> {
    let paths = ["system", "user"].into_iter().flat_map(|mode| {
        UNITS.map(|unit| repository().join(format!("packaging/systemd/{mode}/reeve-{unit}.service")))
    });
    paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn installing_twice_is_an_upgrade_and_uninstalling_leaves_nothing_but_what_is_the_owners() {
    let root = Root::new();
    good(&root.install(&[]));
    let first = root.files();
    assert!(first.contains("/usr/bin/reeve") && first.contains("/etc/reeve/agent.toml"), "{first:?}");
    let mine = root.path().join("etc/reeve/agent.toml");
    std::fs::write(&mine, "cpus = 2.0\n").unwrap();
    good(&root.install(&[]));
    assert_eq!(root.files(), first, "nothing is left beside");
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "cpus = 2.0\n", "configuration is the owner's");
    std::fs::create_dir_all(root.path().join("var/lib/reeve")).unwrap();
    std::fs::write(root.path().join("var/lib/reeve/reeve.db"), "jobs").unwrap();
    good(&root.install(&["--uninstall"]));
    assert_eq!(root.files(), ["/etc/reeve/agent.toml", "/var/lib/reeve/reeve.db"].map(str::to_owned).into());
    good(&root.install(&["--uninstall", "--purge"]));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "{:?}", root.files());
}

#[test]
fn one_user_installs_below_home_with_units_that_name_that_users_binaries() {
    let root = Root::new();
    good(&root.install(&["--user"]));
    let files = root.files();
    assert!(files.iter().all(|file| file.starts_with("/home/ana/")), "{files:?}");
    let unit = root.path().join("home/ana/.config/systemd/user/reeve-agent.service");
    assert!(std::fs::read_to_string(unit).unwrap().contains("ExecStart=%h/.local/bin/reeve-agent run"));
    good(&root.install(&["--user", "--uninstall", "--purge"]));
    assert_eq!(root.files(), BTreeSet::new());
}

#[test]
fn what_cannot_be_installed_is_said_with_what_to_do() {
    let root = Root::new();
    for (words, code, part) in [
        (&["--nonsense"][..], 64, "unknown option"),
        (&["--purge"], 64, "--uninstall"),
        (&["--bin", "/nowhere"], 66, "cargo build --release"),
    ] {
        let output = root.install(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(part)), (Some(code), true), "{said}");
    }
    assert_eq!(root.files(), BTreeSet::new());
}

#[test]
fn every_path_that_a_unit_names_is_installed_or_made_by_a_unit() {
    let root = Root::new();
    good(&root.install(&[]));
    let files = root.files();
    for (path, text) in units().into_iter().filter(|(path, _)| path.iter().any(|part| part == "system")) {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for word in lines.flat_map(|line| line.split([' ', '='])).filter(|word| word.starts_with('/')) {
            let made = |line: &str| units().iter().any(|(_, text)| text.contains(line));
            let below = |base: &str, key: &str| {
                let name = word.strip_prefix(base)?.split('/').next()?;
                Some(made(&format!("\n{key}={name}\n")))
            };
            let known = files.contains(word)
                || below("/run/", "RuntimeDirectory") == Some(true)
                || below("/var/lib/", "StateDirectory") == Some(true);
            assert!(known, "{}: {word}", path.display());
        }
        for unit in text.lines().filter(|line| line.starts_with("Requires=") || line.starts_with("After=")) {
            for name in unit.split([' ', '=']).filter(|word| word.starts_with("reeve-")) {
                assert!(files.contains(&format!("/usr/lib/systemd/system/{name}")), "{name}");
            }
        }
    }
}

#[test]
fn the_real_binaries_take_every_command_line_of_the_units() {
    for (path, text) in units() {
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let mut words = line.split(' ');
        let program = Path::new(words.next().unwrap()).file_name().unwrap().to_str().unwrap().to_owned();
        // With --help behind them a wrong word before it is still an error.
        let parsed = Command::new(binary(&program)).args(words).arg("--help").output().unwrap();
        good(&parsed);
        let wrong =
            Command::new(binary(&program)).args(["run", "--no-such-flag", "--help"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(64), "{}: the check can fail", path.display());
    }
}

/// Units as they are, but with programs that exist; `None`: skipped.
fn with_programs(test: &str, root: &Root) -> Option<Vec<PathBuf>> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip(test, "systemd-analyze is not installed");
        return None;
    }
    let of = |(path, text): (PathBuf, String)| {
        let mode = path.parent().unwrap().file_name().unwrap().to_owned();
        let dir = root.dir.path().join(mode);
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join(path.file_name().unwrap());
        let bin = binary("reeve").parent().unwrap().display().to_string();
        std::fs::write(&file, text.replace("ExecStart=/usr/bin", &format!("ExecStart={bin}"))).unwrap();
        file
    };
    Some(units().into_iter().map(of).collect())
}

#[test]
fn systemd_finds_nothing_wrong_with_any_unit() {
    let root = Root::new();
    let Some(files) = with_programs("systemd_finds_nothing_wrong_with_any_unit", &root) else { return };
    for (mode, flag) in [("system", "--system"), ("user", "--user")] {
        let files = files.iter().filter(|file| file.parent().unwrap().ends_with(mode));
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", flag]).args(files).env("XDG_RUNTIME_DIR", root.dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // The machine's own units are none of ours.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("reeve-")).collect();
        assert!(ours.is_empty(), "{mode}: {said}");
    }
    let broken = root.dir.path().join("system/reeve-agent.service");
    let text = std::fs::read_to_string(&broken).unwrap().replace("Restart=always", "Restrat=always");
    std::fs::write(&broken, text).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&broken).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Restrat"), "the check can fail");
}

#[test]
fn the_head_is_exposed_to_little_and_the_figures_of_the_others_are_printed() {
    let root = Root::new();
    let test = "the_head_is_exposed_to_little_and_the_figures_of_the_others_are_printed";
    let Some(files) = with_programs(test, &root) else { return };
    for file in files.iter().filter(|file| file.parent().unwrap().ends_with("system")) {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["security", "--offline=true", "--no-pager"]).arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let figure = said.lines().last().and_then(|line| line.rsplit_once(": "));
        let figure = figure.and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
        let Some(figure) = figure else {
            return skip(test, "this systemd cannot examine units that are not loaded");
        };
        println!("{}: exposure {figure}", file.file_name().unwrap().display());
        let most = match file.file_stem().unwrap().to_str().unwrap() {
            "reeve-coordinator" | "reeve-agent" => 2.0,
            "reeve-jobs" => 3.0,
            // Its sandbox would be every job's.
            _ => 10.0,
        };
        assert!(figure <= most, "{}: {figure} is more than {most}\n{said}", file.display());
    }
}

/// A coordinator whose service manager is this test.
fn managed(dir: &Path, c: &Coordinator) -> (UnixDatagram, Daemon) {
    let path = dir.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(reeve_tests::PATIENCE)).unwrap();
    let mut command = c.command(&["run", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let daemon = Daemon::spawn(command, &c.dir.path().join("log"));
    (manager, daemon)
}

fn said(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let n = manager.recv(&mut buffer).expect("the coordinator says something in time");
    String::from_utf8_lossy(&buffer[..n]).trim().to_owned()
}

#[test]
fn the_coordinator_says_ready_pings_while_its_engine_commits_and_stops_when_told() {
    let mut c = Coordinator::start("127.0.0.1:0");
    assert_eq!(c.stop(), Some(0));
    let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let (manager, daemon) = managed(dir.path(), &c);
    assert_eq!(said(&manager), "READY=1");
    assert_eq!(said(&manager), "WATCHDOG=1");
    assert!(c.reeve(&["submit", "--", "true"]).status.success(), "it takes jobs at READY");
    daemon.signal(rustix::process::Signal::STOP);
    // What was on its way may still come; then a process that does nothing says nothing.
    manager.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut buffer = [0; 4096];
    eventually("silence while it is stopped", || manager.recv(&mut buffer).is_err().then_some(()));
    manager.set_read_timeout(Some(reeve_tests::PATIENCE)).unwrap();
    daemon.signal(rustix::process::Signal::CONT);
    assert_eq!(said(&manager), "WATCHDOG=1", "it goes on");
    assert_eq!(daemon.finish(rustix::process::Signal::TERM), Some(0));
    let words = std::iter::repeat_with(|| said(&manager)).find(|word| word != "WATCHDOG=1");
    assert_eq!(words.as_deref(), Some("STOPPING=1"));
}

#[test]
fn an_engine_that_cannot_commit_pings_no_more() {
    let mut c = Coordinator::start("127.0.0.1:0");
    assert_eq!(c.stop(), Some(0));
    let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let (manager, daemon) = managed(dir.path(), &c);
    assert_eq!(said(&manager), "READY=1");
    let other = rusqlite::Connection::open(c.data().join("reeve.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let submit = c.reeve_command(&["submit", "--", "true"]).stderr(Stdio::null()).spawn().unwrap();
    // It waits in the commit: reading would still be possible, and is no sign of life.
    manager.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut buffer = [0; 4096];
    eventually("silence of the watchdog", || manager.recv(&mut buffer).is_err().then_some(()));
    // Then it gives up rather than answer without a commit.
    let output = submit.wait_with_output().unwrap();
    assert!(!output.status.success());
    drop(other);
    let code = daemon.finish(rustix::process::Signal::TERM);
    assert_eq!(code, Some(74), "{}", c.log());
}
