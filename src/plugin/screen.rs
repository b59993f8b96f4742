//! One map on one screen. Pure.

use super::{
    Ended, pending,
    print::{Paint, bar, bytes, count, counted, plain, since},
};
use crate::api::{TableMap, TableMapOperation, TableMapStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use std::fmt::Write as _;

const WIDTH: usize = 30;
/// `queue.limits.hard.bytes` of a map that does not say.
const HARD_BYTES: i64 = 1 << 30;

/// `operations` have not ended; or why they cannot be seen.
type Operations = Result<Vec<TableMapOperation>, Ended>;

/// See the module.
pub fn screen(map: &TableMap, operations: &Operations, now: Timestamp, paint: Paint) -> String {
    let mut out = String::new();
    let spec = &map.spec;
    let namespace = map.namespace().unwrap_or_default();
    let name = paint.strong(&format!("{namespace}/{}", map.name_any()));
    line(&mut out, "Map", &name);
    let tables = format!(
        "{} {}.{}  ->  {} {}.{}",
        spec.source.connection_ref.name,
        spec.source.table.schema,
        spec.source.table.name,
        spec.destination.connection_ref.name,
        spec.destination.table.schema,
        spec.destination.table.name,
    );
    line(&mut out, "Tables", &tables);
    let Some(status) = &map.status else {
        line(
            &mut out,
            "Phase",
            "nobody has looked at it yet: is the operator running?",
        );
        self::operations(&mut out, map, operations);
        return out;
    };
    phase(&mut out, status, now, paint);
    queue(&mut out, map, status, now);
    if status.phase.as_deref() == Some("CatchingUp") {
        catch_up(&mut out, status, now);
    }
    self::operations(&mut out, map, operations);
    errors(&mut out, map, status, paint);
    if let Some(position) = &status.position {
        let lag = position.lag_seconds.unwrap_or(0);
        line(&mut out, "Taken", &format!("{lag} s behind the source"));
    }
    out
}

/// `text` holds no control characters but our own colours.
fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<10} {text}");
}

fn phase(out: &mut String, status: &TableMapStatus, now: Timestamp, paint: Paint) {
    let age = |time: Option<&Time>| time.map_or_else(|| "?".into(), |time| since(time.0, now));
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let said = |type_: &str| status.conditions.iter().find(|said| said.type_ == type_);
    let stalled = said("Stalled").filter(|said| said.status == "True");
    let painted = match (stalled, phase) {
        (Some(_), _) => paint.bad(phase),
        (None, "Running") => paint.good(phase),
        _ => paint.strong(phase),
    };
    let text = format!("{painted} for {}", age(status.phase_time.as_ref()));
    line(out, "Phase", &text);
    if let Some(said) = stalled.or_else(|| said("Ready")) {
        line(out, "", &plain(&format!("{}: {}", said.reason, said.message)));
    }
    for pause in status.pauses.iter().flatten() {
        let by = pause
            .actor
            .as_ref()
            .map_or_else(String::new, |actor| format!(" by {actor}"));
        let since = age(pause.since_time.as_ref());
        let what = match pause.cause.as_str() {
            "Spec" => pause.name.clone(),
            cause => format!("{cause} {}", pause.name),
        };
        let until = pause
            .until_time
            .as_ref()
            .map_or_else(String::new, |until| format!(", until {}", until.0));
        let text = format!("{what}{by}, {since} ago{until}");
        line(out, "Paused by", &text);
    }
}

fn queue(out: &mut String, map: &TableMap, status: &TableMapStatus, now: Timestamp) {
    let Some(queue) = &status.queue else { return };
    let limits = map.spec.queue.as_ref().and_then(|queue| queue.limits.as_ref());
    let hard = limits.and_then(|limits| limits.hard.as_ref()?.bytes.as_ref()?.count());
    let hard = hard
        .and_then(|bytes| i64::try_from(bytes).ok())
        .unwrap_or(HARD_BYTES);
    let held = queue.bytes.unwrap_or(0);
    let oldest = queue.oldest_time.as_ref().map_or_else(String::new, |time| {
        format!(", the oldest {} old", since(time.0, now))
    });
    let text = format!(
        "{} {}, {} of {} in the spec{oldest}",
        bar(held, hard, WIDTH),
        counted(queue.records.unwrap_or(0), "record"),
        bytes(held),
        bytes(hard),
    );
    line(out, "Queue", &text);
    // Limits by records and age, and the operator's own, are the worker's to judge.
    let mut conditions = status.conditions.iter();
    let limited = conditions.find(|said| said.type_ == "WithinLimits" && said.status == "False");
    if let Some(said) = limited {
        line(out, "", &plain(&format!("{}: {}", said.reason, said.message)));
    }
}

fn catch_up(out: &mut String, status: &TableMapStatus, now: Timestamp) {
    let Some(catch_up) = &status.catch_up else { return };
    let (done, left) = (catch_up.replayed.unwrap_or(0), catch_up.remaining.unwrap_or(0));
    let end = catch_up.estimated_end_time.as_ref();
    let end = end.map_or_else(String::new, |end| format!(", done in {}", since(now, end.0)));
    let text = format!(
        "{} {} of {} written, {}/s, {}/s arrive{end}",
        bar(done, done + left, WIDTH),
        count(done),
        count(done + left),
        count(catch_up.records_per_second.unwrap_or(0)),
        count(catch_up.arriving_per_second.unwrap_or(0)),
    );
    line(out, "Catch-up", &text);
}

fn operations(out: &mut String, map: &TableMap, operations: &Operations) {
    let operations = match operations {
        Ok(operations) => operations,
        Err(ended) => return line(out, "Operations", &plain(&format!("cannot be seen: {ended}"))),
    };
    for (index, operation) in pending::of(operations, map).enumerate() {
        let status = operation.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("New");
        let message = status.and_then(|status| status.message.as_deref());
        let message = message.unwrap_or("no worker has answered yet");
        let name = if index == 0 { "Operations" } else { "" };
        let text = format!("{}: {phase}, {message}", pending::title(operation));
        line(out, name, &plain(&text));
    }
}

fn errors(out: &mut String, map: &TableMap, status: &TableMapStatus, paint: Paint) {
    let Some(errors) = &status.errors else { return };
    let all = errors.count.unwrap_or(0);
    if all == 0 {
        return line(out, "Errors", "none");
    }
    let classes: Vec<String> = errors
        .by_class
        .iter()
        .flatten()
        .map(|class| format!("{} {}", count(class.count), class.class))
        .collect();
    let text = if classes.is_empty() {
        count(all)
    } else {
        format!("{} ({})", count(all), classes.join(", "))
    };
    line(out, "Errors", &paint.bad(&text));
    for error in errors.recent.iter().flatten() {
        let object = error.object.as_ref();
        let object = object.map_or_else(String::new, |object| format!(" {object}"));
        // A record that was skipped in the queue was never tried.
        let tried = if error.code == "Skipped" {
            String::new()
        } else {
            format!(", tried {}", counted(error.attempts, "time"))
        };
        let text = format!(
            "{} {} {}{object}, {}{tried}",
            error.id, error.class, error.code, error.retry_status
        );
        line(out, "", &plain(&text));
        line(out, "", &plain(&format!("  {}", error.remedy)));
    }
    line(out, "", &format!("kubectl tablemap errors {}", map.name_any()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(status: &serde_json::Value) -> TableMap {
        serde_json::from_value(json!({
            "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap",
            "metadata": {"name": "customers", "namespace": "sales"},
            "spec": {
                "source": {"connectionRef": {"name": "crm"}, "table": {"schema": "public", "name": "customers"}},
                "destination": {"connectionRef": {"name": "erp"}, "table": {"schema": "sales", "name": "customer"}},
                "integrationKey": ["no"], "fields": [{"destination": "no", "source": "cust_no"}],
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_paused_map() {
        let map = map(&json!({
            "phase": "Paused", "phaseTime": "2026-11-24T07:00:00Z",
            "pauses": [{"cause": "Spec", "name": "spec.state", "sinceTime": "2026-11-24T07:00:00Z", "actor": "fieldManager:kubectl"}],
            "queue": {"records": 42611, "bytes": 7_864_320, "oldestTime": "2026-11-24T07:00:01Z"},
            "errors": {"count": 0},
            "position": {"lagSeconds": 1},
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "PausedAsRequested", "message": "Changes are queued.",
                "lastTransitionTime": "2026-11-24T07:00:00Z",
            }],
        }));
        let now = "2026-11-24T07:05:00Z".parse().unwrap();
        assert_eq!(
            screen(&map, &Ok(Vec::new()), now, Paint::none()),
            "\
Map        sales/customers
Tables     crm public.customers  ->  erp sales.customer
Phase      Paused for 5m
           PausedAsRequested: Changes are queued.
Paused by  spec.state by fieldManager:kubectl, 5m ago
Queue      [------------------------------] 42,611 records, 7.5 MiB of 1.0 GiB in the spec, the oldest 4m old
Errors     none
Taken      1 s behind the source
"
        );
    }

    #[test]
    fn a_map_that_catches_up_with_errors() {
        let map = map(&json!({
            "phase": "CatchingUp", "phaseTime": "2026-11-24T07:04:00Z",
            "catchUp": {
                "replayed": 3000, "remaining": 1000, "recordsPerSecond": 500, "arrivingPerSecond": 20,
                "estimatedEndTime": "2026-11-24T07:05:02Z",
            },
            "errors": {
                "count": 1, "byClass": [{"class": "Application", "count": 1}],
                "recent": [{
                    "id": "customers-e-00000001", "operation": "Insert", "class": "Application", "code": "23514",
                    "object": "modest_credit", "remedy": "Correct the value.", "attempts": 1, "retryStatus": "Pending",
                }],
            },
        }));
        let now = "2026-11-24T07:05:00Z".parse().unwrap();
        assert_eq!(
            screen(&map, &Ok(Vec::new()), now, Paint::none()),
            "\
Map        sales/customers
Tables     crm public.customers  ->  erp sales.customer
Phase      CatchingUp for 60s
Catch-up   [######################--------] 3,000 of 4,000 written, 500/s, 20/s arrive, done in 2s
Errors     1 (1 Application)
           customers-e-00000001 Application 23514 modest_credit, Pending, tried 1 time
             Correct the value.
           kubectl tablemap errors customers
"
        );
    }

    #[test]
    fn a_map_with_an_operation_that_waits() {
        let map = map(&json!({
            "errors": {"count": 2, "recent": [{
                "id": "customers-e-00000001", "operation": "Insert", "class": "BadRequest", "code": "Skipped",
                "remedy": "Retry it.", "attempts": 1, "retryStatus": "Pending",
            }]},
        }));
        let operation = |name: &str, map: &str| {
            serde_json::from_value(json!({
                "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMapOperation",
                "metadata": {"name": name, "namespace": "sales"},
                "spec": {
                    "tableMapRef": {"name": map}, "action": "Discard", "from": "Queue", "selection": {"type": "All"},
                },
                "status": {"phase": "Waiting", "message": "3 records will be skipped when the map is resumed."},
            }))
            .unwrap()
        };
        let operations = Ok(vec![operation("skip", "customers"), operation("other", "orders")]);
        let now = "2026-11-24T07:05:00Z".parse().unwrap();
        assert_eq!(
            screen(&map, &operations, now, Paint::none()),
            "\
Map        sales/customers
Tables     crm public.customers  ->  erp sales.customer
Phase      Unknown for ?
Operations Discard of the queue (skip): Waiting, 3 records will be skipped when the map is resumed.
Errors     2
           customers-e-00000001 BadRequest Skipped, Pending
             Retry it.
           kubectl tablemap errors customers
"
        );
    }
}
