//! `reeve up` and `reeve down` for real: a coordinator, an agent and a keeper, as their user meets them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of `reeve up` that leaves nothing behind.
struct Place {
    base: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("rt")).unwrap();
        Self { base }
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("up")
    }

    fn reeve(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reeve"))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.base.path())
            .env("XDG_RUNTIME_DIR", self.base.path().join("rt"))
            .current_dir(self.base.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn out(&self, words: &[&str]) -> String {
        let output = self.reeve(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{words:?}: {} {}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn up(&self, more: &[&str]) -> String {
        let dir = self.dir();
        let words = ["up", "--dir", dir.to_str().unwrap()];
        self.out(&[&words, more].concat())
    }

    fn down(&self, more: &[&str]) -> String {
        let dir = self.dir();
        let words = ["down", "--dir", dir.to_str().unwrap()];
        self.out(&[&words, more].concat())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reeve(&["down", "--jobs", "--dir", self.dir().to_str().unwrap_or_default()]);
        // What is left are keeper and guardians with records that no coordinator will fetch any more.
        for process in processes(&self.base.path().display().to_string()) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

/// Processes of reeve with this word in their command line.
fn processes(word: &str) -> Vec<rustix::process::Pid> {
    let of = |path: &Path| {
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        (line.contains(word) && line.contains("reeve")).then(|| rustix::process::Pid::from_raw(pid))?
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| of(&entry.path())).collect()
}

#[test]
fn jobs_survive_the_server_and_the_next_one_finds_them() {
    let place = Place::new();
    place.up(&[]);
    let line = place.up(&["--no-console"]);
    // Named from here on: another `reeve up` of the same user may be found once this one has stopped.
    let socket = line.trim_end().replace("ready socket=", "");
    assert_eq!(place.out(&["submit", "--wait", "--", "true"]), "1\n");
    let go = place.base.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 7", go.display());
    assert_eq!(place.out(&["submit", "--", "sh", "-c", &script]), "2\n");
    while !place.out(&["show", "2"]).contains("RUNNING") {
        std::thread::yield_now();
    }
    place.down(&[]);
    assert_eq!(place.reeve(&["ls", "--host", &socket]).status.code(), Some(125));
    place.up(&[]);
    assert!(place.out(&["show", "2"]).contains("RUNNING"));
    std::fs::write(&go, "").unwrap();
    assert_eq!(place.reeve(&["wait", "2"]).status.code(), Some(7));
}

#[test]
fn a_second_up_attaches_to_the_first() {
    let place = Place::new();
    place.up(&[]);
    let line = place.up(&["--no-console"]);
    let socket = line.strip_prefix("ready socket=").unwrap().trim_end();
    let health = place.out(&["status", "--json", "--host", socket]);
    assert!(health.contains("\"status\":\"ok\""), "{health}");
    place.up(&[]);
    assert_eq!(place.out(&["status", "--json"]).matches("\"epoch\":1,").count(), 1);
}

#[test]
fn down_with_jobs_ends_them() {
    let place = Place::new();
    place.up(&[]);
    let mark = place.base.path().join("alive");
    let script = format!("echo $$ > {}; exec sleep 600", mark.display());
    place.out(&["submit", "--", "sh", "-c", &script]);
    // The file is there before its text is.
    while !std::fs::read_to_string(&mark).is_ok_and(|text| text.ends_with('\n')) {
        std::thread::yield_now();
    }
    let pid = std::fs::read_to_string(&mark).unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists());
    place.down(&["--jobs"]);
    assert!(!Path::new("/proc").join(pid.trim()).exists());
    assert_eq!(place.down(&[]), "");
}
