//! The kind `TableMapOperation`: one command on one map, carried out once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[allow(
    clippy::duplicated_attributes,
    reason = "each column that is printed has a type of its own"
)]
/// A command on one `TableMap`, carried out once. It cannot be changed; deleting it before it has begun takes it back.
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
)]
pub struct TableMapOperationSpec {
    /// The map, in the same namespace.
    pub table_map_ref: TableMapRef,
    /// What to do. `AcceptGap`: go on without the changes that are lost. More values may come.
    pub action: Action,
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
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Complete, Failed and Waiting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
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
