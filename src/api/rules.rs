//! Rules of a `TableMap`: what is done when the destination refuses too much.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Watches what the destination refuses of a map, and pauses the map, or tells, when it is too much.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// Names the rule within the map: in status, events and messages.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Which refusals count.
    #[serde(rename = "match")]
    pub match_: RuleMatch,
    /// How many of them are too many.
    pub threshold: RuleThreshold,
    /// Refusals of the last so many seconds count. Default: 900.
    #[serde(default = "default_window")]
    #[schemars(range(min = 1, max = 86_400))]
    pub window_seconds: i64,
    /// What is done then. Pause: the map is paused, until it is resumed. Notify: an event tells.
    pub action: RuleAction,
    /// Enforce (the default), or `DryRun`: an event tells what the rule would have done.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// So long after it has fired, or after its pause has ended, the rule does not fire. Each time that it fires again soon
    /// after, twice as long, up to 64 times. Default: 600.
    #[serde(default = "default_cooldown")]
    #[schemars(range(min = 0, max = 86_400))]
    pub cooldown_seconds: i64,
    /// What ends a pause by this rule, beside a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<RuleResume>,
}

/// What ends a pause by a rule.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.policy == 'WhenHealthy') == has(self.whenHealthy)").message("`whenHealthy` must be given with policy WhenHealthy, and only then").field_path(".whenHealthy"))]
pub struct RuleResume {
    /// Manual (the default): nothing else does. `WhenHealthy`: after a while the first records of the queue are written, as a
    /// trial. If none of them is refused in a way that the rule counts, the map goes on; else the pause stays, and the next
    /// trial is later.
    #[serde(default)]
    pub policy: ResumePolicy,
    /// How a trial is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_healthy: Option<WhenHealthy>,
}

/// What ends a pause by a rule.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResumePolicy {
    #[default]
    Manual,
    WhenHealthy,
}

/// How a trial is made.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhenHealthy {
    /// So many records of the queue's head are written; what is refused of them is parked. Default: 20.
    #[serde(default = "default_canary")]
    #[schemars(range(min = 1, max = 10_000))]
    pub canary_records: i64,
    /// So long after the rule has fired. After a trial that failed twice as long, up to 64 times. Default: 300.
    #[serde(default = "default_after")]
    #[schemars(range(min = 5, max = 86_400))]
    pub after_seconds: i64,
}

/// Which refusals count: those of one of the `classes`, and those with one of the `codes`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.classes) || has(self.codes)").message("must have `classes`, `codes` or both"))]
pub struct RuleMatch {
    /// Application: a constraint, a trigger or a business rule refuses the record. `BadRequest`: a value does not fit its
    /// column. What hits all records alike, such as a destination that is away, is no refusal: the map buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub classes: Option<Vec<RefusalClass>>,
    /// SQLSTATEs or codes of our own, as errors show them. A last `*` stands for any end: `23*` is every violated
    /// constraint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 32), regex(pattern = r"^[0-9A-Za-z]*\*?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub codes: Option<Vec<String>>,
}

/// A class of records that are refused.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalClass {
    Application,
    BadRequest,
}

/// How many are too many.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.count) != has(self.percent)").message("must have exactly one of `count` and `percent`"))]
pub struct RuleThreshold {
    /// So many refusals within the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub count: Option<i64>,
    /// So large a share of the records that were written or refused within the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<RulePercent>,
}

/// A share of records.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulePercent {
    /// The share, in percent.
    #[schemars(range(min = 1, max = 100), extend("format" = "int32"))]
    pub percent: u32,
    /// Of fewer records than these it says nothing.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_records: i64,
}

/// What a rule does.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleAction {
    Notify,
    Pause,
}

/// Whether a rule acts.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    #[default]
    Enforce,
    DryRun,
}

const fn default_window() -> i64 {
    900
}

const fn default_canary() -> i64 {
    20
}

const fn default_after() -> i64 {
    300
}

const fn default_cooldown() -> i64 {
    600
}
