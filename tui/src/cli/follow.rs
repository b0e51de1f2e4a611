//! `reeve logs`, and the streaming half of `submit --follow`.
//!
//! A terminal gets clean lines; a pipe gets the bytes as the job wrote them.
use super::context::Context;
use super::error::{Error, note};
use super::select::{job_path, with_query};
use super::values;
use super::wait::{interruptible, is_away, patient};
use crate::client::{Client, NDJSON};
use hyper::Method;
use reeve_protocol::api::{JobView, LogLine};
use reeve_protocol::selector::Selector;
use reeve_protocol::text::{is_hostile, plain_log_line};
use reeve_protocol::{Code, JobId, Problem};
use std::fmt::Write as _;
use std::time::Duration;

/// Print what a job wrote.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The job: 7, 7.3 (task of an array), last or @NAME
    #[arg(value_name = "JOB", value_parser = values::selector)]
    pub job: Selector,
    /// Go on until the attempt has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Another attempt than the last
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only its standard output
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only its standard error
    #[arg(long)]
    pub stderr: bool,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u64>,
    /// The bytes as they are, also on a terminal
    #[arg(long, conflicts_with = "timestamps")]
    pub raw: bool,
    /// When each line was written
    #[arg(long, short)]
    pub timestamps: bool,
}

/// Runs it.
pub async fn run(logs: Logs, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let name = logs.job.to_string();
    let mut query = Vec::new();
    if logs.follow {
        query.push(("follow", "true".to_owned()));
    }
    if let Some(attempt) = logs.attempt {
        query.push(("attempt", attempt.to_string()));
    }
    if logs.stdout || logs.stderr {
        query.push(("stream", if logs.stdout { "stdout" } else { "stderr" }.to_owned()));
    }
    if let Some(tail) = logs.tail {
        query.push(("tail", tail.to_string()));
    }
    let form = match (context.json, logs.raw || context.width.is_none() && !logs.timestamps) {
        (true, _) => Form::Json,
        (_, true) => Form::Raw,
        _ => Form::Text { timestamps: logs.timestamps },
    };
    let work = stream(&client, &name, query, form, context);
    if logs.follow { interruptible(&name, work).await } else { work.await }
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Raw,
    Text { timestamps: bool },
    Json,
}

/// Streams every attempt of a new job until it has ended.
pub async fn whole(client: &Client, id: JobId, context: &mut Context) -> Result<(), Error> {
    let form = if context.width.is_some() { Form::Text { timestamps: false } } else { Form::Raw };
    let name = id.to_string();
    interruptible(&name, async {
        let mut streamed = 0;
        let mut pause = Duration::from_millis(20);
        loop {
            let job: JobView = patient(client, &job_path(&name, "")).await?.json()?;
            if job.array.is_some() {
                note("note: an array has no output of its own; see `reeve logs ID.INDEX`");
                return Ok(());
            }
            if job.attempt > streamed {
                streamed += 1;
                pause = Duration::from_millis(20);
                let query = vec![("follow", "true".to_owned()), ("attempt", streamed.to_string())];
                match stream(client, &name, query, form, context).await {
                    // An attempt that never ran has no output.
                    Err(Error::Problem(problem)) if problem.is(Code::NotFound) => {}
                    other => other?,
                }
            } else if job.state.is_terminal() {
                return Ok(());
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        }
    })
    .await
}

async fn stream(
    client: &Client,
    name: &str,
    query: Vec<(&'static str, String)>,
    form: Form,
    context: &mut Context,
) -> Result<(), Error> {
    let path = |from: Option<u64>| {
        let mut query = query.clone();
        if let Some(from) = from {
            query.retain(|(key, _)| *key != "tail");
            query.push(("from", from.to_string()));
        }
        let borrowed: Vec<(&str, &str)> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        with_query(&job_path(name, "/logs"), &borrowed)
    };
    match form {
        Form::Raw => {
            let mut stream =
                client.stream(Method::GET, &path(None), &[("accept", "text/plain")], None).await?;
            while let Some(bytes) = stream.next().await {
                context.raw(&bytes?)?;
                context.flush()?;
            }
            Ok(())
        }
        Form::Text { .. } | Form::Json => {
            let mut printer = Printer { form, open_line: false };
            let mut from = None;
            loop {
                match pieces(client, &path(from), &mut from, &mut printer, context).await {
                    Err(Error::Problem(problem)) if from.is_some() && is_away(&problem) => {
                        note("note: the connection was lost; going on from where it stopped");
                        patient(client, &job_path(name, "")).await?;
                    }
                    other => return other,
                }
            }
        }
    }
}

/// Prints until the end; `from` is where to go on after a loss.
async fn pieces(
    client: &Client,
    path: &str,
    from: &mut Option<u64>,
    printer: &mut Printer,
    context: &mut Context,
) -> Result<(), Error> {
    let mut lines = client.lines(Method::GET, path, None, NDJSON).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let piece: LogLine = serde_json::from_slice(&line).map_err(|e| {
            Problem::new(Code::Internal, format!("a line of the log is not what was expected: {e}"))
        })?;
        *from = Some(piece.next);
        if printer.form == Form::Json {
            context.raw(&line)?;
            context.raw(b"\n")?;
        } else {
            context.raw(printer.text(&piece).as_bytes())?;
        }
        context.flush()?;
    }
    if printer.open_line { context.raw(b"\n") } else { Ok(()) }
}

/// Turns pieces into clean lines.
struct Printer {
    form: Form,
    /// The last piece did not end its line.
    open_line: bool,
}

impl Printer {
    fn text(&mut self, piece: &LogLine) -> String {
        let mut out = String::new();
        if let Some(missing) = piece.missing {
            self.close(&mut out);
            // Writing into a string cannot fail.
            _ = writeln!(out, "[reeve: {missing} bytes of output were not kept]");
            return out;
        }
        for line in piece.text.split_inclusive('\n') {
            if !self.open_line && self.form == (Form::Text { timestamps: true }) {
                out.push_str(&piece.at.map_or_else(|| "-".to_owned(), |at| at.to_string()));
                out.push(' ');
            }
            out.push_str(plain_log_line(line).as_str());
            self.open_line = !line.ends_with('\n');
            if !self.open_line {
                out.push('\n');
            }
        }
        debug_assert!(!out.chars().any(is_hostile), "the log was cleaned");
        out
    }

    fn close(&mut self, out: &mut String) {
        if std::mem::take(&mut self.open_line) {
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::time::Wall;

    fn piece(text: &str) -> LogLine {
        LogLine { next: 0, at: Some(Wall(0)), stream: "stdout".into(), text: text.into(), missing: None }
    }

    fn printed(form: Form, pieces: &[LogLine]) -> String {
        let mut printer = Printer { form, open_line: false };
        pieces.iter().map(|p| printer.text(p)).collect()
    }

    #[test]
    fn a_terminal_gets_clean_lines() {
        let text = Form::Text { timestamps: false };
        for (pieces, wanted) in [
            (vec![piece("a\nb\n")], "a\nb\n"),
            (vec![piece("a"), piece("b\n")], "ab\n"),
            (vec![piece("\u{1b}[31mred\u{1b}[0m\n")], "red\n"),
            (vec![piece("1%\r2%\n")], "2%\n"),
        ] {
            assert_eq!(printed(text, &pieces), wanted, "{pieces:?}");
        }
    }

    #[test]
    fn a_gap_is_marked_on_a_line_of_its_own() {
        let gap = LogLine { missing: Some(10), ..piece("") };
        let text = printed(Form::Text { timestamps: false }, &[piece("a"), gap, piece("b\n")]);
        assert_eq!(text, "a\n[reeve: 10 bytes of output were not kept]\nb\n");
    }

    #[test]
    fn timestamps_stand_once_per_line() {
        let text = printed(Form::Text { timestamps: true }, &[piece("a"), piece("b\nc\n")]);
        assert_eq!(text, "1970-01-01T00:00:00.000Z ab\n1970-01-01T00:00:00.000Z c\n");
    }
}
