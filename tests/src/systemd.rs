//! A scratch copy of this system with a systemd of its own as process 1: mounts, processes, network and control groups
//! are private to it, files are an overlay in memory. For what only systemd can prove: units, restarts, upgrades.
use crate::{PATIENCE, eventually};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

const SCRIPT: &str = include_str!("systemd.sh");
const GROUPS: &str = "/sys/fs/cgroup";

/// A running one. Everything of it ends with this value.
pub struct Systemd {
    outer: Child,
    init: u32,
    groups: Vec<PathBuf>,
    scratch: tempfile::TempDir,
}

impl Systemd {
    /// Boots. The error says what is missing here.
    pub fn boot(repository: &Path, binaries: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        for program in ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter"] {
            if !Path::new(program).exists() {
                return Err(format!("there is no {program} here"));
            }
        }
        let scratch = tempfile::Builder::new().prefix("reeve-test-").tempdir().map_err(|e| e.to_string())?;
        let groups = groups(scratch.path())?;
        let enter: Vec<String> =
            groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs", group.display())).collect();
        let line = format!(
            "{} && exec unshare --mount --pid --cgroup --net --fork --kill-child bash \"$@\"",
            enter.join(" && ")
        );
        let script = scratch.path().join("boot.sh");
        std::fs::write(&script, SCRIPT).map_err(|e| e.to_string())?;
        let root = scratch.path().join("system");
        std::fs::create_dir(&root).map_err(|e| e.to_string())?;
        let log = std::fs::File::create(scratch.path().join("log")).map_err(|e| e.to_string())?;
        let outer = Command::new("bash")
            .args(["-c", &line, "boot"])
            .args([&script, &root])
            .args([repository, binaries])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut system = Self { outer, init: 0, groups, scratch };
        system.wait_until_up()?;
        Ok(system)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.outer.try_wait().ok().flatten().is_some() {
                return Err(format!("a scratch system cannot be made here: {}", self.log().trim()));
            }
            let pid = self.outer.id();
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            self.init =
                children.ok().and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
            let is_up = || self.run("systemctl is-active reeve-test.target").status.success();
            let name = std::fs::read_to_string(format!("/proc/{}/comm", self.init)).unwrap_or_default();
            if name.trim() == "systemd" && is_up() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(format!("systemd does not come up here: {}", self.log().trim()))
    }

    /// What process 1 said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// Runs a shell line inside, as root.
    pub fn run(&self, line: &str) -> Output {
        Command::new("nsenter")
            .args([
                "--target",
                &self.init.to_string(),
                "--mount",
                "--pid",
                "--cgroup",
                "--net",
                "--root",
                "--wd",
            ])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NO_COLOR=1", "SYSTEMD_PAGER="])
            .args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", line])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs it; it must end well. Its standard output, trimmed.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(
            output.status.success(),
            "{line}: {:?}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&self.run("journalctl -u 'reeve-*' -n 40 --no-pager").stdout)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&format!("systemctl show --value --property {name} {unit}"))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the journal:\n{}",
                String::from_utf8_lossy(&self.run("journalctl -u 'reeve-*' -n 60 --no-pager").stdout)
            );
        }
        // Process 1 of its namespace: all others end with it, and all mounts.
        if let Some(init) = rustix::process::Pid::from_raw(self.init.cast_signed()) {
            let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
        }
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        for group in &self.groups {
            eventually("the control groups to be empty", || remove_group(group).then_some(()));
        }
    }
}

/// A group in every hierarchy: what the scratch system makes stays below.
fn groups(scratch: &Path) -> Result<Vec<PathBuf>, String> {
    let name = scratch.file_name().unwrap();
    if !Path::new(GROUPS).join("systemd").is_dir() || !Path::new(GROUPS).join("unified").is_dir() {
        return Err("the scratch system needs control groups in the hybrid layout".to_owned());
    }
    let mut made = Vec::new();
    for hierarchy in std::fs::read_dir(GROUPS).map_err(|e| e.to_string())?.flatten() {
        let group = hierarchy.path().join(name);
        let is_link = hierarchy.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link || !hierarchy.path().join("cgroup.procs").exists() {
            continue;
        }
        std::fs::create_dir(&group).map_err(|e| format!("{}: {e}", group.display()))?;
        // A group of cpusets takes nobody in before it has some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = std::fs::read(hierarchy.path().join(file)) {
                let _ = std::fs::write(group.join(file), all);
            }
        }
        made.push(group);
    }
    Ok(made)
}

/// Removes a group with all below; whether it is gone.
fn remove_group(group: &Path) -> bool {
    for below in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&below.path());
        }
    }
    let _ = std::fs::remove_dir(group);
    !group.exists()
}
