//! What the keeper knows about its attempts, and what it does with them: start, stop, forget, report. Everything here
//! changes the tables; bytes are moved by [`super::event`].
use super::Args;
use super::agent::Agent;
use super::jobs_cgroup::JobsCgroup;
use super::place::{Place, is_plain};
use super::queue::{Queue, Size, Tombstones, Turn};
use super::users::Users;
use super::watch::Watch;
use crate::clock::boot_ms;
use crate::groups::{Bounds, Groups};
use crate::guardian::replica::Spoken;
use crate::guardian::tree::Stat;
use crate::machine::memory;
use crate::peer::{Peer, SCRATCH};
use reeve_protocol::cause::{Cause, WireCause};
use reeve_protocol::crash;
use reeve_protocol::guardian::{self as says, State};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::time::Wall;
use reeve_protocol::wire::{Checkout, Collect, Finished, INLINE_OUTPUT, Revoke, Start, Started, kind};
use rustix::event::epoll;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;

/// A keeper at work.
pub(super) struct Keeper {
    pub(super) place: Place,
    pub(super) args: Args,
    /// Users besides our own and root who may connect.
    pub(super) trusted: Vec<u32>,
    pub(super) jobs: JobsCgroup,
    pub(super) groups: Groups,
    /// What forks guardians; `None`: another is started when one is needed.
    pub(super) zygote: Option<super::zygote::Zygote>,
    pub(super) bounds: Bounds,
    pub(super) life: String,
    pub(super) machine: String,
    /// Up to when the coordinator is known to have heard this machine, boot-time milliseconds.
    pub(super) heard: u64,
    pub(super) lineage: String,
    pub(super) queue: Queue,
    pub(super) attempts: HashMap<AttemptId, Attempt>,
    pub(super) links: HashMap<u64, Link>,
    /// Connections to guardians that hold nothing, the one that was last at work last.
    pub(super) idle: Vec<u64>,
    pub(super) tombstones: Tombstones,
    /// What waiting attempts need checked out.
    pub(super) checkouts: HashMap<AttemptId, Checkout>,
    /// How waiting attempts that are replicas of static workers are spoken to.
    pub(super) replicas: HashMap<AttemptId, Spoken>,
    /// What is collected at the end of waiting attempts.
    pub(super) collects: HashMap<AttemptId, Collect>,
    pub(super) agent: Option<Agent>,
    /// Connections that have said nothing yet: the first word makes one the agent, so that somebody who only looks
    /// takes nobody's place.
    pub(super) visitors: Vec<Agent>,
    pub(super) epoll: OwnedFd,
    pub(super) listener: UnixListener,
    pub(super) users: Users,
    /// Asked to end everything and leave.
    pub(super) leaving: bool,
    /// The runtime directory is no longer where it was: no guardian made now could be found. Leaves at once.
    pub(super) adrift: bool,
    pub(super) idle_since: Instant,
    pub(super) next_token: u64,
    pub(super) scratch: Vec<u8>,
    pub(super) watched_at: Instant,
    pub(super) rounds: u64,
    /// When a guardian was last forked.
    pub(super) forked_at: Instant,
    /// When a guardian was last added to the idle ones.
    pub(super) rested_at: Instant,
    pub(super) oom: (Instant, Option<u64>),
    pub(super) pace: super::pace::Pace,
    /// How long what was said is held back; `None`: nothing is.
    pub(super) held: Option<std::time::Duration>,
    /// Guardians that have not been told yet that they may forget, and since when.
    pub(super) untold: (Instant, Vec<u64>),
}

/// A connection to a guardian.
pub(super) struct Link {
    pub(super) peer: Peer,
    /// What it holds, or held last.
    pub(super) attempt: AttemptId,
    pub(super) guardian_pid: u32,
    /// Not all that was said to it is written yet.
    pub(super) writing: bool,
    /// Forked for this very keeper, so that it takes another attempt from it.
    pub(super) is_own: bool,
    /// The slot of control groups that it and its attempts live in.
    pub(super) slot: Option<u32>,
}

/// An attempt that has started, or has ended without.
pub(super) struct Attempt {
    /// The connection to its guardian while that lives.
    pub(super) link: Option<u64>,
    pub(super) guardian_pid: u32,
    pub(super) pid: u32,
    /// When the command was born, clock ticks after boot; 0 if that was not seen. A process id alone may be somebody
    /// else's by now.
    pub(super) born: u64,
    /// Exclusive, or found and perhaps so: its guardian wants to hear that the coordinator is heard.
    pub(super) leased: bool,
    /// As in the inventory.
    pub(super) phase: u16,
    pub(super) lineage: String,
    pub(super) size: Size,
    pub(super) started_ms: i64,
    /// What comes before its command, as its guardian told it.
    pub(super) prepared: Option<says::Prepared>,
    /// Files and bytes that were collected of it, and that its guardian has.
    pub(super) artifacts: Option<(u32, u64)>,
    /// Once it has ended: how, without what is long if the guardian still has that.
    pub(super) end: Option<Finished>,
    /// The agent wants to hear the end again; the guardian has been asked for it.
    pub(super) report: bool,
    pub(super) watch: Watch,
}

impl Keeper {
    pub(super) fn new(
        place: Place,
        life: String,
        args: &Args,
        trusted: Vec<u32>,
        listener: UnixListener,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (groups, bounds) = super::slots::open(args, &place.word);
        let data = epoll::EventData::new_u64(super::event::LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Self {
            place,
            args: args.clone(),
            trusted,
            jobs: JobsCgroup::new(args.jobs_cgroup.clone()),
            groups,
            zygote: None,
            bounds,
            life,
            machine: crate::machine::os::hostname(),
            heard: 0,
            lineage: Place::lineage(),
            queue: Queue::default(),
            attempts: HashMap::new(),
            links: HashMap::new(),
            idle: Vec::new(),
            tombstones: Tombstones::default(),
            checkouts: HashMap::new(),
            replicas: HashMap::new(),
            collects: HashMap::new(),
            agent: None,
            visitors: Vec::new(),
            epoll,
            listener,
            users: Users::new(args.allow_root, args.run_as.clone()),
            leaving: false,
            adrift: false,
            idle_since: Instant::now(),
            next_token: super::event::LISTENER + 1,
            scratch: vec![0; SCRATCH],
            watched_at: Instant::now(),
            rounds: 0,
            forked_at: Instant::now(),
            rested_at: Instant::now(),
            oom: (Instant::now(), memory::oom_kills()),
            pace: super::pace::Pace::default(),
            held: None,
            untold: (Instant::now(), Vec::new()),
        })
    }

    /// Takes a Start: waits, is refused, or was known already and is told about again.
    pub(super) fn start(&mut self, start: Box<Start>, checkout: Option<Checkout>, replica: Option<Spoken>) {
        let id = start.attempt;
        if self.attempts.contains_key(&id) {
            self.tell(id);
            return;
        }
        if self.queue.is_waiting(id) || self.tombstones.contains(id) {
            return;
        }
        if self.leaving {
            self.end_unstarted(&start, &Cause::Rejected { detail: "this keeper is leaving".to_owned() });
        } else if is_plain(&start.lineage) {
            self.checkouts.extend(checkout.map(|checkout| (id, checkout)));
            self.replicas.extend(replica.map(|replica| (id, replica)));
            self.queue.push(start);
        } else {
            let detail = format!("{:?} cannot be a lineage", start.lineage);
            self.end_unstarted(&start, &Cause::Rejected { detail });
        }
    }

    /// Starts whoever's turn it is.
    pub(super) fn admit(&mut self) {
        if !self.jobs.is_open() {
            return;
        }
        while let Some(turn) = self.queue.next_turn() {
            match turn {
                Turn::Go(start) => self.launch(&start),
                Turn::TooLarge(start) => {
                    let detail = "it asks for more than this machine may run at once".to_owned();
                    self.end_unstarted(&start, &Cause::Rejected { detail });
                }
            }
        }
    }

    fn launch(&mut self, start: &Start) {
        if !self.place.is_in_place() {
            // Not started, not told: the next keeper does not know it, and then it goes back to its place.
            tracing::error!(dir = self.place.root, "the runtime directory was removed; this keeper leaves");
            self.adrift = true;
            return;
        }
        if lease_is_over(start.stop_after_ms, self.heard, boot_ms()) {
            // Its Start was old when it came, or waited for room too long: another attempt may run elsewhere by now.
            tracing::warn!(attempt = %start.attempt, "an exclusive attempt came too late and is not started");
            self.queue.release(Size::of(start));
            self.tombstones.add(start.attempt);
            self.say(kind::RETURNED, &Revoke { attempt: start.attempt });
            return;
        }
        let refused = match self.users.resolve(start) {
            Ok(person) => self.hand_out(start, &person).err().map(|error| Cause::Spawn {
                errno: error.raw_os_error().map_or_else(String::new, crate::guardian::errno_name),
                detail: format!("no guardian could be made on machine {}: {error}", self.machine),
            }),
            Err(detail) => Some(Cause::Rejected { detail }),
        };
        if let Some(cause) = refused {
            self.queue.release(Size::of(start));
            self.end_unstarted(start, &cause);
        }
    }

    /// It never had a process; the end is kept here until it is forgotten.
    fn end_unstarted(&mut self, start: &Start, cause: &Cause) {
        self.checkouts.remove(&start.attempt);
        self.replicas.remove(&start.attempt);
        self.collects.remove(&start.attempt);
        let end = plain_end(start.attempt, cause.to_wire(), 0, 0);
        let attempt = Attempt::ended(end.clone(), start.lineage.clone());
        self.attempts.insert(start.attempt, attempt);
        self.say(kind::FINISHED, &end);
    }

    /// A guardian has spoken.
    pub(super) fn note(&mut self, id: AttemptId, state: State) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let new_pid = attempt.pid == 0 && state.pid != 0;
        if new_pid && state.phase == 1 {
            attempt.born = Stat::read(state.pid).map_or(0, |stat| stat.start);
        }
        attempt.pid = state.pid;
        attempt.watch.wrote(state.tape);
        attempt.started_ms = state.started_ms;
        attempt.phase = attempt.phase.max(state.phase);
        let first_end = state.phase == 3 && attempt.end.is_none();
        let told = state.phase == 3 && (first_end || std::mem::take(&mut attempt.report));
        let started = Started { attempt: id, pid: state.pid, at_ms: state.started_ms };
        let size = attempt.size;
        let finished = told.then(|| finished(state));
        if let Some(end) = &finished
            && first_end
        {
            attempt.end = Some(Finished { output: Vec::new(), result: None, spooled: 0, ..end.clone() });
        }
        if first_end {
            self.queue.release(size);
        }
        if new_pid {
            self.say(kind::STARTED, &started);
            crash::point("keeper.started-unsent");
        }
        if let Some(end) = finished {
            self.tell_last_progress(id);
            self.tell_artifacts(id);
            crash::point("keeper.finished-unsent");
            self.say(kind::FINISHED, &end);
        }
    }

    /// Says where an attempt stands, again.
    pub(super) fn tell(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        match (&attempt.end, attempt.link) {
            (None, _) if attempt.pid != 0 => {
                let started = Started { attempt: id, pid: attempt.pid, at_ms: attempt.started_ms };
                self.say(kind::STARTED, &started);
            }
            (None, _) => {}
            (Some(_), Some(link)) => {
                attempt.report = true;
                let nonce = self.place.nonce.clone();
                self.say_to(link, says::kind::HELLO, &says::Hello { nonce });
            }
            (Some(end), None) => {
                let end = end.clone();
                self.say(kind::FINISHED, &end);
            }
        }
    }

    /// Ends an attempt with a cause.
    pub(super) fn stop(&mut self, id: AttemptId, cause: WireCause, grace_ms: u64) {
        crash::point("keeper.stop-received");
        if let Some(start) = self.queue.remove(id) {
            self.end_unstarted(&start, &Cause::from_wire(cause));
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&id) else {
            self.tombstones.add(id);
            self.say(kind::FINISHED, &plain_end(id, cause, 0, 0));
            return;
        };
        if attempt.end.is_none()
            && let Some(link) = attempt.link
        {
            attempt.phase = attempt.phase.max(2);
            self.say_to(link, says::kind::SIGNAL, &says::Signal { signal: 0, grace_ms, cause, renew: false });
        }
    }

    /// The end is on disk elsewhere: nothing of it stays here.
    pub(super) fn forget(&mut self, id: AttemptId) {
        match self.attempts.get(&id) {
            Some(attempt) if attempt.end.is_none() => {
                tracing::warn!(attempt = %id, "asked to forget an attempt that has not ended");
            }
            Some(attempt) => {
                crash::point("keeper.forget-received");
                match attempt.link {
                    // The guardian removes its files itself.
                    Some(link) => {
                        self.let_forget(link);
                        self.rest(link);
                    }
                    None => self.remove_files(id, attempt.guardian_pid, &attempt.lineage.clone()),
                }
                self.attempts.remove(&id);
            }
            None => {}
        }
    }

    /// The connection to a guardian has ended: it was told to forget, or it was killed.
    pub(super) fn lose(&mut self, token: u64) {
        let Some(link) = self.links.remove(&token) else { return };
        self.idle.retain(|idle| *idle != token);
        let (id, guardian_pid, slot) = (link.attempt, link.guardian_pid, link.slot);
        self.groups.give_back(slot);
        // Closing alone does not take it out while a guardian that was just forked still holds a copy.
        let _ = epoll::delete(&self.epoll, &link.peer);
        drop(link);
        if !self.attempts.contains_key(&id) {
            // It was told to forget and was killed over it, perhaps: whatever it has not removed goes now, or the next
            // keeper would take the socket for an attempt that died.
            let lineage = self.lineage.clone();
            return self.remove_files(id, guardian_pid, &lineage);
        }
        let Some(attempt) = self.attempts.get_mut(&id).filter(|a| a.link == Some(token)) else { return };
        (attempt.link, attempt.artifacts) = (None, None);
        let guardian_pid = attempt.guardian_pid;
        let (lineage, leader) = (attempt.lineage.clone(), (attempt.pid, attempt.born));
        if attempt.end.is_some() {
            attempt.guardian_pid = 0;
            // Its output is gone with it; how it ended is known.
            let report = std::mem::take(&mut attempt.report);
            if report {
                self.tell(id);
            }
            return;
        }
        attempt.phase = 3;
        let end = plain_end(id, Cause::KeeperLost.to_wire(), attempt.started_ms, attempt.pid);
        attempt.end = Some(end.clone());
        let size = attempt.size;
        if let Some(slot) = slot {
            self.groups.kill(slot);
        }
        self.kill_leftovers(id, leader);
        self.remove_files(id, guardian_pid, &lineage);
        self.queue.release(size);
        self.say(kind::FINISHED, &end);
    }

    /// Whether anything may still start or run.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || self.attempts.values().any(|a| a.end.is_none())
    }
}

impl Attempt {
    pub(super) fn ended(end: Finished, lineage: String) -> Self {
        Self {
            link: None,
            guardian_pid: 0,
            pid: end.pid,
            born: 0,
            leased: false,
            phase: 3,
            lineage,
            size: Size::default(),
            started_ms: end.started_ms,
            prepared: None,
            artifacts: None,
            end: Some(end),
            report: false,
            watch: Watch::default(),
        }
    }
}

/// Whether an exclusive attempt must not start any more. Before the coordinator was known to have heard this machine there
/// was no Start.
fn lease_is_over(stop_after_ms: u64, heard: u64, now: u64) -> bool {
    stop_after_ms > 0 && heard.saturating_add(stop_after_ms) <= now
}

/// An end without output.
pub(super) fn plain_end(attempt: AttemptId, cause: WireCause, started_ms: i64, pid: u32) -> Finished {
    Finished {
        attempt,
        cause,
        started_ms,
        ended_ms: Wall::now().0,
        pid,
        cpu_ms: 0,
        rss_peak: 0,
        output: Vec::new(),
        spooled: 0,
        result: None,
    }
}

/// What the guardian says, as the coordinator hears it.
fn finished(state: State) -> Finished {
    Finished {
        attempt: state.attempt,
        cause: state.cause,
        started_ms: state.started_ms,
        ended_ms: state.ended_ms,
        pid: state.pid,
        cpu_ms: state.cpu_ms,
        rss_peak: state.rss_peak,
        spooled: if state.tape > INLINE_OUTPUT as u64 { state.tape } else { 0 },
        output: state.output,
        result: state.result,
    }
}
