//! The rows that calls carry, and the pool.
use super::fixture::{Fixture, UID};
use super::*;

#[test]
fn a_job_is_read_back_whole() {
    let fixture = Fixture::new();
    let job = job_row(&fixture.conn, 2).unwrap().unwrap();
    assert_eq!((job.id, job.owner_uid, &*job.owner, &*job.queue), (2, UID, "ana", "vision"));
    assert_eq!(job.key, Some(("k".to_owned(), "d".to_owned())));
    assert_eq!(job.standing.state, State::Failed);
    assert_eq!(job.standing.cause, Some(Cause::Oom { detail: "CUDA out of memory".into() }));
    assert_eq!((job.standing.attempt, job.standing.tries), (2, 2));
    assert!(job.array.is_none());
    let worker = job_row(&fixture.conn, 4).unwrap().unwrap();
    assert_eq!(worker.worker, Some(("bank".to_owned(), 3)));
    assert_eq!(worker.standing.substate, Some(Substate::Running));
    assert_eq!(job_row(&fixture.conn, 99).unwrap(), None);
}

#[test]
fn an_array_brings_its_counters_and_intervals_and_tasks_their_rows() {
    let fixture = Fixture::new();
    let array = job_row(&fixture.conn, 6).unwrap().unwrap().array.unwrap();
    assert_eq!((array.from, array.to, array.limit, array.next), (1, 100, Some(4), 4));
    assert_eq!(array.counts.queued, 96);
    assert_eq!((array.held.to_string(), array.cancelled.to_string()), ("50-60".into(), "100".into()));
    let indices = |range, only_bad| -> Vec<u32> {
        task_rows(&fixture.conn, 6, range, only_bad).unwrap().iter().map(|t| t.index).collect()
    };
    assert_eq!(indices(None, false), [1, 2, 3]);
    assert_eq!(indices(Some((2, 3)), false), [2, 3]);
    assert_eq!(indices(None, true), [2]);
    assert_eq!(state_of(&fixture.conn, 6, Some(3)).unwrap(), Some(State::Running));
    assert_eq!(state_of(&fixture.conn, 6, Some(4)).unwrap(), None, "never dispatched");
    assert_eq!(state_of(&fixture.conn, 6, None).unwrap(), Some(State::Running));
}

#[test]
fn names_and_keys_belong_to_their_owner() {
    let fixture = Fixture::new();
    assert_eq!(newest_of(&fixture.conn, UID).unwrap(), Some(6));
    assert_eq!(newest_of(&fixture.conn, 1001).unwrap(), Some(4));
    assert_eq!(newest_of(&fixture.conn, 5).unwrap(), None);
    assert_eq!(by_alias(&fixture.conn, UID, "mgr-42").unwrap(), Some(1));
    assert_eq!(by_alias(&fixture.conn, 1001, "mgr-42").unwrap(), None);
    assert_eq!(by_key(&fixture.conn, UID, "k").unwrap(), Some((2, "d".into())));
    assert_eq!(by_key(&fixture.conn, 1001, "k").unwrap(), None);
    assert_eq!(message_by_key(&fixture.conn, UID, "q", "k").unwrap(), None);
}

#[test]
fn rows_that_are_read_together_have_a_bound_in_bytes_and_one_comes_always() {
    let fixture = Fixture::new();
    let ids = |(rows, looked): (Vec<JobRow>, usize)| (rows.iter().map(|r| r.id).collect::<Vec<_>>(), looked);
    let size = |id| job_row(&fixture.conn, id).unwrap().unwrap().spec.len();
    let read = |wanted: &[JobId], bytes| ids(job_rows(&fixture.conn, wanted, bytes).unwrap());
    assert_eq!(read(&[3, 99, 1, 2], 1 << 20), (vec![3, 1, 2], 4));
    assert_eq!(read(&[3, 99, 1, 2], size(3) + size(1)), (vec![3, 1], 3));
    assert_eq!(read(&[99, 3, 1], 0), (vec![3], 2));
    assert_eq!(read(&[99], 0), (vec![], 1));
}

#[test]
fn a_value_that_makes_no_sense_is_an_error_and_not_a_guess() {
    let fixture = Fixture::new();
    fixture.run("UPDATE jobs SET state = 9 WHERE id = 1; UPDATE jobs SET cause = '{' WHERE id = 2;");
    assert!(matches!(job_row(&fixture.conn, 1), Err(Error::Value(_))));
    assert!(matches!(job_row(&fixture.conn, 2), Err(Error::Value(_))));
}

#[tokio::test]
async fn the_pool_reads_what_was_committed_and_cannot_write() {
    let fixture = Fixture::new();
    let pool = Arc::new(ReadPool::open(&fixture.path()).unwrap());
    assert!(pool.point(|conn| Ok(conn.execute("DELETE FROM jobs", [])?)).is_err());
    let count =
        |conn: &Connection| Ok(conn.query_row("SELECT count(*) FROM jobs", [], |r| r.get::<_, i64>(0))?);
    assert_eq!(pool.point(count).unwrap(), 6);
    fixture.run("DELETE FROM jobs WHERE id = 1");
    assert_eq!(pool.point(count).unwrap(), 5);
    assert_eq!(pool.scan(Duration::from_mins(1), count).await.unwrap(), 5);
}

#[test]
fn statements_of_one_point_read_see_one_moment() {
    let fixture = Fixture::new();
    let pool = ReadPool::open(&fixture.path()).unwrap();
    let count = |conn: &Connection| {
        Ok::<_, Error>(conn.query_row("SELECT count(*) FROM jobs", [], |r| r.get::<_, i64>(0))?)
    };
    let both = pool.point(|conn| {
        let before = count(conn)?;
        fixture.run("DELETE FROM jobs WHERE id = 1");
        Ok((before, count(conn)?))
    });
    assert_eq!(both.unwrap(), (6, 6), "a commit in between is not seen");
    assert_eq!(pool.point(count).unwrap(), 5, "but by the next read");
}

#[tokio::test]
async fn a_scan_without_end_is_ended_and_its_connection_goes_on() {
    let fixture = Fixture::new();
    let pool = Arc::new(ReadPool::open(&fixture.path()).unwrap());
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";
    let read = move |conn: &Connection| Ok(conn.query_row(endless, [], |r| r.get::<_, i64>(0))?);
    let error = pool.scan(Duration::ZERO, read).await.unwrap_err();
    assert!(is_interrupted(&error), "{error}");
    let one = |conn: &Connection| Ok(conn.query_row("SELECT 1", [], |r| r.get::<_, i64>(0))?);
    assert_eq!(pool.scan(Duration::from_mins(1), one).await.unwrap(), 1);
}
