//! Who is connected. When the house is full, whoever has been there longest without ever asking anything gives its place:
//! a flood of silent connections keeps nobody out.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Every connection by the order of its coming.
#[derive(Default)]
pub(super) struct Guests {
    /// The next number, and who is there.
    present: Mutex<(u64, BTreeMap<u64, Guest>)>,
}

/// One connection.
#[derive(Clone)]
pub(super) struct Guest {
    number: u64,
    /// It has made a request.
    pub(super) has_asked: Arc<AtomicBool>,
    /// It has to go.
    pub(super) leave: CancellationToken,
}

impl Guests {
    /// Somebody comes. `end`: ends everybody's connection.
    pub(super) fn enter(&self, end: &CancellationToken) -> Guest {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.0 += 1;
        let guest = Guest { number: present.0, has_asked: Arc::default(), leave: end.child_token() };
        present.1.insert(guest.number, guest.clone());
        guest
    }

    /// Somebody has gone.
    pub(super) fn leave(&self, guest: &Guest) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&guest.number);
    }

    /// Shows the oldest silent one the door. Nobody, if all have asked.
    pub(super) fn make_room(&self) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = present.1.values().find(|guest| !guest.has_asked.load(Ordering::Relaxed)).cloned();
        if let Some(guest) = silent {
            // Taken out at once: the next one who comes must not wait for the same place.
            present.1.remove(&guest.number);
            guest.leave.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_one_goes_and_whoever_asked_stays() {
        let (guests, end) = (Guests::default(), CancellationToken::new());
        let all: Vec<Guest> = (0..4).map(|_| guests.enter(&end)).collect();
        all[0].has_asked.store(true, Ordering::Relaxed);
        guests.leave(&all[1]);
        guests.make_room();
        guests.make_room();
        guests.make_room();
        let gone: Vec<bool> = all.iter().map(|guest| guest.leave.is_cancelled()).collect();
        assert_eq!(gone, [false, false, true, true]);
        end.cancel();
        assert!(all[0].leave.is_cancelled(), "all go when the house closes");
    }
}
