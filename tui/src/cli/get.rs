//! `reeve get`: the files that an attempt left behind.
//!
//! Names come from jobs: none leads out of the directory that is written into, no file that is there is replaced unless
//! that is asked for, and what arrives is held against its digest before it gets its name.
use super::context::Context;
use super::error::{Error, note};
use super::select::{job_path, with_query};
use super::table::Table;
use super::values;
use crate::client::{Client, escape};
use hyper::Method;
use reeve_protocol::api::{ArtifactView, JobView, List};
use reeve_protocol::artifact::{check_name, chooses};
use reeve_protocol::digest::Sha256;
use reeve_protocol::selector::Selector;
use reeve_protocol::text::Clean;
use reeve_protocol::units::show_bytes;
use reeve_protocol::{Code, Problem};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Fetch the files that a job left behind.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// The job: 7, 7.3 (task of an array), last or @NAME
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub job: Selector,
    /// Only these: a name, a directory or a pattern such as 'runs/**/*.ckpt' [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Write into this directory, or one file to standard output [default: job-ID]
    #[arg(long, short, value_name = "DIR|-")]
    pub output: Option<String>,
    /// Of another attempt than the newest that has any
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only list them
    #[arg(long, short)]
    pub list: bool,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// Runs it.
pub async fn run(get: Get, context: &mut Context) -> Result<(), Error> {
    let name = get.job.to_string();
    let attempt = get.attempt.map(|n| n.to_string());
    let query: Vec<(&str, &str)> = attempt.iter().map(|n| ("attempt", n.as_str())).collect();
    let path = with_query(&job_path(&name, "/artifacts"), &query);
    if get.list {
        let Some(list) = context.get::<List<ArtifactView>>(&path).await? else { return Ok(()) };
        if list.items.is_empty() {
            note(format!("job {name} has left no files (submit --out PATTERN, or $REEVE_OUT_DIR)"));
        }
        return context.table(&table(&list.items));
    }
    let client = context.client()?;
    let list: List<ArtifactView> = client.get(&path).await?;
    let chosen = choose(list.items, &get.names, &name)?;
    if get.output.as_deref() == Some("-") {
        let [one] = chosen.as_slice() else {
            let problem = format!("{} files are meant; only one goes to standard output", chosen.len());
            return Err(Error::Usage(problem));
        };
        return to_output(&client, &name, one, context).await;
    }
    let dir = match get.output {
        Some(dir) => PathBuf::from(dir),
        None => default_dir(&settled(&client, &name).await?),
    };
    if !get.force {
        // Before anything is fetched: half of a set is of no use to anybody.
        if let Some(there) = chosen.iter().find(|a| dir.join(&a.file.name).symlink_metadata().is_ok()) {
            let shown = Clean::line(&dir.join(&there.file.name).to_string_lossy()).into_string();
            return Err(Error::Usage(format!(
                "{shown} is there already; --force replaces it, -o DIR writes elsewhere"
            )));
        }
    }
    for artifact in &chosen {
        to_file(&client, &name, artifact, &dir).await?;
        if context.json {
            context.json_line(artifact)?;
        } else {
            context.line(Clean::line(&dir.join(&artifact.file.name).to_string_lossy()).as_str())?;
        }
        context.flush()?;
    }
    Ok(())
}

/// The job's number where it is named otherwise: tomorrow `last` and a name are other jobs, whose files belong elsewhere.
async fn settled(client: &Client, name: &str) -> Result<String, Error> {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(name.to_owned());
    }
    let job: JobView = client.get(&job_path(name, "")).await?;
    Ok(job.id.to_string())
}

fn default_dir(job: &str) -> PathBuf {
    PathBuf::from(format!("job-{}", job.trim_start_matches('@').replace('/', "_")))
}

fn table(items: &[ArtifactView]) -> Table {
    let mut table = Table::new(&["NAME", ">SIZE", "MODE", ">ATTEMPT", "SHA-256"]);
    for item in items {
        table.row(
            [
                Clean::line(&item.file.name).into_string(),
                show_bytes(item.file.size),
                format!("{:o}", item.file.mode),
                item.attempt.to_string(),
                item.file.sha256.chars().take(12).collect(),
            ]
            .map(Into::into),
        );
    }
    table
}

/// Those that are meant; of one name only that of the newest attempt.
fn choose(items: Vec<ArtifactView>, names: &[String], job: &str) -> Result<Vec<ArtifactView>, Error> {
    let mut chosen = std::collections::BTreeMap::new();
    for item in items {
        // The coordinator has looked, too; this is the side that writes.
        if let Err(why) = check_name(&item.file.name) {
            let shown = Clean::short(&item.file.name, 100);
            note(format!("note: {shown} is left out: {why}"));
            continue;
        }
        let is_meant = |name: &String| {
            let plain = name.strip_prefix("./").unwrap_or(name);
            chooses(plain.strip_suffix('/').unwrap_or(plain), &item.file.name) || *name == item.file.name
        };
        if names.is_empty() || names.iter().any(is_meant) {
            chosen.insert(item.file.name.clone(), item);
        }
    }
    if chosen.is_empty() {
        let what = if names.is_empty() {
            "has left no files".to_owned()
        } else {
            format!("has left no {}", names.join(" or "))
        };
        let problem =
            Problem::new(Code::NotFound, Clean::short(&format!("job {job} {what}"), 300).into_string());
        return Err(problem
            .hint(format!("see: reeve get {job} --list; they are there once an attempt has ended"))
            .into());
    }
    Ok(chosen.into_values().collect())
}

fn path_of(job: &str, artifact: &ArtifactView) -> String {
    let path = job_path(job, &format!("/artifacts/{}", escape(&artifact.file.name)));
    with_query(&path, &[("attempt", &artifact.attempt.to_string())])
}

/// Passes the bytes on as they come, and says afterwards whether they were the right ones.
async fn fetch(
    client: &Client,
    job: &str,
    artifact: &ArtifactView,
    mut into: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut stream = client.stream(Method::GET, &path_of(job, artifact), &[], None).await?;
    let mut digest = Sha256::default();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        digest.update(&piece);
        into(&piece)?;
    }
    if digest.hex() == artifact.file.sha256 {
        return Ok(());
    }
    let shown = Clean::short(&artifact.file.name, 100);
    Err(Problem::new(Code::Internal, format!("what came of {shown} is not what the job left"))
        .hint(
            "the connection may have broken: try again; `reeve-coordinator store verify` looks at the store",
        )
        .into())
}

async fn to_output(
    client: &Client,
    job: &str,
    artifact: &ArtifactView,
    context: &mut Context,
) -> Result<(), Error> {
    fetch(client, job, artifact, |piece| context.raw(piece)).await?;
    context.flush()
}

/// Written under another name beside its own, which it gets when it is whole.
async fn to_file(client: &Client, job: &str, artifact: &ArtifactView, dir: &Path) -> Result<(), Error> {
    let path = dir.join(&artifact.file.name);
    let parent = path.parent().unwrap_or(dir);
    let failed = |error: io::Error| {
        let shown = Clean::short(&path.to_string_lossy(), 300).into_string();
        Error::Usage(format!("{shown} cannot be written: {error}"))
    };
    std::fs::create_dir_all(parent).map_err(failed)?;
    let part = parent.join(format!(".reeve-{}.part", std::process::id()));
    let _ = std::fs::remove_file(&part);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
    let fetched = fetch(client, job, artifact, |piece| file.write_all(piece).map_err(failed)).await;
    let mode = std::fs::Permissions::from_mode(artifact.file.mode & 0o777);
    let named = fetched.and_then(|()| {
        file.set_permissions(mode).and_then(|()| std::fs::rename(&part, &path)).map_err(failed)
    });
    if named.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::artifact::Artifact;

    fn view(name: &str, attempt: u32) -> ArtifactView {
        let file = Artifact { name: name.into(), size: 1, mode: 0o644, sha256: "0".repeat(64) };
        ArtifactView { attempt, file }
    }

    #[test]
    fn names_directories_and_patterns_choose_and_the_newest_attempt_wins() {
        let items = || vec![view("a/x", 1), view("b.txt", 1), view("a/x", 2), view("../evil", 1)];
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            choose(items(), &names, "7")
                .map(|chosen| chosen.into_iter().map(|c| (c.file.name, c.attempt)).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(of(&[]).unwrap(), [("a/x".to_owned(), 2), ("b.txt".to_owned(), 1)]);
        assert_eq!(of(&["a/"]).unwrap(), [("a/x".to_owned(), 2)]);
        assert_eq!(of(&["*.txt"]).unwrap(), [("b.txt".to_owned(), 1)]);
        assert!(of(&["nothing\u{1b}"]).unwrap_err().contains("has left no nothing"));
    }

    #[test]
    fn names_are_shown_clean_and_ids_become_directories() {
        let text = table(&[view("a\u{1b}[2Jb", 1)]).render(None, false);
        assert!(!text.contains('\u{1b}') && text.contains("644"), "{text}");
        assert_eq!(default_dir("7.3"), PathBuf::from("job-7.3"));
        assert_eq!(default_dir("@a/../b"), PathBuf::from("job-a_.._b"));
    }
}
