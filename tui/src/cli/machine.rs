//! `reeve machine ...`.
use super::context::Context;
use super::error::{Error, note};
use super::queue::other;
use super::table::Table;
use super::values;
use crate::client::escape;
use hyper::Method;
use reeve_protocol::api::{List, MachineRemoved, MachineView, TokenReply};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_bytes, show_duration};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks at a machine that is being emptied.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What can be done with machines.
#[derive(Debug, clap::Subcommand)]
pub enum Machine {
    /// List machines
    Ls,
    /// Show a machine
    Show(Name),
    /// Send no new work to a machine
    Cordon(Name),
    /// Send work to a machine again; ends a drain
    Uncordon(Name),
    /// Send no new work to a machine, and let what runs there end
    Drain(Drain),
    /// Remove a machine from the cluster, for ever
    Rm(Removal),
    /// Make a token for one machine to join with
    Token(Token),
    /// Any other word.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// A machine.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// Its name or id
    #[arg(value_name = "MACHINE")]
    pub name: String,
}

/// Empty a machine.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Its name or id
    #[arg(value_name = "MACHINE")]
    pub name: String,
    /// Stop what still runs after this time; it is queued again, at no charge to its retries
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub deadline: Option<f64>,
    /// Wait until nothing runs there
    #[arg(long)]
    pub wait: bool,
}

/// Remove a machine.
#[derive(Debug, clap::Args)]
pub struct Removal {
    /// Its name or id
    #[arg(value_name = "MACHINE")]
    pub name: String,
    /// Although jobs run there: they count as lost and run again elsewhere
    #[arg(long)]
    pub force: bool,
}

/// Make a token.
#[derive(Debug, clap::Args)]
pub struct Token {
    /// How long it can be used
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "15m")]
    pub ttl: f64,
}

/// Runs it.
pub async fn run(machine: Machine, context: &mut Context) -> Result<(), Error> {
    match machine {
        Machine::Ls => {
            let Some(list) = context.get::<List<MachineView>>("/v1/machines").await? else { return Ok(()) };
            if list.items.is_empty() {
                note("no machine has joined yet; `reeve machine token` makes a token to join with");
            }
            context.table(&table(&list.items))
        }
        Machine::Show(name) => {
            let path = format!("/v1/machines/{}", escape(&name.name));
            let Some(machine) = context.get::<MachineView>(&path).await? else { return Ok(()) };
            for (key, value) in facts(&machine) {
                context.line(format!("{key:<12} {value}"))?;
            }
            super::top::details(&machine, context)
        }
        Machine::Cordon(name) => change(&name.name, "cordon", &json!({}), context).await,
        Machine::Uncordon(name) => change(&name.name, "uncordon", &json!({}), context).await,
        Machine::Drain(drain) => empty(drain, context).await,
        Machine::Rm(removal) => remove(removal, context).await,
        Machine::Token(token) => {
            let body = json!({"ttl_s": token.ttl});
            let Some(reply) = context.post::<TokenReply>("/v1/machines/token", &body).await? else {
                return Ok(());
            };
            context.line(Clean::line(&reply.token).as_str())?;
            context.flush()?;
            note(format!(
                "it works once, until {}; on the machine: reeve-agent join HOST --token-file FILE",
                reply.expires_at.local_date()
            ));
            Ok(())
        }
        Machine::Other(words) => Err(other("machine", &words)),
    }
}

async fn change(name: &str, how: &str, body: &serde_json::Value, context: &mut Context) -> Result<(), Error> {
    let path = format!("/v1/machines/{}/{how}", escape(name));
    let Some(machine) = context.post::<MachineView>(&path, body).await? else { return Ok(()) };
    context.line(standing(&machine))
}

/// A machine in a line: `gpu-07 draining, 3 running`.
fn standing(machine: &MachineView) -> String {
    let running = if machine.running > 0 { format!(", {} running", machine.running) } else { String::new() };
    Clean::line(&format!("{} {}{running}", machine.name, machine.state)).into_string()
}

async fn empty(drain: Drain, context: &mut Context) -> Result<(), Error> {
    change(&drain.name, "drain", &json!({"deadline_s": drain.deadline}), context).await?;
    if !drain.wait {
        return Ok(());
    }
    context.flush()?;
    let (client, path) = (context.client()?, format!("/v1/machines/{}", escape(&drain.name)));
    let work = async {
        loop {
            let machine: MachineView = client.get(&path).await?;
            if machine.running == 0 || !["draining", "disconnected"].contains(&machine.state.as_str()) {
                return Ok::<_, Error>(machine);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    let machine = tokio::select! {
        machine = work => machine?,
        _ = tokio::signal::ctrl_c() => {
            note(format!("the drain goes on; end it with: reeve machine uncordon {}", drain.name));
            return Err(Error::Exit(130));
        }
    };
    if context.json {
        return context.json_line(&machine);
    }
    context.line(standing(&machine))
}

async fn remove(removal: Removal, context: &mut Context) -> Result<(), Error> {
    let query = if removal.force { "?force=true" } else { "" };
    let path = format!("/v1/machines/{}{query}", escape(&removal.name));
    let Some(removed) = context.ask::<MachineRemoved>(Method::DELETE, &path, None::<&()>).await? else {
        return Ok(());
    };
    context.line(Clean::line(&removed.id).as_str())?;
    context.flush()?;
    if removed.lost > 0 {
        note(format!("{} attempts count as lost and run again elsewhere", removed.lost));
    }
    Ok(())
}

fn used(used: u32, all: u32) -> String {
    format!("{}/{}", f64::from(used) / 1000.0, f64::from(all) / 1000.0)
}

fn table(machines: &[MachineView]) -> Table {
    let mut table = Table::new(&[
        "MACHINE", "STATE", ">RUNNING", ">CPUS", ">MEMORY", ">GPUS", ">LOAD", ">SEEN", "LABELS",
    ]);
    for machine in machines {
        table.row(
            [
                machine.name.clone(),
                machine.state.clone(),
                machine.running.to_string(),
                used(machine.cpu_milli_used, machine.cpu_milli),
                show_bytes(machine.memory_bytes),
                format!("{}/{}", machine.gpus_used, machine.gpus.len()),
                machine.load1.map(|load| format!("{load:.2}")).unwrap_or_default(),
                machine.seen_s.map(show_duration).unwrap_or_default(),
                pairs(&machine.labels),
            ]
            .map(Into::into),
        );
    }
    table
}

fn pairs(pairs: &BTreeMap<String, String>) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// A renewal that fails.
fn renewal(machine: &MachineView) -> Option<String> {
    let since = machine.renewal_failed_at?.local_date();
    Some(format!("fails since {since}: {}", machine.renewal_error.as_deref().unwrap_or("no reason given")))
}

fn unrecorded(count: u32) -> String {
    format!("{count} ended, their output waits to be stored (see `reeve status`)")
}

/// What is known, clean.
fn facts(machine: &MachineView) -> Vec<(&'static str, String)> {
    let disk = machine.disk.map(|share| format!("{:.0} % used", share * 100.0));
    let facts = [
        ("machine", Some(machine.name.clone())),
        ("id", Some(machine.id.clone())),
        ("state", Some(machine.state.clone())),
        ("warning", machine.warning.clone()),
        ("takes jobs", machine.refuses.as_ref().map(|why| format!("no: {why}"))),
        ("host", Some(machine.hostname.clone())),
        ("address", machine.address.clone()),
        ("agent", Some(machine.agent_version.clone())),
        ("system", Some(machine.os.clone())),
        ("cpus", Some(format!("{} reserved", used(machine.cpu_milli_used, machine.cpu_milli)))),
        (
            "memory",
            Some(format!(
                "{} of {} reserved",
                show_bytes(machine.memory_used),
                show_bytes(machine.memory_bytes)
            )),
        ),
        ("gpus", Some(format!("{}/{} reserved", machine.gpus_used, machine.gpus.len()))),
        ("running", Some(machine.running.to_string())),
        ("unrecorded", (machine.unrecorded > 0).then(|| unrecorded(machine.unrecorded))),
        ("orphans", (machine.orphans > 0).then(|| machine.orphans.to_string())),
        ("load", machine.load1.map(|load| format!("{load:.2}"))),
        ("disk", disk),
        ("seen", machine.seen_s.map(|s| format!("{} ago", show_duration(s)))),
        ("round trip", machine.rtt_ms.map(|ms| format!("{ms:.1} ms"))),
        ("joined", machine.joined_at.map(reeve_protocol::time::Wall::local_date)),
        ("cordoned", machine.cordoned.then(|| "gets no new work".to_owned())),
        ("drained by", machine.drain_until.map(reeve_protocol::time::Wall::local_date)),
        ("certificate", machine.certificate_until.map(|at| format!("good until {}", at.local_date()))),
        ("renewal", renewal(machine)),
        ("labels", Some(pairs(&machine.labels))),
        (
            "enforces",
            Some(
                machine
                    .capabilities
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
        ),
    ];
    let known = |(key, value): (&'static str, Option<String>)| {
        value.filter(|v| !v.is_empty()).map(|v| (key, Clean::line(&v).into_string()))
    };
    facts.into_iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_shown_and_cleaned() {
        let machine = MachineView {
            name: "gpu-\u{1b}7".into(),
            cpu_milli: 2500,
            load1: Some(0.5),
            ..Default::default()
        };
        let facts: BTreeMap<_, _> = facts(&machine).into_iter().collect();
        assert_eq!(facts["cpus"], "0/2.5 reserved");
        assert_eq!(facts["load"], "0.50");
        assert!(!facts["machine"].contains('\u{1b}') && !facts.contains_key("address"));
        assert!(table(&[machine]).render(None, false).contains("0/2.5"));
    }
}
