//! The agent's side of the beats: what it says, and up to when the coordinator is known to have heard it. Pure.
use reeve_protocol::wire::Beat;
use std::collections::VecDeque;
use tokio::time::Instant;

/// Beats that may wait for their echo; a session whose echoes stay away ends long before.
const WAITING: usize = 64;

/// One session's beats.
#[derive(Debug)]
pub(super) struct Beats {
    number: u64,
    /// The coordinator's last number.
    echo: u64,
    /// The echo that the last beat which counts has carried.
    told: u64,
    /// Beats that count and have no echo yet, and when they were said.
    waiting: VecDeque<(u64, u64)>,
    heard: Instant,
}

impl Beats {
    /// A session that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self { number: 0, echo: 0, told: 0, waiting: VecDeque::new(), heard: now }
    }

    /// The next beat, said at `boot_ms` of the boot-time clock. The coordinator counts a beat only if its echo has risen, so
    /// only such a beat proves anything when it is answered.
    pub(super) fn next(&mut self, boot_ms: u64) -> Beat {
        self.number += 1;
        if self.number == 1 || self.echo > self.told {
            self.told = self.echo;
            self.waiting.push_back((self.number, boot_ms));
            if self.waiting.len() > WAITING {
                self.waiting.pop_front();
            }
        }
        Beat { number: self.number, echo: self.echo }
    }

    /// An answer. Gives when the last beat that counts and is answered by it was said: the coordinator counts this machine's
    /// absence from then or later, never from before.
    pub(super) fn echo(&mut self, answer: Beat, now: Instant) -> Option<u64> {
        self.heard = now;
        self.echo = self.echo.max(answer.number);
        let mut proven = None;
        while let Some((_, sent)) = self.waiting.front().filter(|(number, _)| *number <= answer.echo) {
            proven = Some(*sent);
            self.waiting.pop_front();
        }
        proven
    }

    /// When the coordinator was heard last.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_proves_that_we_were_heard_when_the_beat_was_said_not_when_the_answer_came() {
        let mut beats = Beats::new(Instant::now());
        assert_eq!(beats.next(1_000), Beat { number: 1, echo: 0 });
        assert_eq!(beats.echo(Beat { number: 1, echo: 1 }, Instant::now()), Some(1_000));
        assert_eq!(beats.next(3_000), Beat { number: 2, echo: 1 });
        assert_eq!(beats.echo(Beat { number: 2, echo: 2 }, Instant::now()), Some(3_000));
        assert_eq!(
            beats.echo(Beat { number: 2, echo: 2 }, Instant::now()),
            None,
            "the same answer proves nothing new"
        );
    }

    #[test]
    fn beats_that_the_coordinator_does_not_count_prove_nothing() {
        let mut beats = Beats::new(Instant::now());
        beats.next(1_000);
        // Our beats arrive, its answers do not: to the coordinator this is silence since the first.
        for at in [3_000, 5_000, 7_000] {
            beats.next(at);
        }
        assert_eq!(beats.echo(Beat { number: 4, echo: 4 }, Instant::now()), Some(1_000));
        beats.next(9_000);
        assert_eq!(beats.echo(Beat { number: 5, echo: 5 }, Instant::now()), Some(9_000));
    }

    #[test]
    fn what_waits_for_an_answer_is_bounded() {
        let mut beats = Beats::new(Instant::now());
        for n in 1..=1_000 {
            beats.next(n);
            beats.echo(Beat { number: n, echo: 0 }, Instant::now());
        }
        assert_eq!(beats.waiting.len(), WAITING);
    }
}
