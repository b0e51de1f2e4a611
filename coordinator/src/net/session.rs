//! One machine's session, from its Hello to its end. Reading, writing and streams are three futures of one task: a
//! frame costs no wake-up between them, and when one ends all end.
use super::Context;
use super::decode;
use super::end::End;
use super::reader::{Reader, State};
use super::streams::{self, Follows};
use super::writer::Writer;
use crate::effect::Reply;
use crate::input::{AgentSaid, Call, Input};
use crate::row::Caller;
use quinn::{Connection, RecvStream, SendStream};
use reeve_protocol::text::Clean;
use reeve_protocol::wire::{self, close, kind};
use reeve_protocol::{Code, frame};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// For the first frame to arrive.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(10);
/// For a refusal to reach the other side before the connection is closed under it.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Answers to beats that may wait.
const NOTES: usize = 16;

/// A control stream and what was read from it.
pub(super) struct Control {
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) frames: frame::Reader,
}

/// Who is at the other end.
pub(super) struct Peer {
    /// The machine that the certificate belongs to.
    pub(super) machine: String,
    /// SHA-256 of the certificate that it showed.
    pub(super) fingerprint: String,
}

/// Serves a machine that showed its certificate, then closes the connection. `opened` is dropped once the session is
/// accepted: until then the connection counts among the strangers.
pub(super) async fn serve<P>(context: Arc<Context>, connection: Connection, peer: Peer, opened: P) {
    let machine = &peer.machine;
    let end = match open(&connection).await {
        Ok((control, first)) => converse(&context, &connection, &peer, control, &first, opened).await,
        Err(end) => end,
    };
    if end.code == close::REVOKED {
        context.machines.revoke(machine);
    }
    tracing::info!(machine, address = %connection.remote_address(), reason = %end, "session ended");
    end.close(&connection);
}

/// Waits for the control stream and its first frame.
pub(super) async fn open(connection: &Connection) -> Result<(Control, frame::Frame), End> {
    let first = async {
        let (send, mut recv) = connection.accept_bi().await?;
        let mut frames = frame::Reader::new();
        loop {
            if let Some(frame) = frames.next_frame()? {
                return Ok((Control { send, recv, frames }, frame));
            }
            let chunk = recv.read_chunk(64 * 1024, true).await?;
            frames.feed(&chunk.ok_or_else(|| End::gone("the stream ended before its first frame"))?.bytes);
        }
    };
    timeout(FIRST_FRAME, first).await.unwrap_or_else(|_| Err(End::unexpected("no first frame in time")))
}

/// Judges the Hello, asks the engine, and runs the session.
async fn converse<P>(
    context: &Arc<Context>,
    connection: &Connection,
    peer: &Peer,
    mut control: Control,
    first: &frame::Frame,
    opened: P,
) -> End {
    let machine = peer.machine.as_str();
    let hello = match decode::hello(first)
        .and_then(|hello| check(&hello, machine, &context.cluster).map(|()| hello))
    {
        Ok(hello) => hello,
        Err(end) => return refuse(&mut control.send, end).await,
    };
    let session = context.next_session();
    let outbox = context.sessions.enter(machine, session);
    context.sessions.attach(machine, session, connection.clone());
    let end = match ask(context, connection, peer, session, hello).await {
        Ok(welcome) => {
            drop(opened);
            context.machines.used(machine, &peer.fingerprint);
            context.sessions.accept(machine, session);
            tracing::info!(machine, name = %welcome.name, session, address = %connection.remote_address(), "session opened");
            let end = run(context, connection, machine, session, control, outbox, &welcome).await;
            let closed = Input::Agent { machine: machine.to_owned(), session, said: vec![AgentSaid::Closed] };
            let _ = context.handle.tell(closed).await;
            end
        }
        Err(end) => refuse(&mut control.send, end).await,
    };
    if context.sessions.leave(machine, session) {
        return End::new(close::REVOKED, "the machine was removed");
    }
    end
}

/// What can be judged without the engine.
fn check(hello: &wire::Hello, machine: &str, cluster: &str) -> Result<(), End> {
    if !(hello.version_min..=hello.version_max).contains(&wire::VERSION) {
        let reason = format!(
            "the agent speaks protocol versions {} to {}, this coordinator {}; install the same release on both",
            hello.version_min,
            hello.version_max,
            wire::VERSION
        );
        return Err(End::new(close::VERSION, reason));
    }
    if hello.cluster != cluster {
        return Err(End::new(
            close::WRONG_CLUSTER,
            "the machine joined another cluster; leave that one, then join this one",
        ));
    }
    if hello.machine != machine {
        return Err(End::new(close::UNAUTHORISED, "the certificate belongs to another machine"));
    }
    Ok(())
}

async fn ask(
    context: &Context,
    connection: &Connection,
    peer: &Peer,
    session: u64,
    hello: wire::Hello,
) -> Result<wire::Welcome, End> {
    let address = connection.remote_address().to_string();
    let (machine, fingerprint) = (peer.machine.clone(), peer.fingerprint.clone());
    let call = Call::OpenSession { machine, fingerprint, session, hello: Box::new(hello), address };
    match context.handle.ask(&Caller::internal(), call).await {
        Ok(Reply::Welcome(welcome)) => Ok(*welcome),
        Ok(Reply::Refused(refused)) => Err(End::new(refused.code, refused.reason)),
        Ok(_) => Err(End::unexpected("the engine's answer")),
        Err(problem) if problem.is(Code::Overloaded) => Err(End::new(close::RATE, problem.detail)),
        Err(problem) => Err(End::new(close::STOPPING, problem.detail)),
    }
}

async fn run(
    context: &Arc<Context>,
    connection: &Connection,
    machine: &str,
    session: u64,
    control: Control,
    outbox: mpsc::Receiver<super::sessions::Outgoing>,
    welcome: &wire::Welcome,
) -> End {
    let (note_tx, note_rx) = mpsc::channel(NOTES);
    // Both are bounded by what they carry: the streams of a connection, and the frames of the outbox.
    let (upload_tx, upload_rx) = mpsc::unbounded_channel();
    let (unsent_tx, unsent_rx) = mpsc::unbounded_channel();
    let follows = Arc::new(Follows::default());
    let mut buffer = Vec::new();
    super::encode::append(kind::WELCOME, welcome, &mut buffer);
    let mut writer = Writer {
        send: control.send,
        outbox,
        notes: note_rx,
        follows: &follows,
        unsent: unsent_tx,
        buffer,
        sessions: &context.sessions,
        told: welcome.seq,
    };
    if let Err(end) = writer.flush().await {
        return end;
    }
    let reader = Reader {
        context,
        connection,
        machine,
        session,
        recv: control.recv,
        frames: control.frames,
        notes: note_tx,
        uploads: upload_rx,
        unsent: unsent_rx,
        state: State::new(Duration::from_millis(welcome.beat_ms.into())),
    };
    let who = streams::Who { machine: machine.to_owned(), session };
    tokio::select! {
        biased;
        end = writer.run() => end,
        end = reader.run() => end,
        end = streams::run(context, connection, &who, &follows, upload_tx) => end,
    }
}

/// Says why, and gives the words time to arrive: closing a connection drops what is on its way.
pub(super) async fn refuse(send: &mut SendStream, end: End) -> End {
    let refused = wire::Refused { code: end.code, reason: Clean::short(&end.reason, 400).into_string() };
    last_word(send, kind::REFUSED, &refused).await;
    end
}

/// Writes one frame as the last of a stream and waits a little until it has arrived.
pub(super) async fn last_word<T: serde::Serialize>(send: &mut SendStream, kind: u16, body: &T) {
    let mut bytes = Vec::new();
    super::encode::append(kind, body, &mut bytes);
    let written = async {
        send.write_all(&bytes).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    let _ = timeout(LAST_WORD, written).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> wire::Hello {
        wire::Hello {
            version_min: 1,
            version_max: 1,
            cluster: "c".into(),
            machine: "m".into(),
            life: "l".into(),
            keeper: "k".into(),
            lineage_seen: String::new(),
            epoch_seen: 0,
            seq_seen: 0,
            agent_version: "1".into(),
            kinds: Vec::new(),
        }
    }

    #[test]
    fn a_hello_must_share_a_version_and_name_this_cluster_and_its_own_machine() {
        let code = |h: &wire::Hello| check(h, "m", "c").err().map(|e| e.code);
        assert_eq!(code(&hello()), None);
        assert_eq!(code(&wire::Hello { version_min: 0, version_max: 9, ..hello() }), None);
        assert_eq!(code(&wire::Hello { version_min: 2, version_max: 3, ..hello() }), Some(close::VERSION));
        assert_eq!(code(&wire::Hello { version_min: 5, version_max: 0, ..hello() }), Some(close::VERSION));
        assert_eq!(code(&wire::Hello { cluster: "d".into(), ..hello() }), Some(close::WRONG_CLUSTER));
        assert_eq!(code(&wire::Hello { machine: "n".into(), ..hello() }), Some(close::UNAUTHORISED));
    }
}
