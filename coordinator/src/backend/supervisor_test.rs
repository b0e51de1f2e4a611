//! The supervisor of a broker against one that a test plays, in virtual time: what it tells the core, when it gives a
//! connection up, and what it does meanwhile.
use super::*;
use crate::orchestrator::link::{Hint, Incoming, Tag};
use crate::row::MessageRow;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::{Notify, oneshot};

/// How the broker behaves, and what it was asked for.
#[derive(Default)]
struct State {
    /// What the next tries to connect come to; then they succeed.
    connects: VecDeque<Trouble>,
    /// What the next answers to an operation of that name are; then it succeeds.
    answers: BTreeMap<&'static str, VecDeque<Trouble>>,
    /// Operations that are never answered.
    hangs: Vec<&'static str>,
    /// Queues that were not there before.
    fresh: Vec<Arc<str>>,
    /// Canaries do not come back.
    swallows: bool,
    heard: VecDeque<Heard>,
    depth: u64,
    asked: Vec<String>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Notify,
}

/// Brokers by the lineage that a test connects with: connecting names nothing else.
static BROKERS: Mutex<BTreeMap<String, Arc<Shared>>> = Mutex::new(BTreeMap::new());

struct Fake(Arc<Shared>);

impl Fake {
    async fn does(&self, what: &'static str, detail: &str) -> Result<(), Trouble> {
        let hangs = {
            let mut state = self.0.state.lock().unwrap();
            state.asked.push(format!("{what} {detail}"));
            state.hangs.contains(&what)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        self.0.state.lock().unwrap().answers.entry(what).or_default().pop_front().map_or(Ok(()), Err)
    }
}

impl Backend for Fake {
    const SETTLES: Duration = Duration::from_millis(1_500);
    const CONFIRMS_FAST: bool = true;

    async fn connect(_: &Settings, lineage: &str) -> Result<Self, Trouble> {
        let fake = Self(BROKERS.lock().unwrap()[lineage].clone());
        fake.does("connect", "").await?;
        let trouble = fake.0.state.lock().unwrap().connects.pop_front();
        trouble.map_or(Ok(fake), Err)
    }

    fn version(&self) -> String {
        "fake 1".to_owned()
    }

    fn capabilities(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn keep(&mut self, queue: &Arc<str>, _: QueueKind) -> Result<bool, Trouble> {
        self.does("keep", queue).await?;
        Ok(self.0.state.lock().unwrap().fresh.contains(queue))
    }

    fn leave(&mut self, queue: &str) {
        self.0.state.lock().unwrap().asked.push(format!("leave {queue}"));
    }

    async fn abandon(&mut self, queue: &str) -> Result<(), Trouble> {
        self.does("abandon", queue).await
    }

    async fn hint(&mut self, queue: &str, _: &[Hint]) -> Result<(), Trouble> {
        self.does("hint", queue).await
    }

    async fn publish(&mut self, queue: &str, _: &[MessageRow]) -> Result<(), Trouble> {
        self.does("publish", queue).await
    }

    async fn answer(&mut self, rows: &[MessageRow]) -> Result<(u64, String), Trouble> {
        self.does("answer", "").await?;
        Ok((rows.len() as u64 - 1, "nobody is there".to_owned()))
    }

    async fn taken(&mut self, queue: &str, _: &[Tag]) -> Result<(), Trouble> {
        self.does("taken", queue).await
    }

    async fn room(&mut self, queue: &str, more: u64) -> Result<(), Trouble> {
        self.does("room", &format!("{queue} {more}")).await
    }

    async fn depth(&mut self, queue: &str) -> Result<(u64, u64), Trouble> {
        self.does("depth", queue).await?;
        Ok((self.0.state.lock().unwrap().depth, 0))
    }

    async fn peek(&mut self, queue: &str, _: usize) -> Result<Vec<Incoming>, Trouble> {
        self.does("peek", queue).await.map(|()| Vec::new())
    }

    async fn purge(&mut self, queue: &str) -> Result<u64, Trouble> {
        self.does("purge", queue).await.map(|()| 7)
    }

    async fn canary(&mut self) -> Result<(), Trouble> {
        self.does("canary", "").await?;
        let mut state = self.0.state.lock().unwrap();
        if !state.swallows {
            state.heard.push_back(Heard::Canary);
            self.0.more.notify_one();
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Heard, Trouble> {
        loop {
            if let Some(heard) = self.0.state.lock().unwrap().heard.pop_front() {
                return Ok(heard);
            }
            self.0.more.notified().await;
        }
    }
}

/// A supervisor that runs, its broker, and what it tells.
struct World {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
    overrun: Arc<AtomicBool>,
    inputs: mpsc::Receiver<Input>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    /// `name`: of the test, so that no two speak to one broker.
    fn new(name: &str, prepare: impl FnOnce(&mut State)) -> Self {
        let shared = Arc::new(Shared::default());
        prepare(&mut shared.state.lock().unwrap());
        BROKERS.lock().unwrap().insert(name.to_owned(), shared.clone());
        let (engine, inputs, _) = Handle::for_tests();
        let (work, rx) = mpsc::channel(64);
        let overrun = Arc::new(AtomicBool::new(false));
        let supervisor = Supervisor {
            name: "fake".into(),
            settings: Settings::parse("redis://127.0.0.1:1"),
            lineage: name.to_owned(),
            engine,
            overrun: overrun.clone(),
        };
        let task = tokio::spawn(async move { supervisor.run::<Fake>(rx).await });
        Self { shared, work, overrun, inputs, task }
    }

    /// The next thing that the core hears, canaries aside.
    async fn hears(&mut self) -> String {
        loop {
            let said = self.said().await;
            if said != "heard" {
                return said;
            }
        }
    }

    async fn said(&mut self) -> String {
        let input = tokio::time::timeout(Duration::from_mins(1), self.inputs.recv()).await;
        let Ok(Some(Input::Broker { said, .. })) = input else { panic!("nothing was said: {input:?}") };
        match &said[..] {
            [Said::Up { version, confirms_fast: true, .. }] => format!("up {version}"),
            [Said::Down(why)] => format!("down {why}"),
            [Said::Heard] => "heard".to_owned(),
            [Said::Lost(queue)] => format!("lost {queue}"),
            [Said::Trouble(queue, why)] => format!("trouble {queue} {why:?}"),
            [Said::Confirmed(queue, ids)] => format!("confirmed {queue} {ids:?}"),
            [Said::Unroutable(n, why)] => format!("unroutable {n} {why}"),
            [Said::Depth { queue, depth, ticket, .. }] => format!("depth {queue} {depth} {ticket:?}"),
            [Said::Hints(queue, _)] => format!("hints {queue}"),
            [Said::Messages(queue, _)] => format!("messages {queue}"),
            other => panic!("{other:?}"),
        }
    }

    async fn order(&self, order: Order) {
        self.work.send(Work::Order(order)).await.unwrap();
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.more.notify_one();
    }

    /// How often it was asked for something.
    fn asked(&self, what: &str) -> usize {
        self.shared.state.lock().unwrap().asked.iter().filter(|a| a.starts_with(what)).count()
    }
}

fn broken(why: &str) -> Trouble {
    Trouble::Broker(why.to_owned())
}

fn message(id: u64) -> MessageRow {
    MessageRow { id, ..MessageRow::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_while_it_is_away_is_kept_once_it_is_there_and_the_pauses_grow() {
    let mut w = World::new("away", |s| {
        s.connects.extend([broken("one"), broken("two"), broken("three")]);
        s.fresh.push("a".into());
    });
    let begun = Instant::now();
    for queue in ["a", "b", "c"] {
        w.order(Order::Use(queue.into(), QueueKind::Jobs)).await;
    }
    w.order(Order::Leave("b".into())).await;
    w.order(Order::Hints("a".into(), Vec::new())).await;
    for why in ["one", "two", "three"] {
        assert_eq!(w.hears().await, format!("down {why}"));
    }
    assert_eq!(w.hears().await, "up fake 1");
    let waited = begun.elapsed();
    let pauses = PAUSE.0 * (1 + 2 + 4) + Fake::SETTLES;
    assert!(waited >= pauses && waited < pauses + Duration::from_millis(50), "{waited:?}");
    assert_eq!(w.hears().await, "trouble a None");
    assert_eq!(w.hears().await, "lost a", "there was nothing of it before");
    assert_eq!(w.hears().await, "trouble c None");
    assert_eq!((w.asked("keep"), w.asked("hint")), (2, 0), "the core gives again what was lost");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_while_it_is_away_is_told_why() {
    let mut w = World::new("asked", |s| s.connects.extend(vec![broken("no such host"); 9]));
    assert_eq!(w.hears().await, "down no such host");
    let (peek, looked) = oneshot::channel();
    let (purge, removed) = oneshot::channel();
    w.work.send(Work::Peek("q".into(), 1, peek)).await.unwrap();
    w.work.send(Work::Purge("q".into(), purge)).await.unwrap();
    assert_eq!(looked.await.unwrap().unwrap_err(), broken("no such host"));
    assert_eq!(removed.await.unwrap().unwrap_err(), broken("no such host"));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_kept_is_tried_again_and_the_others_go_on() {
    let mut w = World::new("queue", |s| {
        let trouble = Trouble::Queue("q".into(), "it is of another type".into());
        s.answers.insert("keep", [trouble.clone(), trouble].into());
    });
    assert_eq!(w.hears().await, "up fake 1");
    w.order(Order::Use("q".into(), QueueKind::Jobs)).await;
    assert_eq!(w.hears().await, "trouble q Some(\"it is of another type\")");
    w.order(Order::Use("other".into(), QueueKind::Jobs)).await;
    assert_eq!(w.hears().await, "trouble other Some(\"it is of another type\")");
    let begun = Instant::now();
    assert_eq!(w.hears().await, "trouble q None");
    assert_eq!(w.hears().await, "trouble other None");
    assert!(begun.elapsed() <= CANARY_EVERY);
    assert_eq!(w.asked("connect"), 1, "one queue is no reason to begin again");
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_does_not_come_back_ends_the_connection_within_ten_seconds() {
    let mut w = World::new("canary", |_| {});
    assert_eq!(w.said().await, "up fake 1");
    for _ in 0..3 {
        assert_eq!(w.said().await, "heard");
    }
    w.set(|s| s.swallows = true);
    let begun = Instant::now();
    assert_eq!(w.said().await, "down what was published does not come back within 4 s");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    w.set(|s| s.swallows = false);
    assert_eq!(w.said().await, "up fake 1");
    assert_eq!(w.said().await, "heard", "it begins from nothing");
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_an_answer_for_ever() {
    let q = || Arc::<str>::from("q");
    let cases = [
        ("hint", "publishing", Work::Order(Order::Hints(q(), Vec::new()))),
        ("publish", "publishing", Work::Forward(q(), vec![message(1)])),
        ("answer", "publishing answers", Work::Forward(REPLIES.into(), vec![message(1)])),
        ("taken", "acknowledging", Work::Order(Order::Taken(q(), Vec::new()))),
        ("room", "asking for more", Work::Order(Order::Room(q(), 1))),
        ("depth", "counting", Work::Order(Order::Depth(q(), 1))),
    ];
    for (hangs, doing, work) in cases {
        let mut w = World::new(&format!("hangs: {hangs}"), |s| s.hangs.push(hangs));
        assert_eq!(w.hears().await, "up fake 1");
        let begun = Instant::now();
        w.work.send(work).await.unwrap();
        assert_eq!(w.hears().await, format!("down {doing}: no answer within 5 s"));
        assert!(begun.elapsed() <= PATIENCE + Duration::from_millis(50));
        w.set(|s| s.hangs.clear());
        assert_eq!(w.hears().await, "up fake 1");
    }
    let mut w = World::new("hangs at once", |s| s.hangs.push("connect"));
    assert_eq!(w.hears().await, "down connecting: no answer within 5 s");
}

#[tokio::test(start_paused = true)]
async fn an_asker_hears_of_trouble_and_only_that_of_the_broker_ends_the_connection() {
    let mut w = World::new("asker", |s| {
        let trouble = [Trouble::Cannot("no"), Trouble::Queue("q".into(), "gone".into()), broken("reset")];
        s.answers.insert("peek", trouble.into());
    });
    assert_eq!(w.hears().await, "up fake 1");
    for wanted in [Trouble::Cannot("no"), Trouble::Queue("q".into(), "gone".into()), broken("reset")] {
        let (peek, looked) = oneshot::channel();
        w.work.send(Work::Peek("q".into(), 1, peek)).await.unwrap();
        assert_eq!(looked.await.unwrap().unwrap_err(), wanted);
    }
    assert_eq!(w.hears().await, "down reset");
    assert_eq!(w.hears().await, "up fake 1");
    let (purge, removed) = oneshot::channel();
    w.work.send(Work::Purge("q".into(), purge)).await.unwrap();
    assert_eq!(removed.await.unwrap(), Ok(7));
}

#[tokio::test(start_paused = true)]
async fn messages_are_confirmed_when_they_lie_there_and_not_before() {
    let mut w = World::new("confirm", |s| {
        s.answers.insert("publish", [Trouble::Queue("q".into(), "full".into())].into());
    });
    assert_eq!(w.hears().await, "up fake 1");
    w.work.send(Work::Forward("q".into(), vec![message(1)])).await.unwrap();
    assert_eq!(w.hears().await, "trouble q Some(\"full\")");
    w.work.send(Work::Forward("q".into(), vec![message(2), message(3)])).await.unwrap();
    assert_eq!(w.hears().await, "confirmed q [2, 3]");
    w.set(|s| drop(s.answers.insert("publish", [broken("reset")].into())));
    w.work.send(Work::Forward("q".into(), vec![message(4)])).await.unwrap();
    assert_eq!(w.hears().await, "down reset");
    assert_eq!(w.hears().await, "up fake 1");
    w.work.send(Work::Forward(REPLIES.into(), vec![message(5), message(6)])).await.unwrap();
    assert_eq!(w.hears().await, "unroutable 1 nobody is there");
    assert_eq!(w.hears().await, format!("confirmed {REPLIES} [5, 6]"));
}

#[tokio::test(start_paused = true)]
async fn how_much_lies_there_is_told_when_it_changes_and_for_queues_of_messages_alone() {
    let mut w = World::new("depth", |s| s.depth = 3);
    assert_eq!(w.hears().await, "up fake 1");
    w.order(Order::Use("q".into(), QueueKind::Messages)).await;
    w.order(Order::Use("jobs".into(), QueueKind::Jobs)).await;
    w.order(Order::Use(REPLIES.into(), QueueKind::Messages)).await;
    for queue in ["q", "jobs", REPLIES] {
        assert_eq!(w.hears().await, format!("trouble {queue} None"));
    }
    assert_eq!(w.asked("keep"), 2, "places of others are not declared");
    assert_eq!(w.hears().await, "depth q 3 None");
    tokio::time::sleep(CANARY_EVERY * 3).await;
    w.set(|s| s.depth = 4);
    assert_eq!(w.hears().await, "depth q 4 None", "the same is not said again");
    w.order(Order::Depth("q".into(), 9)).await;
    assert_eq!(w.hears().await, "depth q 4 Some(9)", "but whoever asks is told");
    assert_eq!(w.hears().await, "depth q 4 None", "after other words it is");
    w.order(Order::Leave("q".into())).await;
    w.order(Order::Use("q".into(), QueueKind::Messages)).await;
    assert_eq!(w.hears().await, "trouble q None");
    assert_eq!(w.hears().await, "depth q 4 None", "kept anew, nothing is known of it");
    assert_eq!((w.asked("depth jobs"), w.asked(&format!("depth {REPLIES}"))), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_told_in_order_and_lost_work_makes_the_connection_anew() {
    let mut w = World::new("order", |_| {});
    assert_eq!(w.hears().await, "up fake 1");
    w.order(Order::Use("q".into(), QueueKind::Jobs)).await;
    assert_eq!(w.hears().await, "trouble q None");
    w.set(|s| {
        s.heard.push_back(Heard::Hints("q".into(), Vec::new()));
        s.heard.push_back(Heard::Messages("m".into(), Vec::new()));
    });
    assert_eq!((w.hears().await, w.hears().await), ("hints q".to_owned(), "messages m".to_owned()));
    w.overrun.store(true, Ordering::Relaxed);
    assert_eq!(w.hears().await, "down it is too slow for what is published");
    assert_eq!(w.hears().await, "up fake 1");
    assert_eq!(w.hears().await, "trouble q None", "what it keeps is kept again");
    assert!(!w.overrun.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_wants_anything_or_nobody_listens() {
    let mut w = World::new("ends", |_| {});
    assert_eq!(w.hears().await, "up fake 1");
    let World { work, task, inputs, .. } = w;
    drop(work);
    tokio::time::timeout(Duration::from_secs(1), task).await.unwrap().unwrap();
    drop(inputs);
    let w = World::new("ends, away", |s| s.connects.extend(vec![broken("away"); 99]));
    let World { task, inputs, work: _work, .. } = w;
    drop(inputs);
    tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
}
