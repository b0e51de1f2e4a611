//! What each backend can and cannot do, in the same words everywhere: shown with every queue, asked by the conformance
//! suite, printed into docs/queues.md by a test. Nothing that a backend lacks is imitated: it is refused with these words.
use super::link::Link;
use crate::row::Backend;
use std::collections::BTreeMap;

/// A capability and what a backend says to it.
pub type Capability = (&'static str, &'static str);

/// What the store itself can do.
pub const LOCAL: [Capability; 10] = [
    ("order", "exact"),
    ("priority", "exact: higher first, then older"),
    ("delay", "yes"),
    ("durable", "each answer after a synced commit"),
    ("restart", "everything is kept"),
    ("count", "exact, of one instant"),
    ("peek", "yes"),
    ("clean", "all or by filter"),
    ("other programs", "no: they use the API"),
    ("jobs", "yes"),
];

/// The same without rows.
pub const MEMORY: [Capability; 10] = [
    ("order", "exact"),
    ("priority", "exact: higher first, then older"),
    ("delay", "yes"),
    ("durable", "no: messages are gone with the process; jobs keep their records"),
    ("restart", "messages are gone, jobs are kept"),
    ("count", "exact, of one instant"),
    ("peek", "yes"),
    ("clean", "all; by filter no: messages have no rows to search"),
    ("other programs", "no: they use the API"),
    ("jobs", "yes, as local"),
];

/// Redis Streams, from version 5 on.
pub const REDIS: [Capability; 10] = [
    ("order", "exact in a band, while one coordinator reads"),
    ("priority", "three bands: above zero, zero, below zero; exact among what was received"),
    ("delay", "yes: kept in the store until due"),
    ("durable", "answered when Redis or the store has it; at Redis as durable as its append-only file"),
    ("restart", "what Redis kept is kept; a flush loses ready messages, and no job"),
    ("count", "exact while Redis answers"),
    ("peek", "yes"),
    ("clean", "all; by filter no: what Redis holds cannot be searched"),
    ("other programs", "yes: XADD and XREADGROUP"),
    ("jobs", "yes, as hints"),
];

/// RabbitMQ, from version 3.8 on.
pub const RABBITMQ: [Capability; 10] = [
    ("order", "exact in a band, while one coordinator reads"),
    ("priority", "three bands: above zero, zero, below zero; exact among what was received"),
    ("delay", "yes: kept in the store until due"),
    ("durable", "in the store until RabbitMQ has confirmed it, then a majority of a quorum queue's disks"),
    ("restart", "what RabbitMQ kept is kept; a purge loses ready messages, and no job"),
    ("count", "exact while RabbitMQ answers and no other program holds messages unacknowledged"),
    ("peek", "no: a look there would change the order and the count of deliveries"),
    ("clean", "all; by filter no: what RabbitMQ holds cannot be searched"),
    ("other programs", "yes: basic.publish and basic.consume of any AMQP 0-9-1 client"),
    ("jobs", "yes, as hints"),
];

/// What a queue's backend can do, as far as it is known.
pub fn of(backend: &Backend, link: Option<&Link>) -> BTreeMap<String, String> {
    let pairs = |list: &[Capability]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    match backend {
        Backend::Local => pairs(&LOCAL),
        Backend::Memory => pairs(&MEMORY),
        Backend::Broker(_) => link.map(|l| l.capabilities.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- capabilities: printed by a test -->\n";
    const END: &str = "<!-- end -->\n";

    fn table() -> String {
        let backends = [("local", &LOCAL), ("memory", &MEMORY), ("redis", &REDIS), ("rabbitmq", &RABBITMQ)];
        let names: Vec<&str> = backends.iter().map(|(name, _)| *name).collect();
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for (row, (what, _)) in LOCAL.iter().enumerate() {
            let cells: Vec<&str> = backends.iter().map(|(_, list)| list[row].1).collect();
            text += &["| ", what, " | ", &cells.join(" | "), " |\n"].concat();
        }
        text
    }

    #[test]
    fn every_backend_says_something_about_the_same_things() {
        for list in [&MEMORY, &REDIS, &RABBITMQ] {
            assert!(LOCAL.iter().zip(list.iter()).all(|(a, b)| a.0 == b.0));
        }
    }

    #[test]
    fn the_document_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/queues.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the place where the table begins");
        let (_, after) = rest.split_once(END).expect("the place where it ends");
        let wanted = [before, BEGIN, &table(), END, after].concat();
        if std::env::var_os("REEVE_BLESS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), wanted, "print it again with REEVE_BLESS=1");
    }
}
