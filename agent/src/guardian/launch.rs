//! From a Start to a running command: its directory, its files, its pipes, its process; and words for what failed.
use super::environment::{self, Facts};
use super::replica::Pipes;
use super::sys::{self, ChildSpec, Failure, Identity, Stage};
use reeve_protocol::cause::Cause;
use reeve_protocol::text::Clean;
use reeve_protocol::wire::Start;
use rustix::fs::MemfdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

/// What a guardian needs to start its command.
pub(crate) struct Order<'a> {
    pub(crate) start: &'a Start,
    /// `None`: as the keeper's own user.
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) no_new_privs: bool,
    /// As of [`ChildSpec`].
    pub(crate) data_limit: Option<u64>,
    /// The lists of control groups that it enters.
    pub(crate) groups: &'a [i32],
    pub(crate) facts: Facts<'a>,
    /// Of a replica that is spoken to through its standard input and output.
    pub(crate) pipes: Option<&'a Pipes>,
}

/// A command that runs.
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// `None`: somebody else reads it.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: OwnedFd,
}

/// Starts the command.
///
/// # Errors
/// The cause that the attempt ends with.
pub(crate) fn launch(order: &Order<'_>) -> Result<Running, Cause> {
    let Some(program) = order.start.command.first().filter(|p| !p.is_empty()) else {
        return Err(spawn_cause(libc::ENOENT, "the command is empty".to_owned()));
    };
    write_payload(order).map_err(|e| refused("its payload cannot be written", &e))?;
    let env = environment::complete(order.start, &order.facts);
    let path = env.get("PATH").map_or(order.facts.path, String::as_str);
    let candidates = environment::candidates(program, path);
    let cwd = order.start.cwd.as_deref().unwrap_or(order.facts.workdir);
    let strings =
        |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(cwd_c)) = (strings(&order.start.command), CString::new(cwd)) else {
        return Err(spawn_cause(libc::EINVAL, "a NUL character in the command or directory".to_owned()));
    };
    let io = |e: io::Error| refused("no pipe for its output", &e);
    let ours = order.pipes.is_none().then(output_pipe).transpose().map_err(io)?;
    let (stdout, stdout_end) = ours.map_or((None, None), |(read, write)| (Some(read), Some(write)));
    let (stderr, stderr_end) = output_pipe().map_err(io)?;
    let stdin = stdin_file(order.start).map_err(io)?;
    let spec = ChildSpec {
        candidates: &candidates,
        argv: &argv,
        env: &environment::strings(&env),
        cwd: &cwd_c,
        // Without input the command gets the guardian's own standard input, which is /dev/null.
        stdio: [
            order
                .pipes
                .map_or_else(|| stdin.as_ref().map_or(0, std::os::fd::AsRawFd::as_raw_fd), Pipes::stdin),
            stdout_end
                .as_ref()
                .map_or_else(|| order.pipes.map_or(1, Pipes::stdout), std::os::fd::AsRawFd::as_raw_fd),
            stderr_end.as_raw_fd(),
        ],
        groups: order.groups,
        user: order.identity,
        no_new_privs: order.no_new_privs,
        data_limit: order.data_limit,
    };
    match sys::spawn(&spec) {
        Ok(pid) => Ok(Running { pid, stdout, stderr }),
        Err(failure) => Err(explain(failure, program, cwd, path, order.facts.machine)),
    }
}

fn write_payload(order: &Order<'_>) -> io::Result<()> {
    let Some(payload) = &order.start.payload else { return Ok(()) };
    let path = format!("{}/{}", order.facts.workdir, environment::PAYLOAD);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(payload)?;
    match order.identity {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// The guardian's end never blocks, the command's end is an ordinary pipe.
pub(super) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Input is a file in memory: nobody has to feed a pipe, and the command may seek.
fn stdin_file(start: &Start) -> io::Result<Option<File>> {
    start.stdin.as_deref().map(memory_file).transpose()
}

/// A file in memory with these bytes, at its beginning.
pub(super) fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

pub(crate) fn refused(what: &str, error: &io::Error) -> Cause {
    let errno = error.raw_os_error().unwrap_or(0);
    if errno == libc::ENOSPC || errno == libc::EDQUOT {
        return Cause::NoSpace;
    }
    spawn_cause(errno, format!("{what}: {error}"))
}

fn spawn_cause(errno: i32, detail: String) -> Cause {
    Cause::Spawn { errno: errno_name(errno), detail }
}

/// What was tried, where, and what helps.
fn explain(failure: Failure, program: &str, cwd: &str, path: &str, machine: &str) -> Cause {
    let Failure { stage, errno } = failure;
    let (shown, cwd) = (Clean::short(program, 200), Clean::short(cwd, 300));
    let system = io::Error::from_raw_os_error(errno);
    match (stage, errno) {
        (Stage::Cwd, libc::ENOENT) => Cause::Spawn {
            errno: "cwd".to_owned(),
            detail: format!("there is no directory {cwd} on machine {machine}"),
        },
        (Stage::Cwd, _) => Cause::Spawn {
            errno: "cwd".to_owned(),
            detail: format!("directory {cwd} on machine {machine} cannot be entered: {system}"),
        },
        (Stage::Exec, libc::ENOENT) if program.contains('/') => spawn_cause(
            errno,
            format!("there is no {shown}, or no interpreter it names, on machine {machine}"),
        ),
        (Stage::Exec, libc::ENOENT) => {
            let hint = if program.contains(' ') { "; a whole command line needs: sh -c" } else { "" };
            let path = Clean::short(path, 300);
            spawn_cause(errno, format!("program {shown} not found on machine {machine} in PATH={path}{hint}"))
        }
        (Stage::Exec, libc::EACCES) => {
            spawn_cause(errno, format!("{shown} may not be executed on machine {machine}; perhaps: chmod +x"))
        }
        (Stage::Exec, libc::ENOEXEC) => spawn_cause(
            errno,
            format!(
                "{shown} is no program of machine {machine}; a script needs a first line such as #!/bin/sh"
            ),
        ),
        (stage, _) => spawn_cause(
            errno,
            format!("{shown} could not be started on machine {machine} ({stage:?}): {system}"),
        ),
    }
}

/// The kernel's name of an error.
pub(crate) fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::ENOEXEC => "ENOEXEC",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EEXIST => "EEXIST",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ETXTBSY => "ETXTBSY",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ELOOP => "ELOOP",
        libc::EDQUOT => "EDQUOT",
        _ => return format!("E{errno}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stage: Stage, errno: i32, program: &str) -> (String, String) {
        match explain(Failure { stage, errno }, program, "/data", "/bin", "m1") {
            Cause::Spawn { errno, detail } => (errno, detail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_failure_names_machine_and_thing() {
        for (stage, errno, program, word, part) in [
            (Stage::Cwd, libc::ENOENT, "x", "cwd", "no directory /data on machine m1"),
            (Stage::Cwd, libc::EACCES, "x", "cwd", "cannot be entered"),
            (
                Stage::Exec,
                libc::ENOENT,
                "nope",
                "ENOENT",
                "program nope not found on machine m1 in PATH=/bin",
            ),
            (Stage::Exec, libc::ENOENT, "echo a", "ENOENT", "sh -c"),
            (Stage::Exec, libc::ENOENT, "./x", "ENOENT", "no interpreter"),
            (Stage::Exec, libc::EACCES, "./x", "EACCES", "chmod +x"),
            (Stage::Exec, libc::ENOEXEC, "./x", "ENOEXEC", "#!/bin/sh"),
            (Stage::Clone, libc::EAGAIN, "x", "EAGAIN", "could not be started"),
        ] {
            let (errno, detail) = told(stage, errno, program);
            assert_eq!(errno, word);
            assert!(detail.contains(part) && detail.contains("m1"), "{detail}");
        }
    }

    #[test]
    fn names_never_carry_control_characters_and_a_full_disk_is_its_own_cause() {
        assert!(!told(Stage::Exec, libc::ENOENT, "a\u{1b}[2Jb").1.contains('\u{1b}'));
        assert_eq!(refused("x", &io::Error::from_raw_os_error(libc::ENOSPC)), Cause::NoSpace);
        assert_eq!(errno_name(4095), "E4095");
    }
}
