//! Who is heard. A beat counts only if it answers our last one (its echo has risen), so a partition in one direction is
//! silence too. Time comes in as an argument.
use reeve_protocol::wire::Beat;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Silence after which a machine counts as disconnected, or three beats where many machines beat more slowly.
const SILENCE: Duration = Duration::from_secs(10);
/// How often the round trip is told for display.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Beats within [`TELL_EVERY`] that are a flood: some 200 times what the fastest machine sends.
const FLOOD: u32 = 1000;
/// This process was not scheduled for so long: nobody could be heard, so nobody is silent.
const STALL: Duration = Duration::from_secs(5);

/// One session's beats.
#[derive(Debug)]
pub(super) struct Beats {
    sent: u64,
    heard: u64,
    echoed: u64,
    fresh: Instant,
    silent: bool,
    told: Option<Instant>,
    patience: Duration,
    /// Beats since the moment.
    window: (Instant, u32),
}

/// What a beat led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// To be sent back.
    pub(super) echo: Beat,
    /// Whether the core should hear of it: after silence, and now and then.
    pub(super) tell: bool,
    /// Nobody beats so often in good faith.
    pub(super) flood: bool,
}

impl Beats {
    /// A session that starts now.
    pub(super) fn new(now: Instant, beat: Duration) -> Self {
        let patience = SILENCE.max(beat * 3);
        Self {
            sent: 0,
            heard: 0,
            echoed: 0,
            fresh: now,
            silent: false,
            told: None,
            patience,
            window: (now, 0),
        }
    }

    /// A beat came.
    pub(super) fn beat(&mut self, beat: Beat, now: Instant) -> Answer {
        let fresh = beat.number > self.heard && (self.sent == 0 || beat.echo > self.echoed);
        // A number that was never sent proves nothing, and must not block later ones.
        self.echoed = self.echoed.max(beat.echo.min(self.sent));
        self.heard = self.heard.max(beat.number);
        self.sent += 1;
        let mut tell = false;
        if fresh {
            self.fresh = now;
            tell = self.silent || self.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
            self.silent = false;
            if tell {
                self.told = Some(now);
            }
        }
        if now.duration_since(self.window.0) >= TELL_EVERY {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        Answer { echo: Beat { number: self.sent, echo: beat.number }, tell, flood: self.window.1 > FLOOD }
    }

    /// When it will be silent if nothing comes; `None` if it is.
    pub(super) fn due(&self, pulse: &Pulse, now: Instant) -> Option<Instant> {
        (!self.silent).then(|| self.fresh.max(pulse.window_from(now)) + self.patience)
    }

    /// Whether it has become silent just now: true once per silence.
    pub(super) fn falls_silent(&mut self, pulse: &Pulse, now: Instant) -> bool {
        let falls = self.due(pulse, now).is_some_and(|due| due <= now);
        self.silent |= falls;
        falls
    }
}

/// Notices that this process did not run for a while (stopped, swapped, suspended): one tick a second for all sessions.
#[derive(Debug)]
pub(super) struct Pulse {
    base: Instant,
    ticked: AtomicU64,
    resumed: AtomicU64,
}

impl Pulse {
    pub(super) const TICK: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { base: Instant::now(), ticked: AtomicU64::new(0), resumed: AtomicU64::new(0) }
    }

    /// A second has passed, or more than that.
    pub(super) fn tick(&self, now: Instant) {
        if self.stalled(now) {
            self.resumed.store(self.millis(now), Ordering::Relaxed);
        }
        self.ticked.store(self.millis(now), Ordering::Relaxed);
    }

    /// Nobody can have been silent since before this moment. A session's timer may fire before the tick does after a
    /// stall, so a missing tick counts as one.
    fn window_from(&self, now: Instant) -> Instant {
        if self.stalled(now) {
            now
        } else {
            self.base + Duration::from_millis(self.resumed.load(Ordering::Relaxed))
        }
    }

    fn stalled(&self, now: Instant) -> bool {
        self.millis(now).saturating_sub(self.ticked.load(Ordering::Relaxed)) > STALL.as_millis() as u64
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ticking(pulse: &Pulse, from: u64, to: u64) {
        for second in from..=to {
            pulse.tick(pulse.base + s(second));
        }
    }

    #[test]
    fn answered_beats_keep_a_session_heard_and_the_core_is_told_now_and_then() {
        let pulse = Pulse::new();
        let t = pulse.base;
        let mut beats = Beats::new(t, s(2));
        let told: Vec<u64> = (1..=12)
            .filter(|n| {
                let answer = beats.beat(Beat { number: *n, echo: n - 1 }, t + s(2 * n));
                assert_eq!(answer.echo, Beat { number: *n, echo: *n });
                answer.tell
            })
            .collect();
        assert_eq!(told, [1, 6, 11], "at once, then every ten seconds");
        ticking(&pulse, 0, 24);
        assert_eq!(beats.due(&pulse, t + s(24)), Some(t + s(34)));
    }

    #[test]
    fn silence_is_told_once_and_a_fresh_beat_ends_it() {
        let pulse = Pulse::new();
        let t = pulse.base;
        let mut beats = Beats::new(t, s(2));
        ticking(&pulse, 0, 30);
        assert!(!beats.falls_silent(&pulse, t + s(9)));
        ticking(&pulse, 9, 30);
        assert!(beats.falls_silent(&pulse, t + s(30)));
        assert!(!beats.falls_silent(&pulse, t + s(31)));
        assert_eq!(beats.due(&pulse, t + s(31)), None);
        assert!(beats.beat(Beat { number: 1, echo: 0 }, t + s(32)).tell);
    }

    #[test]
    fn where_beats_are_asked_for_rarely_silence_takes_longer() {
        let pulse = Pulse::new();
        let t = pulse.base;
        assert_eq!(Beats::new(t, s(20)).due(&pulse, t), Some(t + s(60)));
        assert_eq!(Beats::new(t, s(0)).due(&pulse, t), Some(t + s(10)));
    }

    #[test]
    fn beats_that_do_not_hear_us_are_silence() {
        let pulse = Pulse::new();
        let t = pulse.base;
        let mut beats = Beats::new(t, s(2));
        beats.beat(Beat { number: 1, echo: 0 }, t);
        for n in 2..8 {
            ticking(&pulse, 2 * n - 2, 2 * n);
            beats.beat(Beat { number: n, echo: 0 }, t + s(2 * n));
        }
        assert!(beats.falls_silent(&pulse, t + s(14)), "its beats come, ours do not reach it");
    }

    #[test]
    fn a_flood_is_told_from_the_beats_of_a_long_pause() {
        let t = Instant::now();
        let mut beats = Beats::new(t, s(2));
        let flood = |beats: &mut Beats, at| {
            (0..FLOOD).any(|n| beats.beat(Beat { number: n.into(), echo: 0 }, at).flood)
        };
        assert!(!flood(&mut beats, t) && !flood(&mut beats, t + TELL_EVERY));
        assert!(flood(&mut beats, t + TELL_EVERY), "the first one too many");
    }

    #[test]
    fn repeated_and_invented_numbers_prove_nothing() {
        let t = Instant::now();
        let mut beats = Beats::new(t, s(2));
        beats.beat(Beat { number: 1, echo: 0 }, t);
        beats.beat(Beat { number: 2, echo: u64::MAX }, t + s(1));
        let fresh = beats.fresh;
        beats.beat(Beat { number: 2, echo: 2 }, t + s(2));
        assert_eq!(beats.fresh, fresh, "the same number again");
        beats.beat(Beat { number: 3, echo: 3 }, t + s(3));
        assert_eq!(beats.fresh, t + s(3), "later echoes still count");
    }

    #[test]
    fn a_process_that_was_stopped_gives_everybody_a_fresh_window() {
        let pulse = Pulse::new();
        let t = pulse.base;
        let mut beats = Beats::new(t, s(2));
        ticking(&pulse, 0, 3);
        assert!(!beats.falls_silent(&pulse, t + s(60)), "the session's timer fires before the tick");
        pulse.tick(t + s(60));
        assert_eq!(beats.due(&pulse, t + s(60)), Some(t + s(70)));
        ticking(&pulse, 61, 70);
        assert!(beats.falls_silent(&pulse, t + s(70)));
    }
}
