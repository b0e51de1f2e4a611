//! The guardians of a keeper: forks them, gives them attempts, keeps a few that hold nothing, lets them go.
use super::attempts::{Attempt, Keeper, Link};
use super::place::Place;
use super::queue::Size;
use super::users::Person;
use super::watch::Watch;
use crate::guardian::{NEXT, Setting, Task, run as guardian, sys};
use crate::machine::memory;
use crate::peer::Peer;
use reeve_protocol::artifact::MOST_BYTES;
use reeve_protocol::crash;
use reeve_protocol::guardian::{Forget, kind};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::Start;
use rustix::event::epoll;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How old the kernel's count of kills for memory may be when a guardian inherits it.
const OOM_COUNT_AGE: Duration = Duration::from_secs(1);
/// Guardians without attempt that are kept.
const MAX_IDLE: usize = 16;
/// How long a guardian may wait to hear that it may forget.
pub(super) const SOON: Duration = Duration::from_millis(10);
/// Bytes of a task that are certain to go into a socket at once.
const SMALL: usize = 32 * 1024;

impl Keeper {
    /// Gives an attempt whose turn it is to a guardian.
    pub(super) fn hand_out(&mut self, start: &Start, person: &Person) -> io::Result<()> {
        if start.lineage != self.lineage {
            self.lineage.clone_from(&start.lineage);
            Place::set_lineage(&start.lineage);
        }
        if self.oom.0.elapsed() > OOM_COUNT_AGE {
            self.oom = (Instant::now(), memory::oom_kills());
        }
        let task = Task {
            start: start.clone(),
            account: (*person.account).clone(),
            identity: person.identity.as_deref().cloned(),
            no_new_privs: person.uid != 0,
            machine: self.machine.clone(),
            spool: self.place.spool_path(&start.lineage, start.attempt),
            oom_kills: self.oom.1,
            heard: self.heard,
            checkout: self.order(start.attempt, person)?,
            replica: self.replicas.remove(&start.attempt),
            shared: !self.trusted.is_empty(),
            collect: self.collects.remove(&start.attempt),
            out_max: self.args.out_max.unwrap_or(MOST_BYTES),
        };
        let (link, guardian_pid) = match self.employ(&task) {
            Some(employed) => employed,
            None => self.fork(Some(task))?,
        };
        let attempt = Attempt {
            link: Some(link),
            guardian_pid,
            pid: 0,
            born: 0,
            leased: start.stop_after_ms > 0,
            phase: 1,
            lineage: start.lineage.clone(),
            size: Size::of(start),
            started_ms: 0,
            prepared: None,
            artifacts: None,
            end: None,
            report: false,
            watch: Watch::default(),
        };
        self.attempts.insert(start.attempt, attempt);
        Ok(())
    }

    /// Gives the task to a guardian that holds nothing, if there is one and the task fits into its socket at once.
    fn employ(&mut self, task: &Task) -> Option<(u64, u32)> {
        let size = |start: &Start| {
            let parts = [start.payload.as_ref(), start.stdin.as_ref()].into_iter().flatten().map(Vec::len);
            let env = start.env.iter().map(|(name, value)| name.len() + value.len());
            parts.chain(env).chain(start.command.iter().map(String::len)).sum::<usize>()
        };
        let patch = task.checkout.as_ref().and_then(|c| c.checkout.patch.as_ref()).map_or(0, Vec::len);
        let globs = task.collect.iter().flat_map(|c| &c.globs).map(String::len).sum::<usize>();
        if size(&task.start) + patch + globs > SMALL {
            return None;
        }
        let token = self.idle.pop()?;
        let link = self.links.get_mut(&token)?;
        link.attempt = task.start.attempt;
        let guardian_pid = link.guardian_pid;
        self.say_to(token, NEXT, task);
        Some((token, guardian_pid))
    }

    /// A new guardian; without a task it waits for its first.
    pub(super) fn fork(&mut self, task: Option<Task>) -> io::Result<(u64, u32)> {
        let (ours, theirs) = UnixStream::pair()?;
        let slot = self.groups.take();
        let setting = Setting {
            path: self.args.path.as_deref().unwrap_or(super::DEFAULT_PATH),
            root: &self.place.root,
            work: &self.place.work,
            nonce: &self.place.nonce,
            trusted: &self.trusted,
            cgroups: self.jobs.doors(self.groups.hierarchies().divided()),
            slot: slot.map(|number| (self.groups.hierarchies(), number)),
            bounds: &self.bounds,
        };
        let attempt = task.as_ref().map(|task| task.start.attempt).unwrap_or_default();
        let Some(guardian_pid) = sys::fork()? else { guardian(&setting, task, theirs) };
        drop(theirs);
        crash::point("keeper.forked");
        self.forked_at = Instant::now();
        Ok((self.add_link(ours, attempt, guardian_pid, true, slot)?, guardian_pid))
    }

    pub(super) fn add_link(
        &mut self,
        stream: UnixStream,
        attempt: AttemptId,
        guardian_pid: u32,
        is_own: bool,
        slot: Option<u32>,
    ) -> io::Result<u64> {
        let token = self.token();
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.links.insert(token, Link { peer: Peer::new(stream)?, attempt, guardian_pid, is_own, slot });
        Ok(token)
    }

    /// Tells a guardian to forget, together with its next task if that comes soon: each word by itself would wake it.
    pub(super) fn let_forget(&mut self, token: u64) {
        let Some(link) = self.links.get_mut(&token) else { return };
        link.peer.say(kind::FORGET, 0, &Forget { reason: 1 });
        if !link.is_own {
            link.peer.flush();
            return;
        }
        if self.untold.1.is_empty() {
            self.untold.0 = Instant::now();
        }
        self.untold.1.push(token);
    }

    /// No task came soon enough: they are told.
    pub(super) fn tell_if_due(&mut self) {
        if !self.untold.1.is_empty() && self.untold.0.elapsed() >= SOON {
            for token in std::mem::take(&mut self.untold.1) {
                if let Some(link) = self.links.get_mut(&token) {
                    link.peer.flush();
                }
            }
        }
    }

    /// A guardian was told to forget: it may be used again, or leave when there are many. One that another keeper forked
    /// leaves by itself.
    pub(super) fn rest(&mut self, token: u64) {
        if self.links.get(&token).is_some_and(|link| link.is_own) {
            self.idle.push(token);
            self.rested_at = Instant::now();
        }
        if self.idle.len() > MAX_IDLE {
            let longest = self.idle.remove(0);
            self.part(longest);
        }
    }

    /// Lets a guardian without attempt go: it leaves when its connection ends.
    pub(super) fn part(&mut self, token: u64) {
        if let Some(mut link) = self.links.remove(&token) {
            link.peer.flush();
            let _ = epoll::delete(&self.epoll, &link.peer);
            self.groups.give_back(link.slot);
        }
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}
