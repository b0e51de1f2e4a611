//! Which certificates open a machine's session. The one in use, and those that may take its place: at any instant the
//! machine's disk holds one of them, wherever it crashed.
use crate::row::{MachineRow, SpareCertificate};

/// Spares at once: the one that the machine said it keeps, and a newer one on its way. A machine that joined twice with
/// one key has no more either.
const SPARES: usize = 2;

/// A machine's certificates, by fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The one in use.
    pub fingerprint: String,
    /// Its end, wall milliseconds; 0 when it is not known.
    pub until: i64,
    /// Those that may take its place.
    pub spares: Vec<SpareCertificate>,
    /// Since when renewal fails, wall milliseconds, and why.
    pub failed: Option<(i64, String)>,
}

impl Certificates {
    /// From the machine's row.
    pub fn restore(row: &MachineRow) -> Self {
        Self {
            fingerprint: row.fingerprint.clone(),
            until: row.certificate_until,
            spares: row.spares.clone(),
            failed: row.renewal_failed.clone(),
        }
    }

    /// Every fingerprint that is taken.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.fingerprint.as_str()).chain(self.spares.iter().map(|s| s.fingerprint.as_str()))
    }

    /// One was issued. It takes the place of one that was issued and never kept: within a session the machine says that
    /// it keeps one before it asks for the next.
    pub fn issued(&mut self, fingerprint: String, until: i64) {
        self.spares.retain(|s| s.kept);
        self.spares.push(SpareCertificate { fingerprint, until, kept: false });
        let surplus = self.spares.len().saturating_sub(SPARES);
        self.spares.drain(..surplus);
    }

    /// The machine has it on its disk: an older spare is of no use any more. False: it is not one of them.
    pub fn kept(&mut self, fingerprint: &str) -> bool {
        let Some(at) = self.spares.iter().position(|s| s.fingerprint == fingerprint) else { return false };
        let mut spare = self.spares.swap_remove(at);
        spare.kept = true;
        self.spares = vec![spare];
        self.failed = None;
        true
    }

    /// The machine opened a session with it: every other one is over. `None`: not one of them; else whether it is new.
    pub fn used(&mut self, fingerprint: &str) -> Option<bool> {
        if fingerprint == self.fingerprint {
            return Some(false);
        }
        let at = self.spares.iter().position(|s| s.fingerprint == fingerprint)?;
        let spare = self.spares.swap_remove(at);
        *self = Self { fingerprint: spare.fingerprint, until: spare.until, spares: Vec::new(), failed: None };
        Some(true)
    }

    /// The end of the newest one that the machine certainly has.
    pub fn good_until(&self) -> i64 {
        self.spares.iter().filter(|s| s.kept).map(|s| s.until).fold(self.until, i64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Certificates {
        Certificates { fingerprint: "a".into(), until: 10, ..Certificates::default() }
    }

    fn all(c: &Certificates) -> Vec<&str> {
        c.all().collect()
    }

    #[test]
    fn old_and_new_are_both_taken_until_the_new_one_was_used() {
        let mut c = first();
        c.issued("b".into(), 20);
        assert_eq!((all(&c), c.good_until()), (vec!["a", "b"], 10));
        assert!(c.kept("b"));
        assert_eq!((all(&c), c.good_until()), (vec!["a", "b"], 20));
        assert_eq!(c.used("b"), Some(true));
        assert_eq!(all(&c), ["b"]);
        assert_eq!((c.used("b"), c.used("a")), (Some(false), None));
    }

    /// The machine crashed at some point of a renewal: what is on its disk is taken, wherever that was.
    #[test]
    fn what_a_crashed_machine_has_on_its_disk_is_always_taken() {
        let mut c = first();
        for (round, next) in ["b", "c", "d", "e"].into_iter().enumerate() {
            let disk = if round == 0 { "a" } else { ["b", "c", "d"][round - 1] };
            c.issued(next.into(), 20);
            assert!(
                all(&c).contains(&disk) && all(&c).contains(&next),
                "before it wrote: {disk}, after: {next}"
            );
            assert!(c.kept(next));
            assert!(all(&c).contains(&next));
        }
        assert_eq!(all(&c), ["a", "e"], "the session began with a and the disk has e");
    }

    #[test]
    fn one_that_was_never_kept_gives_way_and_a_stranger_is_none() {
        let mut c = first();
        c.issued("b".into(), 20);
        c.issued("c".into(), 30);
        assert_eq!(all(&c), ["a", "c"]);
        assert!(!c.kept("b") && c.used("b").is_none());
    }
}
