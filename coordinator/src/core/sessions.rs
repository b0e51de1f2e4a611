//! Machines come: by a token, and by opening a session.
use super::Core;
use crate::cluster::machine::{Machine, Session};
use crate::effect::{Fact, Reply, Step};
use crate::input::{Call, Now};
use crate::row::MachineRow;
use reeve_protocol::spec_check::check_name;
use reeve_protocol::wire::{self, close};
use reeve_protocol::{Code, Problem};

/// Milliseconds between beats: 2 s up to 250 machines, then so that all together beat 125 times a second.
fn beat_ms(machines: usize) -> u32 {
    2_000.max((machines * 8).min(60_000) as u32)
}

impl Core {
    /// A machine shows a token: one use, bound to the key that used it. One generic refusal for everything wrong.
    pub(super) fn join(&mut self, now: Now, call: Call, step: &mut Step) -> Result<Reply, Problem> {
        let Call::Join { token_id, secret_hash, key_hash, machine, name, fingerprint } = call else {
            return Err(Problem::new(Code::Internal, "not a join"));
        };
        let denied = || {
            Problem::new(Code::NotFound, "the token is not valid: unknown, used or expired")
                .hint("make a new one with: reeve machine token")
        };
        let token = self
            .tokens
            .get_mut(&token_id)
            .filter(|t| t.secret_hash == secret_hash && !t.used && now.wall < t.expires_at)
            .ok_or_else(denied)?;
        token.used = true;
        let wished = if check_name("machine", &name).is_ok() {
            name
        } else {
            format!("machine-{}", &machine[..4.min(machine.len())])
        };
        if self.cluster.name_taken(&wished, &machine) {
            token.used = false;
            return Err(Problem::new(
                Code::NameTaken,
                format!("a machine named {wished} has joined already"),
            )
            .hint("join with --name NAME, or remove the old one"));
        }
        let row = MachineRow {
            id: machine.clone(),
            name: wished.as_str().into(),
            fingerprint,
            info: "{}".to_owned(),
            cordoned: false,
            joined_at: now.wall,
            life: None,
            keeper: None,
            revoked: false,
        };
        step.facts.push(Fact::TokenUsed { id: token_id, machine: machine.clone(), key_hash });
        step.facts.push(Fact::MachinePut(Box::new(row.clone())));
        self.events.note(now.wall, "machine", &wished, "joined", &format!("agent:{wished}"));
        self.cluster.insert(Machine::restore(&row));
        Ok(Reply::Joined(wished))
    }

    /// A machine opens a session, or is refused.
    pub(super) fn open_session(
        &mut self,
        now: Now,
        machine: &str,
        session: u64,
        hello: &wire::Hello,
        address: String,
    ) -> Result<Reply, Problem> {
        let refuse =
            |code, reason: &str| Ok(Reply::Refused(wire::Refused { code, reason: reason.to_owned() }));
        let seq = self.seq();
        let count = self.cluster.iter().filter(|m| m.session.is_some()).count();
        let (lineage, epoch) = (self.identity.lineage.clone(), self.identity.epoch);
        let Some(m) = self.cluster.get_mut(machine) else {
            return refuse(close::REVOKED, "this machine is not known here");
        };
        if m.revoked {
            return refuse(close::REVOKED, "this machine was removed");
        }
        if hello.lineage_seen == lineage && (hello.epoch_seen > epoch || hello.seq_seen > seq) {
            return refuse(
                close::STORE_REGRESSED,
                "the coordinator's store is older than what this machine has seen",
            );
        }
        let live = m.session.is_some() && m.down_since.is_none();
        let is_same = m.keeper.as_ref().is_none_or(|k| *k == hello.keeper)
            && m.life.as_ref().is_none_or(|l| *l == hello.life);
        if live && !is_same {
            let first = m.clash(now.wall, &address);
            let name = m.name.to_string();
            if first {
                self.events.note(now.wall, "machine", &name, "refused_clone", "coordinator");
            }
            return refuse(
                close::SUPERSEDED,
                "another keeper with this identity is heard, and is silent for 10 s before a second may come (a \
                 machine that was just restarted comes in then); if this machine is a copy, remove the copied \
                 identity (reeve-agent leave --purge) and join again",
            );
        }
        // What life and keeper were before is needed until the inventory is answered.
        m.session = Some(Session { number: session, reconciled: false, address });
        m.inventory.clear();
        m.version.clone_from(&hello.agent_version);
        m.heard = Some(now.mono);
        let replaces = m.down_since.is_none();
        m.down_since.get_or_insert(now.mono);
        if replaces {
            // The session may end before the machine has told anything: what it holds must not wait for ever.
            self.arm_machine(now, machine, now.mono);
        }
        self.hellos.insert(machine.to_owned(), (hello.life.clone(), hello.keeper.clone()));
        let name = self.cluster.get(machine).map(|m| m.name.to_string()).unwrap_or_default();
        Ok(Reply::Welcome(Box::new(wire::Welcome {
            version: wire::VERSION,
            session,
            lineage,
            epoch,
            seq,
            beat_ms: beat_ms(count),
            name,
        })))
    }

    /// The actor of what a machine says.
    pub(super) fn agent_actor(&self, machine: &str) -> String {
        format!("agent:{}", self.cluster.get(machine).map_or(machine, |m| &m.name))
    }
}
