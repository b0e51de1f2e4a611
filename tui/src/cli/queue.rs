//! `reeve queue ...`: queues of jobs and of messages.
use super::args::comes_later;
use super::context::Context;
use super::delivery::Peeked;
use super::error::{Error, note};
use super::table::Table;
use super::{delivery, routing, values};
use crate::client::escape;
use hyper::Method;
use reeve_protocol::api::{
    CleanRequest, Cleaned, LeaseRequest, List, MigrateRequest, MoveRequest, Moved, PauseRequest, QueueCount,
    QueueSettings, QueueView, SettledMany,
};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_count, show_duration};
use reeve_protocol::{Code, Problem};
use serde_json::{Value, json};

/// What can be done with queues.
#[derive(Debug, clap::Subcommand)]
pub enum Queue {
    /// List queues
    Ls,
    /// Show a queue
    Show(Name),
    /// Make a queue, or change its settings
    Set(Set),
    /// Put a message, or a job, into a queue. Prints its id
    Publish(delivery::Publish),
    /// Take messages or jobs out of a queue
    Receive(delivery::Receive),
    /// Say that what was received is done
    Ack(Lease),
    /// Give back what was received
    Nack(Lease),
    /// Keep what was received for longer
    Extend(Lease),
    /// Count what is in a queue
    Count(Name),
    /// Remove what waits in a queue
    Clean(Removal),
    /// Look at what comes next without taking it
    Peek(Peek),
    /// Hand nothing out until resumed
    Pause(Pause),
    /// Hand out again
    Resume(Name),
    /// Keep a queue elsewhere from now on, with what waits in it
    Migrate(Migrate),
    /// Put what waits in a queue into another, in the order it has
    Move(Move),
    /// List what was given up, with the cause, or return it to its queue
    Dead(routing::Dead),
    /// Rules that say which queues a message goes to
    Route(routing::RouteCommand),
    /// Any other word.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Hand nothing out until resumed.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// Why, shown to whoever looks
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// A queue.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
}

/// Make a queue, or change its settings.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// jobs or messages
    #[arg(long, value_name = "KIND", value_parser = ["jobs", "messages"])]
    pub kind: Option<String>,
    /// local, memory, the name of a broker in the configuration, or redis://HOST:PORT, amqp://HOST:PORT
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Share among queues
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Jobs at once; 0 for no limit
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Things waiting at once; 0 for no limit
    #[arg(long, value_name = "N")]
    pub max_len: Option<u64>,
    /// Turn what other programs publish at the broker into jobs of this user; off
    #[arg(long, value_name = "as=USER")]
    pub ingress: Option<String>,
}

/// What was received, by its lease.
#[derive(Debug, clap::Args)]
pub struct Lease {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// The lease; several are settled together
    #[arg(value_name = "LEASE", required = true)]
    pub tokens: Vec<String>,
    /// ack of a job: its result
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub result: Option<String>,
    /// nack: not before this
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub delay: Option<f64>,
    /// nack: why
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// extend: from now
    #[arg(long = "for", value_name = "TIME", value_parser = values::duration)]
    pub longer: Option<f64>,
}

/// Keep a queue elsewhere from now on, with what waits in it. Moving it back gives the move up.
#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// local, the name of a broker in the configuration, or its URL
    #[arg(long, value_name = "BACKEND")]
    pub to: String,
}

/// Put what waits in a queue into another, in the order it has.
#[derive(Debug, clap::Args)]
pub struct Move {
    /// From here
    #[arg(value_name = "QUEUE")]
    pub from: String,
    /// To there
    #[arg(value_name = "QUEUE")]
    pub to: String,
    /// Only what matches
    #[arg(long, short, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
}

/// Remove what waits in a queue.
#[derive(Debug, clap::Args)]
pub struct Removal {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// Only what matches
    #[arg(long, short, value_name = "FILTER")]
    pub filter: Option<String>,
    /// The dead ones instead
    #[arg(long)]
    pub dead: bool,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
}

/// Look at what comes next.
#[derive(Debug, clap::Args)]
pub struct Peek {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: u32,
}

/// Runs it.
pub async fn run(queue: Queue, context: &mut Context) -> Result<(), Error> {
    match queue {
        Queue::Ls => ls(context).await,
        Queue::Show(name) => show(Method::GET, &path(&name.queue, ""), None, context).await,
        Queue::Set(given) => set(given, context).await,
        Queue::Publish(publish) => delivery::publish(publish, context).await,
        Queue::Receive(receive) => delivery::receive(receive, context).await,
        Queue::Ack(given) => lease("ack", given, context).await,
        Queue::Nack(given) => lease("nack", given, context).await,
        Queue::Extend(given) => lease("extend", given, context).await,
        Queue::Count(name) => count(&name.queue, context).await,
        Queue::Clean(given) => clean(given, context).await,
        Queue::Peek(given) => peek(given, context).await,
        Queue::Pause(given) => {
            let body = json!(PauseRequest { reason: given.reason });
            show(Method::POST, &path(&given.queue, "/pause"), Some(body), context).await
        }
        Queue::Resume(name) => {
            show(Method::POST, &path(&name.queue, "/resume"), Some(json!({})), context).await
        }
        Queue::Migrate(given) => migrate(given, context).await,
        Queue::Move(given) => move_waiting(given, context).await,
        Queue::Dead(given) => routing::dead(given, context).await,
        Queue::Route(given) => routing::route(given, context).await,
        Queue::Other(words) => Err(other("queue", &words)),
    }
}

/// A word of a later version, or of none.
pub fn other(group: &str, words: &[String]) -> Error {
    let word = words.first().map_or("", String::as_str);
    let command = format!("reeve {group} {word}").replace("  ", " ");
    if comes_later(group, word) {
        return Problem::new(Code::NotYet, format!("`{command}` comes with a later version"))
            .hint(format!("`{}--help` lists what there is", command.trim_end_matches(word)))
            .into();
    }
    let known = subcommands(group);
    let near = reeve_protocol::nearest::nearest(word, known.iter().map(String::as_str));
    let near = near.map_or_else(|| ".".to_owned(), |near| format!("; did you mean {near}?"));
    Error::Usage(
        format!("{:?} is not a command{near} See `reeve {group} --help`", Clean::short(word, 40).as_str())
            .replace("reeve  --help", "reeve --help"),
    )
}

fn subcommands(group: &str) -> Vec<String> {
    let tree = <super::args::Args as clap::CommandFactory>::command();
    let within = if group.is_empty() { Some(&tree) } else { tree.find_subcommand(group) };
    within.into_iter().flat_map(clap::Command::get_subcommands).map(|c| c.get_name().to_owned()).collect()
}

/// The path of a queue.
pub fn path(queue: &str, rest: &str) -> String {
    format!("/v1/queues/{}{rest}", escape(queue))
}

async fn ls(context: &mut Context) -> Result<(), Error> {
    let Some(list) = context.get::<List<QueueView>>("/v1/queues").await? else { return Ok(()) };
    context.table(&table(&list.items))?;
    if list.items.is_empty() {
        note("no queues yet; the first job makes one");
    }
    Ok(())
}

/// Queues as a table.
pub fn table(queues: &[QueueView]) -> Table {
    let mut table = Table::new(&[
        "QUEUE", "KIND", "BACKEND", "STATE", ">QUEUED", ">RUNNING", ">DONE", ">FAILED", ">LIMIT", ">WEIGHT",
        ">OLDEST",
    ]);
    for queue in queues {
        let counts = &queue.counts;
        let numbers = [counts.queued, counts.running, counts.completed, counts.failed].map(show_count);
        let limit = if queue.limit == 0 { "-".to_owned() } else { queue.limit.to_string() };
        let state = match (queue.paused, queue.degraded.is_some()) {
            (true, _) => "paused",
            (false, true) => "degraded",
            (false, false) => "open",
        };
        let head = [queue.name.clone(), queue.kind.clone(), queue.backend.clone(), state.to_owned()];
        let tail =
            [limit, queue.weight.to_string(), queue.oldest_age_s.map(show_duration).unwrap_or_default()];
        table.row(head.into_iter().chain(numbers).chain(tail).map(Into::into));
    }
    table
}

async fn show(method: Method, path: &str, body: Option<Value>, context: &mut Context) -> Result<(), Error> {
    let Some(queue) = context.ask::<QueueView>(method, path, body.as_ref()).await? else { return Ok(()) };
    print(&queue, context)
}

fn print(queue: &QueueView, context: &mut Context) -> Result<(), Error> {
    context.table(&table(std::slice::from_ref(queue)))?;
    if let Some(why) = &queue.degraded {
        let since = queue.degraded_since.map_or_else(String::new, |at| format!(" since {at}"));
        context.line(format!("degraded{since}: {}", Clean::line(why)))?;
    }
    if let Some(by) = &queue.paused_by {
        let why =
            queue.paused_why.as_deref().map_or_else(String::new, |why| format!(": {}", Clean::line(why)));
        let at = queue.paused_at.map_or_else(String::new, |at| format!(" at {at}"));
        context.line(format!("paused by {}{at}{why}", Clean::line(by)))?;
    }
    let version =
        queue.backend_version.as_deref().map_or_else(String::new, |v| format!(" ({})", Clean::line(v)));
    context.line(format!("backend: {}{version}", Clean::line(&queue.backend)))?;
    for (what, words) in &queue.capabilities {
        context.line(format!("  {what}: {}", Clean::line(words)))?;
    }
    if let Some(old) = &queue.moving_from {
        let left = queue.moving_left.map_or_else(String::new, |n| format!(", {} left there", show_count(n)));
        context.line(format!("moving from {}{left}", Clean::line(old)))?;
    }
    if let Some(ingress) = &queue.ingress {
        context.line(format!("ingress: {}", Clean::line(ingress)))?;
    }
    if let Some(hints) = queue.hints {
        context.line(format!("at the broker: {} hints", show_count(hints)))?;
    }
    let waiting: Vec<String> =
        queue.waiting.iter().map(|(why, n)| format!("{} {why}", show_count(*n))).collect();
    if !waiting.is_empty() {
        context.line(format!("waiting: {}", waiting.join(", ")))?;
    }
    let rates =
        [("started", queue.started_per_s), ("ended", queue.ended_per_s), ("failed", queue.failed_per_s)];
    let rates: Vec<String> = rates
        .iter()
        .filter(|(_, rate)| *rate > 0.0)
        .map(|(what, rate)| format!("{what} {rate:.1}/s"))
        .collect();
    if rates.is_empty() { Ok(()) } else { context.line(rates.join(", ")) }
}

async fn set(set: Set, context: &mut Context) -> Result<(), Error> {
    let settings = QueueSettings {
        kind: set.kind,
        backend: set.backend,
        ingress: set.ingress,
        weight: set.weight,
        limit: set.limit,
        max_len: set.max_len,
    };
    let answer = context.ask::<QueueView>(Method::PUT, &path(&set.queue, ""), Some(&settings)).await?;
    answer.map_or(Ok(()), |queue| print(&queue, context))
}

/// Leases in one request.
const LEASES: usize = 1000;

async fn lease(action: &str, mut lease: Lease, context: &mut Context) -> Result<(), Error> {
    if lease.tokens.len() > 1 {
        return leases(action, &lease, context).await;
    }
    let request = LeaseRequest {
        lease: lease.tokens.pop().unwrap_or_default(),
        leases: Vec::new(),
        result: lease.result.map(|word| values::json("--result", &word)).transpose()?,
        delay_s: lease.delay,
        lease_s: lease.longer,
        error: lease.error,
    };
    let answer = context.post::<Value>(&path(&lease.queue, &format!("/{action}")), &request).await?;
    match answer.as_ref().and_then(|a| a["id"].as_str()) {
        Some(id) => context.line(Clean::line(id).as_str()),
        None => Ok(()),
    }
}

async fn leases(action: &str, lease: &Lease, context: &mut Context) -> Result<(), Error> {
    if lease.result.is_some() {
        return Err(Error::Usage("--result belongs to one lease".to_owned()));
    }
    let (path, mut failed) = (path(&lease.queue, &format!("/{action}")), false);
    for portion in lease.tokens.chunks(LEASES) {
        let request = LeaseRequest {
            leases: portion.to_vec(),
            delay_s: lease.delay,
            lease_s: lease.longer,
            error: lease.error.clone(),
            ..LeaseRequest::default()
        };
        if let Some(settled) = context.post::<SettledMany>(&path, &request).await? {
            context.line(format!("{} settled", show_count(settled.settled)))?;
            failed |= delivery::not_settled(&settled).is_err();
        }
    }
    if failed { Err(Error::Exit(1)) } else { Ok(()) }
}

async fn count(queue: &str, context: &mut Context) -> Result<(), Error> {
    let Some(count) = context.get::<QueueCount>(&path(queue, "/count")).await? else { return Ok(()) };
    let mut table = Table::new(&["QUEUE", "KIND", ">READY", ">DELAYED", ">LEASED", ">DEAD", ">OLDEST"]);
    let numbers = [count.ready, count.delayed, count.leased, count.dead].map(show_count);
    let oldest = count.oldest_age_s.map(show_duration).unwrap_or_default();
    table.row([count.queue, count.kind].into_iter().chain(numbers).chain([oldest]).map(Into::into));
    context.table(&table)
}

async fn migrate(given: Migrate, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let before: QueueCount = client.get(&path(&given.queue, "/count")).await?;
    let body = json!(MigrateRequest { to: given.to });
    let moved = context.ask::<QueueView>(Method::POST, &path(&given.queue, "/migrate"), Some(&body)).await?;
    let Some(view) = moved else { return Ok(()) };
    let after: QueueCount = client.get(&path(&given.queue, "/count")).await?;
    let shown = |c: &QueueCount| {
        format!("{} ready, {} delayed, {} leased, {} dead", c.ready, c.delayed, c.leased, c.dead)
    };
    context.line(format!("before: {}", shown(&before)))?;
    context.line(format!("now: {}", shown(&after)))?;
    print(&view, context)
}

async fn move_waiting(given: Move, context: &mut Context) -> Result<(), Error> {
    let request = MoveRequest { to: given.to, filter: given.filter, dry_run: given.dry_run };
    let mut total = 0;
    loop {
        let Some(part) = context.post::<Moved>(&path(&given.from, "/move"), &request).await? else {
            return Ok(());
        };
        total += part.moved;
        if part.dry_run || part.left == 0 || part.moved == 0 {
            let would = if part.dry_run { "would be " } else { "" };
            return context.line(format!("{} {would}moved", show_count(total)));
        }
    }
}

async fn clean(clean: Removal, context: &mut Context) -> Result<(), Error> {
    let request = CleanRequest { filter: clean.filter, dead: clean.dead, dry_run: clean.dry_run };
    let Some(cleaned) = context.post::<Cleaned>(&path(&clean.queue, "/clean"), &request).await? else {
        return Ok(());
    };
    let would = if cleaned.dry_run { "would be " } else { "" };
    context.line(format!("{} {would}removed", show_count(cleaned.removed)))
}

async fn peek(peek: Peek, context: &mut Context) -> Result<(), Error> {
    let path = path(&peek.queue, &format!("/peek?limit={}", peek.limit));
    let Some(peeked) = context.get::<Peeked>(&path).await? else { return Ok(()) };
    if peeked.items.is_empty() {
        note("nothing waits there");
    }
    for item in &peeked.items {
        context.line(item.line())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_later_versions_and_mistakes_are_told_apart() {
        let words = |word: &str| vec![word.to_owned()];
        for (group, word, code, text) in [
            ("", "df", 1, "later version"),
            ("queue", "publsh", 2, "did you mean publish"),
            ("", "sumbit", 2, "did you mean submit"),
            ("machine", "xyzzy", 2, "reeve machine --help"),
        ] {
            let error = other(group, &words(word));
            assert_eq!(error.exit_code(), code, "{word}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_queue_is_one_line() {
        let queue = QueueView {
            name: "default".into(),
            kind: "jobs".into(),
            backend: "local".into(),
            paused: true,
            ..QueueView::default()
        };
        let text = table(&[queue]).render(None, false);
        assert!(
            text.lines().nth(1).is_some_and(|line| line.starts_with("default  jobs  local    paused")),
            "{text}"
        );
    }
}
