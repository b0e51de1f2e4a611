//! `reeve bulk`, and every other change of more than one job: counted first, then asked about, then done.
use super::context::{Context, can_ask};
use super::error::{Error, note};
use super::select::Selection;
use super::table::Table;
use hyper::Method;
use reeve_protocol::api::{Plan, PlanRequest, PlanResult};
use reeve_protocol::nearest::nearest;
use reeve_protocol::text::Clean;
use reeve_protocol::units::show_count;
use reeve_protocol::{Code, Problem};
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};

/// Up to this many change without a question on a terminal.
const UNASKED: u64 = 20;
/// Above this many the count has to be typed.
const TYPED: u64 = 200;
/// Actions of this version.
const ACTIONS: [&str; 4] = ["cancel", "restart", "hold", "release"];
/// Actions and words of later versions.
const LATER: [&str; 9] = ["priority", "move", "label", "delete", "pin", "ls", "show", "stop", "undo"];

/// Change many jobs at once, counted before anything happens.
#[derive(Debug, clap::Args)]
pub struct Bulk {
    /// cancel, restart, hold or release
    #[arg(value_name = "ACTION")]
    pub action: String,
    /// Which.
    #[command(flatten)]
    pub selection: Selection,
    /// What is asked before many change.
    #[command(flatten)]
    pub consent: Consent,
}

/// What is asked before many jobs change.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Consent {
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Kept with the change
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Runs it.
pub async fn run(bulk: Bulk, context: &mut Context) -> Result<(), Error> {
    check_action(&bulk.action)?;
    bulk.selection.check()?;
    let request = PlanRequest {
        action: bulk.action,
        ids: bulk.selection.jobs.iter().map(ToString::to_string).collect(),
        filter: bulk.selection.filter,
        except: Vec::new(),
        reason: bulk.consent.reason.clone(),
    };
    plan_and_run(&request, &bulk.consent, context).await
}

fn check_action(action: &str) -> Result<(), Error> {
    let word = action.split('=').next().unwrap_or(action);
    if ACTIONS.contains(&action) {
        return Ok(());
    }
    if LATER.contains(&word) {
        return Err(Problem::new(Code::NotYet, format!("bulk {word} comes with a later version"))
            .hint(format!("now there are: {}", ACTIONS.join(", ")))
            .into());
    }
    let near = nearest(word, ACTIONS.into_iter().chain(LATER))
        .map_or_else(|| ".".to_owned(), |n| format!("; did you mean {n}?"));
    Err(Error::Usage(format!(
        "{:?} is not an action{near} There are: {}",
        Clean::short(word, 40).as_str(),
        ACTIONS.join(", ")
    )))
}

/// Makes the plan, asks if it is large, and runs it.
pub async fn plan_and_run(
    request: &PlanRequest,
    consent: &Consent,
    context: &mut Context,
) -> Result<(), Error> {
    let client = context.client()?;
    let body = serde_json::to_vec(request).map_err(|e| Error::Usage(e.to_string()))?;
    let headers = [("content-type", crate::client::JSON)];
    let reply = client.call(Method::POST, "/v1/plans", &headers, Some(body.into())).await?;
    let plan: Plan = reply.json()?;
    if consent.dry_run {
        if context.json {
            context.raw(&reply.body)?;
            return context.raw(b"\n");
        }
        return describe(&plan, context);
    }
    if plan.matched == 0 {
        note("no job matches");
        return Ok(());
    }
    if plan.will_change == 0 {
        return Err(Problem::new(
            Code::WrongState,
            format!("nothing to {}: {}", plan.action, reasons(&plan)),
        )
        .hint("`reeve show ID` shows the state of a job")
        .into());
    }
    let verdict = ask_about(&plan, request.filter.is_some(), consent.yes, can_ask());
    let agreed = match verdict {
        Verdict::Go => true,
        Verdict::Refuse(text) => return Err(Error::Usage(text)),
        Verdict::Ask => confirmed(&plan)?,
    };
    if !agreed {
        note("nothing was changed");
        return Err(Error::Exit(1));
    }
    let path = format!("/v1/plans/{}/run", plan.id);
    let Some(result) = context.post::<PlanResult>(&path, &serde_json::json!({})).await? else {
        return Ok(());
    };
    context.line(outcome(&plan, &result))?;
    if result.changed == 0 { Err(Error::Exit(1)) } else { Ok(()) }
}

/// What comes before the change.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    Ask,
    Refuse(String),
}

/// A filter may match more than was thought, so without a terminal it needs `--yes` from two jobs on; jobs that were
/// named need it only where a terminal would be asked.
fn ask_about(plan: &Plan, by_filter: bool, yes: bool, terminal: bool) -> Verdict {
    let count = plan.will_change;
    let harmless = count <= 1 || (count <= UNASKED && (terminal || !by_filter));
    if yes || harmless {
        return Verdict::Go;
    }
    if terminal {
        return Verdict::Ask;
    }
    Verdict::Refuse(format!(
        "{} would change {} jobs and there is no terminal to ask on; add --yes, or --dry-run to see them",
        plan.action,
        show_count(count)
    ))
}

fn confirmed(plan: &Plan) -> Result<bool, Error> {
    let count = show_count(plan.will_change);
    note(format!("{} would change {count} jobs ({} of them running)", plan.action, show_count(plan.running)));
    for sample in plan.sample.iter().take(5) {
        note(format!("  {} {} {}", sample.id, sample.state, Clean::short(&sample.name, 60)));
    }
    let question = if plan.will_change > TYPED {
        format!("type {count} to go on: ")
    } else {
        "go on? [y/N] ".to_owned()
    };
    let mut err = std::io::stderr();
    // A terminal that cannot be written to cannot be asked either; reading decides.
    let _ = write!(err, "{question}").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Error::input("the answer"))?;
    Ok(accepts(plan.will_change, &answer))
}

/// Whether the answer agrees to changing that many.
fn accepts(count: u64, answer: &str) -> bool {
    let answer = answer.trim();
    if count > TYPED {
        answer.replace(',', "").parse() == Ok(count)
    } else {
        answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes")
    }
}

fn describe(plan: &Plan, context: &mut Context) -> Result<(), Error> {
    context.line(format!(
        "{} would change {} of {} jobs ({} of them running); nothing was changed",
        plan.action,
        show_count(plan.will_change),
        show_count(plan.matched),
        show_count(plan.running)
    ))?;
    let others = reasons(plan);
    if !others.is_empty() {
        context.line(format!("the others: {others}"))?;
    }
    let mut table = Table::new(&[">ID", "STATE", "NAME"]);
    for sample in &plan.sample {
        table.row([sample.id.to_string().into(), sample.state.into(), sample.name.as_str().into()]);
    }
    if table.is_empty() { Ok(()) } else { context.table(&table) }
}

/// `3 completed, 1 not yours`.
fn reasons(plan: &Plan) -> String {
    pairs(plan.no_change.iter().chain(&plan.refused))
}

fn pairs<'a>(pairs: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    pairs
        .map(|(why, count)| format!("{} {}", show_count(*count), Clean::line(why)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn outcome(plan: &Plan, result: &PlanResult) -> String {
    let why = |reasons: &BTreeMap<String, u64>| match pairs(reasons.iter()) {
        text if text.is_empty() => String::new(),
        text => format!(" ({text})"),
    };
    let skipped = if result.skipped == 0 {
        String::new()
    } else {
        format!(", {} skipped{}", show_count(result.skipped), why(&result.reasons))
    };
    format!("{}: {} changed{skipped}", plan.action, show_count(result.changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(will_change: u64) -> Plan {
        let json = serde_json::json!({
            "kind": "BulkPlan", "id": 5, "action": "cancel", "seq": 1, "matched": will_change + 1,
            "will_change": will_change, "no_change": {"completed": 1}, "refused": {}, "sample": []
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_is_asked_depends_on_count_terminal_and_how_they_were_named() {
        let kind = |count, by_filter, yes, terminal| match ask_about(&plan(count), by_filter, yes, terminal) {
            Verdict::Go => "go",
            Verdict::Ask => "ask",
            Verdict::Refuse(_) => "refuse",
        };
        for (count, by_filter, yes, terminal, wanted) in [
            (1, true, false, false, "go"),
            (2, true, false, false, "refuse"),
            (2, false, false, false, "go"),
            (20, true, false, true, "go"),
            (21, true, false, true, "ask"),
            (21, false, false, true, "ask"),
            (21, false, false, false, "refuse"),
            (10_000, true, true, false, "go"),
        ] {
            assert_eq!(kind(count, by_filter, yes, terminal), wanted, "{count} {by_filter} {yes} {terminal}");
        }
        let Verdict::Refuse(text) = ask_about(&plan(1000), true, false, false) else { panic!("not refused") };
        assert!(text.contains("1,000") && text.contains("--yes") && text.contains("--dry-run"), "{text}");
    }

    #[test]
    fn many_need_their_count_typed() {
        for (count, answer, wanted) in [
            (30, "y\n", true),
            (30, "\n", false),
            (30, "30", false),
            (1200, "y", false),
            (1200, "1200\n", true),
            (1200, "1,200", true),
            (1200, "1201", false),
        ] {
            assert_eq!(accepts(count, answer), wanted, "{count} {answer:?}");
        }
    }

    #[test]
    fn the_result_says_what_was_skipped_and_why() {
        let result = |skipped, reasons: &[(&str, u64)]| PlanResult {
            id: 5,
            changed: 1200,
            skipped,
            reasons: reasons.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            seq: 1,
        };
        assert_eq!(outcome(&plan(1), &result(0, &[])), "cancel: 1,200 changed");
        let text = outcome(&plan(1), &result(2, &[("wrong-state", 2)]));
        assert_eq!(text, "cancel: 1,200 changed, 2 skipped (2 wrong-state)");
    }

    #[test]
    fn actions_are_known_later_or_mistyped() {
        assert!(check_action("cancel").is_ok());
        assert_eq!(check_action("priority=5").unwrap_err().exit_code(), 1);
        let error = check_action("cancle").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean cancel"), "{error}");
    }
}
