//! `/v1/openapi.json`: the table of paths with what each takes and gives, and the main bodies.
use super::reply::{Answer, JSON, NDJSON, json};
use super::request::Cx;
use super::routes::TABLE;
use reeve_protocol::{Code, VERSION};
use serde_json::{Map, Value, json};

/// What one operation is about. A test holds this against the table.
struct Operation {
    path: &'static str,
    method: &'static str,
    summary: &'static str,
    /// Query parameters.
    query: &'static [&'static str],
    /// Schema of the body; empty for none, `{}` for one without fields.
    body: &'static str,
    /// Schema of the answer; a leading `*` says one JSON value a line, empty that it is text.
    answer: &'static str,
}

macro_rules! operations {
    ($($method:literal $path:literal $summary:literal [$($query:literal),*] $body:literal -> $answer:literal;)*) => {
        const OPERATIONS: &[Operation] = &[$(Operation {
            path: $path, method: $method, summary: $summary, query: &[$($query),*], body: $body, answer: $answer,
        },)*];
    };
}

operations! {
    "get" "/version" "The coordinator's version and the versions of this API." [] "" -> "Version";
    "get" "/metrics" "Metrics in the text format of Prometheus." [] "" -> "";
    "get" "/v1/health" "Whether all is well, and how large it has become." [] "" -> "Health";
    "get" "/v1/whoami" "Who asks, by the kernel's word." [] "" -> "WhoAmI";
    "get" "/v1/openapi.json" "This description." [] "" -> "OpenApi";
    "get" "/v1/jobs" "list_jobs: a page of the jobs that match." ["filter", "order", "limit", "cursor", "tasks"] "" -> "JobList";
    "post" "/v1/jobs" "submit: one job, a JSON array (all or nothing), or application/x-ndjson with one answer a line; blank lines are counted and skipped." ["dry_run"] "JobSpec" -> "Submitted";
    "post" "/v1/jobs/register" "register_job: name a job, or record one that runs elsewhere." [] "RegisterRequest" -> "Job";
    "get" "/v1/jobs/{job}" "get_job_status, perhaps waiting for its end." ["wait_s"] "" -> "Job";
    "post" "/v1/jobs/{job}/cancel" "cancel_job." [] "CancelRequest" -> "Changed";
    "post" "/v1/jobs/{job}/restart" "restart_job: the same job again; of an array its failed and cancelled tasks." [] "RestartRequest" -> "Changed";
    "post" "/v1/jobs/{job}/hold" "Keep it QUEUED until it is released." [] "{}" -> "Changed";
    "post" "/v1/jobs/{job}/release" "Let a held job go on." [] "{}" -> "Changed";
    "post" "/v1/jobs/{job}/status" "update_job_status." [] "StatusRequest" -> "Changed";
    "get" "/v1/jobs/{job}/why" "Why it is not running." [] "" -> "Why";
    "get" "/v1/jobs/{job}/logs" "Output of an attempt: text, or LogLine values with accept: application/x-ndjson." ["attempt", "stream", "from", "follow", "tail"] "" -> "*LogLine";
    "get" "/v1/jobs/{job}/artifacts" "Files that attempts left." ["attempt"] "" -> "ArtifactList";
    "get" "/v1/jobs/{job}/artifacts/{name}" "One of these files, as it is; a slash in its name is written %2F. One range of bytes may be asked for." ["attempt"] "" -> "";
    "post" "/v1/plans" "bulk_action: fix a set and count what would happen." [] "PlanRequest" -> "BulkPlan";
    "get" "/v1/plans/{plan}" "A plan." [] "" -> "BulkPlan";
    "post" "/v1/plans/{plan}/run" "bulk_action: change exactly that set, once." [] "{}" -> "PlanResult";
    "get" "/v1/queues" "Every queue." [] "" -> "QueueList";
    "get" "/v1/queues/{queue}" "A queue." [] "" -> "Queue";
    "put" "/v1/queues/{queue}" "Make a queue or change its settings." [] "QueueSettings" -> "Queue";
    "post" "/v1/queues/{queue}/messages" "publish: a message, or a job; the fields say which. As application/x-ndjson, a message a line; the answer is then lines of PublishedLines, and of errors by line." [] "PublishRequest" -> "Published";
    "post" "/v1/queues/{queue}/receive" "receive_message, waiting for one if asked to; at most 8 MiB of bodies and headers, the rest stays." [] "ReceiveRequest" -> "Received";
    "post" "/v1/queues/{queue}/ack" "Done: remove it, or complete the job." [] "LeaseRequest" -> "Settled";
    "post" "/v1/queues/{queue}/nack" "Not done: back into the queue." [] "LeaseRequest" -> "Settled";
    "post" "/v1/queues/{queue}/extend" "More time for a lease." [] "LeaseRequest" -> "Settled";
    "post" "/v1/queues/{queue}/clean" "clean_queue: remove what waits, or the dead." [] "CleanRequest" -> "Cleaned";
    "post" "/v1/queues/{queue}/pause" "Hand nothing out." [] "PauseRequest" -> "Queue";
    "post" "/v1/queues/{queue}/resume" "Hand out again." [] "PauseRequest" -> "Queue";
    "post" "/v1/queues/{queue}/migrate" "Keep it elsewhere from now on, with what waits in it." [] "MigrateRequest" -> "Queue";
    "post" "/v1/queues/{queue}/move" "What waits, or what matches, waits in another queue from now on; at most 2,000 a call." [] "MoveRequest" -> "Moved";
    "get" "/v1/queues/{queue}/dead" "What was given up, oldest first, with the cause." ["limit"] "" -> "Received";
    "post" "/v1/queues/{queue}/dead/return" "Messages that were given up can be received again; at most 2,000 a call." [] "ReturnRequest" -> "Returned";
    "get" "/v1/routes" "The rules that say which queues a message goes to." [] "" -> "Routes";
    "put" "/v1/routes" "Put these rules in place of those there are." [] "Routes" -> "Routes";
    "post" "/v1/routes/explain" "Which rule decides about these labels, and why not those before it." [] "ExplainRequest" -> "Explained";
    "post" "/v1/publish" "publish to every queue of the rule that decides, in one commit." [] "RoutedRequest" -> "Routed";
    "get" "/v1/queues/{queue}/count" "count_queue_messages." [] "" -> "QueueCount";
    "get" "/v1/queues/{queue}/peek" "What would come next, leased to nobody." ["limit"] "" -> "Received";
    "get" "/v1/machines" "Every machine." [] "" -> "MachineList";
    "get" "/v1/top" "Every machine, with what each attempt there holds and uses." [] "" -> "MachineList";
    "post" "/v1/machines/token" "A join token: one use, one line." [] "TokenRequest" -> "TokenReply";
    "get" "/v1/machines/{machine}" "A machine, by name or id." [] "" -> "Machine";
    "delete" "/v1/machines/{machine}" "Remove a machine from the cluster, for ever; refused while attempts run there, unless force says that they count as lost." ["force"] "" -> "MachineRemoved";
    "post" "/v1/machines/{machine}/cordon" "No new work goes there." [] "{}" -> "Machine";
    "post" "/v1/machines/{machine}/uncordon" "New work goes there again; ends a drain." [] "{}" -> "Machine";
    "post" "/v1/machines/{machine}/drain" "No new work, and what runs may end; after the deadline it is stopped and queued again." [] "DrainRequest" -> "Machine";
    "get" "/v1/workers" "Every registered worker." [] "" -> "WorkerList";
    "get" "/v1/workers/{worker}" "A worker as it is now, or one of its registrations." ["version"] "" -> "Worker";
    "put" "/v1/workers/{worker}" "register_worker: another version of it, from now on." [] "WorkerRequest" -> "Worker";
    "delete" "/v1/workers/{worker}" "Remove a worker; refused while replicas run or jobs are for it, unless force says that these are cancelled." ["force"] "" -> "WorkerRemoved";
    "post" "/v1/workers/{worker}/launch" "launch_worker: run the newest registration of a static worker; replicas of an older one are replaced, new ones ready first." [] "LaunchRequest" -> "Worker";
    "post" "/v1/workers/{worker}/scale" "So many replicas from now on, or as many as the load needs between two bounds." [] "ScaleRequest" -> "Worker";
    "post" "/v1/workers/{worker}/drain" "No replicas from now on; what they work on is answered first." [] "{}" -> "Worker";
    "post" "/v1/workers/{worker}/stop" "No replicas from now on, at once." [] "{}" -> "Worker";
    "post" "/v1/workers/{worker}/requests" "Call a static worker and wait for its answer; nothing of it is stored." [] "CallRequest" -> "CallReply";
    "get" "/v1/stats" "get_queue_stats, once or as it changes." ["follow"] "" -> "Stats";
    "get" "/v1/events" "Events without a gap; as an event stream with accept: text/event-stream." ["from", "follow"] "" -> "*Event";
    "get" "/v1/audit" "Who asked for which change, and what was decided; from a number on, or the newest." ["from", "limit"] "" -> "AuditList";
    "post" "/v1/views" "Rows that stay up to date: a snapshot, then what changed." [] "ViewRequest" -> "*ViewUpdate";
}

/// `GET /v1/openapi.json`.
pub(super) async fn serve(cx: Cx) -> Answer {
    cx.query(&[])?;
    Ok(json(&document()))
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in TABLE {
        let operations = OPERATIONS.iter().filter(|operation| operation.path == route.path);
        let described = operations.map(|operation| (operation.method.to_owned(), describe(operation)));
        paths.insert(route.path.to_owned(), Value::Object(described.collect()));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "reeve",
            "version": VERSION,
            "description": "Jobs across machines. Times are RFC 3339 in UTC, durations seconds, sizes bytes. \
                Requests with unknown fields or query parameters are refused; answers may gain fields.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "over the coordinator's Unix socket"}],
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn describe(operation: &Operation) -> Value {
    let name: String = format!("{} {}", operation.method, operation.path)
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && *word != "v1")
        .collect::<Vec<_>>()
        .join("_");
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .chain(
            operation
                .query
                .iter()
                .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})),
        )
        .collect();
    let good = match (operation.answer, operation.answer.strip_prefix('*')) {
        ("", _) => json!({"text/plain": {"schema": {"type": "string"}}}),
        (_, Some(line)) => json!({NDJSON: {"schema": reference(line)}}),
        (name, None) => json!({JSON: {"schema": reference(name)}}),
    };
    let mut described = json!({
        "operationId": name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "Done.", "content": good},
            "default": {
                "description": "A problem (RFC 9457).",
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            },
        },
    });
    if !operation.body.is_empty() {
        let schema =
            if operation.body == "{}" { json!({"type": "object"}) } else { reference(operation.body) };
        described["requestBody"] = json!({"content": {JSON: {"schema": schema}}});
    }
    described
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Field lists: `name:type`, where a type is one of the words below, `[x]` for a list, `{x}` for a map from text, or the
/// name of another schema; `?` after it says that null is possible.
const SCHEMAS: &[(&str, &str)] = &[
    ("WorkerRemoved", "name:text removed:bool seq:int"),
    ("LaunchRequest", "on:[text] replicas:int? min:int? max:int?"),
    ("ScaleRequest", "replicas:int? min:int? max:int?"),
    ("CallRequest", "payload:any deadline_s:number?"),
    ("CallReply", "result:any"),
    (
        "Serving",
        "protocol:text? ready:text? path:text? replicas:int? max_ongoing:int? stall_s:number? drain_s:number? deadline_s:number? min:int? max:int? scale_up_wait_s:number? scale_down_after_s:number? idle_unload_s:number? batch_max_size:int? batch_max_delay_ms:int?",
    ),
    (
        "WorkerStatus",
        "version:int desired:int min:int? max:int? commit:text? idle_unload_s:number? ready:int phase:text outstanding:int calls_waiting:int rate:number reason:text? replicas:[Replica]",
    ),
    (
        "Replica",
        "replica:int job:int attempt:int version:int machine:text? phase:text progress:number? message:text? outstanding:int answered:int reason:text? restart_at:time?",
    ),
    (
        "JobSpec",
        "command:[text] name:text? queue:text? worker:text? payload:any git:Git? resources:Resources on:[text] not_on:[text] priority:int retries:int? timeout_s:number? delay_s:number? at:time? expires_s:number? lost_after_s:any exclusive:bool after:After array:ArrayRange? items:[any] limits:{int} env:{text} cwd:text? stdin:text? out:[text] out_max_bytes:int? labels:{text} hold:bool run_as:text? reply_to:text? correlation_id:text? grace_s:number?",
    ),
    ("Git", "url:text ref:text? subdir:text? setup:text? submodules:bool lfs:bool commit:text? patch:Patch?"),
    ("Patch", "sha256:text data:text"),
    ("Resources", "cpus:number? memory_bytes:int? gpus:number? named:{int}"),
    ("After", "ok:[int] any:[int] fail:[int]"),
    ("ArrayRange", "from:int to:int limit:int?"),
    ("Submitted", "id:int state:State substate:text? seq:int created:bool"),
    (
        "Job",
        "id:int alias:text? name:text? owner:text queue:text state:State substate:text? cause:Cause? attempt:int priority:int created_at:time started_at:time? ended_at:time? run_at:time? machine:text? attempts:[Attempt] progress:number? message:text? result:any labels:{text} spec:JobSpec definition:any array:Array? index:int? worker:text?",
    ),
    (
        "Attempt",
        "attempt:int index:int? machine:text dispatched_at:time? started_at:time? ended_at:time? cause:Cause? exit_code:int? cpu_s:number rss_peak_bytes:int pid:int? output_bytes:int artifacts:int artifact_bytes:int late:Cause?",
    ),
    ("Artifact", "attempt:int name:text size:int mode:int sha256:text"),
    ("Array", "total:int counts:Counts from:int to:int limit:int?"),
    ("Counts", "QUEUED:int RUNNING:int COMPLETED:int FAILED:int CANCELLED:int"),
    ("Cause", "kind:text code:int? signal:int? what:text? errno:text? detail:text?"),
    ("RegisterRequest", "id:text definition:any cluster_id:int?"),
    ("RestartRequest", "latest:bool"),
    ("CancelRequest", "grace_s:number? reason:text?"),
    (
        "StatusRequest",
        "state:text? progress:number? message:text? result:any error:text? attempt:int? lease:text?",
    ),
    ("Changed", "id:int state:State substate:text? attempt:int tasks:int? seq:int"),
    ("Why", "id:int state:State substate:text? reasons:[WhyLine]"),
    ("WhyLine", "machine:text? text:text"),
    ("LogLine", "next:int at:time? stream:text text:text missing:int?"),
    ("PlanRequest", "action:text filter:text? ids:[text] except:[int] reason:text?"),
    (
        "BulkPlan",
        "kind:text id:int action:text seq:int matched:int will_change:int no_change:{int} refused:{int} sample:[any] running:int",
    ),
    ("PlanResult", "id:int changed:int skipped:int reasons:{int} seq:int"),
    ("QueueSettings", "kind:text? backend:text? ingress:text? weight:int? limit:int? max_len:int?"),
    (
        "Queue",
        "name:text kind:text backend:text degraded:text? degraded_since:time? backend_version:text? capabilities:{text} moving_from:text? moving_left:int? ingress:text? hints:int? paused:bool paused_by:text? paused_why:text? paused_at:time? weight:int limit:int max_len:int counts:Counts waiting:{int} oldest_age_s:number? started_per_s:number ended_per_s:number failed_per_s:number wait_p50_s:number? wait_p95_s:number? owner:text history:[int]",
    ),
    (
        "PublishRequest",
        "body:any body_text:text? body_base64:text? headers:{text} priority:int delay_s:number? ttl_s:number?",
    ),
    ("Published", "id:text queue:text seq:int created:bool"),
    ("ReceiveRequest", "max:int wait_s:number lease_s:number"),
    ("Received", "items:[any]"),
    ("LeaseRequest", "lease:text? leases:[text]? result:any delay_s:number? lease_s:number? error:text?"),
    ("Settled", "ok:bool id:text? settled:int? refused:[RefusedLease]?"),
    ("RefusedLease", "lease:text error:Problem"),
    (
        "PublishedLines",
        "from:int to:int published:int replayed:int? failed:int? first:text? last:text? seq:int created:bool? done:bool?",
    ),
    ("PauseRequest", "reason:text?"),
    ("MigrateRequest", "to:text"),
    ("MoveRequest", "to:text filter:text? dry_run:bool"),
    ("Moved", "moved:int left:int dry_run:bool"),
    ("ReturnRequest", "ids:[text]? dry_run:bool"),
    ("Returned", "returned:int left:int"),
    ("Route", "name:text labels:{text} queues:[text]"),
    ("Routes", "routes:[Route]"),
    ("ExplainRequest", "labels:{text}"),
    ("Explained", "route:Route? passed:[text]"),
    ("RoutedRequest", "labels:{text} message:PublishRequest"),
    ("Routed", "published:[Published]"),
    ("CleanRequest", "filter:text? dead:bool dry_run:bool"),
    ("Cleaned", "removed:int dry_run:bool"),
    (
        "QueueCount",
        "queue:text kind:text ready:int delayed:int leased:int dead:int oldest_age_s:number? as_of_seq:int degraded:text?",
    ),
    (
        "Machine",
        "id:text name:text state:text hostname:text address:text? agent_version:text os:text cpu_milli:int cpu_milli_used:int memory_bytes:int memory_used:int gpus:[text] gpus_used:int running:int labels:{text} capabilities:{text} devices:[Gpu] attempts:[Held] cpu_busy:number? memory_busy:int? load1:number? disk:number? seen_s:number? rtt_ms:number? joined_at:time? orphans:int unrecorded:int refuses:text? warning:text? cordoned:bool drain_until:time? certificate_until:time? renewal_failed_at:time? renewal_error:text?",
    ),
    (
        "Gpu",
        "uuid:text model:text memory_bytes:int memory_used:int busy:number? free:number quarantine:text? holders:[text]",
    ),
    (
        "Held",
        "job:int index:int? attempt:int cpu_milli:int memory_bytes:int gpu:number gpus:[text] cpu_milli_used:int? rss_bytes:int? warning:text?",
    ),
    ("MachineRemoved", "id:text lost:int"),
    ("DrainRequest", "deadline_s:number?"),
    (
        "AuditEntry",
        "seq:int at:time uid:int? name:text via:text call:text object:text request:text? refused:text? unwritten:int event:int",
    ),
    ("AuditList", "api:text kind:text items:[AuditEntry] next:text? total:Total"),
    ("TokenRequest", "ttl_s:number"),
    ("TokenReply", "token:text expires_at:time"),
    ("WorkerRequest", "kind:text? spec:JobSpec shell:text? serving:Serving?"),
    ("Worker", "name:text version:int kind:text owner:text queue:text spec:JobSpec created_at:time"),
    (
        "Stats",
        "cluster:text at:time? as_of_seq:int counts:Counts waiting:{int} changes_per_s:number queues:[Queue] machines:{int} cpu_milli_used:int cpu_milli_total:int memory_used:int memory_total:int causes:{int} stale:int alerts:[any]",
    ),
    (
        "Event",
        "seq:int at:time kind:text id:int? index:int? indices:text? count:int? attempt:int? from:text? to:text? substate:text? cause:Cause? actor:text subject:text? what:text?",
    ),
    ("ViewRequest", "of:text filter:text order:text offset:int limit:int every_ms:int id:int?"),
    ("ViewUpdate", "kind:text seq:int total:Total order:[any] rows:[Job]"),
    ("Total", "value:int exact:bool"),
    ("Version", "version:text api:[text]"),
    ("WhoAmI", "uid:int name:text role:text"),
    (
        "Health",
        "status:text reasons:[text] version:text cluster:text lineage:text epoch:int seq:int pid:int uptime_s:number store_bytes:int output_bytes:int listen:text dir:text",
    ),
    ("ArtifactList", "api:text kind:text items:[Artifact] next:text? total:Total"),
    ("JobList", "api:text kind:text items:[Job] next:text? total:Total"),
    ("QueueList", "api:text kind:text items:[Queue] next:text? total:Total"),
    ("MachineList", "api:text kind:text items:[Machine] next:text? total:Total"),
    ("WorkerList", "api:text kind:text items:[Worker] next:text? total:Total"),
    ("OpenApi", "openapi:text info:any paths:any components:any"),
];

fn schemas() -> Value {
    let mut all = Map::new();
    for (name, fields) in SCHEMAS {
        let properties: Map<String, Value> = fields
            .split(' ')
            .filter_map(|field| field.split_once(':'))
            .map(|(field, kind)| (field.to_owned(), type_of(kind)))
            .collect();
        all.insert((*name).to_owned(), json!({"type": "object", "properties": properties}));
    }
    let states: Vec<_> = reeve_protocol::State::ALL.iter().map(|s| s.as_str()).collect();
    all.insert("State".to_owned(), json!({"type": "string", "enum": states}));
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    all.insert(
        "Problem".to_owned(),
        json!({"type": "object", "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
            "detail": {"type": "string"}, "code": {"type": "string", "enum": codes}, "hint": {"type": "string"},
            "outcome": {"type": "string", "enum": ["rejected", "unknown"]},
        }}),
    );
    Value::Object(all)
}

fn type_of(kind: &str) -> Value {
    if let Some(inner) = kind.strip_suffix('?') {
        return json!({"oneOf": [type_of(inner), {"type": "null"}]});
    }
    if let Some(inner) = kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
        return json!({"type": "array", "items": type_of(inner)});
    }
    if let Some(inner) = kind.strip_prefix('{').and_then(|k| k.strip_suffix('}')) {
        return json!({"type": "object", "additionalProperties": type_of(inner)});
    }
    match kind {
        "text" => json!({"type": "string"}),
        "int" => json!({"type": "integer"}),
        "number" => json!({"type": "number"}),
        "bool" => json!({"type": "boolean"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "any" => json!({}),
        other => reference(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_protocol::api::{JobView, Stats};
    use std::collections::BTreeSet;

    #[test]
    fn every_path_and_method_of_the_table_is_described_and_nothing_else_is() {
        let routed: BTreeSet<_> = TABLE.iter().flat_map(|r| r.methods.iter().map(|m| (r.path, *m))).collect();
        let described: BTreeSet<_> = OPERATIONS.iter().map(|o| (o.path, o.method)).collect();
        assert_eq!(routed, described);
        assert_eq!(OPERATIONS.len(), described.len(), "an operation is described twice");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
        }
    }

    /// Fields that a type has and the description lacks are found by serialising one.
    #[test]
    fn the_described_fields_are_those_that_are_sent() {
        let job = r#"{"id":1,"alias":null,"name":null,"owner":"a","queue":"q","state":"QUEUED","substate":null,"cause":null,
            "attempt":0,"priority":0,"created_at":"2026-11-24T10:00:00Z","progress":null,"result":null,"labels":{},"spec":{}}"#;
        let job = serde_json::to_value(serde_json::from_str::<JobView>(job).unwrap()).unwrap();
        let stats = serde_json::to_value(Stats::default()).unwrap();
        let schemas = schemas();
        for (name, value) in [("Job", job), ("Stats", stats)] {
            for field in value.as_object().unwrap().keys() {
                assert!(schemas[name]["properties"][field].is_object(), "{name}.{field} is not described");
            }
        }
    }
}
