//! The environment of a command: what only the machine knows, completed by what Start brings, which wins. Pure.
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::Start;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::CString;

/// The account a command runs under, as the machine's user database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// What the keeper knows and Start does not.
pub(crate) struct Facts<'a> {
    pub(crate) account: &'a Account,
    /// Directories where programs are looked for.
    pub(crate) path: &'a str,
    /// The machine's name.
    pub(crate) machine: &'a str,
    /// The attempt's own directory, absolute.
    pub(crate) workdir: &'a str,
    /// What lies below it at the end is kept, absolute.
    pub(crate) out_dir: &'a str,
    /// Where its guardian listens, absolute: no other attempt has this in its environment.
    pub(crate) socket: &'a str,
}

/// The variable that tells whose a process is.
pub(crate) const MARK: &str = "REEVE_GUARDIAN";
/// The file a job writes its progress to.
pub(crate) const STATUS: &str = "status";
/// The file a job writes its result to.
pub(crate) const RESULT: &str = "result";
/// The file with the job's payload.
pub(crate) const PAYLOAD: &str = "payload";

/// The complete environment. Of several entries with one name the last one of Start counts.
pub(crate) fn complete(start: &Start, facts: &Facts<'_>) -> BTreeMap<String, String> {
    let Facts { account, path, machine, workdir, out_dir, socket } = facts;
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("PATH", path);
    set("HOME", &account.home);
    set("USER", &account.name);
    set("LOGNAME", &account.name);
    set("SHELL", &account.shell);
    set("LANG", "C.UTF-8");
    set("TMPDIR", workdir);
    set("REEVE", "1");
    set("REEVE_MACHINE", machine);
    set("REEVE_WORKDIR", workdir);
    set("REEVE_OUT_DIR", out_dir);
    set("REEVE_STATUS", &format!("{workdir}/{STATUS}"));
    set("REEVE_RESULT", &format!("{workdir}/{RESULT}"));
    if start.payload.is_some() {
        set("REEVE_PAYLOAD", &format!("{workdir}/{PAYLOAD}"));
    }
    // With 0 gpus the variable is there and empty, or every job would sit on the first gpu.
    set("CUDA_VISIBLE_DEVICES", &start.gpus.join(","));
    set("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    set("PYTHONUNBUFFERED", "1");
    for (name, value) in &start.env {
        set(name, value);
    }
    set(MARK, socket);
    env
}

/// As `execve` takes it; a name or value that it cannot take is left out.
pub(crate) fn strings(env: &BTreeMap<String, String>) -> Vec<CString> {
    env.iter()
        .filter(|(name, _)| !name.is_empty() && !name.contains('='))
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect()
}

/// Where a program may be: itself when it names a path, else below each directory of `path`.
pub(crate) fn candidates(program: &str, path: &str) -> Vec<CString> {
    if program.contains('/') {
        return CString::new(program).into_iter().collect();
    }
    path.split(':')
        // An empty entry means the working directory in old shells; nobody wants that on a machine of others.
        .filter(|dir| dir.starts_with('/'))
        .filter_map(|dir| CString::new(format!("{dir}/{program}")).ok())
        .collect()
}

/// Where the guardian of an attempt listens, below the runtime directory.
pub(crate) fn socket_path(attempt: AttemptId) -> String {
    format!("g/{}", attempt.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env_of(start: &Start) -> BTreeMap<String, String> {
        let account = Account { name: "ana".into(), home: "/home/ana".into(), shell: "/bin/sh".into() };
        let facts = Facts {
            account: &account,
            path: "/usr/bin:/bin",
            machine: "gpu-07",
            workdir: "/rt/work/7",
            out_dir: "/rt/work/7.out",
            socket: "/rt/g/7.-1.1",
        };
        complete(start, &facts)
    }

    #[test]
    fn the_machine_fills_in_what_start_does_not_say() {
        let env = env_of(&Start::default());
        for (name, value) in [
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/home/ana"),
            ("LOGNAME", "ana"),
            ("LANG", "C.UTF-8"),
            ("TMPDIR", "/rt/work/7"),
            ("REEVE_STATUS", "/rt/work/7/status"),
            ("REEVE_MACHINE", "gpu-07"),
            ("CUDA_VISIBLE_DEVICES", ""),
            ("REEVE_GUARDIAN", "/rt/g/7.-1.1"),
            ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
            ("PYTHONUNBUFFERED", "1"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("REEVE_PAYLOAD"));
    }

    #[test]
    fn start_wins_and_its_last_entry_wins_most() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let start = Start {
            env: vec![pair("LANG", "de_DE"), pair("PYTHONUNBUFFERED", ""), pair("X", "1"), pair("X", "2")],
            gpus: vec!["GPU-a".into(), "GPU-b".into()],
            payload: Some(b"{}".to_vec()),
            ..Start::default()
        };
        let env = env_of(&start);
        assert_eq!((env["LANG"].as_str(), env["X"].as_str()), ("de_DE", "2"));
        assert_eq!(env["PYTHONUNBUFFERED"], "");
        assert_eq!(env["CUDA_VISIBLE_DEVICES"], "GPU-a,GPU-b");
        assert_eq!(env["REEVE_PAYLOAD"], "/rt/work/7/payload");
    }

    #[test]
    fn what_execve_cannot_take_is_left_out() {
        let env = [("A", "1"), ("", "x"), ("B=C", "x"), ("N", "a\0b")];
        let env = env.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        assert_eq!(strings(&env), [c"A=1".to_owned()]);
    }

    #[test]
    fn programs_are_looked_for_in_absolute_directories_only() {
        assert_eq!(candidates("./x", "/bin"), [c"./x".to_owned()]);
        assert_eq!(candidates("x", "/a::.:/b"), [c"/a/x".to_owned(), c"/b/x".to_owned()]);
        assert!(candidates("a\0b", "/a").is_empty());
    }
}
