//! Where this process stands in the control groups, of either version. Limits are looked for from here up to the root
//! that can be seen: in a container that is the container's own.
use std::path::{Path, PathBuf};

/// Where the kernel's file system of control groups is.
const MOUNT: &str = "/sys/fs/cgroup";

/// The directories of our group and of its ancestors, nearest first, that have files of a controller.
pub(crate) fn directories(controller: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = candidates(&text, controller);
    found.retain(|dir| dir.is_dir());
    found
}

/// The same from the text of `/proc/self/cgroup`, whether they exist or not.
fn candidates(text: &str, controller: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let root = if id == "0" && controllers.is_empty() {
            PathBuf::from(MOUNT)
        } else if controllers.split(',').any(|c| c == controller) {
            Path::new(MOUNT).join(controller)
        } else {
            continue;
        };
        let own: PathBuf = root.join(path.trim_start_matches('/')).components().collect();
        found.extend(own.ancestors().take_while(|dir| dir.starts_with(&root)).map(Path::to_path_buf));
    }
    found
}

/// The groups of this process that services are made of: of version 2, and the named one of version 1.
pub(crate) fn own() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unified = [MOUNT.to_owned(), format!("{MOUNT}/unified")]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.controllers").exists());
    let mut found = services(&text, unified.as_deref());
    found.retain(|dir| dir.is_dir());
    found
}

/// The same from the text of `/proc/self/cgroup` and the mount of version 2.
fn services(text: &str, unified: Option<&str>) -> Vec<PathBuf> {
    let named = format!("{MOUNT}/systemd");
    let below = |line: &str| {
        let (root, path) = match line.strip_prefix("0::") {
            Some(path) => (unified?, path),
            None => (named.as_str(), line.split_once(":name=systemd:")?.1),
        };
        Some(Path::new(root).join(path.trim_start_matches('/')).components().collect())
    };
    text.lines().filter_map(below).collect()
}

/// The first number in a file, if it has one.
pub(crate) fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The number behind a word in a file of `word number` lines.
pub(crate) fn field(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_walked_up_to_their_root() {
        let text = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/user.slice\n";
        let paths = |c| candidates(text, c).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths("memory"),
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/memory/a",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup"
            ]
        );
        assert_eq!(paths("cpuacct")[0], "/sys/fs/cgroup/cpuacct");
        assert!(candidates("garbage\n::\n", "cpu").is_empty());
    }

    #[test]
    fn services_are_of_version_two_and_of_the_named_hierarchy() {
        let text = "9:name=systemd:/a/b\n4:memory:/a/b\n0::/a/b\n";
        let paths =
            |unified| services(text, unified).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths(Some("/sys/fs/cgroup/unified")),
            ["/sys/fs/cgroup/systemd/a/b", "/sys/fs/cgroup/unified/a/b"]
        );
        assert_eq!(paths(None), ["/sys/fs/cgroup/systemd/a/b"]);
        assert!(services("garbage\n:\n", Some("/x")).is_empty());
    }

    #[test]
    fn fields_are_found_by_their_whole_word() {
        let text = "oom 1\noom_kill 7\nunder_oom 0\n";
        assert_eq!(field(text, "oom_kill "), Some(7));
        assert_eq!(field(text, "nothing "), None);
    }
}
