//! What was checked, what broke, and the four numbers.
use std::fmt::Write as _;

/// What a broken invariant means for whoever has jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// Something acknowledged is gone or never ends.
    Lost,
    /// Something ran more often than it may.
    Doubled,
    /// Somebody saw something undone.
    Backward,
    /// The books do not agree.
    Unaccounted,
}

/// Every invariant that is checked, with its name.
pub(crate) const RULES: [(&str, &str); 15] = [
    ("I1", "every acknowledged job is there and has ended"),
    ("I2", "nothing refused exists, nothing exists that nobody sent"),
    ("I3", "no observer sees anything go backward"),
    ("I4", "events have no gap, and their sum is the rows"),
    ("I5", "one start per attempt, each with a record"),
    ("I6", "completed means it ended with 0"),
    ("I7", "no more starts than losses and retries explain"),
    ("I7b", "no attempt is lost without a fault that explains it"),
    ("I8", "exclusive attempts never overlap"),
    ("I9", "one job per key, another content is refused"),
    ("I10", "nothing starts or lives on after a cancel"),
    ("I11", "nothing is left over"),
    ("I12", "all has ended in time after healing"),
    ("I13", "output is complete"),
    ("I15", "what the daemons use stays below its limits; none fails"),
];

/// One broken invariant with its history.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Which.
    pub(crate) rule: &'static str,
    /// What it means.
    pub(crate) harm: Harm,
    /// What happened, a line per event.
    pub(crate) history: String,
}

/// Everything found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    facts: std::collections::BTreeMap<&'static str, u64>,
    /// In the order found.
    pub(crate) violations: Vec<Violation>,
}

impl Report {
    /// One more fact was looked at.
    pub(crate) fn fact(&mut self, rule: &'static str) {
        *self.facts.entry(rule).or_default() += 1;
    }

    /// A fact that must hold.
    pub(crate) fn hold(
        &mut self,
        rule: &'static str,
        harm: Harm,
        holds: bool,
        history: impl FnOnce() -> String,
    ) {
        self.fact(rule);
        if !holds {
            self.violations.push(Violation { rule, harm, history: history() });
        }
    }

    /// Facts looked at for a rule.
    pub(crate) fn facts(&self, rule: &str) -> u64 {
        self.facts.get(rule).copied().unwrap_or(0)
    }

    /// Violations of a rule.
    pub(crate) fn broken(&self, rule: &str) -> Vec<&Violation> {
        self.violations.iter().filter(|v| v.rule == rule).collect()
    }

    fn of(&self, harm: Harm) -> usize {
        self.violations.iter().filter(|v| v.harm == harm).count()
    }

    /// Whether everything held, and there was something to hold: a run without jobs proves nothing.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty() && ["I1", "I3", "I4", "I5"].iter().all(|rule| self.facts(rule) > 0)
    }

    /// For people: a line per rule, the smallest history of each that broke, the four numbers.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (rule, name) in RULES {
            let broken = self.broken(rule);
            let mark = if broken.is_empty() { "ok" } else { "BROKEN" };
            let _ = writeln!(
                text,
                "{rule:<4} {name:<58} {:>8} facts {:>4} violations  {mark}",
                self.facts(rule),
                broken.len()
            );
            if let Some(smallest) = broken.iter().min_by_key(|v| v.history.lines().count()) {
                for line in smallest.history.lines().take(40) {
                    let _ = writeln!(text, "       | {line}");
                }
            }
        }
        let _ = writeln!(
            text,
            "lost {} · doubled {} · backward {} · unaccounted {}",
            self.of(Harm::Lost),
            self.of(Harm::Doubled),
            self.of(Harm::Backward),
            self.of(Harm::Unaccounted)
        );
        text
    }
}
