//! How an attempt ends: by itself, by its deadline, by its lease, by request; and that its whole tree has ended before
//! anybody is told so.
use super::Guardian;
use super::sys::{Used, Waited, wait_any};
use super::tree;
use crate::clock::boot_ms;
use crate::machine::memory;
use reeve_protocol::cause::Cause;
use reeve_protocol::crash;
use reeve_protocol::tape::{STDERR, STDOUT};
use reeve_protocol::time::Wall;
use reeve_protocol::wire::INLINE_OUTPUT;
use std::time::{Duration, Instant};

/// After the start, until it is told.
const ANNOUNCE: Duration = Duration::from_millis(4);
/// Between two rounds of KILL.
const KILL_ROUND: Duration = Duration::from_millis(20);
/// Reads of a pipe at the end: whoever still writes after that is outside the tree.
const LAST_READS: usize = 1024;

/// The phases of the guardian's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running = 1,
    Stopping = 2,
    Ended = 3,
}

/// Where the end of an attempt stands.
#[derive(Debug)]
pub(super) struct Ending {
    phase: Phase,
    grace: Duration,
    deadline: Option<Instant>,
    /// The next round of KILL.
    kill_at: Option<Instant>,
    /// KILL has been sent once.
    killing: bool,
    /// The cause given from outside, if the command had not ended before.
    stopped: Option<Cause>,
    /// How the command itself ended.
    exited: Option<Cause>,
    /// No child is left.
    empty: bool,
    /// What the tree has used.
    used: Used,
    /// When to say that the command runs. A little late: most short commands have ended by then, and one message tells
    /// both.
    announce_at: Option<Instant>,
}

impl Ending {
    pub(super) fn new(grace_ms: u64) -> Self {
        Self {
            phase: Phase::Running,
            grace: Duration::from_millis(grace_ms),
            deadline: None,
            kill_at: None,
            killing: false,
            stopped: None,
            exited: None,
            empty: false,
            used: Used::default(),
            announce_at: None,
        }
    }

    pub(super) fn run_until(&mut self, timeout_ms: u64) {
        self.announce_at = Some(Instant::now() + ANNOUNCE);
        self.empty = false;
        // The time of a checkout counts.
        if self.deadline.is_none() {
            self.end_by(timeout_ms);
        }
    }

    /// What was started now may take so long, and so may what comes after it.
    pub(super) fn end_by(&mut self, timeout_ms: u64) {
        self.deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms));
    }

    /// Whether the command has just started: what it writes waits in the pipes, so that a short one wakes its guardian
    /// only once, by its end.
    pub(super) fn is_young(&self) -> bool {
        self.announce_at.is_some()
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether children have to be looked at even without a signal about one.
    pub(super) fn is_pressing(&self) -> bool {
        self.killing && self.phase != Phase::Ended
    }

    pub(super) fn next_check(&self) -> Option<Instant> {
        let deadline = self.deadline.filter(|_| self.phase == Phase::Running);
        [deadline, self.kill_at, self.announce_at].into_iter().flatten().min()
    }

    /// The tree is gone, how it ended stands: nothing is pressing while a process of ours copies files.
    pub(super) fn begin_collecting(&mut self) {
        (self.deadline, self.kill_at, self.announce_at) = (None, None, None);
        (self.killing, self.empty) = (false, false);
    }

    /// The cause of the whole attempt once its tree is gone.
    fn verdict(&self) -> Option<Cause> {
        if !self.empty {
            return None;
        }
        self.stopped.clone().or_else(|| self.exited.clone())
    }
}

impl Guardian<'_> {
    /// Takes note of every child that has ended.
    #[inline(never)]
    pub(super) fn reap(&mut self) {
        if self.ending.phase == Phase::Ended {
            return;
        }
        // Emptied first, so that a signal that comes during the loop wakes us again. There is one at most: signals of one
        // number are not counted.
        let _ = self.signals.read_signal();
        let (mut checkout, mut collector) = (None, None);
        loop {
            match wait_any() {
                Waited::Ended(pid, status, used) => {
                    self.ending.used.cpu_ms += used.cpu_ms;
                    self.ending.used.rss_peak = self.ending.used.rss_peak.max(used.rss_peak);
                    if pid == self.state.pid {
                        self.ending.exited = Some(self.exit_cause(status));
                    } else if pid == self.collecting.pid() {
                        collector = Some(self.exit_cause(status));
                    } else if pid == self.checkout_pid() {
                        checkout = Some(self.exit_cause(status));
                    }
                }
                Waited::Alive => break,
                Waited::Empty => {
                    self.ending.empty = true;
                    break;
                }
            }
        }
        if let Some(ended) = checkout {
            self.checkout_ended(ended);
        }
        if let Some(ended) = collector {
            self.collector_ended(&ended);
        }
        let collects = self.collecting.is_running();
        if !self.ending.empty
            && !collects
            && self.ending.exited.is_some()
            && self.ending.phase == Phase::Running
        {
            // The command is done, others of its tree are not: the end means the whole tree.
            self.begin_stop(self.ending.grace);
        }
    }

    fn exit_cause(&self, status: i32) -> Cause {
        if libc::WIFEXITED(status) {
            return match libc::WEXITSTATUS(status) {
                0 => Cause::Ok,
                // Somebody of its tree was killed for memory, and the command gave up over it.
                code => self.confined.verdict().map_or(Cause::Exit { code }, |detail| Cause::Oom {
                    detail: format!("{detail}; the command then ended with exit code {code}"),
                }),
            };
        }
        match libc::WTERMSIG(status) {
            libc::SIGKILL if !self.ending.killing => self.killed_cause(),
            signal => Cause::Signal { signal },
        }
    }

    /// A KILL that is not ours: by the kernel for memory, if the cgroup says so.
    fn killed_cause(&self) -> Cause {
        if let Some(detail) = self.confined.verdict() {
            return Cause::Oom { detail };
        }
        match (self.confined.kills_before().or(self.task.oom_kills), memory::oom_kills()) {
            (Some(before), Some(now)) if now > before => Cause::Oom {
                detail: format!("killed by signal 9 while the cgroup's count of oom kills rose to {now}"),
            },
            _ => Cause::Signal { signal: libc::SIGKILL },
        }
    }

    /// Ends the attempt with a cause from outside. The first cause stays; a shorter grace counts.
    pub(super) fn stop(&mut self, cause: &Cause, grace_ms: u64) {
        if self.ending.phase == Phase::Ended {
            return;
        }
        if self.collecting.is_running() {
            // Its tree has ended, and how: only its files are still being copied.
            return self.hurry_collecting();
        }
        let grace = Duration::from_millis(grace_ms);
        if self.ending.exited.is_none() && self.ending.stopped.is_none() {
            self.ending.stopped = Some(cause.clone());
        }
        if self.ending.phase == Phase::Running {
            self.begin_stop(grace);
        } else if let Some(at) = &mut self.ending.kill_at {
            *at = (*at).min(Instant::now() + grace);
        }
    }

    fn begin_stop(&mut self, grace: Duration) {
        self.ending.phase = Phase::Stopping;
        self.ending.kill_at = Some(Instant::now() + grace);
        self.state.phase = Phase::Stopping as u16;
        tree::terminate(self.state.guardian_pid, self.leader());
        self.announce();
    }

    /// The command, or its checkout, while the process id is its own.
    fn leader(&self) -> u32 {
        match self.checkout_pid() {
            0 if self.ending.exited.is_some() => 0,
            0 => self.state.pid,
            checkout => checkout,
        }
    }

    /// The attempt ends with this cause, though no command has run; what else runs is ended first.
    pub(super) fn fail(&mut self, cause: Cause) {
        if self.ending.exited.is_none() {
            self.ending.exited = Some(cause);
        }
        if !self.ending.empty && self.ending.phase == Phase::Running {
            self.begin_stop(self.ending.grace);
        }
    }

    /// Deadline, lease, grace.
    #[inline(never)]
    pub(super) fn check_clocks(&mut self) {
        if self.ending.phase == Phase::Ended {
            return;
        }
        let now = Instant::now();
        if self.ending.announce_at.is_some_and(|at| at <= now) {
            self.ending.announce_at = None;
            self.announce();
        }
        if self.collecting.is_running() {
            return self.check_collecting(now);
        }
        // Asked now, not when we woke: a guardian that was stopped has heard meanwhile whether its machine is heard.
        let lease_ran_out = self.lease.as_ref().is_some_and(|lease| lease.is_over(boot_ms()));
        if lease_ran_out && self.ending.phase == Phase::Running {
            self.stop(&Cause::Lost, self.task.start.grace_ms);
        }
        if self.ending.phase == Phase::Running && self.ending.deadline.is_some_and(|at| at <= now) {
            self.stop(&Cause::Timeout, self.task.start.grace_ms);
        }
        if self.ending.phase == Phase::Running {
            self.look_at_memory(now);
        }
        if self.ending.kill_at.is_some_and(|at| at <= now) {
            self.ending.killing = true;
            self.confined.freeze();
            self.ending.kill_at = Some(now + KILL_ROUND);
            tree::kill(self.state.guardian_pid, self.leader());
            self.reap();
        }
    }

    #[inline(never)]
    pub(super) fn finish_if_empty(&mut self) {
        if self.ending.phase == Phase::Ended {
            return;
        }
        if let Some(cause) = self.ending.verdict()
            && !self.begin_collecting(&cause)
        {
            self.finish(&cause);
        }
    }

    /// Nobody of the tree is left: takes the rest of the output and tells the end.
    #[inline(never)]
    pub(super) fn finish(&mut self, cause: &Cause) {
        crash::point("guardian.ended");
        self.drain_all();
        self.note_refused(cause);
        self.confined.release();
        self.promise_tree(cause);
        // Whoever reads a replica's pipe sees its end once ours are closed.
        self.pipes = None;
        (self.stdout, self.stderr, self.lease) = (None, None, None);
        let result = if self.state.pid == 0 { None } else { self.read_result() };
        self.tape.seal();
        let state = &mut self.state;
        self.ending.phase = Phase::Ended;
        state.phase = Phase::Ended as u16;
        state.cause = cause.to_wire();
        state.ended_ms = Wall::now().0;
        state.cpu_ms = self.ending.used.cpu_ms;
        state.rss_peak = self.ending.used.rss_peak;
        state.output = self.tape.small(INLINE_OUTPUT).unwrap_or_default();
        state.result = result;
        crash::point("guardian.sealed");
        self.announce();
    }

    /// Takes what the pipes still hold.
    pub(super) fn drain_all(&mut self) {
        self.drain(STDOUT, LAST_READS);
        self.drain(STDERR, LAST_READS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_waits_for_the_last_of_the_tree_and_a_stop_beats_the_exit() {
        let mut ending = Ending::new(15_000);
        ending.exited = Some(Cause::Exit { code: 3 });
        assert_eq!(ending.verdict(), None);
        ending.empty = true;
        assert_eq!(ending.verdict(), Some(Cause::Exit { code: 3 }));
        ending.stopped = Some(Cause::Cancelled);
        assert_eq!(ending.verdict(), Some(Cause::Cancelled));
    }

    #[test]
    fn the_deadline_counts_only_while_the_command_runs() {
        let mut ending = Ending::new(0);
        assert_eq!(ending.next_check(), None);
        ending.run_until(0);
        ending.announce_at = None;
        assert_eq!(ending.next_check(), None);
        ending.run_until(60_000);
        assert!(ending.next_check().is_some());
        ending.phase = Phase::Stopping;
        ending.announce_at = None;
        assert_eq!(ending.next_check(), None);
        assert!(!ending.is_pressing());
    }
}
