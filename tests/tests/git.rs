//! Jobs in checkouts: which commit they get, what they see, what stays, through the whole of reeve with the real git.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::repo::Repo;
use reeve_tests::server::Server;

/// What a job itself wrote.
fn output(server: &Server, id: &str) -> String {
    let text = server.ok(&["logs", id]);
    text.lines().filter(|line| !line.starts_with("reeve: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_job_runs_in_a_checkout_of_the_commit_that_the_ref_named_at_submit() {
    let server = Server::start();
    let repo = Repo::new(server.scratch(), "code");
    let first = repo.write("sub/hello", "one\n").commit();
    let submit = |script: &str| {
        let url = repo.url();
        server.ok(&[
            "submit", "--hold", "--repo", &url, "--ref", "main", "--subdir", "sub", "--", "sh", "-c", script,
        ])
    };
    let script = "cat hello; git rev-parse HEAD; git status --porcelain; echo $REEVE_COMMIT $REEVE_REPO $REEVE_REF; basename $PWD";
    let id = submit(script);
    repo.write("sub/hello", "two\n").commit();
    server.ok(&["release", &id]);
    let job = server.until(&id, "COMPLETED");
    assert_eq!(job["spec"]["git"]["commit"], first.as_str());
    let url = repo.url();
    assert_eq!(output(&server, &id), format!("one\n{first}\n{first} {url} main\nsub"));
    assert!(server.ok(&["show", &id]).contains(&first[..12]));
}
