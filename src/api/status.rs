//! The status of a `TableMap`. The worker owns all but `observedGeneration` and the conditions Ready, Reconciling,
//! Stalled, `SpecValid` and `WorkerAvailable`, which are the operator's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

macro_rules! atomic {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
        pub struct $name {
            $($(#[$field_doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)+
        }
    };
}

/// What is known of a map.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMapStatus {
    /// The least generation that all conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the map is doing, for people: Starting, Running, Pausing, Paused, Buffering, `CatchingUp`, Blocked, Deleting
    /// or Unknown. Programs read conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_time: Option<Time>,
    /// Who wants a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cause".into(), "name".into()]))]
    pub pauses: Option<Vec<Pause>>,
    /// How the rules of the spec stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Option<Vec<RuleStatus>>,
    /// Why changes are not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// How far the map has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<PositionStatus>,
    /// What is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// The progress of a catch-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUpStatus>,
    /// What the destination has refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorsStatus>,
    /// The books: received = written + inFlight + queued + errored + superseded + discarded + purged + filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,
    /// Standard conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Who wants a pause.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Spec or Rule; later also Window and Dependency.
    pub cause: String,
    /// Of the field, rule or object.
    pub name: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_time: Option<Time>,
    /// Until when, if it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_time: Option<Time>,
    /// Who asked, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why, and what ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a rule stands.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// As in the spec.
    pub name: String,
    /// Refusals that match, within the window.
    pub count: i64,
    /// Records that were written or refused within the window.
    pub records: i64,
    /// When it last fired, or would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_fired_time: Option<Time>,
    /// It does not fire before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_until_time: Option<Time>,
}

atomic! {
/// Why changes are not taken.
Blocked {
    /// As in the conditions.
    reason: String,
    /// The phase that follows when it is mended.
    returns_to: String,
    /// Since when.
    since_time: Time,
    /// WAL that the source keeps, in bytes.
    source_retained_bytes: i64,
    /// WAL that the source may still write before it gives the slot up, in bytes.
    source_safe_bytes: i64,
    /// What is lost, if anything is.
    gap: GapStatus,
}
}

atomic! {
/// Changes that nobody holds any more. A `TableMapOperation` with action `AcceptGap` goes on without them.
GapStatus {
    /// Changes after this position of the source's log are lost. What `acceptGap.lostAfter` must name.
    lost_after: String,
    /// Changes after this one are held again. Absent: not known yet.
    lost_until: String,
}
}

atomic! {
/// How far the map has come.
PositionStatus {
    /// The last position that arrived.
    received: String,
    /// Everything up to here is written, queued or filtered, durably.
    durable: String,
    /// When the last change that arrived was committed at the source.
    commit_time: Time,
    /// From the source's commit to durable, in seconds.
    lag_seconds: i64,
    /// The same in bytes of WAL.
    lag_bytes: i64,
}
}

atomic! {
/// What is queued.
QueueStatus {
    /// The Connection that holds the queue.
    connection: String,
    /// Names the queue within it.
    id: String,
    /// Records that wait.
    records: i64,
    /// Their size in Redis, in bytes.
    bytes: i64,
    /// When the oldest of them was committed at the source.
    oldest_time: Time,
}
}

atomic! {
/// The progress of a catch-up.
CatchUpStatus {
    /// When it began.
    start_time: Time,
    /// Records written.
    replayed: i64,
    /// Records parked.
    failed: i64,
    /// Records that wait.
    remaining: i64,
    /// Records written a second.
    records_per_second: i64,
    /// Records that arrive a second.
    arriving_per_second: i64,
    /// When it will be done, if it goes on like this.
    estimated_end_time: Time,
}
}

atomic! {
/// What the destination has refused.
ErrorsStatus {
    /// Records that wait for a retry.
    count: i64,
    /// The same by class.
    by_class: Vec<ClassCount>,
    /// The newest few, without row data.
    recent: Vec<RecentError>,
}
}

/// Errors of one class.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassCount {
    /// Application, `BadRequest`, Unauthorized, Throttled, Unavailable, Timeout or Schema.
    pub class: String,
    /// How many.
    pub count: i64,
}

/// One error.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentError {
    /// Names the record.
    pub id: String,
    /// Insert, Update or Delete.
    pub operation: String,
    /// As in `byClass`.
    pub class: String,
    /// SQLSTATE, or a code of our own.
    pub code: String,
    /// The table, constraint or column concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What to do.
    pub remedy: String,
    /// How often it was tried.
    pub attempts: i64,
    /// Pending, Failed, Completed or Superseded.
    pub retry_status: String,
    /// When it was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

atomic! {
/// The books of a map; each counts records since the map was made.
LedgerStatus {
    /// Changes that arrived.
    received: i64,
    /// Written at the destination.
    written: i64,
    /// On their way.
    in_flight: i64,
    /// In the queue.
    queued: i64,
    /// Refused, and waiting for a retry.
    errored: i64,
    /// Refused, and then replaced by a newer record.
    superseded: i64,
    /// Given up by a person.
    discarded: i64,
    /// Given up when their time was over.
    purged: i64,
    /// Left out by the filter.
    filtered: i64,
    /// As of when.
    time: Time,
}
}
