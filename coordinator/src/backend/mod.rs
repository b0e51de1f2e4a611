//! Brokers: the trait that each kind of them implements, and the table of those in use. One supervisor per broker speaks to
//! it and to the engine (`supervisor`); nothing here decides, and nothing that a broker does can hold the engine up.
mod rabbitmq;
mod redis;
pub mod settings;
mod supervisor;

pub use rabbitmq::Rabbit;
pub use redis::Redis;

use crate::engine::Handle;
use crate::orchestrator::link::{Hint, Incoming, Order, Tag};
use crate::row::{MessageRow, QueueKind};
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use settings::{Scheme, Settings};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Work that may wait for one broker. Full: what is lost is found again when the connection has been made anew.
const WORK: usize = 4_096;
/// For a broker to answer while somebody waits.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why a broker cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Trouble {
    /// It is not there, does not answer, or answers what makes no sense: everything is built anew.
    #[error("{0}")]
    Broker(String),
    /// One queue cannot be kept there.
    #[error("{1}")]
    Queue(Arc<str>, String),
    /// This is not among what it can do.
    #[error("{0}")]
    Cannot(&'static str),
}

/// Something heard.
#[derive(Debug)]
pub enum Heard {
    /// A canary came back.
    Canary,
    /// Hints came.
    Hints(Arc<str>, Vec<Hint>),
    /// Messages came.
    Messages(Arc<str>, Vec<Incoming>),
}

/// One kind of broker, connected. Whatever fails with [`Trouble::Broker`] ends the connection; the next one begins from
/// nothing.
pub trait Backend: Sized + Send + 'static {
    /// After a start of the server nothing is asked of it for so long.
    const SETTLES: Duration = Duration::ZERO;
    /// Whether it takes messages at least as fast as the store does: then they pass without a row (`core::passing`).
    const CONFIRMS_FAST: bool = false;
    /// Connects, and asks who is there.
    fn connect(settings: &Settings, lineage: &str) -> impl Future<Output = Result<Self, Trouble>> + Send;
    /// The server and its version.
    fn version(&self) -> String;
    /// What it can do, in the words of `orchestrator::capability`.
    fn capabilities(&self) -> BTreeMap<String, String>;
    /// Keeps a queue from now on. True: there was nothing of it before.
    fn keep(
        &mut self,
        queue: &Arc<str>,
        kind: QueueKind,
    ) -> impl Future<Output = Result<bool, Trouble>> + Send;
    /// Reads no more of a queue.
    fn leave(&mut self, queue: &str);
    /// Removes the hints of a queue of jobs that is left: nobody will need them.
    fn abandon(&mut self, queue: &str) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// Publishes hints.
    fn hint(&mut self, queue: &str, hints: &[Hint]) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// Publishes messages; they lie there once this returns.
    fn publish(
        &mut self,
        queue: &str,
        rows: &[MessageRow],
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// Publishes answers to jobs, each to the place that its header [`PLACE`](crate::orchestrator::link::PLACE) names. Gives
    /// how many had no such place, and why the last had none.
    fn answer(&mut self, rows: &[MessageRow]) -> impl Future<Output = Result<(u64, String), Trouble>> + Send;
    /// These deliveries will not be needed again.
    fn taken(&mut self, queue: &str, tags: &[Tag]) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// So many more may come of a queue; 0: none.
    fn room(&mut self, queue: &str, more: u64) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// How many messages lie there that nobody has taken, and how many were read and not acknowledged.
    fn depth(&mut self, queue: &str) -> impl Future<Output = Result<(u64, u64), Trouble>> + Send;
    /// The next few messages, left where they are.
    fn peek(
        &mut self,
        queue: &str,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Incoming>, Trouble>> + Send;
    /// Removes what lies there of a queue of messages, and says how many.
    fn purge(&mut self, queue: &str) -> impl Future<Output = Result<u64, Trouble>> + Send;
    /// Sends something to ourselves.
    fn canary(&mut self) -> impl Future<Output = Result<(), Trouble>> + Send;
    /// What comes next. Can be dropped at any time without losing anything.
    fn next(&mut self) -> impl Future<Output = Result<Heard, Trouble>> + Send;
}

/// What a supervisor is to do.
#[derive(Debug)]
pub enum Work {
    /// The core's word.
    Order(Order),
    /// Publish these messages.
    Forward(Arc<str>, Vec<MessageRow>),
    /// Somebody wants to see the next few messages.
    Peek(Arc<str>, usize, oneshot::Sender<Result<Vec<Incoming>, Trouble>>),
    /// Somebody removes what lies there.
    Purge(Arc<str>, oneshot::Sender<Result<u64, Trouble>>),
}

/// A broker that is in use.
struct Running {
    work: mpsc::Sender<Work>,
    /// Some work was lost because too much waited.
    overrun: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// The engine as brokers need it.
struct Engine {
    handle: Handle,
    runtime: tokio::runtime::Handle,
}

/// Every broker: those of the configuration, and those in use.
#[derive(Default)]
pub struct Backends {
    configured: BTreeMap<String, Settings>,
    lineage: String,
    engine: Mutex<Option<Engine>>,
    running: Mutex<HashMap<Arc<str>, Running>>,
}

impl Backends {
    /// With those of the configuration.
    pub fn new(configured: BTreeMap<String, Settings>, lineage: &str) -> Self {
        Self { configured, lineage: lineage.to_owned(), ..Self::default() }
    }

    /// From now on brokers are spoken to.
    pub fn start(&self, handle: Handle) {
        let runtime = tokio::runtime::Handle::current();
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(Engine { handle, runtime });
    }

    /// Speaks to nobody any more: the engine ends only when nobody can tell it anything.
    pub fn stop(&self) {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (_, running) in self.running.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            running.task.abort();
        }
    }

    /// Where a broker is that a queue names.
    ///
    /// # Errors
    /// When it is neither configured nor a URL that can be used.
    pub fn find(&self, name: &str) -> Result<Settings, Problem> {
        if let Some(settings) = self.configured.get(name) {
            return Ok(settings.clone());
        }
        if name.contains("://") {
            return Settings::parse(name);
        }
        let known = ["local", "memory"].into_iter().chain(self.configured.keys().map(String::as_str));
        let near = reeve_protocol::nearest::nearest(name, known.clone());
        let known: Vec<&str> = known.collect();
        let hint = near.map_or_else(
            || {
                format!(
                    "there are {}; more come with [backends.NAME] in the configuration, or as a URL",
                    known.join(", ")
                )
            },
            |near| format!("did you mean {near}?"),
        );
        Err(Problem::new(Code::BadValue, format!("there is no backend {}", Clean::short(name, 64)))
            .hint(hint))
    }

    /// Tries whether a queue can be kept at a broker: connects, and keeps it.
    ///
    /// # Errors
    /// What was tried, and what was answered.
    pub async fn probe(&self, name: &str, queue: &str, kind: QueueKind) -> Result<(), Problem> {
        let settings = self.find(name)?;
        let queue: Arc<str> = queue.into();
        let tried = match settings.scheme {
            Scheme::Redis => self.try_with::<Redis>(&settings, &queue, kind).await,
            Scheme::Amqp => self.try_with::<Rabbit>(&settings, &queue, kind).await,
        };
        tried.map_err(|trouble| {
            Problem::new(Code::BackendUnusable, format!("backend {settings} cannot be used: {trouble}"))
                .hint("see to the broker, or correct url, user and password_file; then try again")
        })
    }

    async fn try_with<B: Backend>(
        &self,
        settings: &Settings,
        queue: &Arc<str>,
        kind: QueueKind,
    ) -> Result<(), Trouble> {
        let tried = async {
            let mut backend = B::connect(settings, &self.lineage).await?;
            if kind != QueueKind::Unset {
                backend.keep(queue, kind).await?;
                backend.leave(queue);
            }
            Ok(())
        };
        let late = || Trouble::Broker(format!("no answer within {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, tried).await.map_err(|_| late())?
    }

    /// Hands work to a broker's supervisor, which is started when it is the first. Never waits.
    pub fn tell(&self, name: &Arc<str>, work: Work) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.contains_key(name)
            && let Some(started) = self.launch(name)
        {
            running.insert(name.clone(), started);
        }
        if let Some(one) = running.get(name)
            && one.work.try_send(work).is_err()
        {
            one.overrun.store(true, Ordering::Relaxed);
        }
    }

    fn launch(&self, name: &Arc<str>) -> Option<Running> {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = engine.as_ref()?;
        let (tx, work) = mpsc::channel(WORK);
        let overrun = Arc::new(AtomicBool::new(false));
        let supervisor = supervisor::Supervisor {
            name: name.clone(),
            settings: self.find(name),
            lineage: self.lineage.clone(),
            engine: engine.handle.clone(),
            overrun: overrun.clone(),
        };
        let task = engine.runtime.spawn(async move {
            match supervisor.settings.as_ref().map(|s| s.scheme) {
                Ok(Scheme::Redis) => supervisor.run::<Redis>(work).await,
                Ok(Scheme::Amqp) => supervisor.run::<Rabbit>(work).await,
                Err(_) => supervisor.refuse(work).await,
            }
        });
        Some(Running { work: tx, overrun, task })
    }

    /// The next few messages that lie at a broker.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn peek(&self, name: &Arc<str>, queue: &str, max: usize) -> Result<Vec<Incoming>, Problem> {
        let (tx, answer) = oneshot::channel();
        self.tell(name, Work::Peek(queue.into(), max, tx));
        answered(name, answer).await
    }

    /// Removes what lies at a broker of a queue of messages.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn purge(&self, name: &Arc<str>, queue: &str) -> Result<u64, Problem> {
        let (tx, answer) = oneshot::channel();
        self.tell(name, Work::Purge(queue.into(), tx));
        answered(name, answer).await
    }
}

async fn answered<T>(name: &str, answer: oneshot::Receiver<Result<T, Trouble>>) -> Result<T, Problem> {
    let unusable = |why: String| {
        Problem::new(
            Code::BackendUnusable,
            format!("backend {} cannot be asked: {why}", Clean::short(name, 100)),
        )
        .hint("reeve queue show says since when and why; try again when it is back")
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(Trouble::Cannot(why)))) => {
            let what = format!("backend {} cannot do this: {why}", Clean::short(name, 100));
            Err(Problem::new(Code::BackendCannot, what).hint("reeve queue show says what it can do"))
        }
        Ok(Ok(Err(trouble))) => Err(unusable(trouble.to_string())),
        Ok(Err(_)) => Err(unusable("the coordinator is stopping".to_owned())),
        Err(_) => Err(unusable(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}
