//! Where code comes from: which repositories, refs and directories a job may name. An allow-list after parsing: what is
//! not understood completely is refused, since git itself reads options, programs and passwords out of such words.
use crate::error::{Code, Problem};
use crate::spec::GitSpec;
use crate::text::{Clean, is_hostile};
use std::fmt;

/// Bytes of a URL.
const MAX_URL: usize = 2048;
/// Bytes of a ref.
const MAX_REF: usize = 255;
/// Bytes of a directory inside a repository.
const MAX_SUBDIR: usize = 1024;
/// Bytes of a set-up command.
const MAX_SETUP: usize = 64 * 1024;

/// How a repository is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP over TLS.
    Https,
    /// Plain HTTP.
    Http,
    /// `ssh://` or `user@host:path`.
    Ssh,
    /// The protocol of `git daemon`.
    Git,
    /// A directory of the machine.
    File,
}

impl Transport {
    /// The scheme, which is also git's own word in `GIT_ALLOW_PROTOCOL`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
            Self::File => "file",
        }
    }

    fn of(scheme: &str) -> Option<Self> {
        [Self::Https, Self::Http, Self::Ssh, Self::Git, Self::File].into_iter().find(|t| t.scheme() == scheme)
    }
}

/// A repository's URL that was understood completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    /// How it is reached.
    pub transport: Transport,
    /// Who logs in; only with ssh.
    pub user: Option<String>,
    /// Lower case; empty for files.
    pub host: String,
    /// If one is given.
    pub port: Option<u16>,
    /// From its first slash on; of the short ssh form without one.
    pub path: String,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// Why it cannot be used, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_URL {
            return Err(format!("it has {} bytes; 1 to {MAX_URL} are possible", text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !is_plain(*c)) {
            return Err(format!("the character {bad:?} cannot be part of it"));
        }
        if text.starts_with('-') {
            return Err("it starts with a dash, which git would take for an option".to_owned());
        }
        check_escapes(text)?;
        match text.split_once("://") {
            Some((scheme, rest)) => Self::long(text, scheme, rest),
            None => Self::short(text),
        }
    }

    fn long(text: &str, scheme: &str, rest: &str) -> Result<Self, String> {
        let Some(transport) = Transport::of(scheme) else {
            return Err("only https, http, ssh, git and file are possible".to_owned());
        };
        let at = rest.find('/').ok_or("it names no repository after the host")?;
        let (authority, path) = rest.split_at(at);
        if transport == Transport::File {
            if !authority.is_empty() {
                return Err("file:// needs three slashes and the path".to_owned());
            }
            check_path(path)?;
            return Ok(Self {
                text: text.to_owned(),
                transport,
                user: None,
                host: String::new(),
                port: None,
                path: path.to_owned(),
            });
        }
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(CREDENTIALS.to_owned()),
            Some((_, _)) if transport != Transport::Ssh => return Err(CREDENTIALS.to_owned()),
            Some((user, address)) => (Some(check_user(user)?), address),
            None => (None, authority),
        };
        let (host, port) = host_and_port(address)?;
        check_path(path)?;
        Ok(Self { text: text.to_owned(), transport, user, host, port, path: path.to_owned() })
    }

    /// `user@host:path`.
    fn short(text: &str) -> Result<Self, String> {
        let unknown =
            "it is no URL; write https://HOST/PATH, ssh://HOST/PATH, user@HOST:PATH or file:///PATH";
        let (address, path) = text.split_once(':').ok_or(unknown)?;
        if address.contains('/') {
            return Err(unknown.to_owned());
        }
        if Transport::of(address).is_some() {
            return Err(format!("two slashes are missing after {address}:"));
        }
        if path.contains('@') {
            return Err(CREDENTIALS.to_owned());
        }
        let (user, host) = match address.split_once('@') {
            Some((user, host)) => (Some(check_user(user)?), host),
            None => (None, address),
        };
        let (host, port) = host_and_port(host)?;
        if path.starts_with('-') || path.contains(':') {
            return Err("the path after the host cannot start with a dash or have a colon".to_owned());
        }
        check_path(path)?;
        Ok(Self { text: text.to_owned(), transport: Transport::Ssh, user, host, port, path: path.to_owned() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// One spelling for all: what lists of allowed repositories and credentials are compared with. Without the user.
    pub fn normal(&self) -> String {
        let port = self.port.map_or_else(String::new, |p| format!(":{p}"));
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        let path = self.path.trim_end_matches('/');
        format!("{}://{}{port}{slash}{path}", self.transport.scheme(), self.host)
    }

    /// A submodule's URL as seen from this repository: `./x` and `../x` stay on this host, anything else stands alone.
    ///
    /// # Errors
    /// As [`Url::parse`], or when it climbs above the host.
    pub fn join(&self, other: &str) -> Result<Self, String> {
        if !other.starts_with("./") && !other.starts_with("../") {
            return Self::parse(other);
        }
        let mut base: Vec<&str> = self.path.trim_end_matches('/').split('/').collect();
        let mut rest = other;
        loop {
            if let Some(deeper) = rest.strip_prefix("../") {
                // The first part is what stands before the first slash; nothing climbs over it.
                if base.len() <= 1 {
                    return Err("it climbs above the host of the repository".to_owned());
                }
                base.pop();
                rest = deeper;
            } else if let Some(deeper) = rest.strip_prefix("./") {
                rest = deeper;
            } else {
                break;
            }
        }
        let path = format!("{}/{rest}", base.join("/"));
        let head = self.text.strip_suffix(self.path.as_str()).unwrap_or(&self.text);
        Self::parse(&format!("{head}{path}"))
    }
}

const CREDENTIALS: &str =
    "it carries a user or a password; configure a credential helper for it in agent.toml instead";

/// Characters of a URL: nothing that a terminal, a shell or a header could act on. Names in other scripts are written in
/// their ASCII form, so that nothing looks like another host.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._-~+@:%=,[]".contains(c)
}

/// `%0a` and its like would become control characters on the way.
fn check_escapes(text: &str) -> Result<(), String> {
    for part in text.split('%').skip(1) {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if code.is_none_or(|code| code < 0x20 || code == 0x7f || code == b'%') {
            return Err("it has a % that stands for no printable character".to_owned());
        }
    }
    Ok(())
}

fn check_user(user: &str) -> Result<String, String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && user[1..].chars().all(ok) {
        return Ok(user.to_owned());
    }
    Err("the user before the @ is no plain name".to_owned())
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), String> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the [ of its host is not closed")?;
        let _: std::net::Ipv6Addr = host.parse().map_err(|_| "between [ and ] stands no IPv6 address")?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(check_port(port)?),
            None if rest.is_empty() => None,
            None => return Err("something stands behind the ] of its host".to_owned()),
        };
        return Ok((format!("[{}]", host.to_ascii_lowercase()), port));
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(check_port(port)?)),
        None => (address, None),
    };
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("its host is no name and no address".to_owned());
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn check_port(port: &str) -> Result<u16, String> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|p| digits && *p > 0).ok_or_else(|| "its port is no number".to_owned())
}

fn check_path(path: &str) -> Result<(), String> {
    if path.trim_matches('/').is_empty() {
        return Err("it names no repository after the host".to_owned());
    }
    if path.contains("::") || path.contains(['[', ']']) {
        return Err("its path has :: or brackets".to_owned());
    }
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("its path has . or .. in it".to_owned());
    }
    Ok(())
}

/// Whether a word is a whole commit id.
pub fn is_commit(word: &str) -> bool {
    matches!(word.len(), 40 | 64) && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The rules of `git check-ref-format`, and no option.
///
/// # Errors
/// Why it cannot be a ref, for people.
pub fn check_ref(name: &str) -> Result<(), String> {
    let bad_char = |c: char| c.is_whitespace() || is_hostile(c) || c.is_control() || "~^:?*[\\".contains(c);
    let bad_part = |part: &str| {
        part.is_empty()
            || part.starts_with('.')
            || part.ends_with('.')
            || part.strip_suffix(".lock").is_some()
    };
    if name.is_empty() || name.len() > MAX_REF {
        return Err(format!("it has {} bytes; 1 to {MAX_REF} are possible", name.len()));
    }
    if name.starts_with('-') {
        return Err("it starts with a dash, which git would take for an option".to_owned());
    }
    if let Some(bad) = name.chars().find(|c| bad_char(*c)) {
        return Err(format!("the character {bad:?} cannot be part of a branch, tag or commit"));
    }
    if name == "@" || name.contains("..") || name.contains("@{") || name.split('/').any(bad_part) {
        return Err("it is no name of a branch or tag and no commit".to_owned());
    }
    Ok(())
}

/// A directory inside a repository, by its words alone: whether links lead out of it is seen in the checkout.
///
/// # Errors
/// Why it cannot be one, for people.
pub fn check_subdir(dir: &str) -> Result<(), String> {
    if dir.is_empty() || dir.len() > MAX_SUBDIR {
        return Err(format!("it has {} bytes; 1 to {MAX_SUBDIR} are possible", dir.len()));
    }
    if dir.starts_with('/') {
        return Err("it is counted from the repository's root and starts without a slash".to_owned());
    }
    if dir.chars().any(|c| c.is_control() || is_hostile(c)) {
        return Err("it has a character that is not printable".to_owned());
    }
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git");
    if dir.trim_end_matches('/').split('/').any(bad) {
        return Err("a part of it is empty, . or .. or .git".to_owned());
    }
    Ok(())
}

impl GitSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// `bad-url`, `bad-ref`, `bad-value` or `too-large`.
    pub fn validate(&self) -> Result<(), Problem> {
        let shown = |text: &str| Clean::short(text, 120).into_string();
        Url::parse(&self.url).map_err(|why| {
            Problem::new(Code::BadUrl, format!("{:?} cannot be a repository: {why}", hide(&shown(&self.url))))
                .hint("https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, git://HOST/PATH or file:///PATH")
        })?;
        if let Some(name) = &self.reference {
            check_ref(name).map_err(|why| {
                Problem::new(Code::BadRef, format!("ref {:?} cannot be used: {why}", shown(name)))
                    .hint("a branch, a tag, refs/... or a commit with all its digits")
            })?;
        }
        if self.commit.as_ref().is_some_and(|c| !is_commit(c)) {
            return Err(Problem::new(Code::BadRef, "commit is not 40 or 64 lower-case hexadecimal digits")
                .hint("leave it out: the ref is resolved then"));
        }
        if let Some(dir) = &self.subdir {
            check_subdir(dir).map_err(|why| {
                Problem::new(Code::BadValue, format!("subdir {:?} cannot be used: {why}", shown(dir)))
                    .hint("a directory of the repository, such as services/train")
            })?;
        }
        if self.setup.as_ref().is_some_and(|s| s.trim().is_empty() || s.len() > MAX_SETUP || s.contains('\0'))
        {
            return Err(Problem::new(Code::BadValue, "setup is empty, too long or has a NUL byte")
                .hint("a command line for sh, at most 64 KiB, such as: pip install -r requirements.txt"));
        }
        match &self.patch {
            Some(_) if self.commit.is_none() => {
                Err(Problem::new(Code::BadValue, "a patch needs the commit that it was made on")
                    .hint("give commit beside patch"))
            }
            Some(patch) => patch.check(),
            None => Ok(()),
        }
    }
}

impl fmt::Display for GitSpec {
    /// Repository, ref and commit, for `show` and its like. Not clean.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.url, self.reference.as_deref().unwrap_or("HEAD"))?;
        match &self.commit {
            Some(commit) => write!(f, " ({})", commit.get(..12).unwrap_or(commit))?,
            None => f.write_str(" (not resolved yet)")?,
        }
        f.write_str(if self.patch.is_some() { " with uncommitted work" } else { "" })
    }
}

/// A URL for a message, with whatever stands before an @ left out: it may be a password.
fn hide(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(at)) if at > start => format!("{}...{}", &url[..start + 3], &url[at..]),
        (None, Some(at)) if url[..at].contains(':') => format!("...{}", &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
#[path = "git_test.rs"]
mod tests;
