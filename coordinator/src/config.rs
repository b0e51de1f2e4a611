//! The coordinator's settings: flags > environment (`REEVE_..`) > file > default. An unknown key is an error that names
//! the nearest. Nothing else in this crate reads the environment.
mod brokers;

use crate::backend::settings::Settings;
use crate::identity::MACHINE_LIFE;
use reeve_protocol::nearest::nearest;
use reeve_protocol::spec_check::check_name;
use reeve_protocol::text::Clean;
use reeve_protocol::units::parse_duration_s;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read when it exists and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/reeve/coordinator.toml";
/// The agents' port.
const PORT: u16 = 7373;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// The file is no TOML.
    #[error("{0} is not valid TOML: {1}")]
    Syntax(PathBuf, String),
    /// A key that does not exist.
    #[error("{place}: unknown key {key:?}; {hint}")]
    UnknownKey {
        /// The file.
        place: String,
        /// As written.
        key: String,
        /// The nearest, or all.
        hint: String,
    },
    /// A broker that cannot be used.
    #[error("{place}: {key} = {value} of a backend is not usable: {why}")]
    Broker {
        /// The file.
        place: String,
        /// Its key.
        key: &'static str,
        /// As written, if it holds no secret.
        value: String,
        /// What would be.
        why: String,
    },
    /// A value that does not fit.
    #[error("{place}: {key} = {value} is not usable: {why}")]
    Value {
        /// File, flag or environment.
        place: String,
        /// Its key.
        key: &'static str,
        /// As written.
        value: String,
        /// What would be.
        why: &'static str,
    },
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and the journal.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Store, keys and output.
    pub dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// The agents' port.
    pub listen: SocketAddr,
    /// The cluster's name.
    pub name: String,
    /// Addresses for join tokens; empty: see [`Config::addresses`].
    pub advertise: Vec<String>,
    /// The log's filter.
    pub log: String,
    /// The log's form.
    pub log_format: LogFormat,
    /// How long machines' certificates are good; they are renewed at two thirds of it.
    pub certificate_life: Duration,
    /// A running job that does nothing for so long gets a warning; zero: never.
    pub idle_warning: Duration,
    /// A queue of messages that gets the record of every job that ends.
    pub history_queue: Option<String>,
    /// Brokers that queues may be kept at, by name.
    pub backends: BTreeMap<String, Settings>,
    /// With port 0: take the port of the last run again, if it is free.
    pub keep_port: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: "/var/lib/reeve".into(),
            socket: "/run/reeve/coordinator.sock".into(),
            listen: SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), PORT),
            name: String::new(),
            advertise: Vec::new(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            certificate_life: MACHINE_LIFE,
            idle_warning: Duration::from_millis(crate::core::idle::IDLE_AFTER_MS),
            history_queue: None,
            backends: BTreeMap::new(),
            keep_port: false,
        }
    }
}

/// One place's settings, as text: flags, environment and file all come down to this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// See [`Config::dir`].
    pub dir: Option<String>,
    /// See [`Config::socket`].
    pub socket: Option<String>,
    /// See [`Config::listen`].
    pub listen: Option<String>,
    /// See [`Config::name`].
    pub name: Option<String>,
    /// See [`Config::advertise`].
    pub advertise: Option<Vec<String>>,
    /// See [`Config::log`].
    pub log: Option<String>,
    /// See [`Config::log_format`].
    pub log_format: Option<String>,
    /// See [`Config::certificate_life`]; `certificate_life` of the table `agents` in the file.
    pub certificate_life: Option<String>,
    /// See [`Config::idle_warning`].
    pub idle_warning: Option<String>,
    /// See [`Config::history_queue`]; empty: none.
    pub history_queue: Option<String>,
    /// See [`Config::backends`]; from the file alone.
    pub backends: Option<BTreeMap<String, Settings>>,
}

const KEYS: [&str; 11] = [
    "dir",
    "socket",
    "listen",
    "name",
    "advertise",
    "log",
    "log_format",
    "idle_warning",
    "history_queue",
    "agents",
    "backends",
];
/// Longest time without anything before a warning, seconds.
const LONGEST_IDLE: f64 = 31_536_000.0;
/// Keys of the table `agents`.
const AGENT_KEYS: [&str; 1] = ["certificate_life"];
/// Bounds of a certificate's life, seconds. Tests on debug binaries renew every few seconds.
const LIVES: RangeInclusive<f64> = if cfg!(debug_assertions) { 2.0..=LONGEST } else { 3_600.0..=LONGEST };
/// Ten years.
const LONGEST: f64 = 315_360_000.0;

impl Config {
    /// For `reeve up`: one machine, loopback only, everything below `dir`. The caller may put the socket elsewhere.
    pub fn for_dir(dir: PathBuf) -> Self {
        Self {
            socket: dir.join("run/coordinator.sock"),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            keep_port: true,
            dir,
            ..Self::default()
        }
    }

    /// Puts the layers together. `file`: named by the user, so it must exist. `env` looks a variable up.
    ///
    /// # Errors
    /// What cannot be used, with the place it came from.
    pub fn load(
        flags: Layer,
        file: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let named = file.map(Path::to_owned).or_else(|| env("REEVE_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            other => other.map_err(|e| Error::Read(path.clone(), e))?,
        };
        let mut config = Self::default();
        config.apply(parse(&path, &text)?, &path.display().to_string())?;
        config.apply(environment(env), "environment")?;
        config.apply(flags, "command line")?;
        Ok(config)
    }

    fn apply(&mut self, layer: Layer, place: &str) -> Result<(), Error> {
        let wrong = |key, value: &str, why| Error::Value {
            place: place.to_owned(),
            key,
            value: format!("{:?}", Clean::short(value, 100).as_str()),
            why,
        };
        if let Some(dir) = layer.dir {
            self.dir = absolute(&dir).ok_or_else(|| wrong("dir", &dir, "write an absolute path"))?;
        }
        if let Some(socket) = layer.socket {
            self.socket =
                absolute(&socket).ok_or_else(|| wrong("socket", &socket, "write an absolute path"))?;
        }
        if let Some(listen) = layer.listen {
            self.listen = parse_listen(&listen).ok_or_else(|| {
                wrong("listen", &listen, "write for example [::]:7373, 127.0.0.1:7373 or :7373")
            })?;
        }
        if let Some(name) = layer.name {
            if !name.is_empty() && check_name("cluster name", &name).is_err() {
                return Err(wrong("name", &name, "use letters, digits and . _ - only"));
            }
            self.name = name;
        }
        if let Some(advertise) = layer.advertise {
            if let Some(bad) = advertise.iter().find(|a| !is_address(a)) {
                return Err(wrong("advertise", bad, "write host:port, for example head.lab:7373"));
            }
            self.advertise = advertise;
        }
        if let Some(log) = layer.log {
            self.log = log;
        }
        if let Some(format) = layer.log_format {
            self.log_format = match format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(wrong("log_format", &format, "write text or json")),
            };
        }
        if let Some(backends) = layer.backends {
            self.backends = backends;
        }
        if let Some(idle) = layer.idle_warning {
            let seconds = if idle == "never" { Some(0.0) } else { parse_duration_s(&idle).ok() };
            let seconds = seconds.filter(|s| (0.0..=LONGEST_IDLE).contains(s));
            let why = "write a time such as 30m, or never";
            self.idle_warning =
                Duration::from_secs_f64(seconds.ok_or_else(|| wrong("idle_warning", &idle, why))?);
        }
        if let Some(queue) = layer.history_queue {
            let usable = queue.is_empty() || check_name("history_queue", &queue).is_ok();
            if !usable {
                return Err(wrong("history_queue", &queue, "write the name of a queue, or nothing"));
            }
            self.history_queue = Some(queue).filter(|queue| !queue.is_empty());
        }
        if let Some(life) = layer.certificate_life {
            let seconds = parse_duration_s(&life).ok().filter(|s| LIVES.contains(s));
            let why = "write a time between 1h and 3650d, for example 90d";
            self.certificate_life =
                Duration::from_secs_f64(seconds.ok_or_else(|| wrong("certificate_life", &life, why))?);
        }
        Ok(())
    }

    /// The cluster's name: as set, else the host's.
    pub fn cluster_name(&self) -> String {
        if self.name.is_empty() { host_name() } else { self.name.clone() }
    }

    /// Where machines find the coordinator, for join tokens; `bound` is the address that is listened on.
    pub fn addresses(&self, bound: SocketAddr) -> Vec<String> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        if bound.ip().is_unspecified() {
            return vec![format!("{}:{}", host_name(), bound.port())];
        }
        vec![bound.to_string()]
    }
}

fn parse(path: &Path, text: &str) -> Result<Layer, Error> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        Error::Syntax(path.to_owned(), e.message().to_owned() + &line_of(text, e.span()))
    })?;
    let place = path.display().to_string();
    only_known(&table, &KEYS, &place)?;
    let agents = table.get("agents").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    only_known(&agents, &AGENT_KEYS, &place)?;
    let word = |key: &'static str| match table.get(key).or_else(|| agents.get(key)) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Error::Value {
            place: place.clone(),
            key,
            value: other.to_string(),
            why: "write a text in quotes",
        }),
    };
    let advertise = match table.get("advertise") {
        None => None,
        Some(value) => Some(list(value).ok_or_else(|| Error::Value {
            place: place.clone(),
            key: "advertise",
            value: value.to_string(),
            why: "write a list of texts",
        })?),
    };
    Ok(Layer {
        dir: word("dir")?,
        socket: word("socket")?,
        listen: word("listen")?,
        name: word("name")?,
        advertise,
        log: word("log")?,
        log_format: word("log_format")?,
        certificate_life: word("certificate_life")?,
        idle_warning: word("idle_warning")?,
        history_queue: word("history_queue")?,
        backends: brokers::parse(&table, &place)?,
    })
}

fn only_known(table: &toml::Table, known: &[&str], place: &str) -> Result<(), Error> {
    let Some(key) = table.keys().find(|k| !known.contains(&k.as_str())) else { return Ok(()) };
    let hint = nearest(key, known.iter().copied()).map_or_else(
        || format!("known keys: {}", known.join(", ")),
        |near| format!("did you mean {near:?}?"),
    );
    Err(Error::UnknownKey { place: place.to_owned(), key: Clean::short(key, 64).into_string(), hint })
}

fn line_of(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    span.map_or_else(String::new, |span| format!(" (line {})", line(span.start)))
}

fn list(value: &toml::Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn environment(env: impl Fn(&str) -> Option<String>) -> Layer {
    let advertise = env("REEVE_ADVERTISE")
        .map(|list| list.split(',').map(str::trim).filter(|a| !a.is_empty()).map(str::to_owned).collect());
    Layer {
        dir: env("REEVE_DIR"),
        socket: env("REEVE_SOCKET"),
        listen: env("REEVE_LISTEN"),
        name: env("REEVE_NAME"),
        advertise,
        log: env("REEVE_LOG"),
        log_format: env("REEVE_LOG_FORMAT"),
        certificate_life: env("REEVE_CERTIFICATE_LIFE"),
        idle_warning: env("REEVE_IDLE_WARNING"),
        history_queue: env("REEVE_HISTORY_QUEUE"),
        backends: None,
    }
}

fn absolute(text: &str) -> Option<PathBuf> {
    // A relative path on the command line means the present directory; it is made absolute once, here.
    (!text.is_empty()).then(|| std::path::absolute(text).ok())?
}

fn parse_listen(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse() {
        return Some(SocketAddr::new(ip, PORT));
    }
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

fn is_address(text: &str) -> bool {
    let host_ok = |host: &str| {
        !host.is_empty() && !host.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control())
    };
    text.rsplit_once(':')
        .is_some_and(|(host, port)| host_ok(host) && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let usable = check_name("host name", &name).is_ok();
    if usable { name } else { "localhost".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn from_file(text: &str) -> Result<Config, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Layer::default(), Some(&path), nothing)
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let example = include_str!("../../packaging/coordinator.toml");
        let live: String = example
            .lines()
            .filter_map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')))
            .filter(|l| !l.is_empty())
            .fold(String::new(), |all, l| all + l + "\n");
        let table: toml::Table = live.parse().unwrap();
        let mut keys: Vec<_> = table.keys().map(String::as_str).collect();
        let mut known = KEYS.to_vec();
        keys.sort_unstable();
        known.sort_unstable();
        assert_eq!(keys, known);
        assert!(table["agents"].as_table().unwrap().keys().eq(AGENT_KEYS));
        assert_eq!(from_file(&live).unwrap(), Config::default());
        assert_eq!(from_file(example).unwrap(), Config::default());
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "dir = \"/file\"\nsocket = \"/file.sock\"\nname = \"file\"\n").unwrap();
        let env = |key: &str| match key {
            "REEVE_DIR" => Some("/env".to_owned()),
            "REEVE_SOCKET" => Some("/env.sock".to_owned()),
            "REEVE_ADVERTISE" => Some("a:1, b:2".to_owned()),
            _ => None,
        };
        let flags = Layer { dir: Some("/flag".into()), ..Layer::default() };
        let config = Config::load(flags, Some(&path), env).unwrap();
        assert_eq!(config.dir, Path::new("/flag"));
        assert_eq!(config.socket, Path::new("/env.sock"));
        assert_eq!(config.name, "file");
        assert_eq!(config.advertise, ["a:1", "b:2"]);
        assert_eq!(config.log, "info");
    }

    #[test]
    fn mistakes_say_where_and_what_would_do() {
        let cases = [
            ("lissen = \":1\"", "listen"),
            ("zebra = 1", "known keys: dir"),
            ("listen = \"here\"", "[::]:7373"),
            ("listen = 7", "in quotes"),
            ("advertise = \"a:1\"", "list of texts"),
            ("advertise = [\"a\"]", "host:port"),
            ("log_format = \"xml\"", "text or json"),
            ("name = \"a b\"", "letters"),
            ("dir = \"\"", "absolute path"),
            ("[agents]\ncertificate_live = \"1d\"", "certificate_life"),
            ("history_queue = \"a b\"", "the name of a queue"),
            ("idle_warning = \"soon\"", "such as 30m, or never"),
            ("[agents]\ncertificate_life = \"1s\"", "between 1h and 3650d"),
            ("[agents]\ncertificate_life = \"long\"", "for example 90d"),
            ("dir = \"/x\"\ndir = ", "line 2"),
        ];
        for (text, wanted) in cases {
            let error = from_file(text).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("coordinator.toml"), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert!(matches!(
            Config::load(Layer::default(), Some(Path::new("/does/not/exist")), nothing),
            Err(Error::Read(..))
        ));
        assert!(Config::load(Layer::default(), None, nothing).is_ok());
    }

    #[test]
    fn addresses_to_listen_on_may_be_short() {
        let cases = [
            (":7000", "[::]:7000"),
            ("10.0.0.1", "10.0.0.1:7373"),
            ("::1", "[::1]:7373"),
            ("0.0.0.0:1", "0.0.0.0:1"),
        ];
        for (given, wanted) in cases {
            assert_eq!(parse_listen(given).unwrap().to_string(), wanted, "{given}");
        }
    }

    #[test]
    fn tokens_carry_addresses_that_can_be_reached() {
        let up = Config::for_dir("/d".into());
        assert_eq!(up.addresses("127.0.0.1:4444".parse().unwrap()), ["127.0.0.1:4444"]);
        let open = Config::default().addresses("[::]:7373".parse().unwrap());
        assert!(open.len() == 1 && open[0].ends_with(":7373") && !open[0].starts_with('['), "{open:?}");
        let set = Config { advertise: vec!["head:1".into()], ..up };
        assert_eq!(set.addresses("127.0.0.1:4444".parse().unwrap()), ["head:1"]);
    }
}
