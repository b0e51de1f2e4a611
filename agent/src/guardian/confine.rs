//! What holds an attempt within what it asked for: its slot of control groups, the group with its memory limit, and where
//! the kernel offers none, our own watch over what its processes use.
use super::tree::{self, Stat};
use super::{Guardian, Setting};
use crate::groups::{MemoryGroup, Slot};
use crate::machine::memory;
use reeve_protocol::cause::Cause;
use reeve_protocol::tape::STDERR;
use reeve_protocol::time::Wall;
use reeve_protocol::units::show_bytes;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Between two looks at what an attempt uses.
const LOOK: Duration = Duration::from_millis(100);
/// After an alarm of the kernel, between two looks whether it has killed, and how many.
const AGAIN: Duration = Duration::from_millis(10);
const AGAIN_TIMES: u32 = 100;
/// Looking takes at most this part of the time, however many processes there are.
const COST: u32 = 100;

/// Bytes that a process may reserve in any case, beside twice the limit.
const DATA_SPARE: u64 = 1 << 30;

/// Everything that confines the attempts of one guardian.
#[derive(Default)]
pub(super) struct Confinement {
    slot: Option<Slot>,
    memory: Option<MemoryGroup>,
    watch: Option<Watch>,
    /// Kills for memory before the attempt, where its slot has a count of its own.
    kills_before: Option<u64>,
    /// Births that were refused before the attempt.
    refused_before: u64,
    /// The kernel has said that the limit was hit, and has not killed yet: when to look again, and how often still.
    again: Option<(Instant, u32)>,
}

impl Confinement {
    /// Moves this process into the slot that its keeper chose. Without one, attempts live where the keeper does.
    pub(super) fn enter(setting: &Setting, slot: Option<u32>) -> Self {
        let slot = slot.and_then(|number| {
            let mut slot = Slot::new(&setting.hierarchies, number, &setting.bounds);
            let entered = slot.enter();
            if let Err(error) = &entered {
                tracing::warn!(slot = number, %error, "a slot of control groups cannot be used");
            }
            entered.is_ok().then_some(slot)
        });
        Self { slot, ..Self::default() }
    }

    /// Before a command starts.
    pub(super) fn prepare(&mut self, cpu_milli: u32, memory_bytes: u64) {
        self.release();
        if let Some(slot) = &mut self.slot {
            if let Err(error) = slot.share(cpu_milli) {
                tracing::warn!(%error, "an attempt's part of the cpus cannot be set");
            }
            self.kills_before = slot.counts_kills().then(memory::oom_kills).flatten();
        }
        if memory_bytes == 0 {
            return;
        }
        self.memory = self.slot.as_ref().and_then(|slot| {
            slot.limit_memory(memory_bytes)
                .inspect_err(
                    |error| tracing::warn!(%error, "a memory limit cannot be set; reeve watches itself"),
                )
                .ok()
                .flatten()
        });
        if self.memory.is_none() {
            self.watch = Some(Watch { limit: memory_bytes, next: Instant::now() + LOOK });
        }
    }

    /// Where only our own watch holds an attempt: what no process of it can have, however fast it takes it. Well above the
    /// limit, since what a program reserves and never touches counts, too.
    pub(super) fn data_limit(&self) -> Option<u64> {
        let limit = self.watch.as_ref()?.limit;
        Some(limit.saturating_mul(2).saturating_add(DATA_SPARE))
    }

    /// What the command enters.
    pub(super) fn doors(&self) -> Vec<i32> {
        self.memory.iter().map(MemoryGroup::door).collect()
    }

    /// Readable when the kernel has killed for the limit.
    pub(super) fn alarm(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref()?.alarm()
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        [self.watch.as_ref().map(|watch| watch.next), self.again.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the kernel has killed for in the attempt's own group, in words.
    pub(super) fn verdict(&self) -> Option<String> {
        self.memory.as_ref()?.verdict()
    }

    /// Kills for memory before the attempt, if they are counted apart.
    pub(super) fn kills_before(&self) -> Option<u64> {
        self.kills_before
    }

    /// Nobody is born any more: whoever kills now wins.
    pub(super) fn freeze(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.freeze();
        }
    }

    /// The tree is gone: what was made for it goes, and the slot is as before.
    pub(super) fn release(&mut self) {
        (self.watch, self.again) = (None, None);
        if let Some(memory) = self.memory.take() {
            memory.remove();
        }
        if let Some(Err(error)) = self.slot.as_mut().map(|slot| slot.thaw(false)) {
            tracing::warn!(%error, "a slot cannot have births again");
        }
    }

    /// Whether the bound of processes was hit since it was asked last, in words.
    fn was_refused(&mut self) -> Option<String> {
        let (refused, bound) = self.slot.as_ref()?.refused_births()?;
        let before = std::mem::replace(&mut self.refused_before, refused);
        let times = refused.saturating_sub(before);
        (times > 0).then(|| {
            format!("reeve: {times} times a process or thread was refused: at most {bound} at once (agent.toml: processes)\n")
        })
    }
}

impl Guardian<'_> {
    /// The kernel says that the limit was hit.
    #[inline(never)]
    pub(super) fn heard_alarm(&mut self) {
        if let Some(memory) = &self.confined.memory {
            memory.hush();
        }
        self.confined.again = Some((Instant::now(), AGAIN_TIMES));
        self.look_again(Instant::now());
    }

    /// The alarm comes before the kill, and sometimes what is freed meanwhile is enough.
    fn look_again(&mut self, now: Instant) {
        let Some((_, left)) = self.confined.again.filter(|(at, _)| *at <= now) else { return };
        self.confined.again = (left > 0).then(|| (now + AGAIN, left - 1));
        if let Some(detail) = self.confined.verdict() {
            self.confined.again = None;
            self.stop(&Cause::Oom { detail }, 0);
        }
    }

    /// What is due: after an alarm, and by our own watch.
    pub(super) fn look_at_memory(&mut self, now: Instant) {
        self.look_again(now);
        let Some(watch) = self.confined.watch.as_mut().filter(|watch| watch.next <= now) else { return };
        let found = watch.look(self.state.guardian_pid);
        if let Some(detail) = found {
            self.confined.watch = None;
            self.stop(&Cause::Oom { detail }, 0);
        }
    }

    /// Says on the tape what a job cannot see by itself. Only of one that went wrong: it costs a look.
    pub(super) fn note_refused(&mut self, cause: &Cause) {
        if matches!(cause, Cause::Ok) {
            return;
        }
        if let Some(note) = self.confined.was_refused() {
            self.tape.record(STDERR, Wall::now().0.max(0) as u64, note.as_bytes());
        }
    }
}

/// Looks at what the processes of an attempt use, where the kernel sets no limit.
struct Watch {
    limit: u64,
    next: Instant,
}

impl Watch {
    /// What to end it with.
    fn look(&mut self, guardian: u32) -> Option<String> {
        let began = Instant::now();
        let processes = tree::descendants(guardian);
        let pages: u64 = processes.iter().filter_map(|pid| Stat::read(*pid)).map(|stat| stat.pages).sum();
        let mut used = pages * rustix::param::page_size() as u64;
        if used > self.limit {
            // What is shared was counted once for each who has it.
            used = processes.iter().map(|pid| proportional(*pid)).sum();
        }
        self.next = Instant::now() + LOOK.max(began.elapsed() * COST);
        (used > self.limit).then(|| {
            format!(
                "its processes used {} of memory, its limit is {}; ended by reeve's own watch, this machine's kernel sets no limit",
                show_bytes(used),
                show_bytes(self.limit)
            )
        })
    }
}

/// Memory of a process, what it shares divided by those who share it; all of it where the kernel does not say.
fn proportional(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    match line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()) {
        Some(kib) => kib * 1024,
        None => Stat::read(pid).map_or(0, |stat| stat.pages * rustix::param::page_size() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_speaks_only_above_the_limit() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = std::process::id();
        let at = Instant::now();
        let mut roomy = Watch { limit: 1 << 40, next: at };
        assert_eq!(roomy.look(own), None);
        assert!(roomy.next > at, "it rests in between");
        // The kernel counts the first pages of a process late.
        let told = std::iter::repeat_with(|| Watch { limit: 1, next: at }.look(own))
            .take_while(|_| at.elapsed() < Duration::from_secs(30))
            .find_map(|told| told)
            .unwrap();
        assert!(told.contains("limit is 1 B") && told.contains("reeve's own watch"), "{told}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn without_a_slot_a_limit_of_memory_is_watched() {
        let mut confined = Confinement::default();
        confined.prepare(1000, 0);
        assert!(confined.next_look().is_none() && confined.doors().is_empty());
        confined.prepare(1000, 1 << 20);
        assert!(confined.next_look().is_some() && confined.alarm().is_none());
        confined.release();
        assert!(confined.next_look().is_none() && confined.verdict().is_none());
    }
}
