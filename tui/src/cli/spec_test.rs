//! Every option of `submit` ends in the field that the contract names.
use crate::cli::args::{Args, Command};
use crate::cli::error::Error;
use crate::cli::spec::Surroundings;
use clap::Parser as _;
use reeve_protocol::JobSpec;
use serde_json::{Value, json};

fn here() -> Surroundings {
    let env = [("LANG", "C"), ("PWD", "/home/ana/x"), ("REEVE_HOST", "/s"), ("TOKEN", "t")];
    Surroundings {
        cwd: Some("/home/ana/x".into()),
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect(),
    }
}

fn spec_of(words: &str) -> Result<JobSpec, Error> {
    let words = shlex::split(words).unwrap();
    let args = Args::try_parse_from(["reeve", "submit"].map(str::to_owned).into_iter().chain(words)).unwrap();
    let Some(Command::Submit(submit)) = args.command else { panic!("not submit") };
    submit.without_dependencies(&here())
}

/// The spec as JSON without the command and the directory, which every case has.
fn rest_of(words: &str) -> Value {
    let mut value = serde_json::to_value(spec_of(words).unwrap()).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("command");
    fields.remove("cwd");
    value
}

#[test]
fn a_bare_command_carries_the_directory_and_nothing_else() {
    let value = serde_json::to_value(spec_of("-- echo hi").unwrap()).unwrap();
    assert_eq!(value, json!({"command": ["echo", "hi"], "cwd": "/home/ana/x"}));
}

#[test]
fn a_mistyped_option_is_not_taken_for_the_command() {
    for (words, wanted) in [
        ("--wiat -- true", "reeve submit has no option \"--wiat\"; did you mean --wait?"),
        ("--prioritty=5 true", "reeve submit has no option \"--prioritty\"; did you mean --priority?"),
        ("-x", "reeve submit has no option \"-x\""),
    ] {
        let error = spec_of(words).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert_eq!(spec_of("-- ./-x --wait").unwrap().command.unwrap(), ["./-x", "--wait"]);
}

#[test]
fn each_option_sets_its_field() {
    for (words, wanted) in [
        ("--name a -- x", json!({"name": "a"})),
        ("--queue q -- x", json!({"queue": "q"})),
        ("-q q -p -5 -- x", json!({"queue": "q", "priority": -5})),
        ("--payload '{\"a\":1}' -- x", json!({"payload": {"a": 1}})),
        ("--label a=b --label c=d -- x", json!({"labels": {"a": "b", "c": "d"}})),
        (
            "--cpus 0.5 --memory 4GiB --gpus 1 -- x",
            json!({"resources": {"cpus": 0.5, "memory_bytes": 4_294_967_296_u64, "gpus": 1.0}}),
        ),
        ("--resource licence=2 -- x", json!({"resources": {"named": {"licence": 2}}})),
        ("--on gpu-* --not-on label.a=b -- x", json!({"on": ["gpu-*"], "not_on": ["label.a=b"]})),
        (
            "--priority 3 --retries 2 --timeout 30m -- x",
            json!({"priority": 3, "retries": 2, "timeout_s": 1800.0}),
        ),
        ("--delay 5m -- x", json!({"delay_s": 300.0})),
        ("--at 2026-11-24T10:00:00Z -- x", json!({"at": "2026-11-24T10:00:00.000Z"})),
        (
            "--expires 2h --lost-after never --exclusive -- x",
            json!({"expires_s": 7200.0, "lost_after_s": "never", "exclusive": true}),
        ),
        ("--array 1-1000%50 -- x", json!({"array": {"from": 1, "to": 1000, "limit": 50}})),
        ("--limit db=4 -- x", json!({"limits": {"db": 4}})),
        ("--env K=V --env E= -- x", json!({"env": {"K": "V", "E": ""}})),
        ("--inherit-env TOKEN -- x", json!({"env": {"TOKEN": "t"}})),
        ("--inherit-env TOKEN --env TOKEN=u -- x", json!({"env": {"TOKEN": "u"}})),
        ("--inherit-env all -- x", json!({"env": {"LANG": "C", "TOKEN": "t"}})),
        (
            "--out *.ckpt --out logs --out-max 2GiB -- x",
            json!({"out": ["*.ckpt", "logs"], "out_max_bytes": 2_147_483_648_u64}),
        ),
        ("--hold --run-as bob --grace 3 -- x", json!({"hold": true, "run_as": "bob", "grace_s": 3.0})),
    ] {
        assert_eq!(rest_of(words), wanted, "{words}");
    }
}

#[test]
fn a_repository_or_worker_brings_its_own_directory() {
    let value =
        serde_json::to_value(spec_of("--repo https://x/r --ref main --subdir d -- make").unwrap()).unwrap();
    assert_eq!(
        value,
        json!({"command": ["make"], "git": {"url": "https://x/r", "ref": "main", "subdir": "d"}})
    );
    assert_eq!(serde_json::to_value(spec_of("--worker bank").unwrap()).unwrap(), json!({"worker": "bank"}));
}

#[test]
fn a_relative_directory_is_made_absolute() {
    for (dir, wanted) in
        [("sub", "/home/ana/x/sub"), ("./sub/", "/home/ana/x/sub"), (".", "/home/ana/x"), ("/t", "/t")]
    {
        assert_eq!(spec_of(&format!("--cwd {dir} -- x")).unwrap().cwd.as_deref(), Some(wanted), "{dir}");
    }
}

#[test]
fn files_give_items_and_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    std::fs::write(&path, "a\nb c\n").unwrap();
    let path = path.display();
    assert_eq!(rest_of(&format!("--each-line {path} -- x")), json!({"items": ["a", "b c"]}));
    assert_eq!(rest_of(&format!("--stdin {path} -- x")), json!({"stdin": "a\nb c\n"}));
}

#[test]
fn mistakes_are_usage_errors() {
    for words in ["", "--payload {a -- x", "--inherit-env NOPE -- x", "--stdin /nowhere/file -- x"] {
        let code = spec_of(words).unwrap_err().exit_code();
        assert!(matches!(code, 1 | 2), "{words}: {code}");
    }
}

#[test]
fn wrong_words_are_pointed_at_by_the_parser() {
    for words in [
        vec!["--cpus", "x", "--", "true"],
        vec!["--memory", "4XB", "--", "true"],
        vec!["--timeout", "soon", "--", "true"],
        vec!["--array", "9-1", "--", "true"],
        vec!["--delay", "5m", "--at", "10:00", "--", "true"],
        vec!["--label", "x", "--", "true"],
        vec!["--after", "x", "--", "true"],
    ] {
        let error = Args::try_parse_from(["reeve", "submit"].into_iter().chain(words.clone())).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
}

#[test]
fn options_of_later_versions_say_so() {
    for words in ["--canary 5 --array 1-9 -- x", "--max-fail 5% -- x"] {
        let Error::Problem(problem) = spec_of(words).unwrap_err() else { panic!("{words}") };
        assert_eq!(problem.code, "not-yet", "{words}");
    }
}
