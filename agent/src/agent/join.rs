//! Becoming a machine of a cluster: a key that never leaves this machine, a request, a certificate.
use super::dial::{self, dial, endpoint};
use super::opening::{first_frame, say_now};
use super::session;
use crate::identity::{self, Identity};
use quinn::VarInt;
use rcgen::CertificateParams;
use reeve_protocol::frame::Reader;
use reeve_protocol::quic;
use reeve_protocol::token::Token;
use reeve_protocol::validity;
use reeve_protocol::wire::{Join, Joined, Refused, close, kind};
use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// For the coordinator to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Requests until one is answered, and the pause after the first; it doubles.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// Of them, without any answer: a busy machine may miss one, and whoever has mistyped an address shall not wait for long.
const UNHEARD: u32 = 2;

/// This machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator cannot be reached, or its CA is not the token's.
    #[error("cannot reach the coordinator")]
    Dial(#[from] dial::Error),
    /// It answers strangely or not at all.
    #[error("no usable answer to the request: {0}")]
    Answer(String),
    /// It has too much to do.
    #[error("the coordinator is busy: {0}")]
    Busy(String),
    /// It says no.
    #[error("refused: {0}")]
    Refused(String),
    /// No key could be made.
    #[error("no key or request could be made")]
    Key(#[from] rcgen::Error),
    /// TLS settings.
    #[error("TLS settings cannot be used")]
    Tls(#[from] quic::Error),
    /// The identity could not be kept.
    #[error("the identity cannot be kept")]
    Store(#[from] identity::Error),
    /// It has joined before.
    #[error("{0} holds an identity already; reeve-agent leave first, or choose another --dir")]
    Member(std::path::PathBuf),
}

/// Joins with a token and keeps the identity in `dir`. The key is kept before it is shown to anybody: when the answer is
/// lost, the same token takes the same key again.
///
/// # Errors
/// [`Error`].
pub async fn join(token: &Token, name: &str, dir: &Path) -> Result<Identity, Error> {
    match identity::Credentials::load(dir) {
        Ok(member) if !has_expired(&member) => return Err(Error::Member(dir.to_path_buf())),
        Err(open @ identity::Error::Open { .. }) => return Err(open.into()),
        Ok(_) | Err(_) => {}
    }
    let key = identity::pending_key(dir)?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    let request =
        Join { token_id: token.id.clone(), secret: token.secret.clone(), csr, name: name.to_owned() };
    let (joined, ca) = ask_until_answered(token, &request).await.inspect_err(|error| {
        // The token does not take this key: the next one need not be tied to it.
        if matches!(error, Error::Refused(_)) {
            identity::drop_pending_key(dir);
        }
    })?;
    let identity = Identity {
        cluster: token.cluster.clone(),
        machine: joined.machine,
        name: joined.name,
        addresses: token.addresses.clone(),
    };
    identity::store(dir, &identity, &key.serialize_pem(), &joined.certificate, &ca)?;
    identity::drop_pending_key(dir);
    Ok(identity)
}

fn has_expired(member: &identity::Credentials) -> bool {
    validity::of(&member.certificate).is_some_and(|v| v.until < super::renewal::wall())
}

/// Asks again when the answer is lost, or the coordinator has too much to do.
async fn ask_until_answered(
    token: &Token,
    request: &Join,
) -> Result<(Joined, CertificateDer<'static>), Error> {
    let mut pause = PAUSE;
    for attempt in 1..ATTEMPTS {
        match ask(token, request).await {
            Err(error) if may_come(&error, attempt) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "asking again");
                tokio::time::sleep(super::jittered(pause)).await;
                pause *= 2;
            }
            other => return other,
        }
    }
    ask(token, request).await
}

const fn may_come(error: &Error, attempt: u32) -> bool {
    match error {
        Error::Answer(_) | Error::Busy(_) => true,
        Error::Dial(dial::Error::Unreachable(_)) => attempt < UNHEARD,
        _ => false,
    }
}

/// One request on a connection of its own.
async fn ask(token: &Token, request: &Join) -> Result<(Joined, CertificateDer<'static>), Error> {
    let (config, pinned) = quic::joining_config(token.ca_hash.clone())?;
    let endpoint = endpoint()?;
    let (connection, _) =
        dial(&endpoint, &config, &token.addresses, &quic::server_name(&token.cluster)).await?;
    let ca = pinned.ca().ok_or_else(|| Error::Answer("no CA certificate was shown".to_owned()))?;
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        say_now(&mut send, kind::JOIN, request).await?;
        first_frame(&mut recv, &mut Reader::new()).await
    };
    let answer = timeout(ANSWER, exchange)
        .await
        .map_err(|_| Error::Answer("it does not come".to_owned()))?
        .map_err(|error: session::Error| Error::Answer(error.to_string()))?;
    connection.close(VarInt::from_u32(close::DONE), b"joined");
    let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    let strange = |error: reeve_protocol::frame::Error| Error::Answer(error.to_string());
    match answer.kind {
        kind::JOINED => Ok((answer.decode().map_err(strange)?, ca)),
        kind::REFUSED => {
            let refused: Refused = answer.decode().map_err(strange)?;
            let again = matches!(refused.code, close::RATE | close::STOPPING);
            Err(if again { Error::Busy(refused.reason) } else { Error::Refused(refused.reason) })
        }
        other => Err(Error::Answer(format!("a frame of kind {other}"))),
    }
}
