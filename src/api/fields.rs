//! `spec.fields`: which destination column gets what.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One destination column.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.source) != has(self.value)").message("must have exactly one of `source` and `value`"))]
pub struct Field {
    /// Exact name of the destination column.
    #[schemars(length(min = 1, max = 63))]
    pub destination: String,
    /// Exact name of the source column that fills it. Exactly one of `source` and `value` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub source: Option<String>,
    /// A constant that fills it, in a text form that the column's type reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
    /// Steps that change the value, carried out in order. A corrected step also applies to records that are queued
    /// or parked already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub transforms: Vec<Transform>,
}

/// One step; exactly one member is given.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.default), has(self.valueMap), has(self.truncate)].filter(x, x).size() == 1").message("must hold exactly one transform"))]
pub struct Transform {
    /// Replaces NULL. A column that the source did not send (unchanged TOAST) stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultTransform>,
    /// Replaces values by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_map: Option<ValueMap>,
    /// Cuts text to a number of characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<Truncate>,
}

/// What replaces NULL.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefaultTransform {
    /// The text that replaces NULL.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// Which values become which.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueMap {
    /// Pairs of values.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["from".into()]))]
    #[schemars(length(max = 1000))]
    pub entries: Vec<ValueMapEntry>,
    /// What NULL becomes. Default: it stays NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_null: Option<OnNull>,
    /// What becomes of a value that no entry names. Default: policy Error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_unmatched: Option<OnUnmatched>,
}

/// One pair. Exactly one of `to` and `toNull` is given: the worker checks it, since a rule over all entries would cost
/// the API server too much.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueMapEntry {
    /// The source's text.
    #[schemars(length(max = 255))]
    pub from: String,
    /// The destination's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub to: Option<String>,
    /// The destination gets NULL. Only `true` means anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_null: Option<bool>,
}

/// What NULL becomes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnNull {
    /// The text that NULL becomes.
    #[schemars(length(max = 255))]
    pub value: String,
}

/// What becomes of other values.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.policy == 'Value') == has(self.value)").message("`value` must be given with policy Value, and only then"))]
pub struct OnUnmatched {
    /// Keep: as it is. Null: NULL. Value: `value`. Error (the default): the record is parked.
    #[serde(default)]
    pub policy: UnmatchedPolicy,
    /// The text for policy Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub value: Option<String>,
}

/// What becomes of a value that no entry names.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmatchedPolicy {
    Keep,
    Null,
    Value,
    #[default]
    Error,
}

/// How long text may be.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Truncate {
    /// Unicode characters that stay.
    #[schemars(range(min = 1, max = 10_485_760))]
    pub max_characters: i64,
}
