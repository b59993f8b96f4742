//! The kind `TableMapOperation`: one command on one map, carried out once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[allow(
    clippy::duplicated_attributes,
    reason = "each column that is printed has a type of its own"
)]
/// A command on one `TableMap`, carried out once. It cannot be changed; deleting it ends it: what was done stays done.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tablemap.dev",
    version = "v1alpha1",
    kind = "TableMapOperation",
    plural = "tablemapoperations",
    singular = "tablemapoperation",
    shortname = "tmop",
    category = "tablemap-all",
    namespaced,
    doc = "A command on one TableMap, carried out once. Never keep one in Git.",
    status = "TableMapOperationStatus",
    selectable = ".spec.tableMapRef.name",
    selectable = ".spec.action",
    selectable = ".status.phase",
    printcolumn(name = "Map", type_ = "string", json_path = ".spec.tableMapRef.name"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("must not change; make a new TableMapOperation"),
    validation = Rule::new("(self.action == 'AcceptGap') == has(self.acceptGap)").message("`acceptGap` must be given with action AcceptGap, and only then").field_path(".acceptGap"),
    validation = Rule::new("(self.action in ['Retry', 'Discard', 'Park']) == has(self.from)").message("`from` must be given with actions Retry, Discard and Park, and only then").field_path(".from"),
    validation = Rule::new("(self.action in ['Retry', 'Discard', 'Park']) == has(self.selection)").message("`selection` must be given with actions Retry, Discard and Park, and only then").field_path(".selection"),
    validation = Rule::new("!has(self.from) || (self.action == 'Retry' ? self.from == 'Errors' : self.action == 'Park' ? self.from == 'Queue' : true)").message("`from` must be Errors with action Retry, and Queue with action Park").field_path(".from"),
    validation = Rule::new("!has(self.maxRecordsPerSecond) || self.action == 'Retry'").message("`maxRecordsPerSecond` goes with action Retry only").field_path(".maxRecordsPerSecond"),
    validation = Rule::new("self.mode != 'DryRun' || self.action in ['Retry', 'Discard', 'Park']").message("`mode` DryRun goes with actions Retry, Discard and Park only").field_path(".mode"),
)]
pub struct TableMapOperationSpec {
    /// The map, in the same namespace.
    pub table_map_ref: TableMapRef,
    /// What to do. `Retry`: write parked records again. `Discard`: give parked or
    /// queued records up. `Park`: keep queued records as errors. `Resume`: end the pauses that rules have begun.
    /// `AcceptGap`: go on without the changes that are lost. More values may come.
    pub action: Action,
    /// From where records are taken: with actions `Retry`, `Discard` and `Park`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RecordsFrom>,
    /// Which of them: with actions `Retry`, `Discard` and `Park`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// `DryRun` only counts what is selected.
    #[serde(default)]
    pub mode: Mode,
    /// With action `Retry`: no more records than these are written in a second. Default: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), extend("format" = "int32"))]
    pub max_records_per_second: Option<u32>,
    /// With action `AcceptGap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_gap: Option<AcceptGap>,
    /// The operation is deleted so long after it has ended. Default: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_finished: Option<i64>,
}

/// A `TableMap` in the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMapRef {
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// What to do.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    AcceptGap,
    Retry,
    Discard,
    Park,
    Resume,
}

/// From where records are taken.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordsFrom {
    /// What the destination has refused.
    Errors,
    /// What waits in the queue: the map skips it.
    Queue,
}

/// Whether it is done, or only counted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Execute,
    DryRun,
}

/// Which records. `type` tells which of the fields counts, so that an empty list can never mean all.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'IDs') == has(self.ids)").message("`ids` must be given with type IDs, and only then").field_path(".ids"),
    validation = Rule::new("(self.type == 'Keys') == has(self.keys)").message("`keys` must be given with type Keys, and only then").field_path(".keys"),
    validation = Rule::new("(self.type == 'Match') == has(self.match)").message("`match` must be given with type Match, and only then").field_path(".match"),
)]
pub struct Selection {
    /// All, or those of some `ids`, `keys`, or that `match`.
    #[serde(rename = "type")]
    pub type_: SelectionType,
    /// Names of errors, as status and messages give them; or of queued records, as the records API gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 128)))]
    pub ids: Option<Vec<String>>,
    /// Integration keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub keys: Option<Vec<RecordKey>>,
    /// An expression.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub match_: Option<Match>,
}

/// Which field of a selection counts.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SelectionType {
    All,
    #[serde(rename = "IDs")]
    Ids,
    Keys,
    Match,
}

/// One integration key.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordKey {
    /// Its columns, in the order of `spec.integrationKey` of the map, as the error, or the queued record, shows them.
    #[schemars(length(min = 1, max = 16), inner(length(max = 4096)))]
    pub values: Vec<String>,
}

/// An expression over records.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// CEL. From `Errors` over `error` (id, key, operation, class, code, object, message, attempts, firstTime, lastTime) and
    /// `row`, the source row: `error.code == '23503' && row.country == 'DE'`. From `Queue` over `record` (key, operation,
    /// commitTime) and `row`: `record.operation == 'Delete'`. The key is a list of its columns' texts; operations are
    /// Insert, Update and Delete; times are texts such as `2026-11-24T07:02:55Z`.
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
}

/// Which gap is accepted.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptGap {
    /// Must equal `status.blocked.gap.lostAfter` of the map, so that nobody accepts a gap that he has not seen.
    #[schemars(length(min = 3, max = 17), regex(pattern = r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"))]
    pub lost_after: String,
}

/// How far an operation is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableMapOperationStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For people: Waiting, Running, Complete or Failed. Programs read conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What was done, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// Who asked for it, as far as the object says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// What there was when it began: later records are untouched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<Cutoff>,
    /// How many records it has selected, and what came of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<OperationCounts>,
    /// The first records that were refused again, without row data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Option<Vec<OperationFailure>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Complete, Failed and Waiting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What there was when an operation began.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Cutoff {
    /// The last error that it has looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_id: Option<String>,
}

/// What came of the records of an operation: `selected` is the sum of the others.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct OperationCounts {
    /// Records that waited, and were selected, when it began.
    pub selected: i64,
    /// Written, or given up.
    pub completed: i64,
    /// Refused again.
    pub failed: i64,
    /// Replaced by a newer record before it came to them.
    pub superseded: i64,
    /// To be done.
    pub remaining: i64,
    /// As of when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// One record that was refused again.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationFailure {
    /// Names the record.
    pub id: String,
    /// Application, `BadRequest`, Unauthorized, Throttled, Unavailable, Timeout or Schema.
    pub class: String,
    /// SQLSTATE, or a code of our own.
    pub code: String,
    /// The table, constraint or column concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
}

impl TableMapOperation {
    /// It has been carried out, or never will be.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let conditions = self.status.iter().flat_map(|status| &status.conditions);
        conditions
            .into_iter()
            .any(|said| matches!(said.type_.as_str(), "Complete" | "Failed") && said.status == "True")
    }
}
