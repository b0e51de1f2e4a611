//! What the keeper does for git jobs: completes the order for a checkout, and passes on what becomes of it.
use super::attempts::{Attempt, Keeper};
use super::place::make;
use super::users::Person;
use crate::git::order::Order;
use crate::git::settings::GitSettings;
use reeve_protocol::guardian::Prepared;
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{Preparing, Resolved, kind};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// Where settings lie when nothing else is said.
const USUAL: &str = "/etc/reeve/agent.toml";

impl Keeper {
    /// The order for an attempt's checkout, if it needs one. Its guardian adds the directory.
    pub(super) fn order(&mut self, attempt: AttemptId, person: &Person) -> io::Result<Option<Order>> {
        let Some(checkout) = self.checkouts.remove(&attempt) else { return Ok(None) };
        Ok(Some(Order {
            checkout,
            cache: self.cache_of(person)?,
            workdir: String::new(),
            path: self.args.path.as_deref().unwrap_or(super::DEFAULT_PATH).to_owned(),
            machine: self.machine.clone(),
            settings: self.git_settings(),
        }))
    }

    /// Looked up each time: a keeper outlives changes of the file. A file that cannot be read or has a mistake is told about,
    /// and allows nothing: guessing would open what somebody meant to close.
    fn git_settings(&self) -> GitSettings {
        let path = self.args.config.as_deref().unwrap_or(Path::new(USUAL));
        let mut settings = match GitSettings::of_file(path) {
            Ok(settings) => settings,
            Err(crate::config::Error::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && self.args.config.is_none() =>
            {
                GitSettings::default()
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "repositories cannot be checked out"
                );
                GitSettings { allow: Vec::new(), ..GitSettings::default() }
            }
        };
        if self.args.allow_file_repositories {
            settings.allow.push("file://*".to_owned());
        }
        settings
    }

    /// The user's own part of the cache: others can neither read nor fill it.
    fn cache_of(&self, person: &Person) -> io::Result<String> {
        let root = Path::new(&self.place.work).with_file_name("git");
        // As for the directories of attempts: others pass through to what is theirs.
        let passage = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        make(&root, passage)?;
        let own = root.join(person.uid.to_string());
        match DirBuilder::new().mode(0o700).create(&own) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        if let Some(identity) = &person.identity
            && std::fs::symlink_metadata(&own)?.uid() != identity.uid
        {
            std::os::unix::fs::lchown(&own, Some(identity.uid), Some(identity.gid))?;
        }
        own.into_os_string().into_string().map_err(|_| io::ErrorKind::InvalidFilename.into())
    }

    /// A guardian has told how far its checkout is.
    pub(super) fn note_prepared(&mut self, id: AttemptId, prepared: Prepared) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let before = attempt.prepared.replace(prepared.clone());
        if before.is_none() {
            self.say(kind::PREPARING, &Preparing { attempt: id, at_ms: prepared.began_ms });
        }
        if !prepared.commit.is_empty() && before.is_none_or(|b| b.commit.is_empty()) {
            self.say(kind::RESOLVED, &Resolved { attempt: id, commit: prepared.commit });
        }
    }

    /// Says it all again: whoever listened before may have lost it.
    pub(super) fn tell_prepared(&mut self) {
        let known: Vec<(AttemptId, Prepared, bool)> = self
            .attempts
            .iter()
            .filter_map(|(id, a)| Some((*id, a.prepared.clone()?, a.end.is_none() && a.pid == 0)))
            .collect();
        for (attempt, prepared, is_preparing) in known {
            if is_preparing {
                self.say(kind::PREPARING, &Preparing { attempt, at_ms: prepared.began_ms });
            }
            if !prepared.commit.is_empty() {
                self.say(kind::RESOLVED, &Resolved { attempt, commit: prepared.commit });
            }
        }
    }
}

impl Attempt {
    /// Whether something of it runs that may say how far it is.
    pub(super) fn has_process(&self) -> bool {
        self.end.is_none() && (self.pid != 0 || self.prepared.is_some())
    }
}
