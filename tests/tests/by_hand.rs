//! A cluster put together by hand, as an operator does it: `init`, `run`, tokens, `join`. Everything that can be wrong
//! with a token, a store or a second coordinator.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use reeve_protocol::token::Token;
use reeve_tests::machine::{Agent, Coordinator, join};
use reeve_tests::{alive, binary, eventually};
use rusqlite::Connection;
use std::path::Path;
use std::process::{Command, Output};

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn up(coordinator: &Coordinator, machine: &str) {
    eventually(&format!("{machine} to be up"), || {
        (coordinator.machine(machine)["state"] == "up").then_some(())
    });
}

#[test]
fn a_machine_joins_with_a_token_of_either_command_and_runs_jobs() {
    let mut c = Coordinator::start("127.0.0.1:0");
    let _one = Agent::start(c.dir.path(), "one", &c.token(), &[]);
    let made = c.reeve(&["machine", "token"]);
    let token =
        String::from_utf8(made.stdout).unwrap().lines().find(|l| l.contains("reeve1.")).map(str::to_owned);
    let token = token.expect("a token on stdout");
    let _two = Agent::start(c.dir.path(), "two", token.trim(), &[]);
    up(&c, "one");
    up(&c, "two");
    for machine in ["one", "two"] {
        let ran = c.reeve(&["submit", "--wait", "--on", machine, "--", "sh", "-c", "echo $REEVE_MACHINE"]);
        assert!(ran.status.success(), "{}", words(&ran));
        assert_eq!(c.reeve(&["logs", "last"]).stdout, format!("{machine}\n").into_bytes());
    }
    assert_eq!(c.stop(), Some(0), "a stop that was asked for is no failure");
}

#[test]
fn a_used_an_expired_and_a_foreign_token_are_each_refused_in_words() {
    let c = Coordinator::start("127.0.0.1:0");
    let scratch = |name: &str| {
        let dir = c.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let token = c.token();
    let good = join(&scratch("first"), &[], "first", &token);
    assert!(good.status.success(), "{}", words(&good));
    let used = join(&scratch("second"), &[], "second", &token);
    assert_eq!(used.status.code(), Some(1));
    assert!(words(&used).contains("used"), "{}", words(&used));

    let short = c.command(&["token", "--ttl", "1s"]).output().unwrap();
    let short = String::from_utf8(short.stdout).unwrap();
    // A try before its second is over would use it up, so the time is let pass first.
    let made = std::time::Instant::now();
    eventually("the token to expire", || (made.elapsed().as_millis() > 1200).then_some(()));
    let refused = join(&scratch("third"), &[], "third", &short);
    assert_eq!(refused.status.code(), Some(1));
    assert!(words(&refused).contains("expired"), "{}", words(&refused));

    // Somebody in between with another authority: the client must not show it the secret.
    let mut forged: Token = c.token().parse().unwrap();
    let right = forged.ca_hash.clone();
    forged.ca_hash = "0".repeat(64);
    let dir = scratch("fourth");
    let stopped = join(&dir, &[], "fourth", &forged.to_string());
    assert_eq!(stopped.status.code(), Some(1));
    assert!(
        words(&stopped).contains("certificate") || words(&stopped).contains("authority"),
        "{}",
        words(&stopped)
    );
    assert!(!words(&stopped).contains(&forged.secret));
    // Had the secret gone out, the token would be used now.
    forged.ca_hash = right;
    let after = join(&dir, &[], "fourth", &forged.to_string());
    assert!(after.status.success(), "{}", words(&after));
    let nonsense = join(&scratch("fifth"), &[], "fifth", "not a token");
    assert!(!nonsense.status.success() && words(&nonsense).contains("join token"), "{}", words(&nonsense));
}

/// A network namespace with one end of a cable; the other end has `address` here.
struct Namespace {
    name: String,
    address: String,
}

impl Namespace {
    fn new() -> Result<Self, String> {
        let id = std::process::id() % 16_000;
        let (name, here, there) = (format!("reeve-test-{id}"), format!("rvh{id}"), format!("rvn{id}"));
        let net = format!("10.213.{}.{}", id / 64, (id % 64) * 4);
        let base = net
            .rsplit_once('.')
            .map(|(net, last)| (net.to_owned(), last.parse::<u32>().unwrap_or(0)))
            .unwrap();
        let (one, two) = (format!("{}.{}", base.0, base.1 + 1), format!("{}.{}", base.0, base.1 + 2));
        let made = Self { name: name.clone(), address: one.clone() };
        let in_it = format!("netns exec {name} ip");
        for line in [
            format!("netns add {name}"),
            format!("link add {here} type veth peer name {there} netns {name}"),
            format!("addr add {one}/30 dev {here}"),
            format!("link set {here} up"),
            format!("{in_it} addr add {two}/30 dev {there}"),
            format!("{in_it} link set {there} up"),
            format!("{in_it} link set lo up"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
            if !output.status.success() {
                return Err(format!("ip {line}: {}", words(&output).trim()));
            }
        }
        Ok(made)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

#[test]
fn a_machine_with_an_address_of_its_own_joins_over_the_network() {
    const NAME: &str = "a_machine_with_an_address_of_its_own_joins_over_the_network";
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => return reeve_tests::skip(NAME, &why),
    };
    let c = Coordinator::start(&format!("{}:0", namespace.address));
    let prefix = ["ip", "netns", "exec", &namespace.name];
    let far = Agent::start(c.dir.path(), "far", &c.token(), &prefix);
    up(&c, "far");
    let ran =
        c.reeve(&["submit", "--wait", "--on", "far", "--", "sh", "-c", "ip -o addr show | grep -c 10.213"]);
    assert!(ran.status.success(), "{}", words(&ran));
    assert_eq!(c.reeve(&["logs", "last"]).stdout, b"1\n", "it ran on the other side of the cable");
    drop(far);
}

#[test]
fn a_killed_agent_costs_its_running_job_nothing() {
    let c = Coordinator::start("127.0.0.1:0");
    let mut agent = Agent::start(c.dir.path(), "box", &c.token(), &[]);
    up(&c, "box");
    let go = c.dir.path().join("go");
    let script =
        format!("echo before; until test -e {}; do sleep 0.05; done; seq 1 5000; echo after", go.display());
    c.reeve(&["submit", "--", "sh", "-c", &script]);
    let pid = || c.job("1")["attempts"][0]["pid"].as_u64().filter(|pid| *pid > 0);
    let first = eventually("the job to run", pid);
    agent.daemon.as_mut().unwrap().kill();
    assert!(alive(first as u32), "the job lives without its agent");
    agent.run();
    eventually("the agent to be back", || (agent.log().matches("connected").count() >= 2).then_some(()));
    assert_eq!(pid(), Some(first));
    std::fs::write(&go, "").unwrap();
    let waited = c.reeve(&["wait", "1"]);
    assert!(waited.status.success(), "{}", words(&waited));
    assert_eq!(c.job("1")["attempt"], 1);
    let log = String::from_utf8(c.reeve(&["logs", "1"]).stdout).unwrap();
    assert!(log.starts_with("before\n1\n") && log.ends_with("5000\nafter\n"), "output is complete");
    assert_eq!(log.lines().count(), 5002);
}

fn refused(dir: &Path, socket: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(binary("reeve-coordinator"));
    command.arg("run").arg("--dir").arg(dir).arg("--socket").arg(socket).args(["--listen", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    (output.status.code(), words(&output))
}

#[test]
fn a_store_that_cannot_be_used_is_refused_with_74_and_the_way_out() {
    let base = tempfile::Builder::new().prefix("reeve-test-").tempdir().unwrap();
    let socket = base.path().join("s");
    let (code, said) = refused(&base.path().join("absent"), &socket);
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("reeve-coordinator init"), "{said}");

    let init = |name: &str| {
        let dir = base.path().join(name);
        let output =
            Command::new(binary("reeve-coordinator")).arg("init").arg("--dir").arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let store = std::fs::read_dir(&dir).unwrap().filter_map(Result::ok).map(|e| e.path());
        let store =
            store.into_iter().find(|p| std::fs::read(p).is_ok_and(|b| b.starts_with(b"SQLite format 3")));
        (dir, store.expect("a store"))
    };
    let (dir, store) = init("newer");
    Connection::open(&store).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let (code, said) = refused(&dir, &socket);
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("newer"), "{said}");

    let (dir, store) = init("damaged");
    let mut bytes = std::fs::read(&store).unwrap();
    bytes[100..4000].fill(0xa5);
    std::fs::write(&store, bytes).unwrap();
    let (code, said) = refused(&dir, &socket);
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("damaged") && said.contains("restore"), "{said}");
}

#[test]
fn a_second_coordinator_on_one_directory_is_refused_and_the_first_serves_on() {
    let c = Coordinator::start("127.0.0.1:0");
    let (code, said) = refused(&c.data(), &c.dir.path().join("other"));
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("in use by process"), "{said}");
    let again = c.command(&["init"]).output().unwrap();
    assert!(!again.status.success() && words(&again).contains("already"), "{}", words(&again));
    assert_eq!(reeve_tests::http::get(&c.socket(), "/v1/health").status, 200);
}
