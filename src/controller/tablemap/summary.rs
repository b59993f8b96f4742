//! The operator's conditions: a function of the spec, the worker's conditions and the worker's Lease. Pure.

use crate::{
    api::{DeletionPolicy, TableMap},
    controller::pods::Why,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use std::time::Duration;

/// Who works for the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    None { why: Option<Why> },
    Holds { name: String, why: Option<Why> },
    Expired { name: String, why: Option<Why> },
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub spec: Result<(), (&'static str, String)>,
    /// What the spec refers to is not there: the API server has said so.
    pub missing: bool,
    /// The queue that it would adopt is another map's.
    pub refused: bool,
    pub worker: Worker,
}

impl Found {
    /// Nothing is amiss that could be mended without an event.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.spec.is_ok() && matches!(self.worker, Worker::Holds { why: None, .. })
    }
}

struct Said {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

fn said(type_: &'static str, yes: bool, reason: &str, message: impl Into<String>) -> Said {
    Said {
        type_,
        status: if yes { "True" } else { "False" },
        reason: reason.into(),
        message: message.into(),
    }
}

/// The worker has removed what the map had outside Kubernetes.
pub fn is_cleaned_up(map: &TableMap) -> bool {
    condition(map, "CleanedUp").is_some_and(|found| found.status == "True")
}

/// Whether a map that is to go has been without what it refers to for so long that nobody can clean up after it. Records
/// that are to be written first are not given up: `deletionPolicy: Discard` does that.
pub fn is_given_up(map: &TableMap, patience: Duration, now: Timestamp) -> bool {
    let since = |time: Timestamp| now.duration_since(time).unsigned_abs() >= patience;
    let deleted = map.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let unresolved = condition(map, "SpecValid")
        .filter(|found| found.status == "False")
        .map(|found| found.last_transition_time.0);
    let queued = condition(map, "CleanedUp").is_some_and(|found| found.reason == "QueueNotEmpty");
    let drains = queued && map.spec.deletion_policy == DeletionPolicy::Drain;
    deleted.is_some_and(since) && unresolved.is_some_and(since) && !drains
}

fn condition<'a>(map: &'a TableMap, type_: &str) -> Option<&'a Condition> {
    map.status
        .as_ref()?
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

fn is_true(map: &TableMap, type_: &str) -> bool {
    condition(map, type_).is_some_and(|found| found.status == "True")
}

/// The status that the operator applies.
pub fn status(map: &TableMap, found: &Found, now: Timestamp) -> Value {
    let generation = map.metadata.generation.unwrap_or(0);
    let gone = matches!(found.worker, Worker::Expired { .. });
    let observed = observed(map, found, generation);
    // What is summed up of the worker's conditions is of the spec that these are of.
    let summed = summary(map, found, now);
    let mut conditions: Vec<Value> = summed
        .iter()
        .map(|said| value(map, said, observed, now))
        .collect();
    for said in [spec_valid(found), worker_available(found)] {
        conditions.push(value(map, &said, generation, now));
    }
    if gone {
        conditions.extend(unknown(map, generation, now));
    }
    let mut status = json!({"observedGeneration": observed, "conditions": conditions});
    if gone {
        status["phase"] = json!("Unknown");
    }
    status
}

/// Up to which change of the spec somebody has acted: the worker, unless there is nothing for it to do.
fn observed(map: &TableMap, found: &Found, generation: i64) -> i64 {
    if found.spec.is_err() || matches!(found.worker, Worker::Expired { .. }) {
        return generation;
    }
    let theirs = map.status.iter().flat_map(|status| &status.conditions);
    let least = theirs
        .filter(|known| !OURS.contains(&known.type_.as_str()))
        .filter_map(|known| known.observed_generation);
    least.min().unwrap_or(0).min(generation)
}

/// The reason of a condition that is True in a status that is to be applied.
pub fn reason<'a>(status: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = status["conditions"].as_array()?;
    let is_it = |said: &&Value| said["type"] == type_ && said["status"] == "True";
    conditions.iter().find(is_it)?["reason"].as_str()
}

const OURS: &[&str] = &["Ready", "Reconciling", "Stalled", "SpecValid", "WorkerAvailable"];
const THEIRS: &[&str] = &[
    "Paused",
    "CaughtUp",
    "SchemaValid",
    "SourceConnected",
    "DestinationConnected",
    "QueueDurable",
    "WithinLimits",
];

/// Nobody works: what the worker last said may not be true any more. Paused=True stays: the fence keeps it true.
fn unknown(map: &TableMap, generation: i64, now: Timestamp) -> Vec<Value> {
    let stays = |type_: &str| type_ == "Paused" && is_true(map, type_);
    THEIRS
        .iter()
        .map(|type_| {
            let status = if stays(type_) { "True" } else { "Unknown" };
            let message = "The worker's Lease has expired; nobody knows.".to_owned();
            let said = Said {
                type_,
                status,
                reason: "WorkerUnavailable".into(),
                message,
            };
            value(map, &said, generation, now)
        })
        .collect()
}

fn value(map: &TableMap, said: &Said, generation: i64, now: Timestamp) -> Value {
    let known = condition(map, said.type_).filter(|known| known.status == said.status);
    let since = match known {
        Some(known) => json!(known.last_transition_time),
        None => json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    };
    json!({
        "type": said.type_, "status": said.status, "reason": said.reason, "message": said.message,
        "observedGeneration": generation, "lastTransitionTime": since,
    })
}

/// Whether the object says this already.
pub fn says(map: &TableMap, status: &Value) -> bool {
    let Ok(known) = serde_json::to_value(&map.status) else {
        return false;
    };
    let same = |name: &str| status.get(name).is_none() || known.get(name) == status.get(name);
    let conditions = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .all(|wanted| {
            known["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|found| found == wanted)
        });
    same("observedGeneration") && same("phase") && conditions
}

/// Ready, Reconciling and Stalled. Asked-for pauses are Ready, and so is a catch-up: `GitOps` tools must not fail on it.
fn summary(map: &TableMap, found: &Found, now: Timestamp) -> Vec<Said> {
    let (ready, reconciling, stalled) = judge(map, found, now);
    let message = |type_: &str| {
        condition(map, type_)
            .map(|found| found.message.clone())
            .unwrap_or_default()
    };
    let text = match ready.1.as_str() {
        "Running" => "Changes are written directly.".to_owned(),
        "PausedAsRequested" => "Paused as the spec asks; changes are queued.".into(),
        "SpecInvalid" => found
            .spec
            .as_ref()
            .err()
            .map(|(_, text)| text.clone())
            .unwrap_or_default(),
        "WorkerUnavailable" => worker_available(found).message,
        "SchemaMismatch" => message("SchemaValid"),
        "PausedByRule" => rule(map).unwrap_or_else(|| message("Paused")),
        "CannotFence" => message("Paused"),
        "Starting" if matches!(found.worker, Worker::None { .. }) => worker_available(found).message,
        "Starting" => hindrance(map).unwrap_or_else(|| message("CaughtUp")),
        _ => message("CaughtUp"),
    };
    let stalled_text = if stalled.is_some() {
        text.clone()
    } else {
        "Nothing needs a person.".into()
    };
    vec![
        said("Ready", ready.0, &ready.1, text.clone()),
        match reconciling {
            Some(reason) => said("Reconciling", true, reason, text.clone()),
            None => said("Reconciling", false, "Settled", "Nothing is changing."),
        },
        match stalled {
            Some(reason) => said("Stalled", true, &reason, stalled_text),
            None => said("Stalled", false, "NotStalled", stalled_text),
        },
    ]
}

/// Why a rule holds a map, and what ends that.
fn rule(map: &TableMap) -> Option<String> {
    let pauses = map.status.as_ref()?.pauses.as_ref()?;
    pauses.iter().find_map(|pause| pause.message.clone())
}

/// What keeps a map from being taken over.
fn hindrance(map: &TableMap) -> Option<String> {
    let ways = ["SourceConnected", "DestinationConnected"];
    let failed = |type_: &&str| condition(map, type_).filter(|found| found.status == "False");
    ways.iter().find_map(failed).map(|found| found.message.clone())
}

type Judged = ((bool, String), Option<&'static str>, Option<String>);

/// A worker that is replaced is back by then: an upgrade is no reason to call somebody.
const REPLACED: Duration = Duration::from_secs(15);

/// Since when nobody has worked for the map, as its status tells, for longer than it takes to replace a worker.
fn is_left_alone(map: &TableMap, now: Timestamp) -> bool {
    let alone = condition(map, "WorkerAvailable").filter(|found| found.status == "False");
    alone.is_some_and(|found| now.duration_since(found.last_transition_time.0).unsigned_abs() >= REPLACED)
}

fn judge(map: &TableMap, found: &Found, now: Timestamp) -> Judged {
    let phase = map
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Starting");
    let both = |reason: &str| ((false, reason.to_owned()), None, Some(reason.to_owned()));
    if map.metadata.deletion_timestamp.is_some() {
        return ((false, "Deleting".into()), Some("Deleting"), None);
    }
    if found.spec.is_err() {
        return both("SpecInvalid");
    }
    if matches!(found.worker, Worker::Expired { .. }) {
        let reason = "WorkerUnavailable";
        return if is_left_alone(map, now) {
            both(reason)
        } else {
            ((false, reason.into()), Some(reason), None)
        };
    }
    let schema = condition(map, "SchemaValid").is_some_and(|found| found.status == "False");
    let fence = condition(map, "Paused").is_some_and(|found| found.reason == "CannotFence");
    let by_rule = condition(map, "Paused").is_some_and(|found| found.reason == "RequestedByRule");
    match phase {
        "Blocked" => {
            let blocked = map
                .status
                .as_ref()
                .and_then(|status| status.blocked.as_ref()?.reason.clone());
            match blocked.as_deref() {
                // It is what the spec asks for, and ends by itself.
                Some(held @ "OutageHeld") => ((false, held.to_owned()), None, None),
                known => both(known.unwrap_or("QueueUnavailable")),
            }
        }
        // The schema may be what the pause is for.
        "Paused" if by_rule => both("PausedByRule"),
        "Paused" => ((true, "PausedAsRequested".into()), None, None),
        _ if schema => both("SchemaMismatch"),
        "Running" => ((true, "Running".into()), None, None),
        "CatchingUp" => ((true, "CatchingUp".into()), None, None),
        "Pausing" if fence => both("CannotFence"),
        "Pausing" => ((false, "Pausing".into()), Some("Pausing"), None),
        "Buffering" => ((false, "Buffering".into()), None, None),
        _ => ((false, "Starting".into()), Some("Starting"), None),
    }
}

fn spec_valid(found: &Found) -> Said {
    match &found.spec {
        Ok(()) => said(
            "SpecValid",
            true,
            "Accepted",
            "References resolve, expressions compile.",
        ),
        Err((reason, message)) => said("SpecValid", false, reason, message.clone()),
    }
}

fn worker_available(found: &Found) -> Said {
    match &found.worker {
        Worker::Holds { name, why } => {
            let mut message = format!("Worker {name} holds its Lease.");
            if let Some(why) = why {
                message = format!("{message} {}", why.message);
            }
            said("WorkerAvailable", true, "LeaseHeld", message)
        }
        Worker::Expired { name, why } => {
            let known = format!("The Lease of worker {name} has expired.");
            unavailable("LeaseExpired", known, why.as_ref())
        }
        Worker::None { why } => unavailable("NoWorker", "No worker has begun yet.".into(), why.as_ref()),
    }
}

/// With what its pod tells, if it has one.
fn unavailable(reason: &'static str, known: String, why: Option<&Why>) -> Said {
    match why {
        None => said("WorkerAvailable", false, reason, known),
        Some(Why { reason, message }) => said("WorkerAvailable", false, reason, format!("{known} {message}")),
    }
}
