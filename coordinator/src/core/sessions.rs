//! Machines come: by a token, and by opening a session.
use super::Core;
use super::due::What;
use crate::cluster::machine::{Machine, Session};
use crate::effect::{Fact, Reply, Step};
use crate::input::{Call, Now};
use crate::row::MachineRow;
use reeve_protocol::spec_check::check_name;
use reeve_protocol::token::same_hash;
use reeve_protocol::wire::{self, close};
use reeve_protocol::{Code, Problem};

/// What somebody has to do when a machine has seen more than the store holds.
pub(super) const AHEAD: &str = "recovery required: this machine has seen later events than the store holds, so an old \
    copy of the store was put in place; stop the coordinator, then put the right one back, or go on with the old one \
    through: reeve-coordinator store restore --accept-loss";

/// Milliseconds between beats: 2 s up to 250 machines, then so that all together beat 125 times a second.
fn beat_ms(machines: usize) -> u32 {
    2_000.max((machines * 8).min(60_000) as u32)
}

impl Core {
    /// A machine shows a token: one use, bound to the key that used it. That key may ask again while the token lives, so
    /// that an answer that was lost costs nothing. One generic refusal for everything wrong.
    pub(super) fn join(&mut self, now: Now, call: Call, step: &mut Step) -> Result<Reply, Problem> {
        let Call::Join { token_id, secret_hash, key_hash, machine, name, fingerprint, until } = call else {
            return Err(Problem::new(Code::Internal, "not a join"));
        };
        let denied = || {
            Problem::new(Code::NotFound, "the token is not valid: unknown, used or expired")
                .hint("make a new one with: reeve machine token")
        };
        let token = self
            .tokens
            .get(&token_id)
            .filter(|t| same_hash(&t.secret_hash, &secret_hash) && now.wall < t.expires_at)
            .filter(|t| t.bound.as_ref().is_none_or(|(key, id)| *key == key_hash && *id == machine))
            .ok_or_else(denied)?;
        let first = token.bound.is_none();
        if self.cluster.get(&machine).is_some_and(|m| m.revoked) {
            return Err(denied());
        }
        let mut bind = |core: &mut Self| {
            if let Some(token) = core.tokens.get_mut(&token_id).filter(|_| first) {
                token.bound = Some((key_hash.clone(), machine.clone()));
                let (id, machine, key_hash) = (token_id.clone(), machine.clone(), key_hash.clone());
                step.facts.push(Fact::TokenUsed { id, machine, key_hash, at: now.wall });
            }
        };
        // The answer to this machine was lost: it asks again with the same key, and is the same machine.
        if let Some(m) = self.cluster.get_mut(&machine) {
            m.certificates.issued(fingerprint, until);
            let name = m.name.to_string();
            bind(self);
            self.put_machine(&machine, step);
            return Ok(Reply::Joined(name, machine));
        }
        let wished = if check_name("machine", &name).is_ok() {
            name
        } else {
            format!("machine-{}", &machine[..4.min(machine.len())])
        };
        if self.cluster.name_taken(&wished, &machine) {
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
            certificate_until: until,
            info: "{}".to_owned(),
            joined_at: now.wall,
            ..MachineRow::default()
        };
        bind(self);
        step.facts.push(Fact::MachinePut(Box::new(row.clone())));
        self.events.note(now.wall, "machine", &wished, "joined", &format!("agent:{wished}"));
        self.cluster.insert(Machine::restore(&row));
        Ok(Reply::Joined(wished, machine))
    }

    /// Why a machine may not open a session; `None`: it may.
    fn refused(
        &mut self,
        now: Now,
        machine: &str,
        fingerprint: &str,
        hello: &wire::Hello,
        address: &str,
    ) -> Option<wire::Refused> {
        let refuse = |code, reason: &str| Some(wire::Refused { code, reason: reason.to_owned() });
        let seq = self.seq();
        let Some(m) = self.cluster.get_mut(machine) else {
            return refuse(close::REVOKED, "this machine is not known here");
        };
        if m.revoked {
            return refuse(close::REVOKED, "this machine was removed; join again with a new token");
        }
        if !m.certificates.all().any(|known| known == fingerprint) {
            return refuse(
                close::UNAUTHORISED,
                "this certificate was replaced by a newer one; was the machine's directory restored from a backup?",
            );
        }
        let (lineage, epoch) = (&self.identity.lineage, self.identity.epoch);
        if m.is_ahead || hello.lineage_seen == *lineage && (hello.epoch_seen > epoch || hello.seq_seen > seq)
        {
            // For the life of this process: the old store's own events would soon catch up with what was seen.
            if !std::mem::replace(&mut m.is_ahead, true) {
                let name = m.name.to_string();
                self.events.note(now.wall, "machine", &name, "refused: recovery required", "coordinator");
            }
            return refuse(close::STORE_REGRESSED, AHEAD);
        }
        let live = m.session.is_some() && m.down_since.is_none();
        let is_same = m.keeper.as_ref().is_none_or(|k| *k == hello.keeper)
            && m.life.as_ref().is_none_or(|l| *l == hello.life);
        if !live || is_same {
            return None;
        }
        let first = m.clash(now.wall, address);
        let name = m.name.to_string();
        if first {
            self.events.note(now.wall, "machine", &name, "refused_clone", "coordinator");
        }
        refuse(
            close::SUPERSEDED,
            "another keeper with this identity is heard, and is silent for 10 s before a second may come (a \
             machine that was just restarted comes in then); if this machine is a copy, remove the copied \
             identity (reeve-agent leave --purge) and join again",
        )
    }

    /// A machine opens a session, or is refused.
    pub(super) fn open_session(
        &mut self,
        now: Now,
        machine: &str,
        fingerprint: &str,
        session: u64,
        hello: &wire::Hello,
        address: String,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        if let Some(refused) = self.refused(now, machine, fingerprint, hello, &address) {
            return Ok(Reply::Refused(refused));
        }
        let seq = self.seq();
        let count = self.cluster.iter().filter(|m| m.session.is_some()).count();
        let (lineage, epoch) = (self.identity.lineage.clone(), self.identity.epoch);
        let Some(m) = self.cluster.get_mut(machine) else {
            return Err(Problem::new(Code::NotFound, "this machine is not known here"));
        };
        // What life and keeper were before is needed until the inventory is answered.
        m.session = Some(Session { number: session, reconciled: false, address });
        m.inventory.clear();
        m.refuses = None;
        m.version.clone_from(&hello.agent_version);
        m.heard = Some(now.mono);
        let replaces = m.down_since.is_none();
        m.down_since.get_or_insert(now.mono);
        let renewed = m.certificates.used(fingerprint) == Some(true);
        if replaces {
            // The session may end before the machine has told anything: what it holds must not wait for ever.
            self.arm_machine(now, machine, now.mono);
            self.due.after(now, 10_000, What::Disconnect(machine.into()));
        }
        if renewed {
            self.put_machine(machine, step);
            let actor = self.agent_actor(machine);
            self.note_machine(now, machine, "certificate_renewed", &actor);
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

    /// A new certificate was made for a machine. The one it shows now is taken until it has used the new one.
    pub(super) fn renew_certificate(
        &mut self,
        machine: &str,
        session: u64,
        fingerprint: String,
        until: i64,
        step: &mut Step,
    ) -> Result<Reply, Problem> {
        let here = |m: &&mut Machine| !m.revoked && m.session.as_ref().is_some_and(|s| s.number == session);
        let Some(m) = self.cluster.get_mut(machine).filter(here) else {
            return Err(Problem::new(Code::WrongState, "the session that asked is over"));
        };
        m.certificates.issued(fingerprint, until);
        self.put_machine(machine, step);
        Ok(Reply::Done(self.seq()))
    }

    /// A machine could not get or keep a new certificate: shown until it can.
    pub(super) fn renewal_failed(&mut self, now: Now, machine: &str, why: &str, step: &mut Step) {
        let why = reeve_protocol::text::Clean::short(why, 400).into_string();
        let Some(m) = self.cluster.get_mut(machine) else { return };
        let since = match &m.certificates.failed {
            Some((_, before)) if *before == why => return,
            Some((since, _)) => *since,
            None => now.wall,
        };
        m.certificates.failed = Some((since, why));
        self.put_machine(machine, step);
        let actor = self.agent_actor(machine);
        self.note_machine(now, machine, "renewal_failed", &actor);
    }

    /// The actor of what a machine says.
    pub(super) fn agent_actor(&self, machine: &str) -> String {
        format!("agent:{}", self.cluster.get(machine).map_or(machine, |m| &m.name))
    }
}
