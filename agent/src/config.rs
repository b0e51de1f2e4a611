//! How an agent is configured: `agent.toml`, the environment (`REEVE_...`), flags; the later of these win. It reads no
//! state and starts nothing.
use crate::git::settings::GitSettings;
use crate::groups::Bounds;
use crate::keeper::DEFAULT_PATH;
use reeve_protocol::nearest::nearest;
use reeve_protocol::units::parse_bytes;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// The parser's words, and what was probably meant.
        problem: String,
    },
}

/// Everything an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where identity, and what was seen of the cluster, are kept.
    pub state_dir: PathBuf,
    /// Sockets, guardians and the directories of attempts: the keeper's.
    pub runtime_dir: PathBuf,
    /// On a disk: directories of attempts, and output that is too large for memory.
    pub data_dir: PathBuf,
    /// The part that a file may say.
    pub settings: Settings,
    /// The file that said it, if there is one.
    pub file: Option<PathBuf>,
}

/// The keys of `agent.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where jobs' programs are looked for.
    pub path: String,
    /// Cpus to offer, instead of what affinity and control group allow.
    pub cpus: Option<f64>,
    /// Memory to offer, such as `60GiB`, instead of what the machine and its control group allow.
    pub memory: Option<String>,
    /// UUIDs of gpus to offer, instead of those the driver shows.
    pub gpus: Option<Vec<String>>,
    /// A file that describes the gpus, instead of a driver.
    pub gpu_file: Option<PathBuf>,
    /// More memory than this must nobody hold on a gpu that a job gets whole.
    pub gpu_foreign_memory: String,
    /// Named counters to offer.
    pub resources: BTreeMap<String, u64>,
    /// Labels, for `--on label.KEY=VALUE`.
    pub labels: BTreeMap<String, String>,
    /// May run attempts as root.
    pub allow_root: bool,
    /// Users that every owner may run as.
    pub run_as: Vec<String>,
    /// How the keeper is started when none answers; empty: somebody else does it.
    pub keeper_command: Option<Vec<String>>,
    /// The runtime directory of a keeper that a service runs; the agent starts none then.
    pub keeper_dir: Option<PathBuf>,
    /// Attempts live below this control group: its directory, or the file that `reeve-agent jobs` writes.
    pub jobs_cgroup: Option<PathBuf>,
    /// Control groups for what attempts may use.
    pub cgroups: CgroupUse,
    /// Processes and threads of one attempt, at most.
    pub processes: u64,
    /// What cpus mean to the kernel.
    pub cpu_limit: CpuLimit,
    /// Bytes of all artifacts of one attempt, at most, such as `10GiB`; what the job says if absent.
    pub out_max: Option<String>,
    /// Repositories.
    pub git: GitSettings,
}

/// Whether attempts get control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CgroupUse {
    /// Where this machine lets us make some.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What the cpus of an attempt mean to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuLimit {
    /// A share when everybody wants all of them.
    #[default]
    Weight,
    /// Never more than that.
    Quota,
}

/// Every key, for hints.
const KEYS: [&str; 18] = [
    "path",
    "cpus",
    "memory",
    "gpus",
    "gpu_file",
    "gpu_foreign_memory",
    "resources",
    "labels",
    "allow_root",
    "run_as",
    "keeper_command",
    "keeper_dir",
    "jobs_cgroup",
    "cgroups",
    "processes",
    "cpu_limit",
    "out_max",
    "git",
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: DEFAULT_PATH.to_owned(),
            cpus: None,
            memory: None,
            gpus: None,
            gpu_file: None,
            gpu_foreign_memory: "256MiB".to_owned(),
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            allow_root: false,
            run_as: Vec::new(),
            keeper_command: None,
            keeper_dir: None,
            jobs_cgroup: None,
            cgroups: CgroupUse::Auto,
            processes: Bounds::default().processes,
            cpu_limit: CpuLimit::Weight,
            out_max: None,
            git: GitSettings::default(),
        }
    }
}

impl Config {
    /// Everything below one directory, with the default settings.
    pub fn below(dir: &Path) -> Self {
        Self {
            state_dir: dir.to_path_buf(),
            runtime_dir: dir.join("run"),
            data_dir: dir.join("data"),
            settings: Settings::default(),
            file: None,
        }
    }

    /// The usual places: those of the system for root, else those of the user.
    pub fn usual() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self {
                runtime_dir: PathBuf::from("/run/reeve-agent"),
                ..Self::below(Path::new("/var/lib/reeve-agent"))
            };
        }
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let state =
            variable("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("reeve-agent");
        let mut config = Self::below(&state);
        if let Some(runtime) = variable("XDG_RUNTIME_DIR") {
            config.runtime_dir = runtime.join("reeve-agent");
        }
        config
    }

    /// Adds what a file says; a missing file is an error only if it was asked for by name.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(&mut self, named: Option<&Path>) -> Result<(), Error> {
        let path = named.unwrap_or(Path::new("/etc/reeve/agent.toml"));
        match Settings::read(path) {
            Ok(settings) => {
                self.settings = settings;
                self.file = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()));
            }
            Err(Error::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => return Err(error),
        }
        if let Some(dir) = self.settings.keeper_dir.clone() {
            self.serve_keeper_of(dir);
        }
        Ok(())
    }

    /// The keeper is run by somebody else, below this runtime directory: none is ever started.
    pub fn serve_keeper_of(&mut self, dir: PathBuf) {
        self.runtime_dir.clone_from(&dir);
        self.settings.keeper_command = Some(Vec::new());
        self.settings.keeper_dir = Some(dir);
    }

    /// Whether attempts can be started as other users: the keeper has root.
    pub(crate) fn has_root_keeper(&self) -> bool {
        match &self.settings.keeper_dir {
            Some(dir) => std::fs::metadata(dir).is_ok_and(|dir| dir.uid() == 0),
            None => rustix::process::geteuid().is_root(),
        }
    }
}

impl Settings {
    /// What a file says.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        parse(&text).map_err(|problem| Error::Content { path: path.to_path_buf(), problem })
    }
}

/// Parses and checks a file's text.
fn parse(text: &str) -> Result<Settings, String> {
    let settings: Settings = toml::from_str(text).map_err(|error| {
        let words = error.message();
        let key = words.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        match key {
            Some(key) => match nearest(key, KEYS.into_iter().chain(crate::git::settings::KEYS)) {
                Some(meant) => format!("unknown key {key:?}; did you mean {meant:?}?"),
                None => format!("unknown key {key:?}; known are {}", KEYS.join(", ")),
            },
            None => error.to_string(),
        }
    })?;
    if settings.cpus.is_some_and(|c| !(0.001..=100_000.0).contains(&c)) {
        return Err("cpus must be between 0.001 and 100000".to_owned());
    }
    if let Some(memory) = &settings.memory {
        parse_bytes(memory)?;
    }
    parse_bytes(&settings.gpu_foreign_memory)?;
    if !(16..=4_194_304).contains(&settings.processes) {
        return Err("processes must be between 16 and 4194304".to_owned());
    }
    if let Some(size) = &settings.out_max {
        parse_bytes(size)?;
    }
    settings.git.check()?;
    if settings.keeper_command.as_ref().is_some_and(|c| c.first().is_some_and(String::is_empty)) {
        return Err("keeper_command names no program".to_owned());
    }
    for (key, path) in [
        ("keeper_dir", &settings.keeper_dir),
        ("jobs_cgroup", &settings.jobs_cgroup),
        ("gpu_file", &settings.gpu_file),
    ] {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(format!("{key} must be an absolute path"));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_defaults_and_every_key_is_in_it() {
        let example = include_str!("../agent.example.toml");
        let uncommented: String = example
            .lines()
            .filter_map(|line| {
                line.strip_prefix("# ").filter(|l| l.contains(" = ") || l.starts_with('[')).or(Some(""))
            })
            .fold(String::new(), |all, line| all + line + "\n");
        let settings = parse(&uncommented).unwrap();
        assert_eq!(settings.path, DEFAULT_PATH);
        for key in KEYS {
            let there = [format!("{key} = "), format!("[{key}]"), format!("[[git.{key}]]")];
            assert!(there.iter().any(|words| uncommented.contains(words)), "{key}");
        }
        assert_eq!(
            GitSettings { credentials: Vec::new(), proxy: None, ..settings.git },
            GitSettings::default()
        );
        assert_eq!(parse("").unwrap().path, DEFAULT_PATH);
    }

    #[test]
    fn mistakes_are_named_with_what_was_meant() {
        for (text, part) in [
            ("labls = {}", "did you mean \"labels\""),
            ("zzzzzzzz = 1", "known are path"),
            ("cpus = -1", "between"),
            ("memory = \"lots\"", "not a size"),
            ("keeper_command = [\"\"]", "names no program"),
            ("cpus = ", "TOML"),
            ("keeper_dir = \"run\"", "absolute"),
            ("gpu_file = \"gpus.toml\"", "absolute"),
            ("gpu_foreign_memory = \"much\"", "not a size"),
            ("processes = 1", "between 16"),
            ("cpu_limit = \"hard\"", "weight"),
            ("jobs_cgroup = \"jobs\"", "absolute"),
            ("[git]\nalow = []", "did you mean \"allow\""),
            ("[git]\ncache = \"lots\"", "not a size"),
            ("[git]\ntimeout_s = 0", "between"),
            ("[[git.credentials]]\nmatch = \"*\"", "either helper or ssh_key"),
            (
                "[[git.credentials]]\nmatch = \"*\"\nhelper = \"h\"\nknown_hosts = \"f\"",
                "goes with an ssh_key",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn only_a_file_asked_for_by_name_must_exist() {
        let mut config = Config::below(Path::new("/nowhere"));
        assert!(config.read(Some(Path::new("/nowhere/agent.toml"))).is_err());
        assert_eq!(config.runtime_dir, Path::new("/nowhere/run"));
    }

    #[test]
    fn a_keeper_of_a_service_is_used_and_never_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, "keeper_dir = \"/run/reeve-keeper\"\n").unwrap();
        let mut config = Config::below(dir.path());
        config.read(Some(&file)).unwrap();
        assert_eq!(config.runtime_dir, Path::new("/run/reeve-keeper"));
        assert_eq!(config.settings.keeper_command, Some(Vec::new()));
        config.serve_keeper_of(dir.path().to_path_buf());
        assert_eq!(config.has_root_keeper(), rustix::process::geteuid().is_root());
    }
}
