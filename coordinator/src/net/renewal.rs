//! A machine asks for its next certificate over its session, with a new key. It is recorded before it is sent, so that
//! whatever the machine does with it, the certificate is known here.
use super::Context;
use super::writer::Note;
use crate::effect::Reply;
use crate::identity::Authority;
use crate::input::Call;
use crate::row::Caller;
use reeve_protocol::text::Clean;
use reeve_protocol::wire;

/// Bytes of a reason.
const REASON: usize = 400;

/// Makes and records a certificate; what the machine is told.
pub(super) async fn answer(context: &Context, machine: &str, session: u64, renew: &wire::Renew) -> Note {
    match issue(context, machine, session, renew).await {
        Ok(certificate) => {
            tracing::info!(machine, "a new certificate was issued");
            Note::Renewed(wire::Renewed { certificate })
        }
        Err(reason) => {
            tracing::warn!(machine, reason, "no new certificate was issued");
            Note::RenewalFailed(wire::RenewalFailed { reason: Clean::short(&reason, REASON).into_string() })
        }
    }
}

async fn issue(
    context: &Context,
    machine: &str,
    session: u64,
    renew: &wire::Renew,
) -> Result<Vec<u8>, String> {
    let key = Authority::requested_key(&renew.csr).map_err(|e| e.to_string())?;
    let issued = context.authority.issue_machine(&key, machine).map_err(|e| e.to_string())?;
    let call = Call::RenewCertificate {
        machine: machine.to_owned(),
        session,
        fingerprint: issued.fingerprint.clone(),
        until: issued.until,
    };
    match context.handle.ask(&Caller::of_agents_port(machine), call).await {
        Ok(Reply::Done(_)) => {
            context.machines.issued(issued.fingerprint, machine.to_owned());
            Ok(issued.certificate)
        }
        Ok(_) => Err("the engine's answer makes no sense".to_owned()),
        Err(problem) => Err(problem.to_string()),
    }
}
