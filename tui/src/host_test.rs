//! The order of places, the forms of a host, and paths that are too long for a socket's address.
use super::*;
use std::os::unix::fs::PermissionsExt;

fn base() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// Every place exists; the tests take them away from the front.
fn all_places(dir: &Path) -> Places {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let socket = file("up.sock", "");
    Places {
        flag: Some("/flag".into()),
        variable: Some("/variable".into()),
        config: Some(file("config.toml", "host = \"/config\"\n")),
        system: file("system.sock", ""),
        pointers: vec![dir.join("absent/up"), file("up", &format!("{}\n", socket.display()))],
    }
}

fn found(places: &Places) -> String {
    places.find().unwrap().to_string()
}

#[test]
fn places_are_tried_in_the_order_of_the_contract() {
    let dir = base();
    let mut places = all_places(dir.path());
    assert_eq!(found(&places), "unix:///flag");
    places.flag = None;
    assert_eq!(found(&places), "unix:///variable");
    places.variable = None;
    assert_eq!(found(&places), "unix:///config");
    places.config = Some(dir.path().join("none.toml"));
    assert_eq!(found(&places), format!("unix://{}", dir.path().join("system.sock").display()));
    places.system = dir.path().join("none.sock");
    assert_eq!(found(&places), format!("unix://{}", dir.path().join("up.sock").display()));
    places.pointers.clear();
    let problem = places.find().unwrap_err();
    assert_eq!(problem.code, "no-coordinator");
    assert!(problem.detail.contains("none.sock") && problem.detail.contains("none.toml"), "{problem}");
    assert!(problem.hint.contains("reeve up") && problem.hint.contains("REEVE_HOST"), "{problem}");
}

#[test]
fn a_pointer_that_others_can_write_is_not_believed() {
    let dir = base();
    let socket = dir.path().join("s");
    std::fs::write(&socket, "").unwrap();
    let pointer = dir.path().join("up");
    std::fs::write(&pointer, format!("{}\n", socket.display())).unwrap();
    assert_eq!(read_pointer(&pointer), Some(socket));
    std::fs::set_permissions(&pointer, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(read_pointer(&pointer), None);
    std::fs::set_permissions(&pointer, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(read_pointer(&pointer), None);
}

#[test]
fn a_pointer_to_nothing_is_passed_over() {
    let dir = base();
    let pointer = dir.path().join("up");
    for text in ["", "\n", "relative\n", "/does/not/exist\n"] {
        std::fs::write(&pointer, text).unwrap();
        assert_eq!(read_pointer(&pointer), None, "{text:?}");
    }
}

#[test]
fn a_wrong_configuration_is_told_and_not_passed_over() {
    let dir = base();
    let places = Places { flag: None, variable: None, ..all_places(dir.path()) };
    std::fs::write(dir.path().join("config.toml"), "hots = \"/x\"\n").unwrap();
    let problem = places.find().unwrap_err();
    assert!(problem.detail.contains("hots"), "{problem}");
}

#[test]
fn every_form_of_a_host_is_read() {
    let ssh = |target: &str, port, socket: Option<&str>| Host::Ssh {
        target: target.into(),
        port,
        socket: socket.map(str::to_owned),
    };
    for (text, wanted) in [
        ("unix:///run/x", Host::Unix("/run/x".into())),
        ("/run/x", Host::Unix("/run/x".into())),
        ("x.sock", Host::Unix("x.sock".into())),
        ("ssh://ana@head", ssh("ana@head", None, None)),
        ("ssh://head:2222", ssh("head", Some(2222), None)),
        ("ssh://ana@head:2222/run/x", ssh("ana@head", Some(2222), Some("/run/x"))),
        ("ssh://head/", ssh("head", None, None)),
    ] {
        assert_eq!(Host::parse(text).unwrap(), wanted, "{text}");
    }
}

#[test]
fn a_host_that_ssh_would_take_for_an_option_is_refused() {
    for bad in [
        "",
        "unix://",
        "http://x",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a b",
        "ssh://h:port",
        "ssh://$(x)",
    ] {
        assert_eq!(Host::parse(bad).unwrap_err().code, "bad-value", "{bad}");
    }
}

#[tokio::test]
async fn a_path_of_any_length_is_connected_to() {
    let dir = base();
    let deep = dir.path().join("d".repeat(120)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let path = deep.join("s.sock");
    let (_held, short) = short_path(&path).unwrap();
    let listener = tokio::net::UnixListener::bind(short).unwrap();
    let (connected, accepted) = tokio::join!(connect(&path), listener.accept());
    assert!(connected.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn nobody_there_is_no_coordinator_with_advice() {
    let dir = base();
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for (path, words) in [(dir.path().join("none.sock"), "no such socket"), (stale, "nothing listens")] {
        let problem = Host::Unix(path).dial().await.unwrap_err();
        assert_eq!(problem.code, "no-coordinator");
        assert!(problem.detail.contains(words) && problem.hint.contains("reeve up"), "{problem}");
    }
}
