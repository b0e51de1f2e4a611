//! Becoming a machine of a cluster: a key that never leaves this machine, a request, a certificate.
use super::dial::{self, dial, endpoint};
use super::session::{self, first_frame, say_now};
use crate::identity::{self, Identity};
use quinn::VarInt;
use rcgen::{CertificateParams, KeyPair};
use reeve_protocol::frame::Reader;
use reeve_protocol::quic;
use reeve_protocol::token::Token;
use reeve_protocol::wire::{Join, Joined, Refused, close, kind};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// For the coordinator to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// This machine did not join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordinator cannot be reached, or its CA is not the token's.
    #[error("cannot reach the coordinator")]
    Dial(#[from] dial::Error),
    /// It answers strangely or not at all.
    #[error("no usable answer to the request: {0}")]
    Answer(String),
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

/// Joins with a token and keeps the identity in `dir`.
///
/// # Errors
/// [`Error`].
pub async fn join(token: &Token, name: &str, dir: &Path) -> Result<Identity, Error> {
    if identity::Credentials::load(dir).is_ok() {
        return Err(Error::Member(dir.to_path_buf()));
    }
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let (config, pinned) = quic::joining_config(token.ca_hash.clone())?;
    let endpoint = endpoint()?;
    let (connection, _) =
        dial(&endpoint, &config, &token.addresses, &quic::server_name(&token.cluster)).await?;
    let ca = pinned.ca().ok_or_else(|| Error::Answer("no CA certificate was shown".to_owned()))?;
    let request = Join {
        token_id: token.id.clone(),
        secret: token.secret.clone(),
        csr: csr.der().to_vec(),
        name: name.to_owned(),
    };
    let ask = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        say_now(&mut send, kind::JOIN, &request).await?;
        first_frame(&mut recv, &mut Reader::new()).await
    };
    let answer = timeout(ANSWER, ask)
        .await
        .map_err(|_| Error::Answer("it does not come".to_owned()))?
        .map_err(|error: session::Error| Error::Answer(error.to_string()))?;
    connection.close(VarInt::from_u32(close::DONE), b"joined");
    let strange = |error: reeve_protocol::frame::Error| Error::Answer(error.to_string());
    let joined: Joined = match answer.kind {
        kind::JOINED => answer.decode().map_err(strange)?,
        kind::REFUSED => {
            return Err(Error::Refused(answer.decode::<Refused>().map_err(strange)?.reason));
        }
        other => return Err(Error::Answer(format!("a frame of kind {other}"))),
    };
    let identity = Identity {
        cluster: token.cluster.clone(),
        machine: joined.machine,
        name: joined.name,
        addresses: token.addresses.clone(),
    };
    identity::store(dir, &identity, &key.serialize_pem(), &joined.certificate, &ca)?;
    let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    Ok(identity)
}
