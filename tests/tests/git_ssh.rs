//! Repositories behind ssh: a real `sshd` on a port of its own, the key and the server's key from the agent's configuration.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_tests::site::Site;
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server, until it is dropped.
struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn key(path: &Path) -> String {
    let mut command = Command::new("ssh-keygen");
    assert!(command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap().success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

/// A server that lets the owner of `dir/user` in; what it is known by stands in `dir/known`.
fn sshd(dir: &Path) -> Option<(Sshd, u16)> {
    let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).is_file())?;
    if rustix::process::geteuid().is_root() {
        // Where sshd of the distribution wants to be shut in.
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let host = key(&dir.join("host"));
    std::fs::write(dir.join("authorized"), key(&dir.join("user"))).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(dir.join("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nListenAddress 127.0.0.1:{port}\n",
        file("host"),
        file("authorized")
    );
    std::fs::write(dir.join("config"), config).unwrap();
    let mut command = Command::new(program);
    command.arg("-D").arg("-e").arg("-f").arg(dir.join("config"));
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Sshd(child);
    reeve_tests::eventually("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    Some((server, port))
}

#[test]
fn a_key_of_the_configuration_opens_a_repository_and_an_unknown_server_or_a_wrong_key_does_not() {
    let dir = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let Some((_server, port)) = sshd(dir.path()) else {
        return reeve_tests::skip(
            "a_key_of_the_configuration_opens_a_repository_and_an_unknown_server_or_a_wrong_key_does_not",
            "sshd is not installed",
        );
    };
    key(&dir.path().join("stranger"));
    std::fs::write(dir.path().join("nobody"), "").unwrap();
    let entry = |name: &str, key: &str, known: &str| {
        let file = |name: &str| dir.path().join(name).display().to_string();
        format!(
            "[[git.credentials]]\nmatch = \"ssh://*/{name}\"\nssh_key = \"{}\"\nknown_hosts = \"{}\"\n",
            file(key),
            file(known)
        )
    };
    let config = entry("good", "user", "known")
        + &entry("wrong", "stranger", "known")
        + &entry("odd", "user", "nobody");
    let site = Site::start(&config);
    let mut ended = Vec::new();
    for name in ["good", "wrong", "odd"] {
        let (repo, _) = site.repo(name);
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let url = format!(
            "ssh://{}@127.0.0.1:{port}{}",
            String::from_utf8_lossy(&user).trim(),
            repo.dir().display()
        );
        let id = site.submit(&json!({"command": ["cat", "hello"], "git": {"url": url, "ref": "main"}}));
        ended.push((site.ended(&id), site.output(&id)));
    }
    let [(good, said), (wrong, _), (odd, _)] = ended.as_slice() else { unreachable!() };
    assert_eq!(good["state"], "COMPLETED", "{said}");
    assert!(said.contains("hello\n"), "{said}");
    for refused in [wrong, odd] {
        assert_eq!(refused["cause"]["kind"], "checkout", "{refused}");
        assert_eq!(refused["cause"]["what"], "auth", "not tried again: {refused}");
        assert_eq!(refused["attempts"].as_array().unwrap().len(), 1);
    }
}
