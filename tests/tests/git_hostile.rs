//! Repositories that want to run something, leave their directory or break whoever looks at them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::repo::Repo;
use reeve_tests::site::Site;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

fn run(site: &Site, git: Value, script: &str) -> (Value, String) {
    let id = site.submit(&json!({"command": ["sh", "-c", script], "git": git}));
    let ended = site.ended(&id);
    (ended, site.output(&id))
}

#[test]
fn nothing_of_a_repository_is_executed_by_its_checkout() {
    let site = Site::start("");
    let (repo, _) = site.repo("code");
    let canary = site.root.path().join("canary");
    let touch = format!("#!/bin/sh\ntouch {}\n", canary.display());
    for hook in ["post-checkout", "post-index-change", "reference-transaction", "fsmonitor", "filter"] {
        repo.write(&format!("hooks/{hook}"), &touch);
        let path = repo.dir().join("hooks").join(hook);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let here = repo.dir().join("hooks/filter").display().to_string();
    repo.write(".gitattributes", "* filter=evil diff=evil merge=evil\n");
    repo.write(
        ".gitconfig",
        &format!("[filter \"evil\"]\n\tsmudge = {here}\n\tprocess = {here}\n[core]\n\tfsmonitor = {here}\n"),
    );
    repo.write(".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:1/\n");
    repo.write(".gitmodules", &format!("[submodule \"x\"]\n\tpath = x\n\turl = ext::{here}\n"));
    let commit = repo.commit();
    // The server's own configuration is its affair, and none of the client's.
    repo.git(&["config", "core.fsmonitor", &here]);
    repo.git(&["config", "filter.evil.smudge", &here]);
    for url in [site.git.url("code"), repo.url()] {
        let (ended, output) =
            run(&site, json!({"url": url, "commit": commit}), "git status --porcelain; cat hello");
        assert_eq!(ended["state"], "COMPLETED", "{output}");
        assert!(!canary.exists(), "{url}");
    }
    // This one git does not even store.
    repo.git(&["config", "--unset", "core.fsmonitor"]);
    repo.git(&["config", "--unset", "filter.evil.smudge"]);
    repo.write(".gitmodules", &format!("[submodule \"x\"]\n\tpath = x\n\turl = u\n\tupdate = !{here}\n"));
    let commit = repo.commit();
    let (ended, output) = run(&site, json!({"url": site.git.url("code"), "commit": commit}), "true");
    assert_eq!(
        (ended["cause"]["what"].as_str(), ended["attempt"].as_u64()),
        (Some("mismatch"), Some(1)),
        "{output}"
    );
    assert!(!canary.exists());
}

#[test]
fn submodules_are_checked_out_when_asked_for_and_only_from_where_they_may_come() {
    let site = Site::start("");
    let (repo, _) = site.repo("code");
    let (library, _) = site.repo("library");
    let inner = library.write("lib", "library\n").commit();
    let canary = site.root.path().join("canary");
    let link = |path: &str, url: &str| {
        repo.write(".gitmodules", &format!("[submodule \"a\"]\n\tpath = \"{path}\"\n\turl = \"{url}\"\n"));
        repo.git(&["add", ".gitmodules"]);
        repo.git(&[
            "update-index",
            "--add",
            "--cacheinfo",
            &format!("160000,{inner},{}", path.replace("\\r", "\r")),
        ]);
        repo.git(&["commit", "-qm", "a submodule"]);
        let commit = repo.git(&["rev-parse", "HEAD"]);
        repo.git(&["rm", "-q", "--cached", &path.replace("\\r", "\r")]);
        commit
    };
    let url = site.git.url("code");
    let good = link("deps/lib", "../library");
    let git =
        |commit: &str, submodules: bool| json!({"url": url, "commit": commit, "submodules": submodules});
    let (ended, output) = run(&site, git(&good, true), "cat deps/lib/lib && git -C deps/lib rev-parse HEAD");
    assert!(
        ended["state"] == "COMPLETED" && output.contains("library") && output.contains(&inner),
        "{output}"
    );
    let (ended, output) = run(&site, git(&good, false), "ls -A deps/lib | wc -l");
    assert!(ended["state"] == "COMPLETED" && output.trim().ends_with('0'), "{output}");
    let evil = format!("ext::sh -c touch% {}", canary.display());
    for (path, address) in [
        ("deps/lib", "-u./payload"),
        ("deps/lib", evil.as_str()),
        ("deps/lib", "../../../../etc"),
        ("deps\\r", "../library"),
    ] {
        // A server's git may refuse to store the worst of them: then the client never sees it, which is as good.
        let commit = link(path, address);
        let (ended, output) = run(&site, git(&commit, true), "true");
        assert_eq!(ended["cause"]["kind"], "checkout", "{path} {address}: {output}");
        assert!(!canary.exists());
    }
}

#[test]
fn strange_names_links_and_large_files_are_files_like_others() {
    let site = Site::start("");
    let (repo, _) = site.repo("code");
    repo.write("line\nbreak", "1").write("esc\u{1b}[2J", "2").write("-rf", "3").write(" blank ", "4");
    symlink("/etc/hostname", repo.dir().join("far")).unwrap();
    symlink("hello", repo.dir().join("near")).unwrap();
    repo.write("run.sh", "#!/bin/sh\necho ran\n");
    let program = repo.dir().join("run.sh");
    std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let commit = repo.commit();
    let script =
        "git status --porcelain; ls -A | wc -c; readlink far; cat near; ./run.sh; cat -- -rf; cat ' blank '";
    let outputs: Vec<String> = (0..2)
        .map(|_| {
            let (ended, output) = run(&site, json!({"url": site.git.url("code"), "commit": commit}), script);
            assert_eq!(ended["state"], "COMPLETED", "{output}");
            output.lines().filter(|l| !l.starts_with("reeve: ")).collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(outputs[0].ends_with("/etc/hostname\nhello\nran\n34"), "{:?}", outputs[0]);
    assert_eq!(outputs[0], outputs[1], "the second one comes from the image, and is the same");
    let big = std::fs::File::create(repo.dir().join("big")).unwrap();
    big.set_len(70 << 20).unwrap();
    let commit = repo.commit();
    let (ended, output) = run(&site, json!({"url": site.git.url("code"), "commit": commit}), "wc -c < big");
    assert!(ended["state"] == "COMPLETED" && output.contains("73400320"), "{output}");
}

#[test]
fn what_one_job_does_to_its_files_no_other_sees() {
    let site = Site::start("");
    let (_repo, commit) = site.repo("code");
    let git = json!({"url": site.git.url("code"), "commit": commit});
    let script = "cat hello; echo changed > hello; git -c user.name=a -c user.email=a@b commit -qam x; git rev-list --count HEAD; git gc -q --prune=now";
    for _ in 0..3 {
        let (ended, output) = run(&site, git.clone(), script);
        assert_eq!(ended["state"], "COMPLETED", "{output}");
        assert!(output.ends_with("hello\n2\n"), "{output}");
    }
    assert_eq!(site.git.fetches(), 1);
}

#[test]
fn a_failed_jobs_checkout_is_kept_and_a_set_up_runs_once_for_the_same_lock_files() {
    let site = Site::start("");
    let repo = Repo::new(site.root.path(), "code");
    let commit = repo.write("uv.lock", "1").commit();
    let setup = "echo preparing; cp uv.lock $REEVE_SETUP_DIR/env";
    let git = json!({"url": site.git.url("code"), "commit": commit, "setup": setup});
    let (ended, first) = run(&site, git.clone(), "cat $REEVE_SETUP_DIR/env");
    let (_, second) = run(&site, git.clone(), "cat $REEVE_SETUP_DIR/env");
    assert_eq!(ended["state"], "COMPLETED", "{first}");
    assert!(
        first.contains("preparing") && !second.contains("preparing") && second.contains("done before"),
        "{second}"
    );
    let mut failing = git.clone();
    failing["setup"] = "exit 3".into();
    let (ended, output) = run(&site, failing, "true");
    assert_eq!(ended["cause"]["kind"], "setup", "{output}");
    // A set-up is held to what the job may use, or to what git may need.
    let mut greedy = git.clone();
    greedy["setup"] = "dd if=/dev/zero of=/dev/null bs=4G count=1; sleep 1000".into();
    let id =
        site.submit(&json!({"command": ["true"], "git": greedy, "resources": {"memory_bytes": 64 << 20}}));
    let ended = site.ended(&id);
    assert_eq!(ended["cause"]["kind"], "oom", "{ended} {}", site.output(&id));
    assert!(ended["cause"]["detail"].as_str().unwrap().contains("2.0 GiB"), "{ended}");
    let (_, output) = run(&site, git, "echo partial > result; exit 1");
    let place = output.lines().find_map(|l| l.strip_prefix("reeve: the checkout is kept for a day: "));
    let place = place.expect(&output).split(" on machine").next().unwrap();
    let kept = std::path::Path::new(place).join("result");
    reeve_tests::eventually("the kept checkout", || kept.exists().then_some(()));
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "partial\n");
}
