//! `submit` of lines: one job a line in, one answer a line out, each after its own commit, bodies and answers overlapping.
use super::App;
use super::lines::{GROUP, Lines, pump};
use super::reply::{Answer, Failure, NDJSON, unexpected};
use super::request::{BODY, Cx, Pieces};
use super::stream::{BATCH, Gone, Out, Shape, respond};
use super::submit::{check_reply, key_for, part_key, used};
use crate::effect::Reply;
use crate::input::{Call, Key};
use crate::row::Caller;
use reeve_protocol::api::LineReply;
use reeve_protocol::error::parse_object;
use reeve_protocol::{Code, JobId, JobSpec, Problem};
use std::io::Write;
use std::sync::Arc;

/// Answers with a stream of `LineReply`.
pub(super) fn submit(cx: Cx, key: Option<String>) -> Answer {
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let body = cx.pieces()?;
    let shape = Shape { media_type: NDJSON, size: BATCH, patience: None };
    let work = Batch { app: app.clone(), caller, key };
    Ok(respond(&app, &shape, |out| work.run(body, out)))
}

struct Batch {
    app: Arc<App>,
    caller: Caller,
    key: Option<String>,
}

/// What becomes of one line.
#[derive(Debug)]
enum Slot {
    /// It goes to the engine with its group.
    Asked,
    /// Its key was used for this job before.
    Before(JobId),
    /// It is wrong.
    Wrong(Box<Problem>),
}

/// Lines that go to the engine together.
#[derive(Debug, Default)]
struct Group {
    /// Each line's number and fate, in order.
    slots: Vec<(u64, Slot)>,
    specs: Vec<(JobSpec, Option<Key>)>,
}

impl Batch {
    async fn run(self, body: Pieces, out: Out) -> Result<(), Gone> {
        let mut lines = Lines::new(BODY);
        let broken =
            pump(body, &out, &mut lines, |lines| self.ask(self.group(lines)), |answers| answers).await?;
        match broken {
            // The line that was being received is answered, so that a sender sees how far it got.
            Some(problem) => {
                out.line(&LineReply { line: lines.number() + 1, id: None, error: Some(problem) }).await
            }
            None => Ok(()),
        }
    }

    fn group(&self, lines: &mut Lines) -> Group {
        let mut group = Group::default();
        for (number, line) in lines.portion() {
            let slot = match line.and_then(|line| self.read(number, &line)) {
                Ok(Ok(keyed)) => {
                    group.specs.push(keyed);
                    Slot::Asked
                }
                Ok(Err(id)) => Slot::Before(id),
                Err(problem) => Slot::Wrong(Box::new(problem)),
            };
            group.slots.push((number, slot));
        }
        group
    }

    /// A line as a valid spec, or as the job that its key was used for.
    fn read(&self, number: u64, line: &[u8]) -> Result<Result<(JobSpec, Option<Key>), JobId>, Problem> {
        let spec: JobSpec = parse_object(line)?;
        spec.validate()?;
        check_reply(&self.app, &spec)?;
        let key = self.key.as_ref().map(|key| key_for(part_key(key, number), &spec));
        if let Some(key) = &key
            && let Some(id) = used(&self.app, &self.caller, key).map_err(|failure| failure.0)?
        {
            return Ok(Err(id));
        }
        Ok(Ok((spec, key)))
    }

    /// Asks for a group and renders its answers as one piece.
    fn ask(&self, group: Group) -> impl Future<Output = Vec<u8>> + use<> {
        let (app, caller) = (self.app.clone(), self.caller.clone());
        async move {
            let Group { slots, specs } = group;
            let answer = if specs.is_empty() {
                Ok(Reply::Many(Vec::new(), 0))
            } else {
                app.ask(&caller, Call::SubmitMany { specs, atomic: false }).await
            };
            match answer {
                Ok(Reply::Many(results, _)) => render(slots, results),
                Ok(other) => render_all(slots, &unexpected(&other).0),
                Err(Failure(problem)) => render_all(slots, &problem),
            }
        }
    }
}

fn render(slots: Vec<(u64, Slot)>, results: Vec<Result<JobId, Problem>>) -> Vec<u8> {
    let mut results = results.into_iter();
    let answers = slots.into_iter().map(|(number, slot)| {
        let answer = match slot {
            Slot::Asked => results
                .next()
                .unwrap_or_else(|| Err(Problem::new(Code::Internal, "the line got no answer").unknown())),
            Slot::Before(id) => Ok(id),
            Slot::Wrong(problem) => Err(*problem),
        };
        (number, answer)
    });
    write_lines(answers)
}

/// The whole group failed: each line that was asked for gets the problem.
fn render_all(slots: Vec<(u64, Slot)>, problem: &Problem) -> Vec<u8> {
    let asked = slots.iter().filter(|(_, slot)| matches!(slot, Slot::Asked)).count();
    render(slots, vec![Err(problem.clone()); asked])
}

/// Good lines are written by hand: at fifty thousand a second a serialiser for two numbers is felt.
fn write_lines(answers: impl Iterator<Item = (u64, Result<JobId, Problem>)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(GROUP * 24);
    for (line, answer) in answers {
        // Writing into memory does not fail.
        let _ = match answer {
            Ok(id) => writeln!(out, "{{\"line\":{line},\"id\":{id}}}"),
            Err(problem) => {
                let reply = LineReply { line, id: None, error: Some(problem) };
                serde_json::to_writer(&mut out, &reply)
                    .map_err(Into::into)
                    .and_then(|()| out.write_all(b"\n"))
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_the_order_of_the_lines() {
        let wrong = Problem::new(Code::BadCommand, "no");
        let slots = vec![
            (1, Slot::Asked),
            (2, Slot::Wrong(Box::new(wrong.clone()))),
            (3, Slot::Before(5)),
            (4, Slot::Asked),
        ];
        let text = String::from_utf8(render(slots, vec![Ok(8), Err(wrong)])).unwrap();
        let replies: Vec<LineReply> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let seen: Vec<_> = replies.iter().map(|r| (r.line, r.id, r.error.is_some())).collect();
        assert_eq!(seen, [(1, Some(8), false), (2, None, true), (3, Some(5), false), (4, None, true)]);
    }
}
