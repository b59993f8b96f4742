//! Facts as the JSON of one apply: always the whole set, since a smaller second apply deletes the rest.

use super::{Facts, Said};
use crate::{api::TableMapStatus, gate::Phase};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What must survive from one write to the next, and from one worker to the next: times that only move when something flips.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    phase: Option<(String, String)>,
    conditions: HashMap<String, (Option<bool>, String)>,
    pauses: HashMap<String, String>,
    blocked: Option<(String, String)>,
}

/// A time as Kubernetes prints it, to the second.
fn time(micros: i64) -> String {
    Timestamp::from_microsecond(micros).map_or_else(
        |_| String::new(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// A time to the microsecond.
fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Memory {
    /// As a status tells it.
    #[must_use]
    pub fn of(status: &TableMapStatus) -> Self {
        let text = |at: &Time| time(at.0.as_microsecond());
        let phase = status.phase.clone().zip(status.phase_time.as_ref());
        let conditions = status.conditions.iter().map(|known| {
            let since = text(&known.last_transition_time);
            (known.type_.clone(), (Said::read(&known.status), since))
        });
        let pauses = status.pauses.iter().flatten().filter_map(|pause| {
            let since = pause.since_time.as_ref()?;
            Some((pause_key(&pause.cause, &pause.name), text(since)))
        });
        let blocked = status.blocked.as_ref();
        Self {
            phase: phase.map(|(phase, since)| (phase, micro_time(since.0))),
            conditions: conditions.collect(),
            pauses: pauses.collect(),
            blocked: blocked
                .and_then(|blocked| Some((blocked.reason.clone()?, text(blocked.since_time.as_ref()?)))),
        }
    }

    fn phase_time(&mut self, phase: Phase, now: Timestamp) -> String {
        match &self.phase {
            Some((known, since)) if *known == phase.as_str() => since.clone(),
            _ => {
                let since = micro_time(now);
                self.phase = Some((phase.as_str().to_owned(), since.clone()));
                since
            }
        }
    }

    fn transition(&mut self, said: &Said, now: Timestamp) -> String {
        match self.conditions.get(said.type_) {
            Some((known, since)) if *known == said.status => since.clone(),
            _ => {
                let since = time(now.as_microsecond());
                self.conditions
                    .insert(said.type_.to_owned(), (said.status, since.clone()));
                since
            }
        }
    }

    /// The status of an apply by the worker.
    pub fn status(&mut self, facts: &Facts, now: Timestamp) -> Value {
        let mut status = Map::new();
        status.insert("phase".into(), json!(facts.phase.as_str()));
        status.insert("phaseTime".into(), json!(self.phase_time(facts.phase, now)));
        status.insert("pauses".into(), self.pauses(facts, now));
        if !facts.rules.is_empty() {
            status.insert("rules".into(), rules(facts));
        }
        if let Some(blocked) = self.blocked(facts, now) {
            status.insert("blocked".into(), blocked);
        }
        status.insert("position".into(), position(facts));
        status.insert("queue".into(), queue(facts));
        if let Some(catch_up) = catch_up(facts) {
            status.insert("catchUp".into(), catch_up);
        }
        status.insert("errors".into(), errors(facts));
        status.insert("ledger".into(), ledger(facts, now));
        let conditions: Vec<Value> = facts
            .conditions
            .iter()
            .map(|said| self.condition(said, observed(said, facts), now))
            .collect();
        status.insert("conditions".into(), json!(conditions));
        Value::Object(status)
    }

    fn condition(&mut self, said: &Said, generation: i64, now: Timestamp) -> Value {
        json!({
            "type": said.type_, "status": Said::text(said.status), "reason": said.reason, "message": said.message,
            "observedGeneration": generation, "lastTransitionTime": self.transition(said, now),
        })
    }

    fn pauses(&mut self, facts: &Facts, now: Timestamp) -> Value {
        self.pauses.retain(|known, _| {
            facts
                .pauses
                .iter()
                .any(|pause| pause_key(pause.cause, &pause.name) == *known)
        });
        let pauses = facts.pauses.iter().map(|pause| {
            let since = self
                .pauses
                .entry(pause_key(pause.cause, &pause.name))
                .or_insert_with(|| time(pause.since.unwrap_or(now.as_microsecond())))
                .clone();
            let mut value = json!({"cause": pause.cause, "name": pause.name, "sinceTime": since});
            if let Some(until) = pause.until {
                value["untilTime"] = json!(time(until));
            }
            if let Some(actor) = &pause.actor {
                value["actor"] = json!(actor);
            }
            if let Some(message) = &pause.message {
                value["message"] = json!(message);
            }
            value
        });
        pauses.collect()
    }

    fn blocked(&mut self, facts: &Facts, now: Timestamp) -> Option<Value> {
        let Some((reason, returns_to)) = &facts.blocked else {
            self.blocked = None;
            return None;
        };
        let since = match &self.blocked {
            Some((known, since)) if known == reason => since.clone(),
            _ => time(now.as_microsecond()),
        };
        self.blocked = Some((reason.clone(), since.clone()));
        let mut value = json!({"reason": reason, "returnsTo": returns_to.as_str(), "sinceTime": since});
        if let Some((retained, safe)) = facts.kept {
            value["sourceRetainedBytes"] = json!(retained);
            if let Some(safe) = safe {
                value["sourceSafeBytes"] = json!(safe);
            }
        }
        if let Some(gap) = facts.gap {
            value["gap"] = json!({"lostAfter": gap.after.to_string()});
            if let Some(until) = gap.until {
                value["gap"]["lostUntil"] = json!(until.to_string());
            }
        }
        Some(value)
    }
}

fn pause_key(cause: &str, name: &str) -> String {
    format!("{cause}/{name}")
}

/// The generation that a condition judges. A pause and its end do not wait for the rest of the spec.
fn observed(said: &Said, facts: &Facts) -> i64 {
    match said.type_ {
        "Paused" | "CaughtUp" => facts.wished,
        _ => facts.generation,
    }
}

fn rules(facts: &Facts) -> Value {
    let rules = facts.rules.iter().map(|rule| {
        let mut value = json!({"name": rule.name, "count": rule.count, "records": rule.tried});
        if let Some(at) = rule.last_fired {
            value["lastFiredTime"] = json!(time(at));
        }
        if let Some(until) = rule.quiet_until {
            value["quietUntilTime"] = json!(time(until));
        }
        value
    });
    rules.collect()
}

fn position(facts: &Facts) -> Value {
    let mut value = json!({});
    if let Some(lag) = facts.lag {
        value["lagSeconds"] = json!(lag.seconds);
        value["lagBytes"] = json!(lag.bytes);
    }
    if let Some(received) = facts.received {
        value["received"] = json!(received.to_string());
    }
    if let Some(durable) = facts.durable {
        value["durable"] = json!(durable.to_string());
    }
    if let Some(at) = facts.commit_time {
        value["commitTime"] = json!(time(at));
    }
    value
}

fn queue(facts: &Facts) -> Value {
    let mut value = json!({
        "connection": facts.queue_connection, "id": facts.queue_id,
        "records": facts.queue_records, "bytes": facts.queue_bytes,
    });
    if let Some(at) = facts.queue_oldest {
        value["oldestTime"] = json!(time(at));
    }
    value
}

fn catch_up(facts: &Facts) -> Option<Value> {
    let catch_up = facts.catch_up?;
    let mut value = json!({
        "startTime": time(catch_up.start), "replayed": catch_up.replayed, "failed": catch_up.failed,
        "remaining": catch_up.remaining, "recordsPerSecond": catch_up.per_second,
        "arrivingPerSecond": catch_up.arriving_per_second,
    });
    if let Some(net) = catch_up
        .per_second
        .checked_sub(catch_up.arriving_per_second)
        .filter(|net| *net > 0)
    {
        let seconds = i64::try_from(catch_up.remaining / net).unwrap_or(i64::MAX / 2_000_000);
        value["estimatedEndTime"] = json!(time(Timestamp::now().as_microsecond() + seconds * 1_000_000));
    }
    Some(value)
}

fn ledger(facts: &Facts, now: Timestamp) -> Value {
    let ledger = facts.ledger;
    json!({
        "received": ledger.received, "written": ledger.written, "inFlight": ledger.in_flight,
        "queued": ledger.queued, "errored": ledger.errored, "superseded": ledger.superseded,
        "discarded": ledger.discarded, "purged": ledger.purged, "filtered": ledger.filtered,
        "time": time(now.as_microsecond()),
    })
}

fn errors(facts: &Facts) -> Value {
    let errors = &facts.errors;
    let by_class: Vec<Value> = errors
        .by_class
        .iter()
        .map(|(class, count)| json!({"class": class.as_str(), "count": count}))
        .collect();
    let recent: Vec<Value> = errors.recent.iter().map(recent).collect();
    json!({"count": facts.ledger.errored, "byClass": by_class, "recent": recent})
}

fn recent(error: &crate::queue::RecentError) -> Value {
    let mut value = json!({
        "id": error.id, "operation": error.operation, "class": error.class.as_str(), "code": error.code,
        "remedy": error.remedy, "attempts": error.attempts, "retryStatus": error.retry_status,
        "time": time(error.last_time),
    });
    if let Some(object) = &error.object {
        value["object"] = json!(object);
    }
    value
}
