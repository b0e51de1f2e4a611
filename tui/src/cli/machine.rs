//! `reeve machine ...`.
use super::context::Context;
use super::error::{Error, note};
use super::queue::other;
use super::table::Table;
use super::values;
use crate::client::escape;
use reeve_protocol::api::{List, MachineView, TokenReply};
use reeve_protocol::text::Clean;
use reeve_protocol::units::{show_bytes, show_duration};
use serde_json::json;
use std::collections::BTreeMap;

/// What can be done with machines.
#[derive(Debug, clap::Subcommand)]
pub enum Machine {
    /// List machines
    Ls,
    /// Show a machine
    Show(Name),
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
            Ok(())
        }
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

/// What is known, clean.
fn facts(machine: &MachineView) -> Vec<(&'static str, String)> {
    let disk = machine.disk.map(|share| format!("{:.0} % used", share * 100.0));
    let facts = [
        ("machine", Some(machine.name.clone())),
        ("id", Some(machine.id.clone())),
        ("state", Some(machine.state.clone())),
        ("warning", machine.warning.clone()),
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
        ("orphans", (machine.orphans > 0).then(|| machine.orphans.to_string())),
        ("load", machine.load1.map(|load| format!("{load:.2}"))),
        ("disk", disk),
        ("seen", machine.seen_s.map(|s| format!("{} ago", show_duration(s)))),
        ("round trip", machine.rtt_ms.map(|ms| format!("{ms:.1} ms"))),
        ("joined", machine.joined_at.map(reeve_protocol::time::Wall::local_date)),
        ("labels", Some(pairs(&machine.labels))),
        ("can", Some(pairs(&machine.capabilities))),
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
