//! Messages of a queue that match a filter.
use crate::store::Error;
use reeve_protocol::message_filter::{Compare, MessageFilter, Test};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

/// Numbers of a queue's messages that match, ascending: the dead ones, or the others. `now`: wall milliseconds.
///
/// # Errors
/// From SQLite.
pub fn matching(
    conn: &Connection,
    queue: &str,
    filter: &MessageFilter,
    dead: bool,
    now: i64,
) -> Result<Vec<u64>, Error> {
    let mut text =
        format!("SELECT id FROM messages WHERE queue = ? AND dead IS {}NULL", if dead { "NOT " } else { "" });
    let mut values: Vec<Value> = vec![queue.to_owned().into()];
    for term in &filter.terms {
        let (condition, more) = condition(&term.test, now);
        text.push_str(if term.not { " AND NOT (" } else { " AND (" });
        text.push_str(&condition);
        text.push(')');
        values.extend(more);
    }
    let mut statement = conn.prepare(&(text + " ORDER BY id"))?;
    let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?;
    Ok(rows.map(|id| id.map(|id| id as u64)).collect::<Result<_, _>>()?)
}

/// Every word of a filter becomes a parameter, none becomes text of the statement.
fn condition(test: &Test, now: i64) -> (String, Vec<Value>) {
    let ago = |seconds: f64| now - (seconds * 1000.0) as i64;
    match test {
        Test::Since(s) => ("published_at >= ?".to_owned(), vec![ago(*s).into()]),
        Test::Until(s) => ("published_at <= ?".to_owned(), vec![ago(*s).into()]),
        Test::Priority(list) => numbers("priority", list),
        Test::Size(list) => numbers("length(CAST(body AS BLOB))", list),
        Test::Deliveries(list) => numbers("deliveries", list),
        Test::Id(list) => {
            let values = list.iter().flat_map(|(from, to)| [*from, *to]);
            let values = values.map(|n| i64::try_from(n).unwrap_or(i64::MAX).into()).collect();
            (any("id BETWEEN ? AND ?", list.len()), values)
        }
        Test::Text(text) => {
            ("kind < 2 AND instr(CAST(body AS TEXT), ?) > 0".to_owned(), vec![text.clone().into()])
        }
        Test::Header(name, globs) => {
            let values = [name].into_iter().chain(globs).map(|word| word.clone().into()).collect();
            let globs = any("value GLOB ?", globs.len());
            (format!("EXISTS (SELECT 1 FROM json_each(headers) WHERE key = ? AND ({globs}))"), values)
        }
    }
}

fn numbers(column: &str, list: &[(Compare, i64)]) -> (String, Vec<Value>) {
    let sign = |compare: Compare| match compare {
        Compare::Is => "=",
        Compare::Above => ">",
        Compare::Below => "<",
    };
    let each: Vec<String> =
        list.iter().map(|(compare, _)| format!("{column} {} ?", sign(*compare))).collect();
    (each.join(" OR "), list.iter().map(|(_, n)| (*n).into()).collect())
}

fn any(condition: &str, n: usize) -> String {
    vec![condition; n].join(" OR ")
}
