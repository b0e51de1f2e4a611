//! What may be asked of git, and all that may not.
use super::*;

/// Every one of these has been a hole in some program that calls git, or would be one.
const HOSTILE_URLS: &[&str] = &[
    "",
    " ",
    "-",
    "--upload-pack=touch x",
    "-uX",
    "--exec=x",
    "-oProxyCommand=x",
    "ext::sh -c id",
    "ext::sh%20-c%20id",
    "EXT::x",
    "fd::7",
    "hg::https://h/r",
    "transport::address",
    "https::https://h/r",
    "ftp://h/r",
    "ftps://h/r",
    "HTTPS://h/r",
    "javascript://h/r",
    "rsync://h/r",
    "svn+ssh://h/r",
    "git+ssh://h/r",
    "/plain/path",
    "./relative",
    "../up",
    "~/home",
    "C:\\x",
    "https://",
    "https:///r",
    "https://h",
    "https://h/",
    "https://h//",
    "https://user:hunter2@h/r",
    "https://token@h/r",
    "https://good.example@evil.example/r",
    "http://user@h/r",
    "git://user@h/r",
    "ssh://user:hunter2@h/r",
    "user:hunter2@h:r",
    "https://h/r\n",
    "https://h/r\r",
    "https://h/a\nb",
    "https://h/\u{0}",
    "https://h/\u{1b}[2J",
    "https://h/a b",
    "https://h/r%0a",
    "https://h/r%0D%0A",
    "https://h/r%00",
    "https://h/r%7f",
    "https://h/r%",
    "https://h/r%zz",
    "https://h/r%25",
    "https://h/r?x=y",
    "https://h/r#x",
    "https://h/../r",
    "https://h/a/./r",
    "https://h/a::b",
    "https://h/$(id)",
    "https://h/`id`",
    "https://h/a;id",
    "https://h/a|id",
    "https://h/a&b",
    "https://h/'a",
    "https://h/\"a",
    "https://h/a\\b",
    "https://g\u{456}thub.com/r",
    "https://h\u{202e}/r",
    "https://-h/r",
    "https://h-/r",
    "https://h..x/r",
    "https://.h/r",
    "https://h_x/r",
    "https://h:/r",
    "https://h:0/r",
    "https://h:65536/r",
    "https://h:+80/r",
    "https://h:22x/r",
    "https://[::1/r",
    "https://[x]/r",
    "https://[::1]x/r",
    "ssh://-oProxyCommand=x/y",
    "ssh://-u@h/r",
    "ssh://@h/r",
    "-oProxyCommand=x:r",
    "h:-oProxyCommand=x",
    "-u@h:r",
    "@h:r",
    "h:",
    ":r",
    "u@-h:r",
    "h:a:b",
    "file://host/r",
    "file://",
    "file:///",
    "file:///a/../b",
    "file:/a",
];

#[test]
fn nothing_that_git_could_take_for_something_else_is_a_repository() {
    assert!(HOSTILE_URLS.len() >= 60);
    for url in HOSTILE_URLS {
        assert!(Url::parse(url).is_err(), "{url:?} was taken");
        let spec = GitSpec { url: (*url).to_owned(), ..GitSpec::default() };
        let problem = spec.validate().unwrap_err();
        assert_eq!((problem.code.as_str(), problem.hint.is_empty()), ("bad-url", false), "{url:?}");
        assert!(!problem.detail.contains("hunter2"), "{}", problem.detail);
    }
    assert!(Url::parse(&format!("https://h/{}", "a".repeat(MAX_URL))).is_err());
}

#[test]
fn every_way_to_a_repository_is_understood() {
    use Transport::{File, Git, Http, Https, Ssh};
    for (url, transport, normal) in [
        ("https://github.com/a/b.git", Https, "https://github.com/a/b.git"),
        ("https://GitHub.com/A/b/", Https, "https://github.com/A/b"),
        ("https://h:8443/r", Https, "https://h:8443/r"),
        ("http://127.0.0.1:3000/r", Http, "http://127.0.0.1:3000/r"),
        ("https://[::1]:80/r", Https, "https://[::1]:80/r"),
        ("https://h/~ana/r+x%20y", Https, "https://h/~ana/r+x%20y"),
        ("ssh://git@h/r", Ssh, "ssh://h/r"),
        ("ssh://git@h:2222/r", Ssh, "ssh://h:2222/r"),
        ("git@github.com:a/b.git", Ssh, "ssh://github.com/a/b.git"),
        ("h:/srv/r", Ssh, "ssh://h/srv/r"),
        ("git://h/r", Git, "git://h/r"),
        ("file:///srv/r.git", File, "file:///srv/r.git"),
    ] {
        let parsed = Url::parse(url).unwrap();
        assert_eq!((parsed.transport, parsed.normal().as_str(), parsed.as_str()), (transport, normal, url));
    }
}

#[test]
fn submodules_stay_where_they_are_allowed_to_be() {
    let base = Url::parse("https://h/group/repo.git").unwrap();
    let join = |other: &str| base.join(other).map(|u| u.as_str().to_owned());
    assert_eq!(join("../other.git").as_deref(), Ok("https://h/group/other.git"));
    assert_eq!(join("./sub").as_deref(), Ok("https://h/group/repo.git/sub"));
    assert_eq!(join("../../x/y").as_deref(), Ok("https://h/x/y"));
    assert_eq!(join("https://other/r").as_deref(), Ok("https://other/r"));
    for bad in [
        "../../../x",
        "../../../../etc/x",
        "ext::sh -c id",
        "-u./x",
        "/etc",
        "..",
        ".",
        "../x\r",
        "../a/../../b",
    ] {
        assert!(join(bad).is_err(), "{bad:?} was taken");
    }
    let short = Url::parse("git@h:group/repo").unwrap();
    assert_eq!(short.join("../other").unwrap().as_str(), "git@h:group/other");
}

#[test]
fn refs_follow_the_rules_of_git_and_are_no_options() {
    for good in
        ["main", "HEAD", "v1.2", "feature/a-b", "refs/heads/x", "a@b", "\u{e9}t\u{e9}", &"a".repeat(40)]
    {
        assert_eq!(check_ref(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "-x",
        "--exec",
        "a..b",
        "a b",
        "@{u}",
        "@",
        "a@{1}",
        "main~2",
        "HEAD^{/x}",
        "a:b",
        "a?b",
        "a*b",
        "a[b",
        "a\\b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.",
        "a.lock",
        "a/b.lock/c",
        "refs/../x",
        "a\nb",
        "a\rb",
        "a\u{0}b",
        "a\u{7f}",
        "a\u{202e}b",
        &"a".repeat(1000),
    ] {
        assert!(check_ref(bad).is_err(), "{bad:?} was taken");
    }
    assert!(is_commit(&"0".repeat(40)) && is_commit(&"f".repeat(64)));
    assert!(!is_commit(&"F".repeat(40)) && !is_commit("abc1234") && !is_commit(&"g".repeat(40)));
}

#[test]
fn directories_stay_inside() {
    for good in ["a", "a/b", "a/b/", "-x", "a b"] {
        assert_eq!(check_subdir(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "/",
        "/etc",
        "..",
        "../x",
        "a/../b",
        ".",
        "a/./b",
        "a//b",
        ".git",
        "a/.GIT/hooks",
        "a\nb",
        "a\u{1b}b",
    ] {
        assert!(check_subdir(bad).is_err(), "{bad:?} was taken");
    }
}

#[test]
fn each_field_has_its_code() {
    let spec = || GitSpec { url: "https://h/r".to_owned(), ..GitSpec::default() };
    let text = |t: &str| Some(t.to_owned());
    let patch = || Some(crate::patch::Patch::new(b"x").unwrap());
    let commit = || Some("a".repeat(40));
    for (wanted, git) in [
        ("bad-ref", GitSpec { reference: text("-x"), ..spec() }),
        ("bad-ref", GitSpec { commit: text("abc"), ..spec() }),
        ("bad-value", GitSpec { subdir: text("../x"), ..spec() }),
        ("bad-value", GitSpec { setup: text(" "), ..spec() }),
        ("bad-value", GitSpec { patch: patch(), ..spec() }),
    ] {
        assert_eq!(git.validate().unwrap_err().code, wanted, "{git:?}");
    }
    let full = GitSpec { commit: commit(), patch: patch(), setup: text("make"), subdir: text("a"), ..spec() };
    full.validate().unwrap();
    let again: GitSpec = serde_json::from_str(&serde_json::to_string(&full).unwrap()).unwrap();
    assert_eq!(again, full);
}

#[test]
fn the_words_name_the_commit_or_say_that_it_is_not_known() {
    let spec = GitSpec { url: "https://h/r".into(), reference: Some("main".into()), ..GitSpec::default() };
    assert_eq!(spec.to_string(), "https://h/r main (not resolved yet)");
    let spec = GitSpec { commit: Some("0123456789abcdef".into()), reference: None, ..spec };
    assert_eq!(spec.to_string(), "https://h/r HEAD (0123456789ab)");
}
