//! Filters against a real database: what matches, and that nothing in a filter can become SQL.
use super::*;
use crate::store::read::fixture::{Fixture, NOW, UID};
use rusqlite::params_from_iter;

const ASKER: Asker = Asker { uid: UID, now: NOW };

fn matching(fixture: &Fixture, filter: &str, rows: Rows) -> Vec<String> {
    let sql = condition(&reeve_protocol::filter::parse(filter).unwrap(), rows, ASKER);
    let from = match rows {
        Rows::Jobs => "jobs AS j",
        Rows::Tasks => "tasks AS t JOIN jobs AS j ON j.id = t.job",
    };
    let text = format!("SELECT j.id, {} FROM {from} WHERE {} ORDER BY 1, 2", rows.index(), sql.text);
    let mut statement = fixture.conn.prepare(&text).unwrap();
    assert_eq!(statement.parameter_count(), sql.values.len(), "{filter}");
    let each = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?));
    let found = statement.query_map(params_from_iter(sql.values), each).unwrap().map(Result::unwrap);
    found.map(|(id, index)| if index < 0 { id.to_string() } else { format!("{id}.{index}") }).collect()
}

#[test]
fn each_field_finds_its_jobs() {
    let fixture = Fixture::new();
    let cases = [
        ("", "1 2 3 4 5 6"),
        ("state:completed", "1 6"),
        ("state:failed,cancelled", "2 3 6"),
        ("state:queued", "5 6"),
        ("state:running", "4 6"),
        ("state:running,running", "4 6"),
        ("state:running,queued", "4 5 6"),
        ("state:queued,failed", "2 5 6"),
        ("-state:running", "1 2 3 5"),
        ("substate:held", "5 6"),
        ("substate:running", "4 6"),
        ("queue:vision", "1 2"),
        ("queue:*s*", "1 2 6"),
        ("worker:bank", "4"),
        ("-worker:bank", "1 2 3 5 6"),
        ("machine:gpu-*", "1 2 6"),
        ("machine:gpu-09", "6"),
        ("-machine:gpu-*", "3 4 5"),
        ("cause:oom", "2"),
        ("cause:exit,ok", "1 6"),
        ("exit:137", "6"),
        ("exit:0", "1 6"),
        ("since:1h", "4 5 6"),
        ("until:100m", "1 2"),
        ("user:ana", "1 2 3 5 6"),
        ("user:b?b", "4"),
        ("name:train*", "1 2"),
        ("name:train-?", "1 2"),
        ("rain-b", "2"),
        ("id:2-4", "2 3 4"),
        ("id:1,6", "1 6"),
        ("id:6.7", "6"),
        ("id:6.101", ""),
        ("id:last", "6"),
        ("id:@mgr-42", "1"),
        ("id:@other", ""),
        (r#"text:"CUDA out of memory""#, "2"),
        ("text:train.py", "1 2"),
        (r#"text:"python train.py""#, "1 2"),
        ("text:100%", "3"),
        ("text:3_of", "4"),
        ("text:3xof", ""),
        ("label.team=vision", "1"),
        ("label.team=*", "1 2"),
        ("label.a.b=x", "1"),
        ("-label.team=vision", "2 3 4 5 6"),
        ("queue:vision state:failed", "2"),
        ("queue:vision -state:failed -name:zzz", "1"),
    ];
    for (filter, wanted) in cases {
        assert_eq!(matching(&fixture, filter, Rows::Jobs).join(" "), wanted, "{filter}");
    }
}

#[test]
fn tasks_are_judged_by_their_own_columns() {
    let fixture = Fixture::new();
    for (filter, wanted) in [
        ("", "6.1 6.2 6.3"),
        ("state:failed", "6.2"),
        ("machine:gpu-0?", "6.1 6.2 6.3"),
        ("machine:gpu-02", "6.3"),
        ("substate:running", "6.3"),
        ("exit:137", "6.2"),
        ("id:6.2-3", "6.2 6.3"),
        ("queue:sweep cause:ok", "6.1"),
        ("user:bob", ""),
    ] {
        assert_eq!(matching(&fixture, filter, Rows::Tasks).join(" "), wanted, "{filter}");
    }
}

#[test]
fn hostile_words_are_only_compared() {
    let fixture = Fixture::new();
    for hostile in [
        "name:'; DROP TABLE jobs; --",
        r#"text:"' OR 1=1 --""#,
        r#"label."x=y"#,
        "label.$.a=')",
        "queue:[a-z]*",
        "text:%",
        r"text:\",
    ] {
        let Ok(_) = reeve_protocol::filter::parse(hostile) else { continue };
        let found = matching(&fixture, hostile, Rows::Jobs);
        assert!(found.is_empty() || hostile == "text:%", "{hostile}: {found:?}");
    }
    assert_eq!(matching(&fixture, "text:%", Rows::Jobs), ["3"], "a per cent sign is no wildcard");
    assert_eq!(matching(&fixture, "", Rows::Jobs).len(), 6);
}

#[test]
fn what_is_asked_most_is_served_by_the_index() {
    let fixture = Fixture::new();
    for filter in ["state:running", "state:queued queue:default", "state:queued,running"] {
        let sql = condition(&reeve_protocol::filter::parse(filter).unwrap(), Rows::Jobs, ASKER);
        let text = format!("EXPLAIN QUERY PLAN SELECT j.id FROM jobs AS j WHERE {}", sql.text);
        let mut statement = fixture.conn.prepare(&text).unwrap();
        let plan: String = statement.query_row(params_from_iter(sql.values), |r| r.get(3)).unwrap();
        assert!(plan.contains("jobs_state"), "{filter}: {plan}");
    }
}
