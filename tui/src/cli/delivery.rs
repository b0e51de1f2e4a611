//! `reeve queue publish` and `reeve queue receive`.
use super::batch::{self, Lines};
use super::context::Context;
use super::error::{Error, note};
use super::queue::path;
use super::{submit, values};
use crate::client::Client;
use bytes::Bytes;
use reeve_protocol::api::{
    Delivery, JobView, LeaseRequest, MessageView, PublishRequest, Published, QueueView, ReceiveRequest,
    Received, SettledMany,
};
use reeve_protocol::text::Clean;
use serde_json::Value;

/// Put a message, or a job, into a queue.
#[derive(Debug, clap::Args)]
pub struct Publish {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// JSON, or else text
    #[arg(value_name = "BODY|@FILE|-", required_unless_present = "file")]
    pub body: Option<String>,
    /// A message a line, as in POST /v1/queues/QUEUE/messages: {"body":..,"headers":{..}}
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["body", "priority", "delay", "ttl", "header", "kind"])]
    pub file: Option<String>,
    /// Higher first
    #[arg(long, short, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Not before this from now
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub delay: Option<f64>,
    /// Gone after this
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub ttl: Option<f64>,
    /// The same token publishes the same once
    #[arg(long, value_name = "TOKEN")]
    pub key: Option<String>,
    /// A header; may be repeated
    #[arg(long, value_name = "K=V", value_parser = values::pair)]
    pub header: Vec<(String, String)>,
    /// What BODY is, if the queue does not say: a message or a job as in POST /v1/jobs
    #[arg(long, value_name = "KIND", value_parser = ["jobs", "messages"])]
    pub kind: Option<String>,
}

/// Take messages or jobs out of a queue.
#[derive(Debug, clap::Args)]
pub struct Receive {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub max: u32,
    /// How long to wait for the first
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "0")]
    pub wait: f64,
    /// How long they are held for you [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub lease: Option<f64>,
    /// Done at once: nothing is held
    #[arg(long)]
    pub ack: bool,
}

/// Runs `reeve queue publish`.
pub async fn publish(publish: Publish, context: &mut Context) -> Result<(), Error> {
    if let Some(file) = &publish.file {
        let target = path(&publish.queue, "/messages");
        return batch::run(file, Lines::Messages(&target, publish.key.as_deref()), context).await;
    }
    let client = context.client()?;
    let text = values::text_or_file(publish.body.as_deref().unwrap_or_default())?;
    let as_job = match publish.kind.as_deref() {
        Some(kind) => kind == "jobs",
        None => is_of_jobs(&client, &publish.queue, &text).await,
    };
    let body = if as_job { job_body(text, &publish)? } else { message_body(text, &publish)? };
    let reply = submit::post(&client, &path(&publish.queue, "/messages"), publish.key, body).await?;
    if context.json {
        context.raw(&reply.body)?;
        return context.raw(b"\n");
    }
    // The answers for jobs and for messages differ in the type of their id only.
    let answer: Value = reply.json()?;
    if answer["created"] == true {
        note(format!("note: queue {} is new", Clean::short(&publish.queue, 64)));
    }
    match serde_json::from_value::<Published>(answer.clone()) {
        Ok(published) => context.line(Clean::line(&published.id).as_str()),
        Err(_) => context.line(answer["id"].to_string()),
    }
}

/// What the names of queues of jobs begin with, a worker's queue for one.
const OF_JOBS: &str = "jobs.";

/// A body is a message unless the queue is known to hold jobs, or holds nothing yet and is named like one that does. Only an
/// object can be a job, so nothing is asked for other bodies.
async fn is_of_jobs(client: &Client, queue: &str, text: &str) -> bool {
    if !text.trim_start().starts_with('{') {
        return false;
    }
    match client.get::<QueueView>(&path(queue, "")).await {
        Ok(view) if view.kind != "unset" => view.kind == "jobs",
        _ => queue.starts_with(OF_JOBS),
    }
}

fn job_body(text: String, publish: &Publish) -> Result<Bytes, Error> {
    if publish.ttl.is_some() || !publish.header.is_empty() || publish.delay.is_some() || publish.priority != 0
    {
        let text = "--priority, --delay, --ttl and --header are for messages; a job has fields of its own";
        return Err(Error::Usage(text.to_owned()));
    }
    Ok(Bytes::from(text))
}

/// A message of this body: JSON if it can be, else text.
pub fn message(text: String) -> PublishRequest {
    let body = serde_json::from_str::<Value>(&text).ok();
    PublishRequest { body_text: body.is_none().then_some(text), body, ..PublishRequest::default() }
}

fn message_body(text: String, publish: &Publish) -> Result<Bytes, Error> {
    let body = serde_json::from_str::<Value>(&text).ok();
    let request = PublishRequest {
        body_text: body.is_none().then_some(text),
        body,
        body_base64: None,
        headers: publish.header.iter().cloned().collect(),
        priority: publish.priority,
        delay_s: publish.delay,
        ttl_s: publish.ttl,
    };
    serde_json::to_vec(&request).map(Bytes::from).map_err(|e| Error::Usage(e.to_string()))
}

/// Runs `reeve queue receive`.
pub async fn receive(receive: Receive, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let default = ReceiveRequest::default();
    let request = ReceiveRequest {
        max: receive.max,
        wait_s: receive.wait,
        lease_s: receive.lease.unwrap_or(default.lease_s),
    };
    let body = serde_json::to_vec(&request).map_err(|e| Error::Usage(e.to_string()))?;
    let headers = [("content-type", crate::client::JSON)];
    let reply = client.post_with(&path(&receive.queue, "/receive"), &headers, body.into()).await?;
    let received: Received = reply.json()?;
    if context.json {
        context.raw(&reply.body)?;
        context.raw(b"\n")?;
    } else {
        for item in &received.items {
            context.line(line(item))?;
        }
    }
    // What is acknowledged cannot come again, so it must have been handed over before.
    context.flush()?;
    if receive.ack {
        let leases: Vec<String> = received
            .items
            .iter()
            .map(|item| match item {
                Delivery::Job(job) => job.lease.clone(),
                Delivery::Message(message) => message.lease.clone().unwrap_or_default(),
            })
            .collect();
        if !leases.is_empty() {
            let request = LeaseRequest { leases, ..LeaseRequest::default() };
            let settled: SettledMany = client.post(&path(&receive.queue, "/ack"), &request).await?;
            not_settled(&settled)?;
        }
    }
    if received.items.is_empty() {
        note(nothing(&client, &receive.queue).await);
    }
    Ok(())
}

/// Why nothing came, if somebody has seen to that.
async fn nothing(client: &Client, queue: &str) -> String {
    // What cannot be asked now is not worth an error: the answer was given.
    let Ok(view) = client.get::<QueueView>(&path(queue, "")).await else { return "nothing came".to_owned() };
    nothing_of(&view)
}

fn nothing_of(queue: &QueueView) -> String {
    if !queue.paused {
        return "nothing came".to_owned();
    }
    let by = queue.paused_by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
    let why = queue.paused_why.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    let text =
        format!("nothing came: the queue is paused{by}{why}; reeve queue resume {} goes on", queue.name);
    Clean::line(&text).into_string()
}

/// Leases that had ended by then are told, and make the command fail.
pub fn not_settled(settled: &SettledMany) -> Result<(), Error> {
    for refused in &settled.refused {
        note(format!("{}: {}", Clean::short(&refused.lease, 64), Clean::block(&refused.error.to_string())));
    }
    if settled.refused.is_empty() { Ok(()) } else { Err(Error::Exit(1)) }
}

/// What comes next in a queue: nobody holds it, so there is no lease.
#[derive(Debug, serde::Deserialize)]
pub struct Peeked {
    /// Oldest first.
    pub items: Vec<Waiting>,
}

/// One thing that waits.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub enum Waiting {
    /// In a queue of jobs.
    Job {
        /// The job.
        job: Box<JobView>,
    },
    /// In a queue of messages.
    Message(Box<MessageView>),
}

impl Waiting {
    /// `12 BODY`, in one line.
    pub fn line(&self) -> String {
        match self {
            Self::Job { job } => format!("{} {}", job.id, Clean::line(&job.spec.title())),
            Self::Message(message) => format!("{} {}", Clean::line(&message.id), Clean::line(&body(message))),
        }
    }
}

/// `12 LEASE BODY`, in one line.
fn line(item: &Delivery) -> String {
    match item {
        Delivery::Job(job) => {
            format!("{} {} {}", job.job.id, Clean::line(&job.lease), Clean::line(&job.job.spec.title()))
        }
        Delivery::Message(message) => {
            let lease = message.lease.as_deref().unwrap_or("-");
            format!("{} {} {}", Clean::line(&message.id), Clean::line(lease), Clean::line(&body(message)))
        }
    }
}

/// A message's body as text.
pub fn body(message: &MessageView) -> String {
    match (&message.body, &message.body_text, &message.body_base64) {
        (Some(body), ..) => body.to_string(),
        (None, Some(text), _) => text.clone(),
        (None, None, bytes) => bytes.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn publish(words: &[&str]) -> Publish {
        #[derive(clap::Parser)]
        struct Probe {
            #[command(flatten)]
            publish: Publish,
        }
        let words = ["publish", "q"].into_iter().chain(words.iter().copied());
        <Probe as clap::Parser>::try_parse_from(words).unwrap().publish
    }

    #[test]
    fn a_body_is_json_if_it_can_be_and_text_otherwise() {
        for (body, wanted) in [
            ("{\"a\":1}", json!({"body": {"a": 1}, "priority": 0})),
            ("12", json!({"body": 12, "priority": 0})),
            ("hello", json!({"body_text": "hello", "priority": 0})),
        ] {
            let bytes = message_body(body.to_owned(), &publish(&[body])).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), wanted);
        }
    }

    #[test]
    fn options_of_messages_reach_the_body_and_are_refused_for_jobs() {
        let given = publish(&["x", "--priority", "-2", "--delay", "5m", "--ttl", "1h", "--header", "a=b"]);
        let bytes = message_body("x".to_owned(), &given).unwrap();
        let wanted = json!({"body_text": "x", "headers": {"a": "b"}, "priority": -2, "delay_s": 300.0, "ttl_s": 3600.0});
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), wanted);
        assert_eq!(job_body("{}".to_owned(), &given).unwrap_err().exit_code(), 2);
        assert!(job_body("{}".to_owned(), &publish(&["{}"])).is_ok());
    }

    #[test]
    fn a_paused_queue_gives_nothing_and_says_who_paused_it() {
        let mut queue = QueueView { name: "q".into(), ..QueueView::default() };
        assert_eq!(nothing_of(&queue), "nothing came");
        (queue.paused, queue.paused_by, queue.paused_why) = (true, Some("ana".into()), Some("disk".into()));
        let wanted = "nothing came: the queue is paused by ana: disk; reeve queue resume q goes on";
        assert_eq!(nothing_of(&queue), wanted);
    }

    #[test]
    fn what_waits_has_no_lease() {
        let job = serde_json::to_value(crate::cli::show::tests::job()).unwrap();
        let message = json!({"id": "12", "queue": "q", "body": {"a": 1}, "headers": {}, "priority": 0, "deliveries": 0});
        let peeked: Peeked = serde_json::from_value(json!({"items": [{"job": job}, message]})).unwrap();
        let lines: Vec<String> = peeked.items.iter().map(Waiting::line).collect();
        assert_eq!(lines, ["7 true", "12 {\"a\":1}"]);
    }

    #[test]
    fn a_delivery_is_one_clean_line() {
        let message = MessageView {
            id: "12".into(),
            lease: Some("L".into()),
            body_text: Some("a\u{1b}[2J\nb".into()),
            ..MessageView::default()
        };
        let text = line(&Delivery::Message(Box::new(message)));
        assert!(text.starts_with("12 L a") && !text.contains(['\n', '\u{1b}']), "{text:?}");
    }
}
