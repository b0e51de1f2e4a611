//! One session with the coordinator: Hello to end. Frames about attempts are passed on as they are; the agent itself
//! beats, answers for the machine, and moves output.
use super::beats::Beats;
use super::facts;
use super::gpus::{Found, Watch};
use super::horizon::Horizon;
use super::local::Link;
use super::opening::{Open, broken_read, broken_write};
use super::outbox::Outbox;
use super::output;
use super::renewal::{self, Renewal};
use super::replicas::Replicas;
use super::uploads::Uploads;
use crate::clock::boot_ms;
use crate::config::Config;
use crate::machine::sample::Sampler;
use bytes::Bytes;
use quinn::{Connection, RecvStream};
use reeve_protocol::codec;
use reeve_protocol::crash;
use reeve_protocol::frame::{self, Frame, OPTIONAL, Reader};
use reeve_protocol::ids::AttemptId;
use reeve_protocol::wire::{
    self, Artifacts, Beat, CancelRequests, Exited, Finished, Follow, Inventory, LaunchReplica, Limits,
    Refused, RenewalFailed, RenewalKept, Renewed, Replica, Requests, Start, StartReplica, Started, Unfollow,
    close, kind,
};
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Without a fresh echo for so long the session is given up, or for three beats where many machines beat more slowly:
/// what we say does not arrive.
const SILENCE: Duration = Duration::from_secs(10);
/// Every so many beats the machine's load is told.
const SAMPLE_EVERY: u64 = 5;
/// The phase of an attempt in the inventory that has ended.
const ENDED: u16 = 3;
/// Chunks of one read from the control stream.
const CHUNKS: usize = 32;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection broke")]
    Connection(#[from] quinn::ConnectionError),
    #[error("the coordinator refuses this machine (code {}): {}", .0.code, .0.reason)]
    Refused(Refused),
    #[error("the coordinator says nothing")]
    Silent,
    #[error("the coordinator speaks strangely")]
    Frame(#[from] frame::Error),
    #[error("the control stream broke: {0}")]
    Stream(String),
    #[error("the keeper is gone")]
    Keeper(#[source] io::Error),
    #[error("the keeper speaks strangely")]
    KeeperFrame(#[source] frame::Error),
    #[error("the other side takes nothing")]
    Stuck,
}

impl Error {
    /// What the other side said when it closed.
    pub(crate) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(refused) => Some(refused.code),
            Self::Connection(quinn::ConnectionError::ApplicationClosed(closed)) => {
                u32::try_from(closed.error_code.into_inner()).ok()
            }
            _ => None,
        }
    }

    /// What we say when we close because of this.
    pub(crate) fn close_code(&self) -> u32 {
        match self {
            Self::Frame(frame::Error::UnknownKind(_)) => close::VERSION,
            Self::Frame(frame::Error::TooLarge(_)) => close::TOO_LARGE,
            Self::Frame(frame::Error::Body(..)) => close::MALFORMED,
            _ => close::DONE,
        }
    }
}

/// A session under way.
struct Session<'a> {
    connection: &'a Connection,
    config: &'a Config,
    up: Outbox,
    down: Outbox,
    limits: Limits,
    beats: Beats,
    silence: Duration,
    /// The keeper has begun to tell its inventory: what it said before belongs to the session before.
    in_step: bool,
    /// Something may run here, so that exclusive attempts want to know that the coordinator is heard.
    busy: bool,
    uploads: Uploads,
    follows: HashMap<u64, AbortHandle>,
    followers: JoinSet<u64>,
    sampler: Sampler,
    renewal: Renewal,
    horizon: Horizon,
    replicas: &'a Replicas,
    gpus: Watch,
}

/// Serves until either side is gone, and says why.
pub(crate) async fn run(
    connection: &Connection,
    config: &Config,
    opened: Open,
    link: Link,
    renewal: Renewal,
    replicas: &Replicas,
) -> Error {
    let Open { mut send, recv, frames, welcome, said } = opened;
    let mut machine = facts::machine(&config.settings, config.has_root_keeper());
    let gpus = Watch::begin(&config.settings, &mut machine).await;
    let Link { read, mut write, frames: keeper_frames, .. } = link;
    let beat = Duration::from_millis(welcome.beat_ms.clamp(100, 60_000).into());
    let session = Session {
        connection,
        config,
        up: Outbox::default(),
        down: Outbox::default(),
        limits: Limits { heard_boot_ms: said, ..facts::limits(&machine, &welcome.name) },
        beats: Beats::new(Instant::now()),
        silence: SILENCE.max(beat * 3),
        in_step: false,
        busy: false,
        uploads: Uploads::default(),
        follows: HashMap::new(),
        followers: JoinSet::new(),
        sampler: Sampler::new(&config.state_dir),
        renewal,
        horizon: Horizon::new(&welcome),
        replicas,
        gpus,
    };
    let _parting = Parting(replicas);
    let (up, down) = (session.up.clone(), session.down.clone());
    up.say(kind::MACHINE, 0, &machine);
    if let Some(told) = session.gpus.told() {
        up.say(kind::GPUS, OPTIONAL, &told);
    }
    down.say(kind::LIMITS, 0, &session.limits);
    down.say(kind::INVENTORY_ASK, 0, &());
    tokio::select! {
        error = up.drain_quic(&mut send) => broken_write(error),
        error = down.drain_unix(&mut write) => Error::Keeper(error),
        error = session.serve(recv, frames, read, keeper_frames, beat) => error,
    }
}

/// Replicas speak to nobody once the session is over, however it ends.
struct Parting<'a>(&'a Replicas);

impl Drop for Parting<'_> {
    fn drop(&mut self) {
        self.0.part();
    }
}

impl Session<'_> {
    async fn serve(
        mut self,
        mut recv: RecvStream,
        mut frames: Reader,
        mut keeper: tokio::net::unix::OwnedReadHalf,
        mut keeper_frames: Reader,
        beat: Duration,
    ) -> Error {
        let mut beats = interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            let result = tokio::select! {
                read = recv.read_chunks(&mut chunks) => match read {
                    Ok(Some(count)) => {
                        chunks[..count].iter_mut().for_each(|c| frames.feed(&std::mem::take(c)));
                        self.hear_coordinator(&mut frames)
                    }
                    Ok(None) => Err(Error::Stream("the coordinator ended it".to_owned())),
                    Err(error) => Err(broken_read(error)),
                },
                read = keeper.read_buf(&mut buffer) => match read {
                    Ok(0) => Err(Error::Keeper(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {
                        keeper_frames.feed(&buffer);
                        buffer.clear();
                        self.hear_keeper(&mut keeper_frames)
                    }
                    Err(error) => Err(Error::Keeper(error)),
                },
                _ = beats.tick() => self.beat(),
                found = self.gpus.next() => {
                    self.looked(found);
                    Ok(())
                }
                Some(done) = self.uploads.tasks.join_next() => {
                    if let Ok(finished) = done {
                        self.up.say(kind::FINISHED, 0, &finished);
                    }
                    Ok(())
                }
                Some(done) = self.followers.join_next() => {
                    if let Ok(id) = done {
                        self.follows.remove(&id);
                    }
                    Ok(())
                }
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    fn beat(&mut self) -> Result<(), Error> {
        if self.beats.heard().elapsed() > self.silence {
            return Err(Error::Silent);
        }
        if self.up.is_stuck() || self.down.is_stuck() {
            return Err(Error::Stuck);
        }
        let beat = self.beats.next(boot_ms());
        self.up.say(kind::BEAT, 0, &beat);
        if beat.number % SAMPLE_EVERY == 1 {
            self.up.say(kind::SAMPLE, OPTIONAL, &self.sampler.look());
        }
        if beat.number % SAMPLE_EVERY == 1 || self.gpus.has_sick() {
            self.gpus.report();
        }
        match self.renewal.ask(renewal::wall()) {
            Ok(Some(renew)) => self.up.say(kind::RENEW, OPTIONAL, &renew),
            Ok(None) => {}
            Err(reason) => self.up.say(kind::RENEWAL_FAILED, OPTIONAL, &RenewalFailed { reason }),
        }
        Ok(())
    }

    /// The quarantine is told before the attempt is given back, so that it does not come again at once.
    fn looked(&mut self, found: Found) {
        match found {
            Found::Report(told) => self.up.say(kind::GPUS, OPTIONAL, &told),
            Found::Fit(frame) => self.down.pass(&frame),
            Found::Unfit(told, attempt) => {
                self.replicas.expect_no_more(attempt);
                self.up.say(kind::GPUS, OPTIONAL, &told);
                self.up.say(kind::RETURNED, 0, &wire::Revoke { attempt });
            }
        }
    }

    fn renewed(&mut self, renewed: &Renewed) {
        match self.renewal.keep(renewal::wall(), renewed) {
            Ok(fingerprint) => self.up.say(kind::RENEWAL_KEPT, OPTIONAL, &RenewalKept { fingerprint }),
            Err(reason) => self.up.say(kind::RENEWAL_FAILED, OPTIONAL, &RenewalFailed { reason }),
        }
    }

    fn hear_coordinator(&mut self, frames: &mut Reader) -> Result<(), Error> {
        while let Some(frame) = frames.next_frame()? {
            match frame.kind {
                kind::START | kind::START_GIT => {
                    crash::point("agent.start-received");
                    if !std::mem::replace(&mut self.busy, true) {
                        // Nobody told the keeper while nothing ran: the lease of this attempt starts from here.
                        self.down.say(kind::LIMITS, 0, &self.limits);
                    }
                    if !self.gpus.holds_back(&frame) {
                        self.down.pass(&frame);
                    }
                }
                kind::START_REPLICA => {
                    let mut order: StartReplica = frame.decode()?;
                    self.expect_replica(&mut order.start, &mut order.replica);
                    self.start_replica(kind::START_REPLICA, &order)?;
                }
                kind::LAUNCH_REPLICA => {
                    let mut order: LaunchReplica = frame.decode()?;
                    self.expect_replica(&mut order.start, &mut order.replica);
                    self.start_replica(kind::LAUNCH_REPLICA, &order)?;
                }
                kind::REQUESTS => self.replicas.ask(frame.decode::<Requests>()?.items),
                kind::CANCEL_REQUESTS => self.replicas.cancel(frame.decode::<CancelRequests>()?.items),
                kind::STOP | kind::FORGET | kind::REVOKE | kind::RECONCILE | kind::COLLECT => {
                    crash::point_of("agent.received", || match frame.kind {
                        kind::STOP => "stop",
                        kind::FORGET => "forget",
                        _ => "other",
                    });
                    self.down.pass(&frame);
                }
                kind::BEAT_ECHO => self.echo(frame.decode()?),
                kind::RECORDED => self.horizon.rise(frame.decode()?, &self.config.state_dir),
                kind::FOLLOW => self.follow(frame.decode()?),
                kind::UNFOLLOW => {
                    if let Some(task) = self.follows.remove(&frame.decode::<Unfollow>()?.id) {
                        task.abort();
                    }
                }
                kind::REFUSED => return Err(Error::Refused(frame.decode()?)),
                kind::RENEWED => self.renewed(&frame.decode()?),
                kind::RENEWAL_FAILED => {
                    let told: RenewalFailed = frame.decode()?;
                    // Said back, so that it stands in the machine's record whichever side it failed on.
                    let reason = self.renewal.failed(renewal::wall(), &told.reason);
                    self.up.say(kind::RENEWAL_FAILED, OPTIONAL, &RenewalFailed { reason });
                }
                _ if frame.flags & OPTIONAL != 0 => {}
                other => return Err(frame::Error::UnknownKind(other).into()),
            }
        }
        Ok(())
    }

    /// Passed on with what was added here, once its gpus are found fit.
    fn start_replica(&mut self, kind: u16, order: &impl Serialize) -> Result<(), Error> {
        let mut body = Vec::new();
        codec::encode_into(order, &mut body).map_err(|e| frame::Error::Body(kind, e))?;
        let frame = Frame { kind, flags: 0, body };
        if !self.gpus.holds_back(&frame) {
            self.down.pass(&frame);
        }
        Ok(())
    }

    fn expect_replica(&self, start: &mut Start, replica: &mut Replica) {
        if let Err(error) = self.replicas.expect(start, replica) {
            // It is started without, and says itself that it has no port.
            tracing::error!(%error, "no port for a replica");
        }
    }

    fn echo(&mut self, beat: Beat) {
        if let Some(sent) = self.beats.echo(beat, Instant::now()) {
            self.limits.heard_boot_ms = sent;
            if self.busy {
                // Said again while the coordinator is heard: exclusive attempts end when this stays away.
                self.down.say(kind::LIMITS, 0, &self.limits);
            }
        }
    }

    fn hear_keeper(&mut self, frames: &mut Reader) -> Result<(), Error> {
        while let Some(frame) = frames.next_frame().map_err(Error::KeeperFrame)? {
            match frame.kind {
                kind::INVENTORY => {
                    self.in_step = true;
                    self.busy = true;
                    self.up.pass(&frame);
                    let items = frame.decode::<Inventory>().map_err(Error::KeeperFrame)?.items;
                    let live = items.iter().filter(|item| item.phase < ENDED);
                    self.replicas.inventory(live.map(|item| (item.attempt, item.pid != 0)));
                }
                kind::INVENTORY_END => {
                    self.in_step = true;
                    self.up.pass(&frame);
                    self.replicas.join(&self.up);
                }
                _ if !self.in_step => {}
                kind::FINISHED => self.finished(&frame)?,
                kind::ARTIFACTS => {
                    let artifacts: Artifacts = frame.decode().map_err(Error::KeeperFrame)?;
                    self.uploads.promised.insert(artifacts.attempt, artifacts);
                }
                kind::STARTED
                | kind::PROGRESS
                | kind::RETURNED
                | kind::USAGE
                | kind::PREPARING
                | kind::TAKING
                | kind::RESOLVED
                | kind::QUIET
                | kind::ENFORCED => {
                    if frame.kind == kind::STARTED {
                        crash::point("agent.started-unsent");
                    }
                    self.up.pass(&frame);
                    if frame.kind == kind::STARTED {
                        self.replicas.started(frame.decode::<Started>().map_err(Error::KeeperFrame)?.attempt);
                    }
                }
                _ if frame.flags & OPTIONAL != 0 => {}
                other => return Err(Error::KeeperFrame(frame::Error::UnknownKind(other))),
            }
        }
        Ok(())
    }

    /// Small ends go at once; a large tape goes first, on a stream of its own.
    fn finished(&mut self, frame: &Frame) -> Result<(), Error> {
        let finished: Finished = frame.decode().map_err(Error::KeeperFrame)?;
        crash::point("agent.finished-unsent");
        self.replicas.ended(finished.attempt);
        let artifacts = self.uploads.promised.remove(&finished.attempt);
        if finished.spooled == 0 && artifacts.is_none() {
            self.up.pass(frame);
            return Ok(());
        }
        // Its process has ended: whoever waits for its room need not wait for its output.
        self.up.say(kind::EXITED, OPTIONAL, &Exited { attempt: finished.attempt, phase: 3 });
        if let Some(artifacts) = artifacts {
            self.up.say(kind::ARTIFACTS, OPTIONAL, &artifacts);
        }
        let (connection, dir) = (self.connection.clone(), self.config.runtime_dir.clone());
        self.uploads.spawn(connection, dir, finished, artifacts.is_some());
        Ok(())
    }

    fn follow(&mut self, wanted: Follow) {
        let id = wanted.id;
        let attempt: AttemptId = wanted.attempt;
        let work = output::follow(self.connection.clone(), self.config.runtime_dir.clone(), wanted);
        let task = self.followers.spawn(async move {
            if let Err(error) = work.await {
                tracing::debug!(%attempt, error = &error as &dyn std::error::Error, "following ended");
            }
            id
        });
        self.follows.insert(id, task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_know_what_to_close_with_and_what_they_were_told() {
        let refused = Error::Refused(Refused { code: close::REVOKED, reason: "x".into() });
        assert_eq!((refused.code(), refused.close_code()), (Some(close::REVOKED), close::DONE));
        for (error, code) in [
            (frame::Error::UnknownKind(999), close::VERSION),
            (frame::Error::TooLarge(u32::MAX), close::TOO_LARGE),
        ] {
            assert_eq!(Error::Frame(error).close_code(), code);
        }
        assert_eq!(Error::Silent.code(), None);
    }
}
