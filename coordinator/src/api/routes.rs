//! The table of paths. The description in `openapi` and the hints for mistyped paths are made from the same table.
use super::reply::Failure;
use super::{
    App, artifacts, events, jobs, listing, logs, machines, metrics, openapi, plans, publish, queues, routing,
    stats, submit, views, workers,
};
use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, get, post};
use reeve_protocol::nearest::nearest;
use reeve_protocol::text::Clean;
use reeve_protocol::{Code, Problem};
use std::sync::Arc;

/// One path.
pub(super) struct Route {
    /// As axum and OpenAPI both write it.
    pub(super) path: &'static str,
    /// The methods it takes.
    pub(super) methods: &'static [&'static str],
    handler: fn() -> MethodRouter<Arc<App>>,
}

macro_rules! table {
    ($($path:literal $methods:expr, $handler:expr;)*) => {
        /// Every path.
        pub(super) const TABLE: &[Route] = &[$(Route { path: $path, methods: &$methods, handler: || $handler },)*];
    };
}

table! {
    "/version" ["get"], get(stats::version);
    "/metrics" ["get"], get(metrics::metrics);
    "/v1/health" ["get"], get(stats::health);
    "/v1/whoami" ["get"], get(stats::whoami);
    "/v1/openapi.json" ["get"], get(openapi::serve);
    "/v1/jobs" ["get", "post"], get(listing::list_jobs).post(submit::submit);
    "/v1/jobs/register" ["post"], post(jobs::register_job);
    "/v1/jobs/{job}" ["get"], get(jobs::get_job_status);
    "/v1/jobs/{job}/cancel" ["post"], post(jobs::cancel_job);
    "/v1/jobs/{job}/restart" ["post"], post(jobs::restart_job);
    "/v1/jobs/{job}/hold" ["post"], post(jobs::hold);
    "/v1/jobs/{job}/release" ["post"], post(jobs::release);
    "/v1/jobs/{job}/status" ["post"], post(jobs::update_job_status);
    "/v1/jobs/{job}/why" ["get"], get(jobs::why);
    "/v1/jobs/{job}/logs" ["get"], get(logs::logs);
    "/v1/jobs/{job}/artifacts" ["get"], get(artifacts::list);
    "/v1/jobs/{job}/artifacts/{name}" ["get"], get(artifacts::get);
    "/v1/plans" ["post"], post(plans::create);
    "/v1/plans/{plan}" ["get"], get(plans::show);
    "/v1/plans/{plan}/run" ["post"], post(plans::run);
    "/v1/queues" ["get"], get(queues::list);
    "/v1/queues/{queue}" ["get", "put"], get(queues::show).put(queues::set);
    "/v1/queues/{queue}/messages" ["post"], post(publish::publish);
    "/v1/queues/{queue}/receive" ["post"], post(queues::receive_message);
    "/v1/queues/{queue}/ack" ["post"], post(queues::ack);
    "/v1/queues/{queue}/nack" ["post"], post(queues::nack);
    "/v1/queues/{queue}/extend" ["post"], post(queues::extend);
    "/v1/queues/{queue}/clean" ["post"], post(queues::clean_queue);
    "/v1/queues/{queue}/pause" ["post"], post(queues::pause);
    "/v1/queues/{queue}/resume" ["post"], post(queues::resume);
    "/v1/queues/{queue}/migrate" ["post"], post(queues::migrate);
    "/v1/queues/{queue}/move" ["post"], post(queues::move_queue);
    "/v1/queues/{queue}/dead" ["get"], get(routing::dead);
    "/v1/queues/{queue}/dead/return" ["post"], post(routing::return_dead);
    "/v1/routes" ["get", "put"], get(routing::list).put(routing::put);
    "/v1/routes/explain" ["post"], post(routing::explain);
    "/v1/publish" ["post"], post(routing::publish);
    "/v1/queues/{queue}/count" ["get"], get(queues::count_queue_messages);
    "/v1/queues/{queue}/peek" ["get"], get(queues::peek);
    "/v1/machines" ["get"], get(machines::list);
    "/v1/machines/token" ["post"], post(machines::token);
    "/v1/machines/{machine}" ["get", "delete"], get(machines::show).delete(machines::remove);
    "/v1/machines/{machine}/cordon" ["post"], post(machines::cordon);
    "/v1/machines/{machine}/uncordon" ["post"], post(machines::uncordon);
    "/v1/machines/{machine}/drain" ["post"], post(machines::drain);
    "/v1/workers" ["get"], get(workers::list);
    "/v1/workers/{worker}" ["get", "put", "delete"], get(workers::show).put(workers::register_worker).delete(workers::remove);
    "/v1/workers/{worker}/launch" ["post"], post(workers::launch_worker);
    "/v1/workers/{worker}/scale" ["post"], post(workers::scale);
    "/v1/workers/{worker}/drain" ["post"], post(workers::drain);
    "/v1/workers/{worker}/stop" ["post"], post(workers::stop);
    "/v1/workers/{worker}/requests" ["post"], post(workers::call);
    "/v1/top" ["get"], get(machines::top);
    "/v1/stats" ["get"], get(stats::get_queue_stats);
    "/v1/events" ["get"], get(events::events);
    "/v1/audit" ["get"], get(events::audit);
    "/v1/views" ["post"], post(views::views);
}

/// The whole API over what handlers see.
pub(super) fn router(app: Arc<App>) -> Router {
    let router =
        TABLE.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(app)
}

async fn unknown_path(uri: Uri) -> Failure {
    let path = uri.path();
    let problem = Problem::new(Code::UnknownPath, format!("there is no path {}", Clean::short(path, 100)));
    Failure(match similar(path) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => problem.hint("GET /v1/openapi.json lists every path"),
    })
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let methods =
        TABLE.iter().find(|route| matches(route.path, uri.path())).map_or(&[][..], |route| route.methods);
    let problem = Problem::new(
        Code::MethodNotAllowed,
        format!("{} does not take {method}", Clean::short(uri.path(), 100)),
    );
    Failure(problem.hint(format!("it takes {}", methods.join(", ").to_uppercase())))
}

fn matches(pattern: &str, path: &str) -> bool {
    let fits = |(pattern, part): (&str, &str)| pattern.starts_with('{') || pattern == part;
    pattern.split('/').count() == path.split('/').count() && pattern.split('/').zip(path.split('/')).all(fits)
}

/// The nearest path, with the caller's own words where the table has parameters.
fn similar(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let fill = |pattern: &str| -> Option<String> {
        let words: Vec<&str> = pattern.split('/').collect();
        (words.len() == parts.len()).then(|| {
            let filled =
                words.iter().zip(&parts).map(|(word, part)| if word.starts_with('{') { part } else { word });
            filled.copied().collect::<Vec<_>>().join("/")
        })
    };
    let known: Vec<String> = TABLE.iter().filter_map(|route| fill(route.path)).collect();
    nearest(&parts.join("/"), known.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_path_is_answered_with_the_nearest_and_the_callers_own_words() {
        assert_eq!(similar("/v1/jobs/7/cancle").as_deref(), Some("/v1/jobs/7/cancel"));
        assert_eq!(similar("/v1/job").as_deref(), Some("/v1/jobs"));
        assert_eq!(similar("/v1/jobs/7/logs/").as_deref(), Some("/v1/jobs/7/logs"));
        assert_eq!(similar("/something/else/entirely/different"), None);
    }

    #[test]
    fn patterns_match_as_the_router_does() {
        assert!(matches("/v1/jobs/{job}/cancel", "/v1/jobs/7.3/cancel"));
        assert!(!matches("/v1/jobs/{job}", "/v1/jobs/7/cancel"));
    }

    #[test]
    fn no_path_stands_twice() {
        let mut paths: Vec<_> = TABLE.iter().map(|route| route.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), TABLE.len());
    }
}
