//! The coordinator about itself: version, health, who asks, and `get_queue_stats` once or as a stream.
use super::App;
use super::reply::{Answer, Failure, NDJSON, json, unexpected};
use super::request::Cx;
use super::stream::{FOLLOWER, Gone, Out, Shape, respond};
use crate::effect::Reply;
use crate::input::Call;
use crate::row::Caller;
use reeve_protocol::VERSION;
use reeve_protocol::api::{Alert, Health, Stats, Version, WhoAmI};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Least time between two stats of one stream.
const LEAST: Duration = Duration::from_millis(500);
/// Longest time between two: rates and ages change without any event.
const LONGEST: Duration = Duration::from_secs(5);

/// `GET /version`.
pub(super) async fn version(cx: Cx) -> Answer {
    cx.query(&[])?;
    Ok(json(&Version { version: VERSION.to_owned(), api: vec!["v1".to_owned()] }))
}

/// `GET /v1/whoami`.
pub(super) async fn whoami(cx: Cx) -> Answer {
    cx.query(&[])?;
    // Until roles exist, whoever is served at all may do everything.
    Ok(json(&WhoAmI { uid: cx.caller.uid, name: cx.caller.name.to_string(), role: "admin".to_owned() }))
}

/// `GET /v1/health`.
pub(super) async fn health(cx: Cx) -> Answer {
    cx.query(&[])?;
    let reasons: Vec<String> = match stats(&cx.app, &cx.caller).await {
        Ok(stats) => stats
            .alerts
            .into_iter()
            .filter(|a| a.level >= 2)
            .map(|a| format!("{}: {}", a.subject, a.text))
            .collect(),
        Err(Failure(problem)) => vec![format!("the engine does not answer: {}", problem.detail)],
    };
    let info = &cx.app.info;
    Ok(json(&Health {
        status: if reasons.is_empty() { "ok" } else { "degraded" }.to_owned(),
        reasons,
        version: VERSION.to_owned(),
        cluster: info.cluster.clone(),
        lineage: info.lineage.clone(),
        epoch: info.epoch,
        seq: cx.app.seq(),
        pid: std::process::id(),
        uptime_s: info.started.elapsed().as_secs_f64(),
        store_bytes: store_bytes(cx.app.reads.path()),
        output_bytes: cx.app.segments.total_bytes(),
        listen: info.listen.clone(),
        dir: info.dir.display().to_string(),
    }))
}

/// The store's file and its log.
pub(super) fn store_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path, Path::new(&log)].into_iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum()
}

pub(super) async fn stats(app: &App, caller: &Caller) -> Result<Stats, Failure> {
    match app.ask(caller, Call::GetQueueStats).await? {
        Reply::Stats(mut stats) => {
            stats.alerts.splice(0..0, disk(app));
            Ok(*stats)
        }
        other => Err(unexpected(&other)),
    }
}

/// What the core cannot know: how the disk below it is.
fn disk(app: &App) -> Vec<Alert> {
    let alert = |text: String| Alert { level: 2, subject: "the coordinator's disk".to_owned(), text };
    let full = app.handle.is_full().then(|| alert("nearly full: nothing new is taken".to_owned()));
    let waiting = app.segments.waiting();
    let waits = (waiting > 0).then(|| {
        alert(format!("the output of {waiting} ended jobs waits for room, and they keep their places"))
    });
    full.into_iter().chain(waits).collect()
}

/// `GET /v1/stats`.
pub(super) async fn get_queue_stats(cx: Cx) -> Answer {
    let follow = cx.query(&["follow"])?.flag("follow")?;
    let first = stats(&cx.app, &cx.caller).await?;
    if !follow {
        return Ok(json(&first));
    }
    let (app, caller) = (cx.app.clone(), cx.caller.clone());
    let shape = Shape { media_type: NDJSON, size: FOLLOWER, patience: None };
    Ok(respond(&cx.app, &shape, |out| follow_stats(app, caller, first, out)))
}

async fn follow_stats(app: Arc<App>, caller: Caller, first: Stats, out: Out) -> Result<(), Gone> {
    let mut seq = app.hub.seq();
    out.line(&first).await?;
    loop {
        tokio::time::sleep(LEAST).await;
        // Waking for every commit would cost more than the numbers are worth; the last one is looked at.
        let _ = tokio::time::timeout(LONGEST.saturating_sub(LEAST), seq.changed()).await;
        seq.mark_unchanged();
        let Ok(stats) = stats(&app, &caller).await else { return Ok(()) };
        out.line(&stats).await?;
    }
}
