//! The system calls that no safe crate offers: fork without exec, memory given back, `clone(CLONE_VM | CLONE_VFORK)` with a child that makes
//! raw system calls only, signal dispositions, resource use of children. The one place with `unsafe`; no policy here.
#![expect(
    unsafe_code,
    reason = "fork, clone and sigaction have no safe form; every block says why it is sound"
)]
use serde::{Deserialize, Serialize};
use std::ffi::{CString, c_int, c_long, c_void};
use std::io;
use std::ops::Range;
use std::os::fd::{FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;

/// The user that a command runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// What the child does before and with `execve`.
pub(crate) struct ChildSpec<'a> {
    /// Tried in order, as `execvp` does.
    pub(crate) candidates: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: &'a CString,
    /// Standard input, output and error; each above 2, or in its own place already.
    pub(crate) stdio: [RawFd; 3],
    /// The lists of control groups that the child enters.
    pub(crate) groups: &'a [RawFd],
    /// `None`: stay who we are.
    pub(crate) user: Option<&'a Identity>,
    pub(crate) no_new_privs: bool,
    /// Bytes of RLIMIT_DATA, the most that one process may have of memory of its own.
    pub(crate) data_limit: Option<u64>,
}

/// Where a child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No process could be made.
    Clone,
    /// Session, user or descriptors.
    Prepare,
    /// Its control group.
    Group,
    /// The working directory.
    Cwd,
    /// `execve` of the last candidate that said something else than "not there".
    Exec,
}

/// A child that did not become the command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: i32,
}

/// What the children that were waited for have used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu_ms: u64,
    pub(crate) rss_peak: u64,
}

/// Signals whose disposition the keeper changes; a command gets the default of each.
const CHANGED: [c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE, libc::SIGCHLD];
/// More than [`child`] needs: memory of this size comes from the kernel as zeroes, and only the touched page costs.
const STACK: usize = 256 * 1024;
/// How far a guardian's calls reach down at most; what lies deeper stays as it is.
const DEEP: usize = 256 * 1024;
/// Below the stack pointer, more than a function without calls may use unasked, and than this one's frame has.
const RED: usize = 1024;
/// The smallest page there is; where pages are larger the kernel refuses what is not a multiple, and nothing is given back.
const PAGE: usize = 4096;

/// A copy of this process, `None` in the copy. It is a child of our parent: the keeper finds its guardians among its own
/// children, whichever zygote has forked them.
pub(crate) fn fork_sibling() -> io::Result<Option<u32>> {
    let flags = c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: as fork, for which the library has no name with this flag: no memory is shared, the stack is copied, and no
    // pointer is passed. The caller, the zygote, has one thread, so the copy may use the whole library. What the library's
    // fork does besides, such as making its locks anew, is for processes with several threads.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid as u32)),
    }
}

/// Gives what is free on the heap back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and touches only memory that the allocator knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of these parts of the program; whatever is used again comes back from its file.
///
/// Only for mappings of files that cannot be written and of which no page was changed.
pub(crate) fn unmap_program(parts: &[Range<usize>]) {
    for part in parts {
        let start = ptr::with_exposed_provenance_mut(part.start);
        // SAFETY: such a page has the same bytes before and after, from the file that it is mapped from.
        unsafe { libc::madvise(start, part.len(), libc::MADV_DONTNEED) };
    }
}

/// Gives back the pages of the stack below the caller's: calls that have returned have left them behind. For a process's
/// first thread alone.
#[inline(never)]
pub(crate) fn release_stack() {
    let here = 0u8;
    let here = (&raw const here).expose_provenance();
    // This call's own frame, and the red zone below it.
    let end = here.saturating_sub(RED) & !(PAGE - 1);
    let start = ptr::with_exposed_provenance_mut(end.saturating_sub(DEEP));
    // SAFETY: below the frame of the last call of the only thread there is nothing in use, and the kernel keeps more free
    // addresses below a first thread's stack than DEEP.
    unsafe { libc::madvise(start, DEEP, libc::MADV_DONTNEED) };
}

/// Ends this process without running anything else, destructors of the copied keeper least of all.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: the caller is a fresh guardian: the owners of these descriptors in its copied memory are never used or
    // dropped, since it leaves by `exit_now`.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

/// Puts `from` at exactly `to`, which is overwritten.
pub(crate) fn move_fd(from: RawFd, to: RawFd) -> io::Result<()> {
    if from == to {
        return Ok(());
    }
    // SAFETY: as for `close_from`: whoever owned `to` in the copied memory is never used again.
    if unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The stream whose descriptor was moved to `fd` by [`move_fd`].
pub(crate) fn adopt_stream(fd: RawFd) -> UnixStream {
    // SAFETY: `fd` was just made by `move_fd` and has no other owner that is ever used.
    unsafe { UnixStream::from_raw_fd(fd) }
}

/// Sets the dispositions of a keeper: every signal as the system has it, but HUP, INT and PIPE ignored, and children
/// reaped by the kernel (a guardian tells its end itself).
pub(crate) fn keeper_signals() {
    for signal in 1..32 {
        disposition(signal, libc::SIG_DFL);
    }
    for signal in CHANGED {
        disposition(signal, libc::SIG_IGN);
    }
}

/// A guardian must wait for its children itself.
pub(crate) fn guardian_signals() {
    disposition(libc::SIGCHLD, libc::SIG_DFL);
}

fn disposition(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: no handler function is installed, only SIG_DFL or SIG_IGN; KILL and STOP are refused by the kernel.
    unsafe { libc::signal(signal, handler) };
}

/// A child that has ended, or what there is to know otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waited {
    /// One more has ended: its process id, the kernel's word about how, what it and its own children used.
    Ended(u32, c_int, Used),
    /// Children are left and none has ended.
    Alive,
    /// No child is left.
    Empty,
}

/// Reaps one child without waiting.
pub(crate) fn wait_any() -> Waited {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    let ms = |t: libc::timeval| t.tv_sec as u64 * 1000 + t.tv_usec as u64 / 1000;
    match pid {
        0 => Waited::Alive,
        pid if pid < 0 => Waited::Empty,
        pid => {
            let cpu_ms = ms(usage.ru_utime) + ms(usage.ru_stime);
            Waited::Ended(
                pid.unsigned_abs(),
                status,
                Used { cpu_ms, rss_peak: usage.ru_maxrss as u64 * 1024 },
            )
        }
    }
}

/// What parent and child share while the parent is suspended.
struct Shared<'a> {
    spec: &'a ChildSpec<'a>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    failed: Option<Failure>,
}

/// Starts the command; its process id. As fast as `posix_spawn`, which can do little of what the child does.
pub(crate) fn spawn(spec: &ChildSpec<'_>) -> Result<u32, Failure> {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
    };
    let mut shared = Shared { spec, argv: pointers(spec.argv), env: pointers(spec.env), failed: None };
    let mut stack = vec![0u128; STACK / 16];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `child` runs on its own stack, which outlives it, because CLONE_VFORK suspends this thread until the child
    // has called execve or _exit. It makes raw system calls, allocates nothing and touches only `shared`.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        libc::clone(child, top, flags, (&raw mut shared).cast())
    };
    if pid < 0 {
        return Err(Failure { stage: Stage::Clone, errno: errno() });
    }
    // SAFETY: read as volatile: the compiler does not know that another process has written it.
    match unsafe { ptr::read_volatile(&raw const shared.failed) } {
        None => Ok(pid.unsigned_abs()),
        Some(failure) => {
            // SAFETY: waits for the child that has just left; a null status is allowed.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The child between `clone` and `execve`.
extern "C" fn child(arg: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a Shared that lives until this function is done, and does not run meanwhile.
    let shared = unsafe { &mut *arg.cast::<Shared<'_>>() };
    shared.failed = become_command(shared).err();
    // SAFETY: a raw exit of this process only.
    unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    127
}

/// Returns only with a failure.
fn become_command(shared: &Shared<'_>) -> Result<(), Failure> {
    let spec = shared.spec;
    let prepare = |result: c_long| check(result, Stage::Prepare);
    // SAFETY: raw system calls with pointers into `shared`, which outlives them. Raw, because the
    // library's setuid family would signal the threads of a process whose memory is only borrowed here.
    unsafe {
        prepare(libc::syscall(libc::SYS_setsid))?;
        let default_action = [0u64; 8];
        for signal in CHANGED {
            libc::syscall(libc::SYS_rt_sigaction, signal, default_action.as_ptr(), ptr::null::<c_void>(), 8);
        }
        libc::syscall(libc::SYS_umask, 0o022);
        if let Some(bytes) = spec.data_limit {
            let limit = libc::rlimit64 { rlim_cur: bytes, rlim_max: bytes };
            // One that is lower already stays, and cannot be raised: that is no error.
            let old = ptr::null_mut::<c_void>();
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_DATA, &raw const limit, old);
        }
        // While we are still who may do so.
        for group in spec.groups {
            check(libc::syscall(libc::SYS_write, *group, c"0".as_ptr(), 1), Stage::Group)?;
        }
        if let Some(user) = spec.user {
            prepare(libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()))?;
            prepare(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid))?;
            prepare(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid))?;
        }
        if spec.no_new_privs {
            prepare(libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
        for (to, from) in spec.stdio.iter().enumerate() {
            if *from != to as RawFd {
                prepare(libc::syscall(libc::SYS_dup3, *from, to, 0))?;
            }
        }
        // After the user is set: whether the directory can be entered is the user's affair.
        check(libc::syscall(libc::SYS_chdir, spec.cwd.as_ptr()), Stage::Cwd)?;
        libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0);
        let nothing_blocked = 0u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const nothing_blocked,
            ptr::null::<c_void>(),
            8,
        );
        Err(Failure { stage: Stage::Exec, errno: execute(shared) })
    }
}

/// Tries every candidate; the error worth telling when none could be executed.
///
/// # Safety
/// The vectors of `shared` end with a null pointer.
unsafe fn execute(shared: &Shared<'_>) -> i32 {
    let mut worth = libc::ENOENT;
    for candidate in shared.spec.candidates {
        // SAFETY: null-terminated strings and vectors that outlive the call.
        unsafe {
            libc::syscall(libc::SYS_execve, candidate.as_ptr(), shared.argv.as_ptr(), shared.env.as_ptr())
        };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            // As execvp: something is there, but perhaps a later directory has one that may be executed.
            libc::EACCES => worth = libc::EACCES,
            other => return other,
        }
    }
    worth
}

fn check(result: c_long, stage: Stage) -> Result<(), Failure> {
    if result < 0 { Err(Failure { stage, errno: errno() }) } else { Ok(()) }
}
