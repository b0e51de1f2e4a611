//! Files that Git LFS holds: fetched when a job asks for them, through the real `git-lfs`, and every way that fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::site::Site;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

const CONTENT: &str = "a picture of 40 MB, say\n";
/// The SHA-256 of [`CONTENT`]: by this name the server keeps it.
const OID: &str = "f8aff36f3f6acc5768585602940091bf4824a9e4d56b1e41609e1b922f6513c2";

/// A repository with one large file, as `git lfs track` and `git add` leave it.
fn repository(site: &Site) -> String {
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {}\n", CONTENT.len());
    let (repo, _) = site.repo("r");
    repo.write(".gitattributes", "*.png filter=lfs diff=lfs merge=lfs -text\n")
        .write("picture.png", &pointer)
        .write(".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:1/elsewhere\n")
        .commit();
    std::fs::create_dir_all(site.root.path().join("lfs")).unwrap();
    site.git.url("r")
}

fn job(url: &str, lfs: bool) -> Value {
    json!({"command": ["cat", "picture.png"], "git": {"url": url, "ref": "main", "lfs": lfs}})
}

fn is_absent(test: &str) -> bool {
    let has = std::process::Command::new("git").args(["lfs", "version"]).output();
    let absent = !has.is_ok_and(|output| output.status.success());
    if absent {
        reeve_tests::skip(test, "git-lfs is not installed");
    }
    absent
}

#[test]
fn large_files_come_from_the_repository_itself_and_only_for_jobs_that_ask() {
    if is_absent("large_files_come_from_the_repository_itself_and_only_for_jobs_that_ask") {
        return;
    }
    let site = Site::start("");
    let url = repository(&site);
    std::fs::write(site.root.path().join("lfs").join(OID), CONTENT).unwrap();
    let with = site.submit(&job(&url, true));
    assert_eq!(site.ended(&with)["state"], "COMPLETED", "{}", site.output(&with));
    assert!(site.output(&with).contains(CONTENT), "{}", site.output(&with));
    std::fs::remove_dir_all(site.root.path().join("lfs")).unwrap();
    let again = site.submit(&job(&url, true));
    assert_eq!(site.ended(&again)["state"], "COMPLETED", "kept beside the mirror: {}", site.output(&again));
    assert!(site.output(&again).contains(CONTENT));
    let without = site.submit(&job(&url, false));
    assert_eq!(site.ended(&without)["state"], "COMPLETED");
    assert!(
        site.output(&without).contains(&format!("oid sha256:{OID}")),
        "the pointer, as it is in the tree"
    );
}

#[test]
fn a_large_file_that_is_missing_or_is_another_fails_the_checkout_and_never_starts_the_job() {
    if is_absent("a_large_file_that_is_missing_or_is_another_fails_the_checkout_and_never_starts_the_job") {
        return;
    }
    let site = Site::start("");
    let url = repository(&site);
    let missing = site.submit(&job(&url, true));
    let ended = site.ended(&missing);
    assert_eq!((&ended["state"], &ended["cause"]["kind"]), (&json!("FAILED"), &json!("checkout")), "{ended}");
    assert!(!site.output(&missing).contains("version https"), "{}", site.output(&missing));
    std::fs::write(site.root.path().join("lfs").join(OID), "b".repeat(CONTENT.len())).unwrap();
    let forged = site.submit(&job(&url, true));
    let ended = site.ended(&forged);
    assert_eq!((&ended["state"], &ended["cause"]["kind"]), (&json!("FAILED"), &json!("checkout")), "{ended}");
    assert!(!site.output(&forged).contains("bbbb"), "{}", site.output(&forged));
}

#[test]
fn without_git_lfs_the_job_is_told_so_and_which_machine() {
    let programs = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    for program in ["git", "cat", "sh"] {
        let found = path.split(':').map(|dir| std::path::Path::new(dir).join(program)).find(|p| p.is_file());
        symlink(found.unwrap(), programs.path().join(program)).unwrap();
    }
    let site = Site::start(&format!("path = {:?}\n", programs.path().display().to_string()));
    let url = repository(&site);
    let id = site.submit(&job(&url, true));
    let ended = site.ended(&id);
    assert_eq!(ended["state"], "FAILED", "{ended}");
    let said = ended["cause"].to_string() + &site.output(&id);
    assert!(said.contains("git-lfs is not installed on machine m1"), "{said}");
}
