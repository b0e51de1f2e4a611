//! Where groups of attempts can be made: below the group that `reeve-agent jobs` holds (version 2, delegated), below this
//! process's own group of version 2, or in the hierarchies of version 1. It tries by making what it would use.
use super::{PROCS, members};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which kind of control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    /// A hierarchy per controller.
    #[default]
    One,
    /// One hierarchy; processes only in its leaves.
    Two,
}

impl Version {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        }
    }
}

/// The keeper's directory per controller; slots are numbered directories below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchies {
    pub(crate) version: Version,
    pub(crate) memory: Option<PathBuf>,
    pub(crate) pids: Option<PathBuf>,
    pub(crate) cpu: Option<PathBuf>,
}

/// In version 2: where the guardian and a command without memory limit are, below a slot.
pub(super) const LEAF: &str = "g";
/// In version 2: where a command with a memory limit is, below a slot.
pub(super) const LIMITED: &str = "c";
/// The controllers that are used.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Shares of one cpu in version 1, and its weight in version 2.
pub(super) const SHARES: u64 = 1024;
pub(super) const WEIGHT: u64 = 100;

/// What can be used, and why memory limits cannot be if they cannot.
pub(super) fn find(name: &str, jobs: &[PathBuf], cpus: u32) -> (Hierarchies, String) {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mount = Path::new("/sys/fs/cgroup");
    let unified = [mount.to_path_buf(), mount.join("unified")];
    let unified = unified.iter().find(|root| root.join("cgroup.controllers").exists());
    let own = unified.and_then(|root| Some(root.join(own_path(&text, "")?)));
    let mut why = Vec::new();
    for group in jobs.iter().cloned().chain(own) {
        match two(&group, name, cpus) {
            Ok(found) => return (found, String::new()),
            Err(error) => why.push(format!("cgroup v2 {}: {error}", group.display())),
        }
    }
    let mut found = Hierarchies::default();
    for controller in CONTROLLERS {
        match one(mount, &text, controller, name, cpus) {
            Ok(base) => match controller {
                "memory" => found.memory = Some(base),
                "pids" => found.pids = Some(base),
                _ => found.cpu = Some(base),
            },
            Err(error) => why.push(format!("cgroup v1 {controller}: {error}")),
        }
    }
    let why = if found.memory.is_some() { String::new() } else { why.join("; ") };
    (found, why)
}

/// The path of this process in a hierarchy of `/proc/self/cgroup`, relative; no controller: version 2.
fn own_path(text: &str, controller: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|c| c == controller).then(|| path.trim_start_matches('/').to_owned())
    })
}

/// A base of version 1. An ancestor may be the first that is there: in a container the path is the host's.
fn one(mount: &Path, text: &str, controller: &str, name: &str, cpus: u32) -> io::Result<PathBuf> {
    let own = own_path(text, controller).ok_or_else(|| io::Error::other("not mounted as version 1"))?;
    let root = mount.join(controller);
    let full = root.join(&own);
    let parent = if full.join(PROCS).exists() { full } else { root };
    let base = parent.join(name);
    make(&base)?;
    // All attempts together weigh as much as the machine has cpus, not as one process beside the rest of the system.
    let shares = base.join("cpu.shares");
    if shares.exists() {
        fs::write(shares, (SHARES * u64::from(cpus.max(1))).to_string())?;
    }
    Ok(base)
}

/// A base of version 2 below a group, with the controllers on.
pub(super) fn two(group: &Path, name: &str, cpus: u32) -> io::Result<Hierarchies> {
    let text = fs::read_to_string(group.join("cgroup.controllers"))?;
    let there: Vec<&str> =
        CONTROLLERS.into_iter().filter(|c| text.split_ascii_whitespace().any(|word| word == *c)).collect();
    if there.is_empty() {
        return Err(io::Error::other("none of memory, pids and cpu is delegated to it"));
    }
    let base = group.join(name);
    make(&base)?;
    for dir in [group, &base] {
        turn_on(dir, &there)?;
    }
    if there.contains(&"cpu") {
        fs::write(base.join("cpu.weight"), (WEIGHT * u64::from(cpus.max(1))).clamp(1, 10_000).to_string())?;
    }
    let has = |controller: &str| there.contains(&controller).then(|| base.clone());
    Ok(Hierarchies { version: Version::Two, memory: has("memory"), pids: has("pids"), cpu: has("cpu") })
}

/// Lets the groups below a group have controllers.
pub(super) fn turn_on(dir: &Path, controllers: &[&str]) -> io::Result<()> {
    for controller in controllers {
        fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).map_err(
            |error| match error.raw_os_error() {
                Some(libc::EBUSY) => io::Error::other(format!(
                    "{} holds processes itself, so none below it can have limits",
                    dir.display()
                )),
                _ => error,
            },
        )?;
    }
    Ok(())
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

impl Hierarchies {
    /// The directories that slots are made in, each once.
    pub(crate) fn bases(&self) -> Vec<PathBuf> {
        let mut bases: Vec<PathBuf> =
            [&self.memory, &self.pids, &self.cpu].into_iter().flatten().cloned().collect();
        bases.dedup();
        bases
    }

    /// The group of version 2 that ours is below: it holds no process itself any more.
    pub(crate) fn divided(&self) -> Option<&Path> {
        let base = [&self.memory, &self.pids, &self.cpu].into_iter().flatten().next();
        base.filter(|_| self.version == Version::Two)?.parent()
    }

    /// The directories of a slot.
    pub(super) fn dirs(&self, number: u32) -> Vec<PathBuf> {
        self.bases().iter().map(|base| base.join(number.to_string())).collect()
    }

    /// Everybody in a slot.
    pub(super) fn members(&self, number: u32) -> Vec<u32> {
        let mut found: Vec<u32> = self.dirs(number).iter().flat_map(|dir| members(dir)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// No process is born in a slot from now on.
    pub(super) fn stop_births(&self, number: u32) {
        if let Some(pids) = &self.pids {
            let _ = fs::write(pids.join(number.to_string()).join("pids.max"), "0");
        }
        if self.version == Version::Two {
            for dir in self.dirs(number) {
                let _ = fs::write(dir.join("cgroup.kill"), "1");
            }
        }
    }

    /// An empty slot goes; it is made again when it is needed.
    pub(super) fn remove(&self, number: u32) {
        self.dirs(number).iter().for_each(|dir| super::remove_empty(dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_path_is_found_in_either_version() {
        let text = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/x\n0::/user.slice/s\n";
        for (controller, path) in
            [("memory", Some("a/b")), ("cpu", Some("x")), ("", Some("user.slice/s")), ("pids", None)]
        {
            assert_eq!(own_path(text, controller).as_deref(), path, "{controller}");
        }
        assert_eq!(own_path("garbage\n::\n", "memory"), None);
    }

    #[test]
    fn a_group_without_controllers_says_so() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "hugetlb rdma\n").unwrap();
        let error = two(dir.path(), "reeve-x", 2).unwrap_err();
        assert!(error.to_string().contains("none of memory"), "{error}");
        assert!(!dir.path().join("reeve-x").exists());
        assert!(two(Path::new("/nowhere"), "reeve-x", 2).is_err());
    }

    #[test]
    fn a_delegated_group_gets_its_controllers_turned_on_down_to_the_slots() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let found = two(dir.path(), "reeve-x", 4).unwrap();
        let base = dir.path().join("reeve-x");
        assert_eq!(found.bases().first(), Some(&base));
        assert_eq!(found.version, Version::Two);
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert_eq!(fs::read_to_string(base.join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert_eq!(fs::read_to_string(base.join("cpu.weight")).unwrap(), "400");
    }
}
