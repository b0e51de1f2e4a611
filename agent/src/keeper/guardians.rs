//! The guardians of a keeper: has them forked, gives them attempts, keeps a few that hold nothing, lets them go.
use super::attempts::{Attempt, Keeper, Link};
use super::place::Place;
use super::queue::Size;
use super::users::Person;
use super::watch::Watch;
use super::zygote::Failure;
use crate::guardian::{NEXT, NEXT_START, Task};
use crate::machine::memory;
use crate::peer::Peer;
use reeve_protocol::artifact::MOST_BYTES;
use reeve_protocol::crash;
use reeve_protocol::guardian::{Forget, kind};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::Start;
use rustix::event::epoll;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How old the kernel's count of kills for memory may be when a guardian inherits it.
const OOM_COUNT_AGE: Duration = Duration::from_secs(1);
/// Guardians without attempt that are kept.
const MAX_IDLE: usize = 16;
/// How long a guardian may wait to hear that it may forget.
pub(super) const SOON: Duration = Duration::from_millis(10);
/// Zygotes that are asked for one guardian, each after the one before was gone.
const ZYGOTES: usize = 2;

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
        let (link, guardian_pid) = self.employ(&task)?;
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

    /// Gives the task to a guardian that holds nothing, or to a new one.
    fn employ(&mut self, task: &Task) -> io::Result<(u64, u32)> {
        let idle = self.idle.pop().and_then(|token| Some((token, self.links.get(&token)?.guardian_pid)));
        let (token, guardian_pid) = idle.map_or_else(|| self.fork(), Ok)?;
        if let Some(link) = self.links.get_mut(&token) {
            link.attempt = task.start.attempt;
            link.peer.say(NEXT_START, 0, &task.start);
        }
        self.say_to(token, NEXT, task);
        if idle.is_none() {
            crash::point("keeper.forked");
        }
        Ok((token, guardian_pid))
    }

    /// A new guardian, which waits for its first task.
    ///
    /// A zygote that is gone may have forked one before, and nobody knows: that one leaves, since it never gets a task, and
    /// is given none because its socket pair is closed and each try has its own.
    pub(super) fn fork(&mut self) -> io::Result<(u64, u32)> {
        let mut left = ZYGOTES;
        loop {
            left -= 1;
            let (ours, theirs) = UnixStream::pair()?;
            let slot = self.groups.take();
            let forked = self.fork_with(theirs.as_fd(), slot);
            if forked.is_err() {
                self.groups.give_back(slot);
            }
            match forked {
                Ok(guardian_pid) => {
                    self.forked_at = Instant::now();
                    let token = self.add_link(ours, AttemptId::default(), guardian_pid, true, slot)?;
                    return Ok((token, guardian_pid));
                }
                Err(Failure::Zygote(_)) if left > 0 => {}
                Err(Failure::Zygote(error) | Failure::Fork(error)) => return Err(error),
            }
        }
    }

    /// Writes what was said to a guardian; what does not fit into its socket goes when it has read.
    pub(super) fn flush_to(&mut self, token: u64) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if !link.peer.flush() {
            tracing::debug!(attempt = %link.attempt, "a guardian is gone");
        }
        let writing = link.peer.pending() > 0;
        if writing != link.writing {
            link.writing = writing;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, writing);
            if let Err(error) =
                epoll::modify(&self.epoll, &link.peer, epoll::EventData::new_u64(token), flags)
            {
                tracing::warn!(attempt = %link.attempt, %error, "a guardian's socket cannot be watched");
            }
        }
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
        self.links.insert(
            token,
            Link { peer: Peer::new(stream)?, attempt, guardian_pid, writing: false, is_own, slot },
        );
        Ok(token)
    }

    /// Tells a guardian to forget, together with its next task if that comes soon: each word by itself would wake it.
    pub(super) fn let_forget(&mut self, token: u64) {
        let Some(link) = self.links.get_mut(&token) else { return };
        link.peer.say(kind::FORGET, 0, &Forget { reason: 1 });
        if !link.is_own {
            self.flush_to(token);
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
                self.flush_to(token);
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
