//! A machine that wants to join: a connection without a certificate may say one thing, JOIN, and gets one answer. What
//! is wrong with a token is told to the log, not to whoever shows it.
use super::Context;
use super::decode::{MAX_CSR, limit};
use super::end::End;
use super::session::{self, Control};
use crate::effect::Reply;
use crate::identity::{self, Authority, Issued};
use crate::input::Call;
use crate::row::Caller;
use quinn::Connection;
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{Code, Problem, frame, token};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests a second, all machines together: a token has 256 random bits, this only keeps the noise down.
const PER_SECOND: u32 = 10;
/// Bytes of a token's parts and of a name.
const MAX_WORD: usize = 256;
/// What every bad token gets.
const GENERIC: &str = "the token was not accepted: it was used, has expired or was mistyped; make a new one with: reeve machine token";

/// Serves a stranger, then closes the connection.
pub(super) async fn serve(context: &Context, connection: &Connection) {
    let end = match session::open(connection).await {
        Ok((control, first)) => answer(context, connection, control, &first).await,
        Err(end) => end,
    };
    end.close(connection);
}

async fn answer(
    context: &Context,
    connection: &Connection,
    mut control: Control,
    first: &frame::Frame,
) -> End {
    let address = connection.remote_address();
    match join(context, address, first).await {
        Ok(joined) => {
            tracing::info!(machine = joined.machine, name = %joined.name, %address, "machine joined");
            session::last_word(&mut control.send, kind::JOINED, &joined).await;
            End::new(close::DONE, "joined")
        }
        Err((end, why)) => {
            tracing::warn!(%address, reason = why, "a machine was not let in");
            session::refuse(&mut control.send, end).await
        }
    }
}

/// The refusal that is shown, and what the log says.
type Refusal = (End, String);

async fn join(context: &Context, address: SocketAddr, first: &frame::Frame) -> Result<wire::Joined, Refusal> {
    let join = read(first).map_err(|end| (end.clone(), end.reason))?;
    if !context.joins.admit(Instant::now()) {
        let end = End::new(close::RATE, "too many machines ask to join at once; try again in a second");
        return Err((end.clone(), end.reason));
    }
    let refused = |error: identity::Error| (generic(), format!("{error:#}"));
    let key = Authority::requested_key(&join.csr).map_err(refused)?;
    let machine = key.machine();
    let issued = context.authority.issue_machine(&key, &machine).map_err(refused)?;
    let caller = Caller::of_agents_port(address.to_string());
    match context.handle.ask(&caller, call(&join, &machine, &issued)).await {
        Ok(Reply::Joined(name, machine)) => {
            context.machines.issued(issued.fingerprint, machine.clone());
            Ok(wire::Joined { machine, name, certificate: issued.certificate })
        }
        Ok(Reply::Refused(refused)) => Err((generic(), refused.reason)),
        Ok(_) => Err((generic(), "the engine's answer makes no sense".to_owned())),
        Err(problem) => Err((shown(&problem), problem.detail)),
    }
}

fn read(first: &frame::Frame) -> Result<wire::Join, End> {
    if first.kind != kind::JOIN {
        return Err(End::new(close::UNAUTHORISED, "without a certificate a machine may only join"));
    }
    let join: wire::Join = first.decode()?;
    limit("the request", join.csr.len(), MAX_CSR)?;
    limit("a word of Join", join.token_id.len().max(join.secret.len()).max(join.name.len()), MAX_WORD)?;
    Ok(join)
}

/// Secrets are compared as hashes, so the time that takes says nothing about the secret.
fn call(join: &wire::Join, machine: &str, issued: &Issued) -> Call {
    Call::Join {
        token_id: join.token_id.clone(),
        secret_hash: token::sha256_hex(join.secret.as_bytes()),
        key_hash: issued.key_hash.clone(),
        machine: machine.to_owned(),
        name: join.name.clone(),
        fingerprint: issued.fingerprint.clone(),
        until: issued.until,
    }
}

fn generic() -> End {
    End::new(close::UNAUTHORISED, GENERIC)
}

/// What is not about the token is said openly: it comes after the token was found good, or says nothing about it.
fn shown(problem: &Problem) -> End {
    if problem.is(Code::NameTaken) || problem.is(Code::BadName) {
        return End::new(close::UNAUTHORISED, problem.detail.clone());
    }
    if problem.is(Code::Overloaded) || problem.is(Code::Unavailable) {
        return End::new(close::STOPPING, "the coordinator cannot answer now; try again");
    }
    generic()
}

/// Counts requests of the present second.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<Option<(Instant, u32)>>);

impl Rate {
    /// Whether one more may come now.
    pub(super) fn admit(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = state.get_or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second_are_let_through() {
        let (rate, now) = (Rate::default(), Instant::now());
        assert!((0..PER_SECOND).all(|_| rate.admit(now)));
        assert!(!rate.admit(now) && !rate.admit(now + Duration::from_millis(999)));
        assert!(rate.admit(now + Duration::from_secs(1)));
    }

    #[test]
    fn only_what_is_not_about_the_token_is_said_openly() {
        let shown = |code| shown(&Problem::new(code, "token 1234 was used by gpu-1")).reason;
        assert_eq!(shown(Code::NotFound), GENERIC);
        assert_eq!(shown(Code::WrongState), GENERIC);
        assert!(shown(Code::NameTaken).contains("gpu-1"));
        assert!(shown(Code::Overloaded).contains("try again"));
    }

    #[test]
    fn the_secret_itself_goes_nowhere() {
        let join =
            wire::Join { token_id: "t".into(), secret: "s3cret".into(), csr: vec![], name: "n".into() };
        let issued = Issued { certificate: vec![], fingerprint: "f".into(), key_hash: "k".into(), until: 1 };
        assert!(!format!("{:?}", call(&join, "m", &issued)).contains("s3cret"));
    }
}
