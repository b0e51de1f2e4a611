//! Who holds which certificate. Filled from the store at start and by joins; the store stays the truth.
use crate::row::MachineRow;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Every machine that has joined, by the SHA-256 of its certificate.
#[derive(Debug, Default)]
pub struct Machines {
    known: RwLock<HashMap<String, Known>>,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The identity.
    pub machine: String,
    /// Whether it was removed.
    pub revoked: bool,
    /// Issued, and not used yet.
    spare: bool,
}

impl Machines {
    /// The machines of the store.
    pub fn new(rows: &[MachineRow]) -> Self {
        let known = rows.iter().flat_map(|r| {
            let of = |spare| Known { machine: r.id.clone(), revoked: r.revoked, spare };
            let spares = r.spares.iter().map(move |s| (s.fingerprint.clone(), of(true)));
            spares.chain([(r.fingerprint.clone(), of(false))])
        });
        Self { known: RwLock::new(known.collect()) }
    }

    /// Who holds a certificate.
    pub fn find(&self, fingerprint: &str) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned()
    }

    /// A certificate was issued to a machine: it opens a session from now on.
    pub fn issued(&self, fingerprint: String, machine: String) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fingerprint, Known { machine, revoked: false, spare: true });
    }

    /// A machine has opened a session with a certificate. Is it a new one, all others are over.
    pub fn used(&self, machine: &str, fingerprint: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.get_mut(fingerprint).is_some_and(|k| std::mem::replace(&mut k.spare, false));
        if fresh {
            known.retain(|other, k| k.machine != machine || other == fingerprint);
        }
    }

    /// A machine was removed or has left: its certificate opens nothing any more.
    pub fn revoke(&self, machine: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.values_mut().filter(|k| k.machine == machine).for_each(|k| k.revoked = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, fingerprint: &str, revoked: bool) -> MachineRow {
        MachineRow {
            id: id.into(),
            name: id.into(),
            fingerprint: fingerprint.into(),
            revoked,
            ..MachineRow::default()
        }
    }

    #[test]
    fn a_certificate_names_its_machine_until_it_is_revoked() {
        let machines = Machines::new(&[row("a", "fa", false), row("b", "fb", true)]);
        machines.issued("fc".into(), "c".into());
        let standing = |f: &str| machines.find(f).map(|k| (k.machine, k.revoked));
        assert_eq!(standing("fa"), Some(("a".into(), false)));
        assert_eq!(standing("fb"), Some(("b".into(), true)));
        assert_eq!(standing("fc"), Some(("c".into(), false)));
        assert_eq!(standing("fd"), None);
        machines.issued("fc2".into(), "c".into());
        machines.used("c", "fc");
        assert_eq!(standing("fc2"), None, "fc was the newest that was used");
        machines.issued("fc3".into(), "c".into());
        machines.used("c", "fc");
        assert_eq!(
            standing("fc3"),
            Some(("c".into(), false)),
            "the old one is taken until the new one is used"
        );
        machines.used("c", "fc3");
        assert_eq!((standing("fc"), standing("fc3")), (None, Some(("c".into(), false))));
        machines.issued("fc".into(), "c".into());
        machines.revoke("c");
        assert_eq!(standing("fc"), Some(("c".into(), true)));
        assert_eq!(standing("fa"), Some(("a".into(), false)));
    }
}
