//! Targets that read bytes: bodies, frames, tapes, requests to sign.
use reeve_protocol::frame::{self, Frame, Reader};
use reeve_protocol::guardian as held;
use reeve_protocol::wire::{self, kind};
use reeve_protocol::{codec, tape};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::OnceLock;

/// What decodes is exactly what its encoding says: one value, one spelling.
fn canonical<T: Serialize + DeserializeOwned>(body: &[u8]) -> String {
    match codec::decode::<T>(body) {
        Ok(value) => {
            let mut again = Vec::new();
            codec::encode_into(&value, &mut again).expect("what was decoded fits");
            assert_eq!(again, body, "another spelling of the same value");
            "ok".to_owned()
        }
        Err(error) => format!("{error:?}").chars().take_while(char::is_ascii_alphabetic).collect(),
    }
}

fn split_kind(input: &[u8]) -> (u16, &[u8]) {
    match input.split_first_chunk::<2>() {
        Some((kind, body)) => (u16::from_le_bytes(*kind), body),
        None => (0, input),
    }
}

pub(super) fn wire_body(input: &[u8]) -> String {
    let (kind, body) = split_kind(input);
    let kind = kind::KNOWN[usize::from(kind) % kind::KNOWN.len()];
    let outcome = match kind {
        kind::HELLO => canonical::<wire::Hello>(body),
        kind::WELCOME => canonical::<wire::Welcome>(body),
        kind::REFUSED => canonical::<wire::Refused>(body),
        kind::MACHINE => canonical::<wire::Machine>(body),
        kind::INVENTORY => canonical::<wire::Inventory>(body),
        kind::INVENTORY_END => canonical::<wire::InventoryEnd>(body),
        kind::RECONCILE => canonical::<wire::Reconcile>(body),
        kind::BEAT | kind::BEAT_ECHO => canonical::<wire::Beat>(body),
        kind::START => canonical::<wire::Start>(body),
        kind::STARTED => canonical::<wire::Started>(body),
        kind::PROGRESS => canonical::<wire::Progress>(body),
        kind::FINISHED => canonical::<wire::Finished>(body),
        kind::FORGET => canonical::<wire::Forget>(body),
        kind::STOP => canonical::<wire::Stop>(body),
        kind::REVOKE | kind::RETURNED => canonical::<wire::Revoke>(body),
        kind::FOLLOW => canonical::<wire::Follow>(body),
        kind::UNFOLLOW => canonical::<wire::Unfollow>(body),
        kind::SAMPLE => canonical::<wire::Sample>(body),
        kind::JOIN => canonical::<wire::Join>(body),
        kind::JOINED => canonical::<wire::Joined>(body),
        kind::OUTPUT_HEAD => canonical::<wire::OutputHead>(body),
        kind::KEEPER_HELLO => canonical::<wire::KeeperHello>(body),
        kind::LIMITS => canonical::<wire::Limits>(body),
        kind::USAGE => canonical::<wire::Usage>(body),
        kind::SHUTDOWN => canonical::<wire::Shutdown>(body),
        kind::START_GIT => canonical::<wire::StartGit>(body),
        kind::PREPARING => canonical::<wire::Preparing>(body),
        kind::RESOLVED => canonical::<wire::Resolved>(body),
        kind::RENEW => canonical::<wire::Renew>(body),
        kind::RENEWED => canonical::<wire::Renewed>(body),
        kind::RENEWAL_KEPT => canonical::<wire::RenewalKept>(body),
        kind::RENEWAL_FAILED => canonical::<wire::RenewalFailed>(body),
        kind::EXITED => canonical::<wire::Exited>(body),
        kind::COLLECT => canonical::<wire::Collect>(body),
        kind::ARTIFACTS => canonical::<wire::Artifacts>(body),
        kind::ARTIFACTS_HEAD => canonical::<wire::ArtifactsHead>(body),
        kind::TAKING => canonical::<wire::Taking>(body),
        kind::ENFORCED => canonical::<wire::Enforced>(body),
        kind::START_REPLICA => canonical::<wire::StartReplica>(body),
        kind::LAUNCH_REPLICA => canonical::<wire::LaunchReplica>(body),
        kind::REPLICAS => canonical::<wire::Replicas>(body),
        kind::REQUESTS => canonical::<wire::Requests>(body),
        kind::ANSWERS => canonical::<wire::Answers>(body),
        kind::CANCEL_REQUESTS => canonical::<wire::CancelRequests>(body),
        kind::IN_FLIGHT => canonical::<wire::InFlight>(body),
        kind::GPUS => canonical::<wire::Gpus>(body),
        kind::QUIET => canonical::<wire::Quiet>(body),
        _ => canonical::<()>(body),
    };
    format!("{kind} {outcome}")
}

pub(super) fn guardian_body(input: &[u8]) -> String {
    let (kind, body) = split_kind(input);
    let outcome = match kind % 5 {
        0 => canonical::<held::Hello>(body),
        1 => canonical::<held::State>(body),
        2 => canonical::<held::Signal>(body),
        3 => canonical::<held::Output>(body),
        _ => canonical::<held::Forget>(body),
    };
    format!("{} {outcome}", kind % 5)
}

fn read_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<frame::Error>, Vec<u8>) {
    let (mut reader, mut found) = (Reader::new(), Vec::new());
    for piece in pieces {
        reader.feed(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error), Vec::new()),
            }
        }
    }
    (found, None, reader.take_rest())
}

/// However a stream is cut, the same frames come out, and they and the rest are exactly what went in.
pub(super) fn frames(input: &[u8]) -> String {
    let Some((first, bytes)) = input.split_first() else { return "empty".to_owned() };
    let whole = read_frames(std::iter::once(bytes));
    let cut = read_frames(bytes.chunks(1 + usize::from(*first)));
    assert_eq!((&whole.0, &whole.1), (&cut.0, &cut.1), "cutting changes what is read");
    let mut again = Vec::new();
    whole.0.iter().for_each(|frame| frame::append_raw(frame, &mut again));
    if whole.1.is_none() {
        again.extend(&whole.2);
        assert_eq!(again, bytes, "bytes were lost or invented");
    } else {
        assert!(bytes.starts_with(&again), "bytes were lost or invented");
    }
    format!("{} {}", whole.0.len().min(9), whole.1.is_some())
}

pub(super) fn tapes(input: &[u8]) -> String {
    let Some((first, bytes)) = input.split_first() else { return "empty".to_owned() };
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = tape::Decoder::default();
        let records: Vec<_> = pieces
            .flat_map(|piece| decoder.feed(piece))
            .map(|r| (r.stream, r.at_ms, r.gap(), r.bytes))
            .collect();
        (records, decoder.is_damaged())
    };
    let whole = read(&mut std::iter::once(bytes));
    assert_eq!(whole, read(&mut bytes.chunks(1 + usize::from(*first))), "cutting changes what is read");
    let mut again = Vec::new();
    whole.0.iter().for_each(|(stream, at, _, bytes)| tape::append(*stream, *at, bytes, &mut again));
    assert!(bytes.starts_with(&again), "records are not what was written");
    format!("{} {} {}", whole.0.len().min(9), whole.1, whole.0.iter().any(|r| r.2.is_some()))
}

/// A request to sign: it is refused, or the certificate is a machine's and can be read.
pub(super) fn signing_request(input: &[u8]) -> String {
    static AUTHORITY: OnceLock<reeve_coordinator::identity::Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        reeve_coordinator::identity::Authority::create(dir.path(), "00112233445566aa").unwrap();
        reeve_coordinator::identity::Authority::load(dir.path(), "00112233445566aa").unwrap()
    });
    let key = reeve_coordinator::identity::Authority::requested_key(input);
    match key.and_then(|key| authority.issue_machine(&key, &key.machine())) {
        Ok(issued) => {
            assert!(issued.certificate.len() < 4096, "the request decides how long a certificate is");
            "issued".to_owned()
        }
        Err(error) => std::error::Error::source(&error).map_or_else(String::new, ToString::to_string),
    }
}
