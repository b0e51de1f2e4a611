//! From the options of `reeve submit` and `reeve worker register` to a [`JobSpec`].
use super::error::{Error, note};
use super::git;
use super::submit::{Many, Needs, Submit, When, not_yet};
use super::values;
use crate::client::{Client, escape};
use reeve_protocol::api::JobView;
use reeve_protocol::resources::ResourceAsk;
use reeve_protocol::selector::Selector;
use reeve_protocol::spec::After;
use reeve_protocol::{Code, JobId, JobSpec, Problem};
use serde_json::Value;
use std::collections::BTreeMap;

/// Variables that are reeve's or the machine's business, so `--inherit-env all` leaves them here.
const NOT_COPIED: [&str; 8] =
    ["_", "PWD", "OLDPWD", "SHLVL", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_SESSION_ID", "TERM"];
/// A dependency on a range names each of its jobs; more are a mistake.
const MOST_DEPENDENCIES: u64 = 1000;

/// What of this process a job gets.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The current directory.
    pub cwd: Option<String>,
    /// The environment, as far as it is text.
    pub env: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        // What the user sees as the current directory may go through a link that is the same on every machine.
        let shown = std::env::var("PWD").ok().filter(|pwd| is_same_directory(pwd));
        let cwd = shown.or_else(|| std::env::current_dir().ok()?.into_os_string().into_string().ok());
        Self { cwd, env: std::env::vars_os().filter_map(text).collect() }
    }
}

fn is_same_directory(path: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path: &str| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    path.starts_with('/') && id(path).is_some() && id(path) == id(".")
}

impl Submit {
    /// The job. Dependencies such as `last` are asked from the coordinator, the commit of a ref from its repository.
    pub async fn into_spec(self, here: &Surroundings, client: &Client) -> Result<JobSpec, Error> {
        let after = After {
            ok: ids(&self.when.after, client).await?,
            any: ids(&self.when.after_any, client).await?,
            fail: ids(&self.when.after_fail, client).await?,
        };
        let dirty = self.git.dirty;
        let mut spec = JobSpec { after, ..self.without_dependencies(here)? };
        if let Some(git) = &mut spec.git {
            git::complete(git, dirty).await?;
        }
        Ok(spec)
    }

    /// Everything but the dependencies.
    pub fn without_dependencies(self, here: &Surroundings) -> Result<JobSpec, Error> {
        if self.command.is_empty() && self.worker.is_none() && self.git.repo.is_none() {
            return Err(Error::Usage(
                "nothing to run; write for example: reeve submit -- echo hello".to_owned(),
            ));
        }
        let (git, has_checkout) = (self.git.into_spec()?, self.worker.is_some());
        let cwd = match self.cwd {
            Some(dir) => Some(absolute(&dir, here)?),
            // A checkout and a worker bring their own directory.
            None if git.is_some() || has_checkout => None,
            None => here.cwd.clone(),
        };
        let mut spec = JobSpec {
            command: values::program(self.command, &["submit"])?,
            name: self.name,
            queue: self.queue,
            worker: self.worker,
            payload: self.payload.map(|word| values::json("--payload", &word)).transpose()?,
            git,
            env: environment(&self.inherit_env, self.env, here)?,
            cwd,
            stdin: self.stdin.map(|path| values::file_or_stdin(&path)).transpose()?,
            labels: self.label.into_iter().collect(),
            hold: self.hold,
            out: self.out,
            out_max_bytes: self.out_max,
            run_as: self.run_as,
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
            ..JobSpec::default()
        };
        self.needs.fill(&mut spec)?;
        self.when.fill(&mut spec);
        self.many.fill(&mut spec)?;
        Ok(spec)
    }
}

impl Needs {
    /// Sets resources and places.
    pub fn fill(self, spec: &mut JobSpec) -> Result<(), Error> {
        spec.resources = ResourceAsk {
            cpus: self.cpus,
            memory_bytes: self.memory,
            gpus: self.gpus,
            named: self.resource.into_iter().collect(),
        };
        spec.on = self.on;
        spec.not_on = self.not_on;
        for (name, limit) in self.limit {
            let limit = u32::try_from(limit)
                .map_err(|_| Error::Usage(format!("--limit {name}={limit} is larger than {}", u32::MAX)))?;
            spec.limits.insert(name, limit);
        }
        Ok(())
    }
}

impl When {
    fn fill(self, spec: &mut JobSpec) {
        spec.priority = self.priority.unwrap_or(0);
        spec.retries = self.retries;
        spec.timeout_s = self.timeout;
        spec.delay_s = self.delay;
        spec.at = self.at;
        spec.expires_s = self.expires;
        spec.lost_after_s = self.lost_after;
        spec.exclusive = self.exclusive;
        spec.grace_s = self.grace;
    }
}

impl Many {
    fn fill(self, spec: &mut JobSpec) -> Result<(), Error> {
        if self.canary.is_some() {
            return Err(not_yet("--canary"));
        }
        if self.max_fail.is_some() {
            return Err(not_yet("--max-fail"));
        }
        spec.array = self.array;
        if let Some(path) = self.each_line {
            let text = values::file_or_stdin(&path)?;
            spec.items = Some(text.lines().map(|line| Value::String(line.to_owned())).collect());
        }
        Ok(())
    }
}

fn absolute(dir: &str, here: &Surroundings) -> Result<String, Error> {
    if dir.starts_with('/') {
        return Ok(dir.to_owned());
    }
    let Some(cwd) = &here.cwd else {
        return Err(Error::Usage(format!("--cwd {dir} is relative, and the current directory has no name")));
    };
    let dir = dir.trim_start_matches("./").trim_end_matches('/');
    Ok(if matches!(dir, "" | ".") { cwd.clone() } else { format!("{}/{dir}", cwd.trim_end_matches('/')) })
}

/// What is copied from here, then what was said on the command line, which wins.
fn environment(
    inherit: &[String],
    set: Vec<(String, String)>,
    here: &Surroundings,
) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    for name in inherit {
        if name == "all" {
            let copied = |(key, _): &(&String, &String)| {
                !NOT_COPIED.contains(&key.as_str()) && !key.starts_with("REEVE_")
            };
            env.extend(here.env.iter().filter(copied).map(|(k, v)| (k.clone(), v.clone())));
        } else if let Some(value) = here.env.get(name) {
            env.insert(name.clone(), value.clone());
        } else {
            return Err(Error::Usage(format!("--inherit-env {name}: there is no such variable here")));
        }
    }
    env.extend(set);
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if here.env.contains_key(name) && !env.contains_key(name) && !env.contains_key("PATH") {
            note(format!(
                "note: {name} is set here, but a job does not get your environment; --inherit-env {name},PATH copies it"
            ));
            break;
        }
    }
    Ok(env)
}

/// Dependencies are numbers in a job; whatever else names a job is asked for.
async fn ids(selectors: &[Selector], client: &Client) -> Result<Vec<JobId>, Error> {
    let mut ids = Vec::new();
    for selector in selectors {
        match selector {
            Selector::Job(id) => ids.push(*id),
            Selector::Jobs(from, to) if to - from < MOST_DEPENDENCIES => ids.extend(*from..=*to),
            Selector::Jobs(..) => {
                return Err(Error::Usage(format!(
                    "{selector} are more than {MOST_DEPENDENCIES} jobs to wait for"
                )));
            }
            Selector::Tasks(..) => {
                return Err(Problem::new(Code::NotYet, "a job cannot wait for single tasks of an array yet")
                    .hint("name the whole array")
                    .into());
            }
            Selector::Last | Selector::Alias(_) => {
                let job: JobView = client.get(&format!("/v1/jobs/{}", escape(&selector.to_string()))).await?;
                ids.push(job.id);
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
#[path = "spec_test.rs"]
mod tests;
