//! Sessions as the agent has them, after `agent/src/agent/session.rs`: connecting, beats and what their echoes prove, words
//! of the keeper in order, and connections that break while frames are on their way. [`super::door`] is the other end.
use super::agenda::{Conn, Down, Due, ToKeeper, Up};
use super::replicas::Replicas;
use super::store::LINEAGE;
use super::world::World;
use reeve_coordinator::effect::ToAgent;
use reeve_coordinator::input::{AgentSaid, Kept, Segment};
use reeve_protocol::wire;
use std::collections::VecDeque;

/// Between two beats.
pub(super) const BEAT_MS: u64 = 2_000;
/// Silence after which either side draws its conclusions.
const SILENCE_MS: u64 = 10_000;

/// An agent: it has no state but this.
#[derive(Default)]
pub struct Agent {
    /// It runs.
    pub alive: bool,
    /// Its connection.
    pub conn: Option<Conn>,
    /// Counts its connections to the keeper.
    pub round: u64,
    /// What it knows of replicas.
    pub replicas: Replicas,
    /// Extra delay of its network.
    pub slow_ms: u64,
    seen: (u64, u64),
    busy: bool,
    in_step: bool,
    welcomed: bool,
    last_word: u64,
    pause: u64,
}

/// Both ends of a connection.
pub struct Session {
    /// The machine.
    pub host: usize,
    /// Its number at the coordinator; 0 before Hello was read.
    pub number: u64,
    /// In which life of the coordinator.
    pub(super) epoch: u64,
    /// The coordinator serves it.
    pub head_open: bool,
    pub(super) agent_open: bool,
    pub(super) sent: u64,
    pub(super) heard: u64,
    pub(super) echoed: u64,
    pub(super) fresh: u64,
    pub(super) silent: bool,
    pub(super) told: u64,
    pub(super) last_packet: u64,
    beats: u64,
    echo: u64,
    /// The echo that the last beat which counts has carried, and such beats without an answer.
    told_echo: u64,
    waiting: VecDeque<(u64, u64)>,
    agent_heard: u64,
    said: u64,
}

impl World {
    fn delay(&mut self, host: usize) -> u64 {
        let slow = self.agents[host].slow_ms;
        let base = if self.rng.chance(80) { self.rng.below(3) } else { self.rng.below(120) };
        base + self.rng.below(slow + 1)
    }

    pub(super) fn send_up(&mut self, conn: Conn, frame: Up) {
        let Some(host) = self.sessions.get(&conn).map(|s| s.host) else { return };
        if self.up[host].cut {
            self.up[host].stalled.push((conn, frame));
        } else {
            let at = (self.now + self.delay(host)).max(self.up[host].last);
            self.up[host].last = at;
            self.agenda.at(at, Due::Up(conn, frame));
        }
    }

    pub(super) fn send_down(&mut self, conn: Conn, frame: Down) {
        let Some(host) = self.sessions.get(&conn).map(|s| s.host) else { return };
        if self.down[host].cut {
            self.down[host].stalled.push((conn, frame));
        } else {
            let at = (self.now + self.delay(host)).max(self.down[host].last);
            self.down[host].last = at;
            self.agenda.at(at, Due::Down(conn, frame));
        }
    }

    /// The network of a machine is whole again: what was repeated in vain arrives.
    pub fn reopen(&mut self, host: usize) {
        (self.up[host].cut, self.down[host].cut) = (false, false);
        for (conn, frame) in std::mem::take(&mut self.up[host].stalled) {
            self.send_up(conn, frame);
        }
        for (conn, frame) in std::mem::take(&mut self.down[host].stalled) {
            self.send_down(conn, frame);
        }
    }

    /// An agent makes its keeper and the coordinator know it.
    pub(super) fn connect(&mut self, host: usize, round: u64) {
        let agent = &self.agents[host];
        if !agent.alive || agent.round != round || agent.conn.is_some() {
            return;
        }
        if self.hosts[host].keeper.is_none() || self.core.is_none() {
            let pause = self.rng.range(200, 2_000);
            self.agenda.at(self.now + pause, Due::Connect(host, round));
            return;
        }
        self.last_conn += 1;
        let conn = self.last_conn;
        let session = Session {
            host,
            number: 0,
            epoch: self.epoch,
            head_open: false,
            agent_open: true,
            sent: 0,
            heard: 0,
            echoed: 0,
            fresh: self.now,
            silent: false,
            told: 0,
            last_packet: self.now,
            beats: 0,
            echo: 0,
            told_echo: 0,
            waiting: VecDeque::new(),
            agent_heard: self.now,
            said: self.now,
        };
        self.sessions.insert(conn, session);
        let agent = &mut self.agents[host];
        (agent.conn, agent.in_step, agent.busy, agent.welcomed) = (Some(conn), false, false, false);
        let seen = agent.seen;
        if let Some(keeper) = &mut self.hosts[host].keeper {
            keeper.link = Some(round);
        }
        self.tell_keeper(host, ToKeeper::Limits(self.hosts[host].cpu_milli, 0));
        let life = self.hosts[host].life;
        let hello = wire::Hello {
            version_min: 1,
            version_max: 1,
            cluster: "c".to_owned(),
            machine: self.hosts[host].id.clone(),
            life: format!("life {life}"),
            keeper: format!("keeper {life}"),
            lineage_seen: LINEAGE.to_owned(),
            epoch_seen: seen.0,
            seq_seen: seen.1,
            agent_version: "0".to_owned(),
            kinds: Vec::new(),
        };
        self.send_up(conn, Up::Hello(Box::new(hello)));
        self.agenda.at(self.now + SILENCE_MS, Due::NoWelcome(conn));
    }

    fn tell_keeper(&mut self, host: usize, word: ToKeeper) {
        let link = self.agents[host].round;
        let at = (self.now + self.rng.below(2)).max(self.agents[host].last_word);
        self.agents[host].last_word = at;
        self.agenda.at(at, Due::Keeper(host, link, word));
    }

    /// What a keeper has said goes to its agent.
    pub(super) fn pass_words(&mut self, host: usize) {
        let words = std::mem::take(&mut self.hosts[host].words);
        let Some(link) = self.hosts[host].keeper.as_ref().and_then(|k| k.link) else { return };
        for word in words {
            // Said together, heard in order; a STARTED may be held back for some milliseconds with all that follows.
            let at = (self.now + self.rng.below(6)).max(self.agents[host].last_word);
            self.agents[host].last_word = at;
            self.agenda.at(at, Due::Agent(host, link, word));
        }
    }

    pub(super) fn agent_hears(&mut self, host: usize, link: u64, word: AgentSaid) {
        let agent = &mut self.agents[host];
        let (true, Some(conn), true) = (agent.alive && agent.round == link, agent.conn, agent.welcomed)
        else {
            return;
        };
        if matches!(word, AgentSaid::Inventory(_) | AgentSaid::InventoryEnd(_)) {
            (agent.in_step, agent.busy) = (true, true);
        }
        // Its jobs are stopped for a while.
        if matches!(word, AgentSaid::InventoryEnd(_)) && agent.in_step && self.rng.chance(8) {
            self.count.hit("machine takes no jobs");
            let at = self.now + self.rng.range(100, 20_000);
            self.agenda.at(self.now + 1, Due::Agent(host, link, AgentSaid::Taking(Some("stopped".into()))));
            self.agenda.at(at + 1, Due::Agent(host, link, AgentSaid::Taking(None)));
        }
        if !agent.in_step {
            return;
        }
        self.replicas_before(host, &word);
        // A large tape goes first, on a stream of its own: other words pass the end meanwhile.
        if let AgentSaid::Finished(finished, _) = &word
            && self.rng.chance(4)
        {
            self.count.hit("ended, output follows");
            self.send_up(conn, Up::Said(vec![AgentSaid::Exited(finished.attempt)]));
            let at = self.now + self.rng.range(1, 5_000);
            self.agenda.at(at, Due::Agent(host, link, word));
            return;
        }
        // Files come with the end: the coordinator has put them into a segment by then.
        if let AgentSaid::Finished(finished, _) = &word
            && self.rng.chance(5)
        {
            let segment = Segment { file: 1, offset: 0, len: 0 };
            let kept = Kept { attempt: finished.attempt, files: Vec::new(), segment };
            return self.send_up(conn, Up::Said(vec![AgentSaid::Artifacts(Box::new(kept)), word]));
        }
        self.send_up(conn, Up::Said(vec![word.clone()]));
        self.replicas_after(host, &word);
    }

    pub(super) fn agent_born(&mut self, host: usize) {
        if !self.hosts[host].on || self.agents[host].alive {
            return;
        }
        let agent = &mut self.agents[host];
        agent.alive = true;
        agent.replicas.anew();
        agent.round += 1;
        let round = agent.round;
        self.agenda.at(self.now, Due::Connect(host, round));
    }

    /// An agent dies without a word.
    pub(super) fn kill_agent(&mut self, host: usize) {
        let agent = &mut self.agents[host];
        agent.alive = false;
        if let Some(conn) = agent.conn.take()
            && let Some(session) = self.sessions.get_mut(&conn)
        {
            session.agent_open = false;
        }
        if let Some(keeper) = &mut self.hosts[host].keeper {
            keeper.link = None;
        }
    }

    /// A connection breaks. `told`: the coordinator sees it at once.
    pub(super) fn break_session(&mut self, host: usize, told: bool) {
        let Some(conn) = self.agents[host].conn else { return };
        if told {
            self.send_up(conn, Up::Close);
        }
        self.agent_lost(conn);
    }

    pub(super) fn is_welcomed(&self, conn: Conn, due: &Due) -> bool {
        let Some(session) = self.sessions.get(&conn) else { return true };
        matches!(due, Due::NoWelcome(_)) && self.agents[session.host].welcomed
    }

    /// An agent gives its connection up and tries again.
    pub(super) fn agent_lost(&mut self, conn: Conn) {
        let Some(session) = self.sessions.get_mut(&conn).filter(|s| s.agent_open) else { return };
        session.agent_open = false;
        let host = session.host;
        let agent = &mut self.agents[host];
        if agent.conn != Some(conn) {
            return;
        }
        (agent.conn, agent.welcomed) = (None, false);
        agent.replicas.part();
        agent.round += 1;
        agent.pause = (agent.pause * 2).clamp(200, 5_000);
        let (round, pause) = (agent.round, agent.pause);
        // The keeper drops what its old agent had not passed on: the link is a new one.
        if let Some(keeper) = &mut self.hosts[host].keeper {
            keeper.link = None;
        }
        let at = self.now + self.rng.range(pause / 2, pause);
        self.agenda.at(at, Due::Connect(host, round));
    }

    pub(super) fn beat(&mut self, conn: Conn) {
        let Some(session) = self.sessions.get_mut(&conn).filter(|s| s.agent_open) else { return };
        if self.now - session.agent_heard > SILENCE_MS {
            self.send_up(conn, Up::Close);
            self.agent_lost(conn);
            return;
        }
        session.beats += 1;
        if session.beats == 1 || session.echo > session.told_echo {
            session.told_echo = session.echo;
            session.waiting.push_back((session.beats, self.now));
        }
        let frame = Up::Beat(session.beats, session.echo);
        self.send_up(conn, frame);
        self.agenda.at(self.now + BEAT_MS, Due::Beat(conn));
    }

    pub(super) fn arrived_down(&mut self, conn: Conn, frame: Down) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let host = session.host;
        if self.down[host].cut {
            self.down[host].stalled.push((conn, frame));
            return;
        }
        if !session.agent_open || self.agents[host].conn != Some(conn) {
            return;
        }
        match frame {
            Down::Welcome(welcome) => self.welcomed(conn, host, &welcome),
            Down::Echo(number, answered) => {
                session.agent_heard = self.now;
                session.echo = session.echo.max(number);
                let mut proven = None;
                while let Some((_, said)) = session.waiting.front().filter(|(beat, _)| *beat <= answered) {
                    proven = Some(*said);
                    session.waiting.pop_front();
                }
                if let Some(said) = proven {
                    session.said = said;
                    if self.agents[host].busy {
                        self.tell_keeper(host, ToKeeper::Limits(self.hosts[host].cpu_milli, said));
                    }
                }
            }
            Down::Orders(orders) => {
                let said = session.said;
                for order in orders {
                    if !self.agent_order(host, &order) {
                        continue;
                    }
                    let starts = matches!(
                        order,
                        ToAgent::Start(_) | ToAgent::StartReplica(_) | ToAgent::LaunchReplica(_)
                    );
                    if starts && !std::mem::replace(&mut self.agents[host].busy, true) {
                        self.tell_keeper(host, ToKeeper::Limits(self.hosts[host].cpu_milli, said));
                    }
                    self.tell_keeper(host, ToKeeper::Order(order));
                }
            }
            Down::Close => self.agent_lost(conn),
            Down::Refused(code) => {
                if code == wire::close::STORE_REGRESSED {
                    self.fail(format!(
                        "{} was told that the store is older than what it has seen",
                        self.hosts[host].id
                    ));
                }
                self.agent_lost(conn);
            }
        }
    }

    fn welcomed(&mut self, conn: Conn, host: usize, welcome: &wire::Welcome) {
        let agent = &mut self.agents[host];
        (agent.welcomed, agent.pause) = (true, 0);
        agent.seen = (welcome.epoch, welcome.seq);
        let said = match self.sessions.get_mut(&conn) {
            Some(session) => {
                session.agent_heard = self.now;
                session.said
            }
            None => 0,
        };
        let machine = self.hosts[host].machine();
        self.send_up(conn, Up::Said(vec![AgentSaid::Machine(machine)]));
        self.tell_keeper(host, ToKeeper::Limits(self.hosts[host].cpu_milli, said));
        self.tell_keeper(host, ToKeeper::Ask);
        self.agenda.at(self.now, Due::Beat(conn));
    }
}
