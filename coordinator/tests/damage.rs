//! A large store that was not closed in order: it is used at once and checked meanwhile, and damage found then ends it all.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]
use reeve_coordinator::store::open::{FILE, check, open};
use reeve_coordinator::{Config, init, run};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Above what is checked before the first call is served.
const MIB: i64 = 40;

/// A store of that size which nobody has closed.
fn large(dir: &Path) -> Config {
    let config = Config::for_dir(dir.join("data"));
    init(&config).unwrap();
    let opened = open(&config.dir).unwrap();
    assert!(!opened.unchecked, "it was closed in order");
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MIB})
         INSERT INTO outputs (job, idx, attempt, tape) SELECT i, -1, 1, randomblob(1048576) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);"
    );
    opened.conn.execute_batch(&fill).unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_that_was_not_closed_is_checked_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = large(dir.path());
    let again = open(&config.dir).unwrap();
    assert!(again.unchecked);
    check(&config.dir).unwrap();
    drop(again);
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let (tx, ready) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(run(config, move |r| drop(tx.send(r.clone())), shutdown));
    ready.await.unwrap();
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_is_found_meanwhile_ends_the_coordinator_with_74() {
    let dir = tempfile::tempdir().unwrap();
    let config = large(dir.path());
    // Somewhere in the chain of pages of a value: the number of the next page makes no sense now.
    let file = std::fs::File::options().write(true).open(config.dir.join(FILE)).unwrap();
    file.write_all_at(&[0xff; 8192], 20 << 20).unwrap();
    assert!(check(&config.dir).is_err());
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let error = run(config, |_| {}, shutdown).await.unwrap_err();
    assert_eq!(error.exit_code(), 74, "{error}");
}
