//! Where a broker is and how to get in. A URL never carries a password: it would stand in process lists, logs and the
//! store; a password is read from a file at every connection, so that it can be changed there.
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use std::fmt;
use std::path::PathBuf;

/// What speaks there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Redis, or what speaks its protocol.
    Redis,
    /// RabbitMQ: AMQP 0-9-1.
    Amqp,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What speaks there.
    pub scheme: Scheme,
    /// With TLS.
    pub tls: bool,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The number of the database, or the virtual host.
    pub path: String,
    /// Log in as.
    pub user: Option<String>,
    /// Holds the password, on its first line.
    pub password_file: Option<PathBuf>,
    /// Certificates to trust, PEM; absent: those of the system.
    pub ca: Option<PathBuf>,
    /// Begins the name of everything that is kept there.
    pub prefix: String,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.scheme, self.tls) {
            (Scheme::Redis, false) => "redis",
            (Scheme::Redis, true) => "rediss",
            (Scheme::Amqp, false) => "amqp",
            (Scheme::Amqp, true) => "amqps",
        };
        let bracket = self.host.contains(':');
        let (open, close) = if bracket { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl Settings {
    /// From a URL.
    ///
    /// # Errors
    /// What is wrong with it, and what would do.
    pub fn parse(url: &str) -> Result<Self, Problem> {
        let shown = Clean::short(url, 100);
        let wrong = |why: &str, hint: &str| {
            Problem::new(Code::BadValue, format!("backend {shown} cannot be used: {why}"))
                .hint(hint.to_owned())
        };
        let (word, rest) = url
            .split_once("://")
            .ok_or_else(|| wrong("it is no URL", "write redis://host:port or amqp://host:port"))?;
        let (scheme, tls, port) = match word {
            "redis" => (Scheme::Redis, false, 6379),
            "rediss" => (Scheme::Redis, true, 6379),
            "amqp" => (Scheme::Amqp, false, 5672),
            "amqps" => (Scheme::Amqp, true, 5671),
            cluster if cluster.contains("sentinel") || cluster.contains("cluster") => {
                return Err(wrong(
                    "Redis Sentinel and Redis Cluster are not supported: a failover there may lose what was acknowledged",
                    "name one Redis server: redis://host:port",
                ));
            }
            _ => return Err(wrong("its scheme is not known", "schemes are redis, rediss, amqp and amqps")),
        };
        if rest.contains('@') {
            return Err(Problem::new(Code::BadValue, "a backend URL carries no user and no password")
                .hint("put them into the configuration: [backends.NAME] with url, user and password_file"));
        }
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains(['?', '#']) || place.contains(['?', '#', ',']) {
            return Err(wrong("it has parts that are not known", "write scheme://host:port/database"));
        }
        if scheme == Scheme::Redis && !path.is_empty() && path.parse::<u16>().is_err() {
            return Err(wrong("the database is no number", "write redis://host:port/0"));
        }
        let (host, port) = split(place, port)
            .ok_or_else(|| wrong("host or port make no sense", "write scheme://host:port"))?;
        Ok(Self {
            scheme,
            tls,
            host,
            port,
            path: path.to_owned(),
            user: None,
            password_file: None,
            ca: None,
            prefix: "reeve".to_owned(),
        })
    }

    /// The password, read now.
    ///
    /// # Errors
    /// In words for people; never with what the file holds.
    pub fn password(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.password_file else { return Ok(None) };
        let text = std::fs::read_to_string(file)
            .map_err(|e| format!("the password file {} cannot be read: {e}", file.display()))?;
        Ok(Some(text.lines().next().unwrap_or_default().trim().to_owned()))
    }

    /// Certificates to trust beside the system's.
    ///
    /// # Errors
    /// In words for people.
    pub fn roots(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(file) = &self.ca else { return Ok(None) };
        let read = std::fs::read(file);
        read.map(Some).map_err(|e| format!("the certificates {} cannot be read: {e}", file.display()))
    }
}

fn split(place: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")).map(str::to_owned)?)
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, port.to_owned()),
            None => (place, String::new()),
        },
    };
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(fine) {
        return None;
    }
    let port = if port.is_empty() { default } else { port.parse().ok().filter(|p| *p > 0)? };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_come_back_as_they_were() {
        for (url, shown) in [
            ("redis://h:7000", "redis://h:7000"),
            ("redis://h", "redis://h:6379"),
            ("rediss://h.lab/3", "rediss://h.lab:6379/3"),
            ("amqp://[::1]:5", "amqp://[::1]:5"),
            ("amqps://h/lab", "amqps://h:5671/lab"),
        ] {
            assert_eq!(Settings::parse(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_would_do() {
        for (url, wanted) in [
            ("h:6379", "no URL"),
            ("http://h", "scheme"),
            ("redis+sentinel://h/mymaster", "Sentinel"),
            ("redis-cluster://a,b", "Cluster"),
            ("redis://:secret@h", "no password"),
            ("redis://", "host or port"),
            ("redis://h:0", "host or port"),
            ("redis://h:x", "host or port"),
            ("redis://a,b", "parts"),
            ("redis://h/x", "no number"),
            ("redis://h/0?x=1", "parts"),
            ("redis://[x]:1", "host or port"),
        ] {
            let problem = Settings::parse(url).unwrap_err();
            assert!(problem.to_string().contains(wanted), "{url}: {problem}");
            assert!(!problem.to_string().contains("secret"), "{problem}");
        }
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        std::fs::write(&file, " word \nmore\n").unwrap();
        let mut settings = Settings::parse("redis://h").unwrap();
        assert_eq!(settings.password(), Ok(None));
        settings.password_file = Some(file);
        assert_eq!(settings.password(), Ok(Some("word".to_owned())));
        settings.password_file = Some(dir.path().join("none"));
        assert!(settings.password().unwrap_err().contains("cannot be read"));
    }
}
