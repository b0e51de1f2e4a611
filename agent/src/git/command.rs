//! The one way git is run for a checkout: a fixed program, an empty environment but for a list, no configuration of system,
//! user or repository that could name a program, one transport. So nothing that a repository or a server says is executed.
use super::classify::{classify, gist};
use super::order::{Failure, What};
use super::settings::{Credential, GitSettings};
use reeve_protocol::git::{Transport, Url};
use reeve_protocol::text::glob;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of standard output that are taken; a server that lists more refs than this is no use.
const MAX_OUTPUT: u64 = 8 << 20;
/// Bytes of standard error that are kept, from its end.
const MAX_WORDS: usize = 16 * 1024;

/// What switches off everything that git would run or follow by itself. Passed by the environment, so that it reaches
/// git's own helpers and no list of processes shows it.
const CONFIG: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.askPass", ""),
    ("core.pager", "cat"),
    ("core.editor", "false"),
    ("core.alternateRefsCommand", ""),
    ("core.autocrlf", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.untrackedCache", "false"),
    ("credential.interactive", "never"),
    ("init.templateDir", ""),
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("transfer.fsckObjects", "true"),
    ("transfer.bundleURI", "false"),
    ("transfer.credentialsInUrl", "die"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("fetch.writeCommitGraph", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // Mistakes of old tools that stand in many histories and can do nothing.
    ("fetch.fsck.zeroPaddedFilemode", "warn"),
    ("fetch.fsck.badTimezone", "warn"),
    ("fetch.fsck.missingSpaceBeforeDate", "warn"),
    ("fetch.fsck.badFilemode", "warn"),
];

/// Git on this machine, for one user.
pub(super) struct Git<'a> {
    program: PathBuf,
    pub(super) path: &'a str,
    home: String,
    pub(super) settings: &'a GitSettings,
    /// Says that directories of others are fine; only when this machine allows their repositories.
    trusting: Option<PathBuf>,
}

impl<'a> Git<'a> {
    /// Looks for it in the machine's own path.
    pub(super) fn find(
        path: &'a str,
        settings: &'a GitSettings,
        machine: &str,
        trusting: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let program = find_program(path, "git").ok_or_else(|| {
            Failure::Missing(format!("git is not installed on machine {machine} (looked in {path})"))
        })?;
        let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
        Ok(Self { program, path, home, settings, trusting })
    }

    /// A command that asks no server.
    pub(super) fn local(&self, git_dir: &Path, words: &[&str]) -> Result<Vec<u8>, Failure> {
        Self::run(self.prepared(git_dir, words, None), None, false)
    }

    /// A command in a work tree, perhaps with input.
    pub(super) fn in_tree(
        &self,
        tree: &Path,
        words: &[&str],
        input: Option<&[u8]>,
    ) -> Result<Vec<u8>, Failure> {
        let mut command = self.prepared(&tree.join(".git"), words, None);
        command.current_dir(tree).env("GIT_WORK_TREE", tree);
        Self::run(command, input, false)
    }

    /// A command that asks the server of this URL.
    pub(super) fn remote(&self, git_dir: &Path, url: &Url, words: &[&str]) -> Result<Vec<u8>, Failure> {
        Self::run(self.prepared(git_dir, words, Some(url)), None, true)
    }

    pub(super) fn prepared(&self, git_dir: &Path, words: &[&str], url: Option<&Url>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env_clear();
        let global = self.trusting.as_deref().unwrap_or(Path::new("/dev/null"));
        command
            .envs([
                ("PATH", self.path),
                ("HOME", &self.home),
                ("LC_ALL", "C"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_SYSTEM", "/dev/null"),
                ("GIT_ATTR_NOSYSTEM", "1"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_ASKPASS", ""),
                ("GIT_NO_REPLACE_OBJECTS", "1"),
                ("GIT_NO_LAZY_FETCH", "1"),
                ("GIT_PROTOCOL_FROM_USER", "0"),
            ])
            .env("GIT_CONFIG_GLOBAL", global)
            .env("GIT_DIR", git_dir)
            .env("GIT_ALLOW_PROTOCOL", url.map_or("", |u| u.transport.scheme()))
            .current_dir("/");
        let mut config: Vec<(&str, String)> =
            CONFIG.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        config.push(("http.lowSpeedTime", self.settings.stall_s.to_string()));
        config.extend(self.settings.proxy.iter().map(|proxy| ("http.proxy", proxy.clone())));
        if let Some(url) = url {
            let credential = credential_for(self.settings, url);
            config.extend(
                credential.and_then(|c| c.helper.clone()).map(|helper| ("credential.helper", helper)),
            );
            if url.transport == Transport::Ssh {
                command.env("GIT_SSH_COMMAND", self.ssh(credential)).env("GIT_SSH_VARIANT", "ssh");
            }
        }
        command.env("GIT_CONFIG_COUNT", config.len().to_string());
        for (at, (key, value)) in config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), key).env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command
    }

    /// Without the user's configuration of ssh, which can name programs, and without a question to anybody.
    fn ssh(&self, credential: Option<&Credential>) -> String {
        let stall = self.settings.stall_s.max(1);
        let mut line = format!(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout={stall} \
             -o ServerAliveInterval={stall} -o ServerAliveCountMax=1 -o ForwardAgent=no -o PermitLocalCommand=no"
        );
        if let Some(key) = credential.and_then(|c| c.ssh_key.as_deref()) {
            line.push_str(" -o IdentitiesOnly=yes -i ");
            line.push_str(&quoted(&expanded(key, &self.home)));
        }
        if let Some(file) = credential.and_then(|c| c.known_hosts.as_deref()) {
            line.push_str(" -o UserKnownHostsFile=");
            line.push_str(&quoted(&expanded(file, &self.home)));
        }
        line
    }

    pub(super) fn run(mut command: Command, input: Option<&[u8]>, asks: bool) -> Result<Vec<u8>, Failure> {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::disk("git cannot be started", &e))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::disk("git cannot be heard", &std::io::ErrorKind::BrokenPipe.into()));
        };
        let stdin = child.stdin.take();
        let (output, words) = std::thread::scope(|scope| {
            // Both pipes are read at once and the input written meanwhile, or somebody waits for ever.
            let words = scope.spawn(|| tail(stderr));
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                scope.spawn(move || stdin.write_all(input));
            }
            let mut output = Vec::new();
            let read = stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output);
            if read.is_err() || output.len() as u64 > MAX_OUTPUT {
                let _ = child.kill();
            }
            (output, words.join().unwrap_or_default())
        });
        let status = child.wait().map_err(|e| Failure::disk("git cannot be waited for", &e))?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(Failure::Checkout(
                What::Network,
                "the server has more refs than can be looked at".to_owned(),
            ));
        }
        if status.success() {
            return Ok(output);
        }
        Err(Failure::Checkout(classify(&words, asks), gist(&words)))
    }
}

/// The first entry of the configuration that means this repository.
pub(super) fn credential_for<'s>(settings: &'s GitSettings, url: &Url) -> Option<&'s Credential> {
    let normal = url.normal();
    settings.credentials.iter().find(|c| glob(&c.matches, &normal))
}

/// A program in the absolute directories of a path.
pub(super) fn find_program(path: &str, name: &str) -> Option<PathBuf> {
    let mut places = path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name));
    places.find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

fn expanded(path: &str, home: &str) -> String {
    path.strip_prefix("~/").map_or_else(|| path.to_owned(), |rest| format!("{home}/{rest}"))
}

/// For the shell that git runs ssh with.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The end of what is said; all of it is read, so that whoever says too much is not held up.
fn tail(mut source: impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * MAX_WORDS {
            kept.drain(..kept.len() - MAX_WORDS);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_only_where_the_configuration_says_so() {
        let entry = |matches: &str, key: &str| Credential {
            matches: matches.to_owned(),
            helper: None,
            ssh_key: Some(key.to_owned()),
            known_hosts: None,
        };
        let settings = GitSettings {
            credentials: vec![entry("ssh://a.example/*", "~/.ssh/it's"), entry("ssh://*", "/k")],
            ..GitSettings::default()
        };
        let git = Git {
            program: "git".into(),
            path: "/bin",
            home: "/home/ana".to_owned(),
            settings: &settings,
            trusting: None,
        };
        let ssh = |url: &str| git.ssh(credential_for(&settings, &Url::parse(url).unwrap()));
        assert!(
            ssh("git@a.example:r").ends_with("-i '/home/ana/.ssh/it'\\''s'"),
            "{}",
            ssh("git@a.example:r")
        );
        assert!(ssh("git@b.example:r").ends_with("-i '/k'"));
        assert!(
            ssh("git@b.example:r").contains("BatchMode=yes")
                && ssh("git@b.example:r").contains("-F /dev/null")
        );
        assert!(credential_for(&settings, &Url::parse("https://a.example/r").unwrap()).is_none());
    }

    #[test]
    fn programs_are_looked_for_in_absolute_directories() {
        assert_eq!(find_program("relative:/nowhere", "sh"), None);
        assert!(find_program("/nowhere:/usr/bin:/bin", "sh").is_some());
    }

    #[test]
    fn of_endless_words_the_end_is_kept() {
        let words = tail(&*"x".repeat(100_000).into_bytes());
        assert!((MAX_WORDS..=3 * MAX_WORDS).contains(&words.len()));
    }
}
