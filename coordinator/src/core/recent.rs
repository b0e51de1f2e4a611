//! Keys that were used lately. What is found neither here nor in the store was not used; this is for what the store does not
//! show yet.
use crate::input::Key;
use reeve_protocol::token::sha256;
use std::collections::{HashMap, VecDeque};

/// Keys remembered: far more than a step holds, so that a key is found either here or in the store.
const KEYS: usize = 65_536;

/// Half of a SHA-256: names and contents are only compared. Whoever could make two that are the same has both under their own
/// uid, and gains nothing.
type Mark = [u8; 16];

/// The newest keys, with what they made. An entry has 40 bytes and its place in the order 16, whatever was sent as a key: all of
/// them 6.3 MiB.
#[derive(Default)]
pub(super) struct Recent {
    known: HashMap<Mark, (Mark, u64)>,
    order: VecDeque<Mark>,
}

impl Recent {
    /// What a caller's key made: `Err` if that was of another content. `queue`: of messages; empty for jobs.
    pub(super) fn used(&self, uid: u32, queue: &str, key: &Key) -> Option<Result<u64, u64>> {
        let (content, id) = self.known.get(&name(uid, queue, &key.key))?;
        Some(if *content == mark(key.digest.as_bytes()) { Ok(*id) } else { Err(*id) })
    }

    /// Notes what a key has made; the oldest is forgotten.
    pub(super) fn note(&mut self, uid: u32, queue: &str, (key, digest): (&str, &str), id: u64) {
        let name = name(uid, queue, key);
        if self.known.insert(name, (mark(digest.as_bytes()), id)).is_some() {
            return;
        }
        // Before the push: the order never grows beyond a power of two.
        if self.order.len() >= KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(name);
    }
}

/// No name of a queue has a zero byte.
fn name(uid: u32, queue: &str, key: &str) -> Mark {
    let mut bytes = Vec::with_capacity(5 + queue.len() + key.len());
    bytes.extend(uid.to_le_bytes());
    bytes.extend(queue.as_bytes());
    bytes.push(0);
    bytes.extend(key.as_bytes());
    mark(&bytes)
}

fn mark(bytes: &[u8]) -> Mark {
    let mut half = Mark::default();
    half.copy_from_slice(&sha256(bytes)[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str, digest: &str) -> Key {
        Key { key: key.into(), digest: digest.into() }
    }

    #[test]
    fn a_key_belongs_to_its_caller_and_queue_and_knows_its_content() {
        let mut recent = Recent::default();
        recent.note(1, "q", ("k", "d"), 7);
        assert_eq!(recent.used(1, "q", &key("k", "d")), Some(Ok(7)));
        assert_eq!(recent.used(1, "q", &key("k", "other")), Some(Err(7)));
        for (uid, queue, word) in [(2, "q", "k"), (1, "", "k"), (1, "qk", ""), (1, "", "q\0k")] {
            assert_eq!(recent.used(uid, queue, &key(word, "d")), None, "{uid} {queue:?} {word:?}");
        }
    }

    #[test]
    fn the_oldest_is_forgotten_and_what_is_kept_has_a_bound() {
        let mut recent = Recent::default();
        for n in 0..KEYS as u64 + 10 {
            recent.note(1, "", (&n.to_string(), "d"), n);
        }
        let used = |n: u64| recent.used(1, "", &key(&n.to_string(), "d"));
        assert_eq!(
            (used(9), used(10), used(KEYS as u64 + 9)),
            (None, Some(Ok(10)), Some(Ok(KEYS as u64 + 9)))
        );
        assert_eq!((recent.known.len(), recent.order.len()), (KEYS, KEYS));
        let bytes = recent.known.capacity() * (size_of::<(Mark, (Mark, u64))>() + 1) * 8 / 7
            + recent.order.capacity() * size_of::<Mark>();
        assert!(bytes < 7 << 20, "{bytes} bytes");
    }
}
