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
}

impl Machines {
    /// The machines of the store.
    pub fn new(rows: &[MachineRow]) -> Self {
        let known =
            rows.iter().map(|r| (r.fingerprint.clone(), Known { machine: r.id.clone(), revoked: r.revoked }));
        Self { known: RwLock::new(known.collect()) }
    }

    /// Who holds a certificate.
    pub fn find(&self, fingerprint: &str) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned()
    }

    /// A machine has joined.
    pub fn joined(&self, fingerprint: String, machine: String) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fingerprint, Known { machine, revoked: false });
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
            info: "{}".into(),
            cordoned: false,
            joined_at: 0,
            life: None,
            keeper: None,
            revoked,
        }
    }

    #[test]
    fn a_certificate_names_its_machine_until_it_is_revoked() {
        let machines = Machines::new(&[row("a", "fa", false), row("b", "fb", true)]);
        machines.joined("fc".into(), "c".into());
        let standing = |f: &str| machines.find(f).map(|k| (k.machine, k.revoked));
        assert_eq!(standing("fa"), Some(("a".into(), false)));
        assert_eq!(standing("fb"), Some(("b".into(), true)));
        assert_eq!(standing("fc"), Some(("c".into(), false)));
        assert_eq!(standing("fd"), None);
        machines.revoke("c");
        assert_eq!(standing("fc"), Some(("c".into(), true)));
        assert_eq!(standing("fa"), Some(("a".into(), false)));
    }
}
