//! The keeper's event loop: moves bytes, and calls whoever they are for. Every round takes all that is ready, then writes
//! once.
use super::agent::{Agent, MAX_PENDING};
use super::attempts::Keeper;
use super::guardians::SOON;
use crate::peer::{Peer, is_trusted};
use reeve_protocol::guardian::{Artifacts, Prepared, State, kind};
use reeve_protocol::wire::kind as wire;
use rustix::event::{Timespec, epoll};
use std::io;
use std::time::{Duration, Instant};

/// The token of the listening socket.
pub(super) const LISTENER: u64 = 0;
/// Events of one round.
const EVENTS: usize = 256;
/// Connections that have said nothing; the oldest goes when there are more.
const VISITORS: usize = 8;
/// Between two looks at what running attempts say and use.
const LOOK: Duration = Duration::from_secs(1);
/// How long guardians without attempt are kept.
const REST: Duration = Duration::from_secs(1);

impl Keeper {
    /// Serves until everything has ended and nobody wants anything.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    token if self.agent.as_ref().is_some_and(|a| a.token == token) => self.hear_agent(),
                    token => match self.visitors.iter().position(|v| v.token == token) {
                        Some(at) => self.hear_visitor(at),
                        None => self.hear_guardian(token),
                    },
                }
            }
            self.mind_jobs();
            self.admit();
            if self.adrift {
                return Ok(());
            }
            self.watch_if_due();
            self.tell_if_due();
            self.part_if_due();
            self.spare_if_due();
            self.flush();
            if self.may_leave() {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if !is_trusted(&stream, &self.trusted) {
                continue;
            }
            let token = self.token();
            let added =
                epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(token), epoll::EventFlags::IN);
            if let (Ok(()), Ok(mut peer)) = (added, Peer::new(stream)) {
                peer.say(wire::KEEPER_HELLO, 0, &self.hello());
                if peer.flush() {
                    self.visitors.push(Agent { peer, token, writing: false });
                }
                if self.visitors.len() > VISITORS {
                    self.visitors.remove(0);
                }
            }
        }
    }

    /// A visitor has spoken, or is gone. Its first word makes it the agent: the newer one is the one that is alive.
    fn hear_visitor(&mut self, at: usize) {
        let mut visitor = self.visitors.remove(at);
        let open = visitor.peer.fill(&mut self.scratch);
        if visitor.peer.has_spoken() {
            self.drop_agent();
            self.agent = Some(visitor);
            self.hear_words(open);
        } else if open {
            self.visitors.push(visitor);
        }
    }

    fn hear_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let open = agent.peer.fill(&mut self.scratch);
        self.hear_words(open);
    }

    fn hear_words(&mut self, mut open: bool) {
        while let Some(agent) = &mut self.agent {
            match agent.peer.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.hear(&frame) {
                        tracing::warn!(%error, "the agent said something unknown");
                        open = false;
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the agent said something unknown");
                    open = false;
                    break;
                }
            }
        }
        if !open {
            self.drop_agent();
        }
    }

    fn drop_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = epoll::delete(&self.epoll, &agent.peer);
        }
        self.idle_since = Instant::now();
    }

    pub(super) fn hear_guardian(&mut self, token: u64) {
        if self.links.get(&token).is_some_and(|link| link.writing) {
            self.flush_to(token);
        }
        let Some(link) = self.links.get_mut(&token) else { return };
        let mut open = link.peer.fill(&mut self.scratch);
        while let Some(link) = self.links.get_mut(&token) {
            let id = link.attempt;
            match link.peer.next_frame() {
                Ok(Some(frame)) if frame.kind == kind::STATE => match frame.decode::<State>() {
                    Ok(state) if state.attempt == id => self.note(id, state),
                    _ => open = false,
                },
                Ok(Some(frame)) if frame.kind == kind::PREPARED => match frame.decode::<Prepared>() {
                    Ok(prepared) if prepared.attempt == id => self.note_prepared(id, prepared),
                    _ => open = false,
                },
                Ok(Some(frame)) if frame.kind == kind::ARTIFACTS => match frame.decode::<Artifacts>() {
                    Ok(artifacts) if artifacts.attempt == id => self.note_artifacts(id, &artifacts),
                    _ => open = false,
                },
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        if !open {
            self.lose(token);
        }
    }

    /// One write for all that was said in this round.
    fn flush(&mut self) {
        self.held = None;
        let Some(agent) = &mut self.agent else { return };
        if agent.peer.pending() == 0 {
            return;
        }
        let now = Instant::now();
        if !agent.writing {
            self.held = self.pace.hold(now);
        }
        if self.held.is_some() {
            return;
        }
        self.pace.wrote(now);
        if !agent.peer.flush() || agent.peer.pending() > MAX_PENDING {
            self.drop_agent();
            return;
        }
        let writing = agent.peer.pending() > 0;
        if writing != agent.writing {
            agent.writing = writing;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, writing);
            let data = epoll::EventData::new_u64(agent.token);
            if epoll::modify(&self.epoll, &agent.peer, data, flags).is_err() {
                self.drop_agent();
            }
        }
    }

    fn watch_if_due(&mut self) {
        if self.is_watching() && self.watched_at.elapsed() >= LOOK {
            self.watched_at = Instant::now();
            self.watch();
        }
    }

    /// Only with somebody to tell and something to see.
    fn is_watching(&self) -> bool {
        self.agent.is_some() && self.attempts.values().any(|a| a.end.is_none())
    }

    /// Nothing has ended for a while: memory is worth more than the next start.
    fn part_if_due(&mut self) {
        if self.rested_at.elapsed() >= REST {
            let kept = self.idle.len().min(self.spares());
            for token in self.idle.drain(..self.idle.len() - kept).collect::<Vec<_>>() {
                self.part(token);
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let rest = (self.idle.len() > self.spares()).then(|| REST.saturating_sub(self.rested_at.elapsed()));
        let left = if self.is_watching() {
            LOOK.saturating_sub(self.watched_at.elapsed())
        } else if self.is_idle() && !self.args.stay {
            Duration::from_secs(self.args.linger_s).saturating_sub(self.idle_since.elapsed())
        } else {
            Duration::MAX
        };
        let left = rest.map_or(left, |rest| rest.min(left));
        let left = self.jobs_due().map_or(left, |due| due.min(left));
        let left = self.spare_due().map_or(left, |due| due.min(left));
        let untold = (!self.untold.1.is_empty()).then(|| SOON.saturating_sub(self.untold.0.elapsed()));
        let left = untold.map_or(left, |soon| soon.min(left));
        if let Some(held) = self.held {
            return Some(Timespec { tv_sec: 0, tv_nsec: held.min(left).as_nanos() as i64 });
        }
        if left == Duration::MAX {
            return None;
        }
        let left = left + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn is_idle(&self) -> bool {
        self.agent.is_none() && self.attempts.is_empty() && self.queue.is_empty()
    }

    fn may_leave(&self) -> bool {
        let lingered = || self.idle_since.elapsed() >= Duration::from_secs(self.args.linger_s);
        if self.leaving { !self.is_busy() } else { !self.args.stay && self.is_idle() && lingered() }
    }
}
