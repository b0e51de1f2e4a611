//! Where the process's own words go: stderr, as text for people and the journal or as JSON lines. Ids are fields.
use crate::config::LogFormat;
use std::fmt::Write as _;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("log = {0:?} is not a filter; write for example info, debug, or reeve_coordinator=debug,info")]
pub struct Error(String, #[source] tracing_subscriber::filter::ParseError);

/// Starts logging for the whole process. A second call changes nothing, as when a test or `reeve up` has done it.
///
/// # Errors
/// When the filter does not parse.
pub fn start(filter: &str, format: LogFormat) -> Result<(), Error> {
    // The AMQP library calls each refusal and each goodbye an error; what matters of it is said by the broker's supervisor.
    let quiet = format!("lapin=off,{filter}");
    let parsed = EnvFilter::builder().parse(quiet).map_err(|e| Error(filter.to_owned(), e))?;
    let base = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(|| reeve_protocol::text::CleanLines(std::io::stderr()));
    let _ = match format {
        LogFormat::Text => {
            // The journal has its own clock.
            let journal = std::env::var_os("JOURNAL_STREAM").is_some();
            let base = base.with_target(false).with_ansi(false);
            if journal {
                tracing::subscriber::set_global_default(base.without_time().finish())
            } else {
                tracing::subscriber::set_global_default(base.with_timer(Clock).finish())
            }
        }
        LogFormat::Json => tracing::subscriber::set_global_default(base.event_format(Json).finish()),
    };
    Ok(())
}

/// RFC 3339 with milliseconds, UTC.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", reeve_protocol::time::Wall(crate::clock::now().wall))
    }
}

/// One JSON object a line: `at`, `level`, `target`, `message` and the event's fields.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields(serde_json::Map::new());
        fields.0.insert("at".into(), reeve_protocol::time::Wall(crate::clock::now().wall).to_string().into());
        fields.0.insert("level".into(), meta.level().as_str().to_ascii_lowercase().into());
        fields.0.insert("target".into(), meta.target().into());
        event.record(&mut fields);
        writeln!(writer, "{}", serde_json::Value::Object(fields.0))
    }
}

struct Fields(serde_json::Map<String, serde_json::Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut text = String::new();
        // Only a Debug that fails by itself can fail here; its field is then empty.
        let _ = write!(text, "{value:?}");
        self.0.insert(field.name().to_owned(), text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_lines_carry_ids_as_fields_and_control_characters_escaped() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(job = 7u64, machine = "gpu\u{1b}[1m", ok = true, "not kept");
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains('\u{1b}'), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["job"], 7);
        assert_eq!(value["message"], "not kept");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["machine"], "gpu\u{1b}[1m");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_an_error_that_shows_the_form() {
        let error = start("reeve=loud", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("for example"), "{error}");
    }
}
