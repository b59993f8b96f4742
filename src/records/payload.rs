//! The row data of a record: as the source sent it, as the map would write it now, and as the destination has it.

use super::{
    answer::Origin,
    object::{Difference, RecordPayload},
    store::Opened,
};
use crate::{
    destination::postgres::Control,
    mapping::{Binding, Value as Mapped, Write},
    record::{Cell, Change, OldRow, Relation, Row},
};
use serde_json::{Map, Value};
use std::time::Duration;

/// Of the look at the destination.
const DEADLINE: Duration = Duration::from_secs(5);

pub async fn payload(opened: &Opened, origin: &Origin) -> RecordPayload {
    let change = &origin.change;
    let relation = &change.relation;
    let mut payload = RecordPayload {
        operation: format!("{:?}", change.operation),
        row: change.new.as_ref().map(|row| source_row(relation, row, false)),
        old_row: change.old.as_ref().map(|old| {
            let keys_only = matches!(old, OldRow::Key(_));
            source_row(relation, old.row(), keys_only)
        }),
        message: origin.server_text.clone(),
        ..RecordPayload::default()
    };
    let binding = match opened.plan.mapping.bind_stored(relation) {
        Ok(binding) => binding,
        Err(error) => {
            payload
                .notes
                .push(format!("What the map would write is not known: {error}."));
            return payload;
        }
    };
    match mapped(opened, &binding, change) {
        Ok(mapped) => payload.mapped = mapped,
        Err(remedy) => payload
            .notes
            .push(format!("The map cannot write this record. {remedy}")),
    }
    match tokio::time::timeout(DEADLINE, destination(opened, &binding, change)).await {
        Ok(Ok(row)) => {
            payload.differences = differences(payload.mapped.as_ref(), row.as_ref());
            payload.destination = Some(row.map_or(Value::Null, Value::Object));
        }
        Ok(Err(why)) => payload
            .notes
            .push(format!("The destination's row cannot be read: {why}")),
        Err(_) => payload
            .notes
            .push("The destination's row cannot be read: no answer in time.".into()),
    }
    payload
}

fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

fn source_row(relation: &Relation, row: &Row, keys_only: bool) -> Map<String, Value> {
    let cells = relation.columns.iter().zip(row.cells());
    cells
        .filter(|(column, _)| !keys_only || column.key)
        .filter_map(|(column, cell)| match cell {
            Cell::NotSent => None,
            Cell::Null => Some((column.name.clone(), Value::Null)),
            Cell::Text(bytes) => Some((column.name.clone(), text(bytes))),
        })
        .collect()
}

/// None: it deletes the row. Without the values that were not sent.
fn mapped(opened: &Opened, binding: &Binding, change: &Change) -> Result<Option<Map<String, Value>>, String> {
    let mut scratch = Vec::new();
    let write = binding
        .write(change, &mut scratch)
        .map_err(|refusal| refusal.remedy)?;
    let (Write::Upsert { values, .. } | Write::Update { values, .. } | Write::Move { values, .. }) = write
    else {
        return Ok(None);
    };
    let value = |value: &Mapped<'_>| match value {
        Mapped::NotSent => None,
        Mapped::Null => Some(Value::Null),
        Mapped::Text(bytes) => Some(text(bytes)),
    };
    let columns = opened.plan.mapping.destinations().zip(values);
    let sent = columns.filter_map(|(name, found)| Some((name.to_owned(), value(found)?)));
    Ok(Some(sent.collect()))
}

async fn destination(
    opened: &Opened,
    binding: &Binding,
    change: &Change,
) -> Result<Option<Map<String, Value>>, String> {
    let plan = &opened.plan;
    let keys = binding.keys(change).map_err(|refusal| refusal.remedy)?;
    let control = Control::look(&plan.destination_settings)
        .await
        .map_err(|error| error.to_string())?;
    let row = control
        .row(&plan.destination_table, &plan.mapping, &keys.key)
        .await
        .map_err(|error| error.to_string())?;
    Ok(row.map(|values| {
        let names = plan.mapping.destinations().map(str::to_owned);
        let values = values
            .into_iter()
            .map(|value| value.map_or(Value::Null, Value::String));
        names.zip(values).collect()
    }))
}

/// A record that deletes differs from every row; one that was not written yet from none.
fn differences(
    mapped: Option<&Map<String, Value>>,
    destination: Option<&Map<String, Value>>,
) -> Vec<Difference> {
    let (Some(mapped), Some(destination)) = (mapped, destination) else {
        return Vec::new();
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let both = mapped
        .iter()
        .filter_map(|(column, value)| Some((column, value, destination.get(column)?)));
    both.filter(|(_, record, destination)| record != destination)
        .map(|(column, record, destination)| Difference {
            column: column.clone(),
            record: text(record),
            destination: text(destination),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_names_both_values() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let mapped = map(json!({"name": "Ada", "country": null, "same": "1"}));
        let destination = map(json!({"name": "Eve", "country": "GB", "same": "1", "not sent": "x"}));
        let found = differences(Some(&mapped), Some(&destination));
        let found: Vec<_> = found
            .iter()
            .map(|one| {
                (
                    one.column.as_str(),
                    one.record.as_deref(),
                    one.destination.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [("country", None, Some("GB")), ("name", Some("Ada"), Some("Eve"))]
        );
        assert!(differences(Some(&mapped), None).is_empty());
    }
}
