//! The operator's conditions: a function of the spec, the worker's conditions and the worker's Lease. Pure.

use crate::{api::TableMap, controller::pods::Why, worker::ResolveError};
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
    pub spec: Result<(), ResolveError>,
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

/// A worker has told of the map.
pub fn has_begun(map: &TableMap) -> bool {
    map.status.as_ref().is_some_and(|status| status.queue.is_some())
}

pub fn condition<'a>(map: &'a TableMap, type_: &str) -> Option<&'a Condition> {
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
    let is_unknown = gone || is_unclaimed(map);
    if is_unknown {
        conditions.extend(unknown(map, generation, now));
    }
    let mut status = json!({"observedGeneration": observed, "conditions": conditions});
    if is_unknown {
        status["phase"] = json!("Unknown");
    }
    status
}

/// Nobody has taken over what we said in the worker's place. Until then it is ours: an apply without it would take fields away
/// that no condition may lack, and the API server would refuse that.
fn is_unclaimed(map: &TableMap) -> bool {
    let mut theirs = THEIRS.iter().filter_map(|type_| condition(map, type_));
    theirs.any(|known| known.reason == UNAVAILABLE)
}

/// Of the worker's conditions, while nobody works.
pub const UNAVAILABLE: &str = "WorkerUnavailable";

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
            let message = "Nobody has told since the worker's Lease expired.".to_owned();
            let said = Said {
                type_,
                status,
                reason: UNAVAILABLE.into(),
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
        "SpecInvalid" => amiss(found).unwrap_or_default(),
        UNAVAILABLE => {
            let known = worker_available(found).message;
            amiss(found).map_or_else(|| known.clone(), |why| format!("{known} {why}"))
        }
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

/// Why the spec cannot be used.
fn amiss(found: &Found) -> Option<String> {
    found.spec.as_ref().err().map(ToString::to_string)
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
    let gone = matches!(found.worker, Worker::Expired { .. });
    // Of a map that has a slot it is more urgent that nobody works.
    if found.spec.is_err() && !(gone && has_begun(map)) {
        return both("SpecInvalid");
    }
    if gone {
        let reason = UNAVAILABLE;
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
        Err(error) => said("SpecValid", false, error.reason(), error.to_string()),
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

#[cfg(test)]
mod tests {
    use super::{super::fixture::map, *};

    /// As the API server has it after such an apply.
    fn after(status: &Value) -> TableMap {
        map(&json!({"generation": 1}), status)
    }

    fn found(worker: fn(String) -> Worker) -> Found {
        Found {
            spec: Ok(()),
            worker: worker("w".into()),
        }
    }

    fn conditions(status: &Value) -> Vec<&str> {
        let all = status["conditions"].as_array().unwrap().iter();
        all.map(|said| said["type"].as_str().unwrap()).collect()
    }

    /// Each write of it costs the API server as much as any: of a thousand maps there must not be one more than is needed.
    #[test]
    fn what_was_said_in_the_workers_place_is_ours_until_the_worker_takes_it_over() {
        let now = "2026-11-24T22:10:00Z".parse().unwrap();
        let expired = found(|name| Worker::Expired { name, why: None });
        let holds = found(|name| Worker::Holds { name, why: None });
        let gone = status(&after(&json!({})), &expired, now);
        assert!(THEIRS.iter().all(|type_| conditions(&gone).contains(type_)));
        let back = status(&after(&gone), &holds, now);
        assert_eq!(conditions(&back), conditions(&gone));
        assert_eq!(back["phase"], "Unknown");
        assert!(says(&after(&back), &status(&after(&back), &holds, now)));

        let mut told = back.clone();
        for said in told["conditions"].as_array_mut().unwrap() {
            if THEIRS.contains(&said["type"].as_str().unwrap()) {
                said["reason"] = json!("Starting");
            }
        }
        let claimed = status(&after(&told), &holds, now);
        assert!(!THEIRS.iter().any(|type_| conditions(&claimed).contains(type_)));
        assert!(claimed.get("phase").is_none());
    }
}
