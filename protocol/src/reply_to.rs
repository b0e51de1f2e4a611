//! Where a job's changes of state and its result are sent: the field `reply_to` of a job, read.
use crate::error::{Code, Problem};
use crate::spec_check::check_name;
use crate::text::is_hostile;

/// What stands before a place at a broker.
const BACKEND: &str = "backend:";
/// Bytes of the whole.
const LONGEST: usize = 1_024;
/// Bytes of a routing key, an exchange, or a correlation id: what AMQP carries.
const SHORT: usize = 255;

/// Where answers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// A queue of messages here.
    Queue(String),
    /// A place at a broker, which is no queue of ours.
    Broker {
        /// Its name in the configuration, or its URL.
        backend: String,
        /// RabbitMQ: `EXCHANGE/ROUTING-KEY`, without an exchange the name of a queue. Redis: a stream.
        place: String,
    },
}

impl ReplyTo {
    /// Reads it.
    ///
    /// # Errors
    /// When it names no place, with what would.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let Some(rest) = text.strip_prefix(BACKEND) else {
            check_name("reply_to", text)?;
            return Ok(Self::Queue(text.to_owned()));
        };
        let wrong = |why: &str| {
            Problem::new(Code::BadValue, format!("reply_to {why}")).hint(
                "name a queue of messages, or backend:NAME#EXCHANGE/ROUTING-KEY, or backend:NAME#STREAM",
            )
        };
        let Some((backend, place)) = rest.split_once('#') else {
            return Err(wrong("names a backend, and no place there: # is missing"));
        };
        let (exchange, key) = place.split_once('/').unwrap_or(("", place));
        if text.len() > LONGEST || exchange.len() > SHORT || key.len() > SHORT {
            return Err(wrong("is too long: exchange and routing key take 255 bytes each"));
        }
        if backend.is_empty() || key.is_empty() || text.chars().any(is_hostile) {
            return Err(wrong("is not readable"));
        }
        Ok(Self::Broker { backend: backend.to_owned(), place: place.to_owned() })
    }

    /// The text for a place at a broker.
    pub fn at_broker(backend: &str, place: &str) -> String {
        format!("{BACKEND}{backend}#{place}")
    }
}

/// Checks both fields of a job.
///
/// # Errors
/// `bad-value`, `bad-name`.
pub fn check(reply_to: Option<&str>, correlation_id: Option<&str>) -> Result<(), Problem> {
    if let Some(text) = reply_to {
        ReplyTo::parse(text)?;
    }
    match correlation_id {
        Some(id) if id.is_empty() || id.len() > SHORT || id.chars().any(is_hostile) => {
            Err(Problem::new(Code::BadValue, "correlation_id takes 1 to 255 bytes of printable text"))
        }
        Some(_) if reply_to.is_none() => Err(Problem::new(Code::BadValue, "correlation_id needs reply_to")
            .hint("reply_to says where the answers go that carry it")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_or_a_place_at_a_broker() {
        let broker = |backend: &str, place: &str| {
            Ok(ReplyTo::Broker { backend: backend.to_owned(), place: place.to_owned() })
        };
        let parse = |text: &str| ReplyTo::parse(text).map_err(|p| p.code);
        assert_eq!(parse("answers"), Ok(ReplyTo::Queue("answers".to_owned())));
        assert_eq!(parse("backend:fast#/amq.gen-x"), broker("fast", "/amq.gen-x"));
        assert_eq!(parse("backend:amqp://h:1/v#topics/a.b/c"), broker("amqp://h:1/v", "topics/a.b/c"));
        assert_eq!(ReplyTo::parse(&ReplyTo::at_broker("fast", "s")).map_err(|p| p.code), broker("fast", "s"));
        for text in ["backend:fast", "backend:fast#", "backend:#a", "backend:fast#x/", "backend:a#\u{1b}"] {
            assert_eq!(parse(text), Err("bad-value".to_owned()), "{text}");
        }
        assert_eq!(parse("no such queue"), Err("bad-name".to_owned()));
        assert_eq!(parse(&format!("backend:a#{}", "x".repeat(256))), Err("bad-value".to_owned()));
        let both = |to, id| check(to, id).map_err(|p| p.code);
        assert_eq!((both(None, None), both(Some("q"), Some("7"))), (Ok(()), Ok(())));
        assert!(both(None, Some("7")).is_err() && both(Some("q"), Some("")).is_err());
    }
}
