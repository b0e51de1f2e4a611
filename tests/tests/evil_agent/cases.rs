//! What no agent says, and the code that it ends the session with: before Hello, before the inventory, and after it.
use reeve_protocol::frame::OPTIONAL;
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{Cause, TaskId};
use reeve_tests::evil::{Identity, finished, framed, header, machine, raw};

/// What is said, and the code that the session must end with.
pub(crate) type Case = (&'static str, Vec<u8>, &'static [u32]);

fn long(len: usize) -> String {
    "x".repeat(len)
}

pub(crate) fn hello_cases(evil: &Identity) -> Vec<Case> {
    let hello = || evil.hello();
    let good = framed(kind::HELLO, &hello());
    let body = &good[8..];
    let mut not_utf8 = body.to_vec();
    not_utf8[12] = 0xff;
    let mut absurd = body.to_vec();
    absurd[4..12].copy_from_slice(&(1u64 << 60).to_le_bytes());
    let say = |hello: &wire::Hello| framed(kind::HELLO, hello);
    vec![
        ("ones", vec![0xff; 100], &[close::TOO_LARGE]),
        ("a length of 4 GiB", header(u32::MAX, kind::HELLO), &[close::TOO_LARGE]),
        ("a length one above the limit", header(1024 * 1024 + 1, kind::HELLO), &[close::TOO_LARGE]),
        ("no body", header(0, kind::HELLO), &[close::MALFORMED]),
        ("kind 0", header(0, 0), &[close::UNEXPECTED]),
        ("an optional kind first", raw(999, OPTIONAL, b""), &[close::UNEXPECTED]),
        ("a Beat first", framed(kind::BEAT, &wire::Beat { number: 1, echo: 0 }), &[close::UNEXPECTED]),
        ("a Hello and a byte", raw(kind::HELLO, 0, &[body, b"x"].concat()), &[close::MALFORMED]),
        ("a Hello but for a byte", raw(kind::HELLO, 0, &body[..body.len() - 1]), &[close::MALFORMED]),
        ("no UTF-8", raw(kind::HELLO, 0, &not_utf8), &[close::MALFORMED]),
        ("an inner length of 2^60", raw(kind::HELLO, 0, &absurd), &[close::MALFORMED]),
        ("a long word", say(&wire::Hello { life: long(600), ..hello() }), &[close::TOO_LARGE]),
        ("many kinds", say(&wire::Hello { kinds: vec![7; 100_000], ..hello() }), &[close::TOO_LARGE]),
        ("version 0", say(&wire::Hello { version_min: 0, version_max: 0, ..hello() }), &[close::VERSION]),
        (
            "versions upside down",
            say(&wire::Hello { version_min: u16::MAX, version_max: 0, ..hello() }),
            &[close::VERSION],
        ),
        ("another cluster", say(&wire::Hello { cluster: long(16), ..hello() }), &[close::WRONG_CLUSTER]),
        ("another machine", say(&wire::Hello { machine: long(16), ..hello() }), &[close::UNAUTHORISED]),
        ("Join with a certificate", raw(kind::JOIN, 0, b""), &[close::UNEXPECTED]),
    ]
}

pub(crate) fn machine_cases() -> Vec<Case> {
    let say = |machine: &wire::Machine| framed(kind::MACHINE, machine);
    let labels = vec![("a".to_owned(), "b".to_owned()); 600];
    let of_machine = |attempt| wire::Revoke { attempt };
    let attempt = TaskId::single(1).attempt(1);
    let item = |n: u64| wire::InventoryItem {
        attempt: TaskId::single(n).attempt(1),
        lineage: "l".into(),
        phase: 1,
        pid: 1,
        started_ms: 1,
    };
    let page = |n: u64| framed(kind::INVENTORY, &wire::Inventory { items: (0..n).map(item).collect() });
    let mut endless = say(&machine());
    for _ in 0..101 {
        endless.extend(page(1000));
    }
    let with = |rest: Vec<u8>| [say(&machine()), rest].concat();
    let count = |count| framed(kind::INVENTORY_END, &wire::InventoryEnd { count });
    vec![
        ("Returned before Machine", framed(kind::RETURNED, &of_machine(attempt)), &[close::UNEXPECTED]),
        ("the inventory before Machine", page(1), &[close::UNEXPECTED]),
        ("its end before Machine", count(0), &[close::UNEXPECTED]),
        ("Machine twice", with(say(&machine())), &[close::UNEXPECTED]),
        ("the inventory twice", with([count(0), count(0)].concat()), &[close::UNEXPECTED]),
        ("a page after the end", with([count(0), page(1)].concat()), &[close::UNEXPECTED]),
        ("a wrong count", with([page(3), count(4)].concat()), &[close::MALFORMED]),
        ("a page that is too long", with(page(1001)), &[close::TOO_LARGE]),
        ("pages without end", endless, &[close::TOO_LARGE]),
        ("many labels", say(&wire::Machine { labels, ..machine() }), &[close::TOO_LARGE]),
        ("a long host name", say(&wire::Machine { hostname: long(600), ..machine() }), &[close::TOO_LARGE]),
    ]
}

fn answers(len: usize) -> wire::Answers {
    let replica = TaskId::single(1).attempt(1);
    let id = wire::RequestId { attempt: Some(TaskId::single(2).attempt(1)), call: 0 };
    let body = vec![b'1'; len];
    wire::Answers {
        items: vec![wire::Answer { replica, id, outcome: wire::outcome::RESULT, body, retry: false }],
    }
}

fn replicas(n: usize, words: usize) -> wire::Replicas {
    let attempt = TaskId::single(1).attempt(1);
    let state = wire::ReplicaState { attempt, phase: 3, fraction: None, message: Some(long(words)) };
    wire::Replicas { items: vec![state; n] }
}

pub(crate) fn session_cases(evil: &Identity) -> Vec<Case> {
    let attempt = TaskId::single(1).attempt(1);
    let end = || finished(attempt, Cause::Ok);
    let beats: Vec<u8> =
        (0..2000).flat_map(|n| framed(kind::BEAT, &wire::Beat { number: n, echo: u64::MAX })).collect();
    let progress = wire::Progress { attempt, fraction: None, message: Some(long(2000)) };
    let say = |end: &wire::Finished| framed(kind::FINISHED, end);
    let wordy = reeve_protocol::cause::WireCause { word: long(600), ..Cause::Ok.to_wire() };
    let mut cases: Vec<Case> = vec![
        ("a second Hello", framed(kind::HELLO, &evil.hello()), &[close::UNEXPECTED]),
        ("a kind of no version", raw(999, 0, b""), &[close::VERSION]),
        ("the highest kind", raw(u16::MAX, !OPTIONAL, b"x"), &[close::VERSION]),
        ("a flood of beats", beats, &[close::RATE]),
        ("a long message", framed(kind::PROGRESS, &progress), &[close::TOO_LARGE]),
        (
            "output above the limit",
            say(&wire::Finished { output: vec![0; 5000], ..end() }),
            &[close::TOO_LARGE],
        ),
        (
            "a result above the limit",
            say(&wire::Finished { result: Some(vec![b'1'; 300_000]), ..end() }),
            &[close::TOO_LARGE],
        ),
        ("a long word of a cause", say(&wire::Finished { cause: wordy, ..end() }), &[close::TOO_LARGE]),
        ("an answer above the limit", framed(kind::ANSWERS, &answers(300_000)), &[close::TOO_LARGE]),
        ("replicas that say too much", framed(kind::REPLICAS, &replicas(1, 2_000)), &[close::TOO_LARGE]),
        ("too many replicas at once", framed(kind::REPLICAS, &replicas(1_001, 0)), &[close::TOO_LARGE]),
        ("many frames without body", raw(kind::STARTED, 0, b"").repeat(1000), &[close::MALFORMED]),
    ];
    // Whatever kind a body claims that is none: nothing but the end of the session. Leave has no body.
    for kind in kind::KNOWN.into_iter().filter(|kind| *kind != kind::LEAVE) {
        let codes: &[u32] = &[close::MALFORMED, close::UNEXPECTED];
        cases.push(("a body that is none", raw(kind, 0, &[0xfe; 3]), codes));
    }
    // What only the coordinator, a keeper or a stranger says, whatever is in it.
    let never = [
        kind::WELCOME,
        kind::REFUSED,
        kind::RECONCILE,
        kind::BEAT_ECHO,
        kind::START,
        kind::FORGET,
        kind::STOP,
        kind::REVOKE,
        kind::FOLLOW,
        kind::UNFOLLOW,
        kind::JOIN,
        kind::JOINED,
        kind::OUTPUT_HEAD,
        kind::INVENTORY_ASK,
        kind::KEEPER_HELLO,
        kind::LIMITS,
        kind::SHUTDOWN,
        kind::RENEWED,
        kind::START_GIT,
        kind::START_REPLICA,
        kind::LAUNCH_REPLICA,
        kind::REQUESTS,
        kind::CANCEL_REQUESTS,
        kind::COLLECT,
        kind::ARTIFACTS_HEAD,
    ];
    cases.extend(never.map(|kind| ("what no machine says", raw(kind, 0, b""), &[close::UNEXPECTED][..])));
    cases
}
