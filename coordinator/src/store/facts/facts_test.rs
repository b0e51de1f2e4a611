//! What several facts of a step come to.
use super::*;
use crate::row::Standing;
use crate::store::read::fixture::Fixture;
use reeve_protocol::State;

fn moved(job: JobId, state: State, cause: Option<Cause>) -> Fact {
    let standing = Standing { cause, attempt: 9, ..Standing::new(state, None) };
    Fact::JobMoved(job, Box::new(standing))
}

fn kept(job: JobId, json: &str) -> Fact {
    Fact::ResultKept(TaskId::single(job), json.to_owned())
}

#[test]
fn the_commonest_cause_is_written_as_any_other() {
    assert_eq!(OK, serde_json::to_string(&Cause::Ok).unwrap());
}

#[test]
fn a_result_is_kept_whether_a_move_follows_comes_before_or_is_missing() {
    let fixture = Fixture::new();
    let result = |job: JobId| {
        let sql = "SELECT state, result FROM jobs WHERE id = ?1";
        let read =
            fixture.conn.query_row(sql, [job], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Option<String>>(1)?)));
        read.unwrap()
    };
    let facts = [
        kept(3, "first"),
        kept(3, "3"),
        moved(4, State::Completed, Some(Cause::Ok)),
        kept(4, "4"),
        kept(5, "5"),
        moved(3, State::Completed, Some(Cause::Ok)),
    ];
    apply_all(&fixture.conn, &facts).unwrap();
    assert_eq!([result(3), result(4)], [(2, Some("3".into())), (2, Some("4".into()))]);
    assert_eq!(result(5), (0, Some("5".into())));
    // A later move says nothing about it, and what concerns no row is an error.
    apply_all(&fixture.conn, &[moved(3, State::Queued, None)]).unwrap();
    assert_eq!(result(3), (0, Some("3".into())));
    assert!(matches!(apply_all(&fixture.conn, &[kept(99, "x")]), Err(Error::Rows(..))));
    assert!(matches!(
        apply_all(&fixture.conn, &[kept(99, "x"), moved(99, State::Queued, None)]),
        Err(Error::Rows(..))
    ));
}
