//! What nobody should say to a keeper or a guardian: each connection ends alone, attempts go on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is the report")]
mod common;
use common::{GuardianLink, Rig, lives};
use reeve_protocol::frame::{self, Frame, OPTIONAL};
use reeve_protocol::guardian;
use reeve_protocol::ids::TaskId;
use reeve_protocol::wire::{Forget, InventoryEnd, Revoke, Start, Stop, kind};
use reeve_protocol::{AttemptId, Cause};
use std::io::{Read as _, Write as _};

fn raw(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append_raw(&Frame { kind, flags, body: body.to_vec() }, &mut bytes);
    bytes
}

fn framed<T: serde::Serialize>(kind: u16, body: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(kind, 0, body, &mut bytes).unwrap();
    bytes
}

/// Attempts that no keeper was ever given.
fn invented() -> [AttemptId; 4] {
    let extreme = TaskId::of_array(u64::MAX, u32::MAX);
    [
        TaskId::single(0).attempt(0),
        TaskId::single(999).attempt(1),
        extreme.attempt(0),
        extreme.attempt(u32::MAX),
    ]
}

#[test]
fn a_keeper_ends_the_connection_that_garbage_came_on_and_nothing_else() {
    let mut rig = Rig::new();
    let job = rig.job(&["sleep", "1000"]);
    let pid = rig.start(&job).pid;
    let cases = [
        ("ones", vec![0xff; 64]),
        ("a length of 4 GiB", [&u32::MAX.to_le_bytes()[..], &[10, 0, 0, 0]].concat()),
        ("a kind of no version", raw(999, 0, b"")),
        ("a Start that is none", raw(kind::START, 0, &[0xfe; 40])),
        ("no body", raw(kind::STOP, 0, b"")),
        ("what only a keeper says", framed(kind::INVENTORY_END, &InventoryEnd { count: 1 })),
        (
            "a Start and a byte",
            raw(kind::START, 0, &[&framed(kind::START, &Start::default())[8..], b"x"].concat()),
        ),
    ];
    for (what, bytes) in cases {
        let mut visitor = rig.visit();
        visitor.set_read_timeout(Some(common::PATIENCE)).unwrap();
        // Its first word makes it the agent; the one before is let go, as when an agent was restarted.
        visitor.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // Closed, or reset because some of it was never read.
        let ended = visitor.read_to_end(&mut rest).map_err(|e| e.kind());
        assert!(matches!(ended, Ok(_) | Err(std::io::ErrorKind::ConnectionReset)), "{what}: {ended:?}");
        assert!(lives(pid), "after {what}");
        assert_eq!(GuardianLink::connect(&rig.root, job.attempt).state().phase, 1, "after {what}");
    }
    // Half a frame, and silence: the next agent is served all the same.
    let mut half = rig.visit();
    half.write_all(&framed(kind::START, &job)[..30]).unwrap();
    rig.reconnect();
    for attempt in invented() {
        rig.send(kind::STOP, &Stop { attempt, cause: Cause::Cancelled.to_wire(), grace_ms: u64::MAX });
        rig.send(kind::REVOKE, &Revoke { attempt });
        rig.send(kind::FORGET, &Forget { attempts: vec![attempt; 3] });
    }
    rig.send_raw(&raw(999, OPTIONAL, b"for later versions"));
    let next = rig.job(&["echo", "served"]);
    assert_eq!(common::stdout(&rig.run(&next)), "served\n");
    assert!(lives(pid));
}

#[test]
fn a_guardian_takes_garbage_halves_and_crowds_without_a_loss() {
    let mut rig = Rig::new();
    let gate = rig.root.join("gate");
    let job = rig.sh(&format!("while ! test -e {}; do sleep 0.02; done; echo whole", gate.display()));
    rig.start(&job);
    let nonce = std::fs::read_to_string(rig.root.join("nonce")).unwrap();
    let hello = framed(guardian::kind::HELLO, &guardian::Hello { nonce });
    for (what, bytes) in [
        ("a length of 4 GiB", [&u32::MAX.to_le_bytes()[..], &[101, 0, 0, 0]].concat()),
        ("a Hello that is none", raw(guardian::kind::HELLO, 0, b"x")),
        ("an endless nonce", framed(guardian::kind::HELLO, &guardian::Hello { nonce: "n".repeat(900_000) })),
        ("a kind of no version", [&hello[..], &raw(999, 0, b"")].concat()),
        ("a Signal that is none", [&hello[..], &raw(guardian::kind::SIGNAL, 0, &[9; 3])].concat()),
        ("the keeper's own word", [&hello[..], &raw(191, 0, b"")].concat()),
    ] {
        let mut link = GuardianLink::raw(&rig.root, job.attempt);
        let _ = link.stream.write_all(&bytes);
        while let Some(frame) = link.next() {
            assert_eq!(frame.kind, guardian::kind::STATE, "{what}");
        }
    }
    // A crowd that says half a word each and stays: whoever knows the nonce is heard all the same.
    let crowd: Vec<GuardianLink> = (0..200)
        .filter_map(|_| {
            let mut link = GuardianLink::raw(&rig.root, job.attempt);
            link.stream.write_all(&hello[..10]).ok().map(|()| link)
        })
        .collect();
    let mut link = GuardianLink::connect(&rig.root, job.attempt);
    assert_eq!(link.state().phase, 1);
    // Signals of no number, and output from beyond every end.
    let cause = Cause::Cancelled.to_wire();
    for signal in [65, 999, u16::MAX] {
        link.send(
            guardian::kind::SIGNAL,
            &guardian::Signal { signal, grace_ms: u64::MAX, cause: cause.clone(), renew: false },
        );
    }
    link.send(guardian::kind::OUTPUT, &guardian::Output { from: u64::MAX, bytes: vec![1; 1000], end: true });
    std::fs::write(&gate, "").unwrap();
    let end = rig.finish(job.attempt);
    drop(crowd);
    assert_eq!((Cause::from_wire(end.cause.clone()), common::stdout(&end).as_str()), (Cause::Ok, "whole\n"));
}
