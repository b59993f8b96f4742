//! The kind `TableMap`: what keeps one destination table in step with one source table.

use super::{Bytes, Field, LocalRef, RuleSpec, TableMapStatus, TableRef};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keeps a destination table in step with a source table, and queues its changes while it is paused.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tablemap.dev",
    version = "v1alpha1",
    kind = "TableMap",
    plural = "tablemaps",
    singular = "tablemap",
    shortname = "tm",
    category = "tablemap-all",
    namespaced,
    doc = "Keeps a destination table in step with a source table, and queues its changes while it is paused.",
    status = "TableMapStatus",
    selectable = ".spec.source.connectionRef.name",
    selectable = ".spec.workerGroup",
    selectable = ".spec.destination.connectionRef.name",
    selectable = ".spec.state",
    selectable = ".status.phase",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.phaseTime"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queue.records"),
    printcolumn(name = "Errors", type_ = "integer", json_path = ".status.errors.count"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source.table.name", priority = 1),
    printcolumn(name = "Destination", type_ = "string", json_path = ".spec.destination.table.name", priority = 1),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.queue.oldestTime", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("name must be a DNS label of at most 63 characters"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.integrationKey.all(k, self.fields.exists(f, f.destination == k))").message("every column of `integrationKey` must be a destination in `fields`").field_path(".integrationKey"),
    validation = Rule::new("self.fields.all(f, !(f.destination in self.integrationKey) || (has(f.source) && !has(f.transforms)))").message("key columns must come from a source column without transforms").field_path(".fields"),
    validation = Rule::new("self.fields.filter(f, f.destination in self.integrationKey) == oldSelf.fields.filter(f, f.destination in oldSelf.integrationKey)").message("the fields of key columns must not change, nor their order; delete the TableMap and make a new one").field_path(".fields"),
    validation = Rule::new("(has(self.queue) && has(self.queue.id) ? self.queue.id : '') == (has(oldSelf.queue) && has(oldSelf.queue.id) ? oldSelf.queue.id : '')").message("`queue.id` must not change; delete the TableMap and make a new one").field_path(".queue"),
    validation = Rule::new("!has(oldSelf.queue) || !has(oldSelf.queue.connectionRef) || (has(self.queue) && has(self.queue.connectionRef) && self.queue.connectionRef == oldSelf.queue.connectionRef)").message("`queue.connectionRef` must not change once it is set").field_path(".queue"),
)]
pub struct TableMapSpec {
    /// What the map should do. Running (the default): changes are written to the destination as they come. Paused:
    /// they are queued, in order, until it is Running again. May be changed at any time. More values may come.
    #[serde(default)]
    pub state: State,
    /// Paused until then, though `state` is Running: a pause that ends by itself. A time in the past does nothing. With
    /// `state: Paused` the map stays paused beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    #[schemars(regex(
        pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$"
    ))]
    #[x_kube(validation = Rule::new("self < timestamp('9000-01-01T00:00:00Z')").message("must be a time before the year 9000; for a pause without end set `state: Paused`"))]
    pub pause_until_time: Option<String>,
    /// Maps of one source Connection and one group share a worker and a replication slot; a busy map gets a group of
    /// its own. Default: default. Must not change.
    #[serde(default = "default_group")]
    #[schemars(
        length(min = 1, max = 15),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub worker_group: String,
    /// Where changes come from.
    pub source: SourceSpec,
    /// Where they are written.
    pub destination: DestinationSpec,
    /// Destination columns that identify a row, in the order in which keys are shown. A unique index on exactly these
    /// columns must exist. Must not change.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic, validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub integration_key: Vec<String>,
    /// Which destination columns are written, and from what. A change applies to later changes and to what is queued.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["destination".into()]))]
    pub fields: Vec<Field>,
    /// Where changes are queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueSpec>,
    /// How many refused records are kept, and for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorsSpec>,
    /// How the queue is replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
    /// What is done when the destination refuses too much. A changed rule holds at once. A pause that a rule has begun stays
    /// though the rule is changed or removed, until a `TableMapOperation` with action Resume, or a `state` that was Paused
    /// and is Running again, ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Option<Vec<RuleSpec>>,
    /// What becomes of queued records when the map is deleted. Drain (the default): they are written first, once
    /// nothing wants a pause. Discard: they are dropped. May be changed while the map is being deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What the map should do.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    Running,
    Paused,
}

/// What becomes of queued records when the map is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    #[default]
    Drain,
    Discard,
}

/// Where changes come from.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceSpec {
    /// The source's Connection. Must not change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub connection_ref: LocalRef,
    /// The source table. Must not change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub table: TableRef,
    /// Which rows are replicated. Default: all. A change applies to later changes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<SourceFilter>,
}

/// Which rows are replicated.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFilter {
    /// A CEL expression over `row`: integers as int, floats as double, booleans as bool, all else as text, NULL as
    /// null. A row for which it cannot be evaluated is parked.
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
    /// What an update does that makes a row leave the filter. Delete (the default): the row is deleted at the
    /// destination. Keep: it stays there as it is.
    #[serde(default)]
    pub on_exit: OnExit,
}

/// What an update does that makes a row leave the filter.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExit {
    #[default]
    Delete,
    Keep,
}

/// Where changes are written.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationSpec {
    /// The destination's Connection. Must not change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub connection_ref: LocalRef,
    /// The destination table. Must not change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("must not change; delete the TableMap and make a new one"))]
    pub table: TableRef,
    /// Where changes wait while the destination is away. Buffer (the default): in the queue. Hold: at the source, which keeps
    /// its log for them; the map is Blocked meanwhile. What a pause queues is queued all the same.
    #[serde(default)]
    pub outage_policy: OutagePolicy,
}

/// Where changes wait while the destination is away.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutagePolicy {
    #[default]
    Buffer,
    Hold,
}

/// Where changes are queued.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// A Connection to Redis or Valkey. Default: the Connection named by the operator's --default-queue, in this
    /// namespace. Must not change once it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_ref: Option<LocalRef>,
    /// The `status.queue.id` of a map that is gone and was not cleaned up: this one goes on where that one stopped, with
    /// what it had queued, its errors and its counts. Of several maps that name one queue, the oldest has it. Default: a
    /// queue of its own. Must not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    pub id: Option<String>,
    /// How much may be queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<QueueLimits>,
}

/// How much may be queued, by each measure; whichever is reached first counts.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueLimits {
    /// Here changes stay at the source until half of it is drained. Default: 1 GiB, and 604800 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<QueueBounds>,
    /// Here `WithinLimits` becomes False. Default: 80 % of the hard limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<QueueBounds>,
}

/// A bound for each measure.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueBounds {
    /// Records that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub records: Option<i64>,
    /// Their size in Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// Age of the oldest of them, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub age_seconds: Option<i64>,
}

impl TableMap {
    /// Names a queue that another object had.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.spec.queue.as_ref().is_some_and(|queue| queue.id.is_some())
    }

    /// Names its queue in Redis and its progress at the destination: what it adopts, or its own UID.
    #[must_use]
    pub fn queue_id(&self) -> String {
        let adopted = self.spec.queue.as_ref().and_then(|queue| queue.id.clone());
        adopted.or_else(|| self.metadata.uid.clone()).unwrap_or_default()
    }

    /// Of maps that name one queue, the least has it: whose own it is, else the one that serves already, else the oldest. One
    /// that is not applied yet comes last.
    #[must_use]
    pub fn precedence(&self) -> impl Ord + use<> {
        let metadata = &self.metadata;
        let adopts = metadata.uid.as_ref() != Some(&self.queue_id());
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let serves = self.status.as_ref().is_some_and(|status| status.queue.is_some());
        (adopts, !serves, created.is_none(), created, metadata.uid.clone())
    }
}

/// How many refused records are kept, and for how long.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorsSpec {
    /// A record that has waited for so long is purged: it never reaches the destination. Default: 604800, 7 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 315_360_000))]
    pub retention_seconds: Option<i64>,
    /// When so many wait, the map buffers instead of parking more. Default: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_records: Option<i64>,
}

/// How the queue is replayed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatchUp {
    /// Records a second at most. Default: no limit. Of maps that are replayed together, the lowest governs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_records_per_second: Option<i64>,
}

fn default_group() -> String {
    "default".into()
}
