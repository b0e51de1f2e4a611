//! Checkouts of jobs that run as somebody else.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::site::Site;
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_job_of_another_user_is_checked_out_as_that_user_into_a_cache_of_its_own() {
    let name = "a_job_of_another_user_is_checked_out_as_that_user_into_a_cache_of_its_own";
    if !rustix::process::geteuid().is_root() {
        return reeve_tests::skip(name, "only root's agent starts jobs as others");
    }
    let site = Site::start("run_as = [\"nobody\"]\n");
    // As below /var/lib: others may pass, and read nothing.
    for dir in [site.coordinator.dir.path(), &site.agent.dir, &site.agent.dir.join("state")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    site.repo("code");
    let url = site.git.url("code");
    let script = "id -un; stat -c %U . hello; git log --oneline | wc -l; echo more >>hello";
    let spec = |run_as: Option<&str>| json!({"command": ["sh", "-c", script], "git": {"url": url, "ref": "main"}, "run_as": run_as});
    let other = site.submit(&spec(Some("nobody")));
    let ended = site.ended(&other);
    assert_eq!(ended["state"], "COMPLETED", "{ended} {}", site.output(&other));
    assert!(site.output(&other).contains("nobody\nnobody\nnobody\n1\n"), "{}", site.output(&other));
    let own = site.submit(&spec(None));
    assert_eq!(site.ended(&own)["state"], "COMPLETED", "{}", site.output(&own));
    assert_eq!(site.git.fetches(), 2, "users share no cache: what one may read need not be the other's");
}
