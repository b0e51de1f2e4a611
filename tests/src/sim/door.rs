//! The coordinator's side of sessions, after `coordinator/src/net`: who may speak, who is heard, who is silent, and what
//! reaches the core when.
use super::agenda::{Conn, Down, Due, Up};
use super::network::BEAT_MS;
use super::world::World;
use reeve_coordinator::effect::Reply;
use reeve_coordinator::input::{AgentSaid, Call, Input};
use reeve_coordinator::row::Caller;
use reeve_protocol::{Problem, wire};

/// Silence after which a machine counts as away.
const SILENCE_MS: u64 = 10_000;
/// Without any packet a connection is given up.
const IDLE_MS: u64 = 30_000;
/// How often the core hears that a machine is well.
const TELL_MS: u64 = 10_000;

impl World {
    pub(super) fn arrived_up(&mut self, conn: Conn, frame: Up) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let host = session.host;
        if self.up[host].cut {
            self.up[host].stalled.push((conn, frame));
            return;
        }
        if self.core.is_none() || session.epoch != self.epoch {
            return;
        }
        session.last_packet = self.now;
        let (number, open) = (session.number, session.head_open);
        match frame {
            Up::Hello(hello) => self.hello(conn, host, *hello),
            Up::Beat(number, echo) if open => self.heard(conn, number, echo),
            // A frame that a session had read before it was closed may reach the core after its successor's Hello.
            Up::Said(said) if number > 0 => {
                if !open {
                    self.count.hit("frame of an older session");
                }
                self.tell(host, number, said);
            }
            Up::Close if open => self.head_lost(conn),
            Up::Beat(..) | Up::Said(_) | Up::Close => {}
        }
    }

    fn tell(&mut self, host: usize, session: u64, said: Vec<AgentSaid>) {
        let machine = self.hosts[host].id.clone();
        self.put(Input::Agent { machine, session, said });
    }

    fn hello(&mut self, conn: Conn, host: usize, hello: wire::Hello) {
        self.last_session += 1;
        let number = self.last_session;
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.number = number;
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.opening.insert(ticket, conn);
        let machine = self.hosts[host].id.clone();
        let (fingerprint, address) = (machine.clone(), "a".to_owned());
        let call =
            Call::OpenSession { machine, session: number, hello: Box::new(hello), address, fingerprint };
        self.put(Input::Call { ticket, caller: Caller::internal(), call });
    }

    /// The core has judged a Hello.
    pub(super) fn opened(&mut self, conn: Conn, answer: Result<Reply, Problem>) {
        let Some(host) = self.sessions.get(&conn).map(|s| s.host) else { return };
        match answer {
            Ok(Reply::Welcome(welcome)) => {
                let older: Vec<Conn> = self
                    .sessions
                    .iter()
                    .filter(|(id, s)| s.host == host && s.head_open && **id != conn)
                    .map(|(id, _)| *id)
                    .collect();
                for old in older {
                    self.send_down(old, Down::Close);
                    self.head_lost(old);
                }
                let now = self.now;
                if let Some(session) = self.sessions.get_mut(&conn) {
                    (session.head_open, session.fresh, session.last_packet) = (true, now, now);
                }
                self.send_down(conn, Down::Welcome(welcome));
                self.agenda.at(now + SILENCE_MS, Due::Silence(conn));
                self.agenda.at(now + IDLE_MS, Due::Idle(conn));
            }
            Ok(Reply::Refused(refused)) => self.send_down(conn, Down::Refused(refused.code)),
            _ => self.send_down(conn, Down::Close),
        }
    }

    /// The coordinator sees that a connection has ended.
    fn head_lost(&mut self, conn: Conn) {
        let Some(session) = self.sessions.get_mut(&conn).filter(|s| s.head_open) else { return };
        session.head_open = false;
        let (host, number) = (session.host, session.number);
        self.tell(host, number, vec![AgentSaid::Closed]);
    }

    /// The coordinator ends a session.
    pub(super) fn head_closes(&mut self, number: u64) {
        let found = self.sessions.iter().find(|(_, s)| s.number == number && s.head_open);
        let Some(conn) = found.map(|(conn, _)| *conn) else { return };
        self.count.hit("session closed by the coordinator");
        self.head_lost(conn);
        self.send_down(conn, Down::Close);
    }

    fn heard(&mut self, conn: Conn, number: u64, echo: u64) {
        let now = self.now;
        let Some(s) = self.sessions.get_mut(&conn) else { return };
        let fresh = number > s.heard && (s.sent == 0 || echo > s.echoed);
        s.echoed = s.echoed.max(echo.min(s.sent));
        s.heard = s.heard.max(number);
        s.sent += 1;
        let (host, session, answer) = (s.host, s.number, s.sent);
        let mut tell = false;
        if fresh {
            tell = s.silent || now >= s.told + TELL_MS;
            (s.fresh, s.silent) = (now, false);
            s.told = if tell { now } else { s.told };
        }
        self.send_down(conn, Down::Echo(answer, number));
        if tell {
            self.tell(host, session, vec![AgentSaid::Heard { rtt_us: 100 }]);
        }
    }

    pub(super) fn look_for_silence(&mut self, conn: Conn) {
        let (now, resumed) = (self.now, self.resumed);
        let Some(s) = self.sessions.get_mut(&conn).filter(|s| s.head_open) else { return };
        let due = s.fresh.max(resumed) + SILENCE_MS;
        let falls = due <= now && !s.silent;
        s.silent |= falls;
        let (host, session) = (s.host, s.number);
        let next = if due > now { due } else { now + BEAT_MS };
        self.agenda.at(next, Due::Silence(conn));
        if falls {
            self.tell(host, session, vec![AgentSaid::Silent]);
        }
    }

    pub(super) fn look_for_idle(&mut self, conn: Conn) {
        let Some(s) = self.sessions.get(&conn).filter(|s| s.head_open) else { return };
        let due = s.last_packet.max(self.resumed) + IDLE_MS;
        if due <= self.now {
            self.head_lost(conn);
        } else {
            self.agenda.at(due, Due::Idle(conn));
        }
    }

    /// The coordinator is gone: its connections are, and agents notice sooner or later.
    pub(super) fn head_gone(&mut self) {
        let conns: Vec<Conn> = self.sessions.keys().copied().collect();
        for conn in conns {
            let Some(session) = self.sessions.get_mut(&conn) else { continue };
            session.head_open = false;
            if !session.agent_open {
                self.sessions.remove(&conn);
                continue;
            }
            let at = self.now + self.rng.range(1, 12_000);
            self.agenda.at(at, Due::Broken(conn));
        }
    }
}
