//! The guardian's protocol: five messages, frozen by a byte test. A guardian may be months old when a new keeper
//! finds it, so this is the one surface that can never change; only new kinds may be added. Some were: Prepared
//! and those about artifacts, which an older keeper leaves unread.
//!
//! Over its Unix socket (one per attempt, in the runtime directory). Peer -> guardian: Hello, Signal, Output, Forget.
//! Guardian -> peer: State (at once after Hello, and whenever it changes), Output.
use crate::artifact::Artifact;
use crate::cause::WireCause;
use crate::ids::AttemptId;
use serde::{Deserialize, Serialize};

/// The numbers of the five kinds; apart from those of [`crate::wire::kind`].
pub mod kind {
    /// A peer shows that it belongs here.
    pub const HELLO: u16 = 101;
    /// What the attempt is doing, or how it ended.
    pub const STATE: u16 = 102;
    /// Signal or stop the attempt.
    pub const SIGNAL: u16 = 103;
    /// Ask for output; carry output.
    pub const OUTPUT: u16 = 104;
    /// The end is on disk: leave.
    pub const FORGET: u16 = 105;
    /// After State: what comes before the command, and what came of it.
    pub const PREPARED: u16 = 106;
    /// Before State in phase 3: the files that were collected.
    pub const ARTIFACTS: u16 = 107;
    /// As Output, of the bytes of all files one after the other.
    pub const ARTIFACT_BYTES: u16 = 108;
}

/// A peer shows that it belongs here. Its uid is checked too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The word in the runtime directory's `nonce` file.
    pub nonce: String,
}

/// What the attempt is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The store lineage it came from.
    pub lineage: String,
    /// 1 running, 2 stopping, 3 ended.
    pub phase: u16,
    /// The guardian's process.
    pub guardian_pid: u32,
    /// The command's process; 0 if it could not be started.
    pub pid: u32,
    /// When it started, in wall milliseconds; 0 if it could not be started.
    pub started_ms: i64,
    /// When it ended, in wall milliseconds; 0 while it runs.
    pub ended_ms: i64,
    /// Why it ended; meaningful in phase 3.
    pub cause: WireCause,
    /// Cpu time of the whole tree, in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident set of one process, in bytes.
    pub rss_peak: u64,
    /// Length of the tape.
    pub tape: u64,
    /// The tape itself in phase 3, when it has at most [`crate::wire::INLINE_OUTPUT`] bytes.
    pub output: Vec<u8>,
    /// The JSON of REEVE_RESULT in phase 3.
    pub result: Option<Vec<u8>>,
    /// Thousandths of cpus it holds.
    pub cpu_milli: u32,
    /// Bytes of memory it holds.
    pub memory_bytes: u64,
}

/// Signal or stop the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// 0: stop it, TERM to the group and KILL to the whole tree after the grace. Else a plain signal to the group.
    pub signal: u16,
    /// Between TERM and KILL, in milliseconds. With `renew`: up to when the coordinator is known to have heard this machine,
    /// in milliseconds of the boot-time clock.
    pub grace_ms: u64,
    /// The cause its end gets when it is stopped.
    pub cause: WireCause,
    /// With signal 0 and this set, nothing is stopped: the lease of an exclusive job is counted from a later moment.
    pub renew: bool,
}

/// From a peer: ask for the tape from `from`; the answer comes when there is more than that, or the end.
/// To a peer: bytes of the tape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// First byte.
    pub from: u64,
    /// The bytes, at most 256 KiB; empty in a request.
    pub bytes: Vec<u8>,
    /// Nothing will follow.
    pub end: bool,
}

/// The attempt needs something before its command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Which attempt.
    pub attempt: AttemptId,
    /// When that began, in wall milliseconds.
    pub began_ms: i64,
    /// The commit that is checked out; empty until it is known.
    pub commit: String,
}

/// Files were collected of the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifacts {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The files, in the order of their bytes.
    pub files: Vec<Artifact>,
}

/// The end is on disk: leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Always 1; other values are kept for later.
    pub reason: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame, ids::TaskId};

    /// These bytes may never change: a running guardian speaks them.
    #[test]
    fn the_five_messages_are_frozen() {
        let mut out = Vec::new();
        let cause = WireCause { code: 2, number: 3, word: "w".into(), detail: "d".into() };
        frame::append(kind::HELLO, 0, &Hello { nonce: "n".into() }, &mut out).unwrap();
        let state = State {
            attempt: TaskId::of_array(7, 1).attempt(2),
            lineage: "l".into(),
            phase: 3,
            guardian_pid: 10,
            pid: 11,
            started_ms: 12,
            ended_ms: 13,
            cause: cause.clone(),
            cpu_ms: 14,
            rss_peak: 15,
            tape: 16,
            output: vec![17],
            result: Some(vec![18]),
            cpu_milli: 19,
            memory_bytes: 20,
        };
        frame::append(kind::STATE, 0, &state, &mut out).unwrap();
        frame::append(kind::SIGNAL, 0, &Signal { signal: 0, grace_ms: 21, cause, renew: true }, &mut out)
            .unwrap();
        frame::append(kind::OUTPUT, 0, &Output { from: 22, bytes: vec![23], end: true }, &mut out).unwrap();
        frame::append(kind::FORGET, 0, &Forget { reason: 1 }, &mut out).unwrap();
        let prepared = Prepared { attempt: TaskId::single(7).attempt(1), began_ms: 24, commit: "c".into() };
        frame::append(kind::PREPARED, 0, &prepared, &mut out).unwrap();
        let file = Artifact { name: "n".into(), size: 25, mode: 26, sha256: "s".into() };
        let artifacts = Artifacts { attempt: TaskId::single(7).attempt(1), files: vec![file] };
        frame::append(kind::ARTIFACTS, 0, &artifacts, &mut out).unwrap();
        let bytes = Output { from: 27, bytes: vec![28], end: false };
        frame::append(kind::ARTIFACT_BYTES, 0, &bytes, &mut out).unwrap();
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/guardian.hex").trim());
    }
}
