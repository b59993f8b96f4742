//! Records as kubectl prints them (Kubernetes documentation, "Receiving resources as Tables").

use super::{
    object::{Body, Object},
    resource::Column,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What stands in the `object` of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

pub fn table<B: Body>(objects: &[Object<B>], metadata: Value, include: Include, now: Timestamp) -> Value {
    let columns: Vec<Value> = B::RESOURCE.columns().iter().map(definition).collect();
    let rows: Vec<Value> = objects.iter().map(|object| row(object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": if column.name == "Name" { "name" } else { "" },
        "description": column.description,
        "priority": column.priority,
    })
}

fn row<B: Body>(object: &Object<B>, include: Include, now: Timestamp) -> Value {
    let whole = json!(object);
    let cell = |column: &Column| match column.pointer {
        Some(pointer) => whole.pointer(pointer).cloned().unwrap_or_else(|| json!("")),
        None if column.name == "Age" => json!(age(&object.metadata.creation_timestamp, now)),
        None => json!(object.metadata.name),
    };
    let cells: Vec<Value> = B::RESOURCE.columns().iter().map(cell).collect();
    let metadata = || {
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.metadata,
        })
    };
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": metadata()}),
        Include::Object => json!({"cells": cells, "object": whole}),
    }
}

/// As kubectl tells an age: cells are printed as they come.
fn age(since: &str, now: Timestamp) -> String {
    let Ok(since) = since.parse::<Timestamp>() else {
        return "<unknown>".into();
    };
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (minutes, hours, days) {
        (0..2, ..) => format!("{seconds}s"),
        (2..10, ..) if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        (_, 0..3, _) => format!("{minutes}m"),
        (_, 3..8, _) if minutes % 60 > 0 => format!("{hours}h{}m", minutes % 60),
        (_, 0..48, _) => format!("{hours}h"),
        (_, _, 2..8) if hours % 24 > 0 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_kubectl_tells_them() {
        let since: Timestamp = "2026-11-24T07:00:00Z".parse().unwrap();
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
        ] {
            let now = since + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(age("2026-11-24T07:00:00Z", now), expected);
        }
        assert_eq!(age("", since), "<unknown>");
    }
}
