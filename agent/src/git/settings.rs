//! The table `[git]` of `agent.toml`: which repositories jobs may have checked out here, and with what.
use crate::config::{Error, Settings};
use reeve_protocol::units::parse_bytes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a machine does for git jobs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GitSettings {
    /// Patterns of repositories, such as `https://github.com/*`.
    pub allow: Vec<String>,
    /// What opens repositories; the first that matches counts.
    pub credentials: Vec<Credential>,
    /// Longest checkout, in seconds.
    pub timeout_s: u64,
    /// A server that says nothing for so long, in seconds, is given up.
    pub stall_s: u64,
    /// Mirrors of one user on this machine, together.
    pub cache: String,
    /// A proxy for HTTP.
    pub proxy: Option<String>,
}

/// What opens the repositories that match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// As in `allow`.
    #[serde(rename = "match")]
    pub matches: String,
    /// A credential helper, as `credential.helper` of git names one. It runs as the job's user.
    #[serde(default)]
    pub helper: Option<String>,
    /// A key file that the job's user can read; `~/` is that user's home.
    #[serde(default)]
    pub ssh_key: Option<String>,
    /// With `ssh_key`: a file with the keys of servers, in place of `~/.ssh/known_hosts`. A server that is in none is refused.
    #[serde(default)]
    pub known_hosts: Option<String>,
}

/// Every key, for hints.
pub(crate) const KEYS: [&str; 10] = [
    "allow",
    "credentials",
    "timeout_s",
    "stall_s",
    "cache",
    "proxy",
    "match",
    "helper",
    "ssh_key",
    "known_hosts",
];

impl Default for GitSettings {
    fn default() -> Self {
        Self {
            allow: ["https://*", "http://*", "ssh://*", "git://*"].map(str::to_owned).to_vec(),
            credentials: Vec::new(),
            timeout_s: 1800,
            stall_s: 60,
            cache: "20GiB".to_owned(),
            proxy: None,
        }
    }
}

impl GitSettings {
    /// The bound of the cache, checked when it was read.
    pub(crate) fn cache_bytes(&self) -> u64 {
        parse_bytes(&self.cache).unwrap_or(20 << 30)
    }

    /// What a file says about repositories. A keeper outlives changes of the file, so it looks again for each checkout.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn of_file(path: &Path) -> Result<Self, Error> {
        Settings::read(path).map(|settings| settings.git)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// Which value cannot, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        parse_bytes(&self.cache)?;
        if !(1..=86_400).contains(&self.timeout_s) || !(1..=3600).contains(&self.stall_s) {
            return Err("timeout_s must be between 1 and 86400, stall_s between 1 and 3600".to_owned());
        }
        if let Some(entry) = self.credentials.iter().find(|c| c.helper.is_some() == c.ssh_key.is_some()) {
            return Err(format!("the credentials for {:?} need either helper or ssh_key", entry.matches));
        }
        if let Some(entry) = self.credentials.iter().find(|c| c.known_hosts.is_some() && c.ssh_key.is_none())
        {
            return Err(format!("known_hosts for {:?} goes with an ssh_key", entry.matches));
        }
        Ok(())
    }
}
