//! Maps for tests.

use crate::api::TableMap;
use serde_json::{Value, json};

/// A map with this status, and with `more` in its metadata.
pub fn map(more: &Value, status: &Value) -> TableMap {
    let table = json!({"connectionRef": {"name": "c"}, "table": {"schema": "s", "name": "t"}});
    let mut map = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap", "metadata": more,
        "spec": {"source": table, "destination": table, "integrationKey": ["id"], "fields": []},
        "status": status,
    });
    map["metadata"]["name"] = json!("m");
    serde_json::from_value(map).unwrap()
}
