//! What a guardian waits for: its command's pipes and end, clocks, people who ask.
use super::Guardian;
use super::ending::Phase;
use reeve_protocol::tape::{STDERR, STDOUT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Between two looks whether anybody could still come.
const UNVISITED: Duration = Duration::from_mins(1);

/// What poll said.
#[derive(Default)]
pub(super) struct Ready {
    pub(super) any: bool,
    pub(super) listener: bool,
    pub(super) alarm: bool,
    pub(super) clients: Vec<bool>,
    pub(super) signals: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Guardian<'_> {
    #[inline(never)]
    pub(super) fn wait(&self) -> Ready {
        let running = self.ending.phase() != Phase::Ended;
        let mut fds = Vec::with_capacity(5 + self.clients.len());
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        for client in &self.clients {
            let flags =
                if client.peer.pending() > 0 { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(&client.peer, flags));
        }
        let base = fds.len();
        if running {
            fds.push(PollFd::new(&self.signals, PollFlags::IN));
            let streams = [self.watched(STDOUT), self.watched(STDERR), self.lease.as_ref().map(|l| &l.timer)];
            fds.extend(streams.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        }
        let alarm_at = fds.len();
        let alarm = self.confined.alarm().filter(|_| running);
        fds.extend(alarm.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = if running {
            [self.ending.next_check(), self.confined.next_look(), self.collecting.until()]
                .into_iter()
                .flatten()
                .min()
        } else {
            self.clients.is_empty().then(|| Instant::now() + UNVISITED)
        };
        let timeout = [timeout, self.calm.due()].into_iter().flatten().min().map(|at| {
            // Rounded up: a poll that returns early would be repeated for nothing.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(500);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Ready::default();
        }
        let is = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let mut at = base;
        let mut next = |present: bool| {
            let ready = present && is(at);
            at += usize::from(present);
            ready
        };
        Ready {
            any: fds.iter().any(|fd| !fd.revents().is_empty()),
            signals: next(running),
            stdout: next(running && self.watched(STDOUT).is_some()),
            stderr: next(running && self.watched(STDERR).is_some()),
            listener: is(0),
            alarm: alarm.is_some() && is(alarm_at),
            clients: (1..base).map(is).collect(),
        }
    }

    /// A pipe that has to be looked at.
    fn watched(&self, stream: u8) -> Option<&OwnedFd> {
        let pipe = if stream == STDOUT { &self.stdout } else { &self.stderr };
        pipe.as_ref().filter(|_| !self.ending.is_young())
    }
}
