//! Checkouts: what the second and later ones of a commit cost, and how often the server is asked.
use super::{Table, median};
use crate::repo::Repo;
use crate::site::Site;
use serde_json::json;
use std::path::Path;

const FILES: usize = 1000;
const JOBS: u64 = 200;

/// 200 jobs of one commit of a repository with 1,000 files, beside plain copies of the same files.
pub fn git(table: &mut Table) {
    let site = Site::start("");
    let repo = Repo::new(site.root.path(), "code");
    let mut files = Vec::new();
    for n in 0..FILES {
        let text = format!("line {n} of some source text that packs as such text does\n").repeat(40);
        repo.write(&format!("d{}/f{n}", n % 20), &text);
        files.push((format!("d{}/f{n}", n % 20), text));
    }
    let commit = repo.commit();
    let spec = json!({"command": ["true"], "git": {"url": site.git.url("code"), "commit": commit}});
    let first = checkout_ms(&site.ended(&site.submit(&spec)));
    let (mut checkouts, mut copies) = (Vec::new(), Vec::new());
    for round in 0..JOBS {
        checkouts.push(checkout_ms(&site.ended(&site.submit(&spec))));
        if round % 10 == 0 {
            copies.push(copy_ms(&files, &site.root.path().join("copy")));
        }
    }
    let (middle, raw) = (median(checkouts), median(copies));
    table.row("first checkout, 1,000 files, fetched", format!("{first:.0} ms"), "-".to_owned(), "-", true);
    table.row(
        "checkout after the first, median of 200",
        format!("{middle:.0} ms"),
        format!("{raw:.1} ms to write the files"),
        "<= 30 ms",
        middle <= 30.0,
    );
    let fetches = site.git.fetches();
    table.row("fetches for all of them", fetches.to_string(), "1".to_owned(), "1", fetches == 1);
}

/// From the hand-out to the start of the command, as the job's record has it.
fn checkout_ms(job: &serde_json::Value) -> f64 {
    let at = |field: &str| {
        let text = job["attempts"][0][field].as_str().unwrap_or_default().to_owned();
        reeve_protocol::time::Wall::parse(&text).map_or(0, |wall| wall.0)
    };
    (at("started_at") - at("dispatched_at")) as f64
}

fn copy_ms(files: &[(String, String)], dir: &Path) -> f64 {
    let seconds = super::seconds(|| {
        for (path, text) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    });
    std::fs::remove_dir_all(dir).unwrap();
    seconds * 1000.0
}
