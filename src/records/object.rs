//! The objects of the API: flat, without spec and status, since nobody writes them.

use super::{GROUP, VERSION, resource::Resource};
use crate::clock;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// One object with its envelope.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object<B> {
    api_version: String,
    kind: &'static str,
    pub metadata: Metadata,
    #[serde(flatten)]
    pub body: B,
}

/// What of `ObjectMeta` there is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: Uuid,
    pub creation_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<&'static str, String>,
}

/// Labels of objects: fields of theirs that have a short value.
pub const LABELS: &[(&str, &str)] = &[
    ("tablemap.dev/table-map", "tableMap"),
    ("tablemap.dev/operation", "operation"),
    ("tablemap.dev/class", "class"),
    ("tablemap.dev/retry-status", "retryStatus"),
];

/// An integration key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Key {
    /// Its columns joined by commas, as the field selector `key` takes it. A comma or backslash within a column is preceded
    /// by a backslash.
    pub text: String,
    /// Its columns, in the order of `integrationKey`, as the selection of a `TableMapOperation` takes them.
    pub values: Vec<String>,
}

/// A change that waits in the queue of a `TableMap`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueuedRecord {
    /// The `TableMap` in whose queue it waits.
    pub table_map: String,
    /// The integration key of the row.
    pub key: Key,
    /// The key that the row had before, if the change is one of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_key: Option<Key>,
    /// Insert, Update or Delete.
    pub operation: String,
    /// Where the change stands in the log of the source.
    pub position: String,
    /// When the source committed it.
    pub commit_time: String,
}

/// A record that the destination refused: a catch-up error.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordError {
    /// The `TableMap` whose destination refused it.
    pub table_map: String,
    /// The integration key of the row.
    pub key: Key,
    /// The key that the row had before, if the change is one of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_key: Option<Key>,
    /// Insert, Update or Delete.
    pub operation: String,
    /// Application, `BadRequest`, Unauthorized, Throttled, Unavailable, Timeout or Schema.
    pub class: String,
    /// SQLSTATE, or a code of our own.
    pub code: String,
    /// The table, constraint or column concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What to do about it.
    pub remedy: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Pending, `InProgress`, Failed, Completed or Superseded.
    pub retry_status: String,
    /// When it was refused first.
    pub first_time: String,
    /// When it was tried last.
    pub last_time: String,
    /// Where the change stands in the log of the source.
    pub position: String,
}

/// The row data of a record: the subresource `payload`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordPayload {
    /// Insert, Update or Delete.
    pub operation: String,
    /// The source row after the change, by column. A column that is not there was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<Map<String, Value>>,
    /// The source row before the change, as far as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_row: Option<Map<String, Value>>,
    /// What the map would write now, by column of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<Map<String, Value>>,
    /// The row of this key that the destination has now, by column; null: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Value>,
    /// Where the two differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// What the destination said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Why something of the above is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A column in which a record and the destination's row differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// A column of the destination.
    pub column: String,
    /// What the map would write.
    pub record: Option<String>,
    /// What is there.
    pub destination: Option<String>,
}

/// What selectors read, and a table shows.
pub trait Body: Serialize {
    const RESOURCE: Resource;

    fn field(&self, name: &str) -> Option<&str>;

    /// Whether one of its keys is this.
    fn has_key(&self, key: &str) -> bool;
}

impl Body for QueuedRecord {
    const RESOURCE: Resource = Resource::QueuedRecords;

    fn field(&self, name: &str) -> Option<&str> {
        let text = match name {
            "tableMap" => &self.table_map,
            "operation" => &self.operation,
            _ => return None,
        };
        Some(text)
    }

    fn has_key(&self, key: &str) -> bool {
        is_key(&self.key, self.old_key.as_ref(), key)
    }
}

impl Body for RecordError {
    const RESOURCE: Resource = Resource::RecordErrors;

    fn field(&self, name: &str) -> Option<&str> {
        let text = match name {
            "tableMap" => &self.table_map,
            "operation" => &self.operation,
            "class" => &self.class,
            "code" => &self.code,
            "retryStatus" => &self.retry_status,
            _ => return None,
        };
        Some(text)
    }

    fn has_key(&self, key: &str) -> bool {
        is_key(&self.key, self.old_key.as_ref(), key)
    }
}

fn is_key(key: &Key, old: Option<&Key>, wanted: &str) -> bool {
    key.text == wanted || old.is_some_and(|old| old.text == wanted)
}

impl<B: Body> Object<B> {
    /// `map_uid` and `name` make the uid, `created` is in microseconds since the Unix epoch.
    pub fn new(namespace: &str, map_uid: &str, name: String, created: i64, body: B) -> Self {
        let label = |(label, field): &(&'static str, &str)| Some((*label, body.field(field)?.to_owned()));
        let metadata = Metadata {
            namespace: namespace.to_owned(),
            uid: uid(map_uid, &name),
            creation_timestamp: clock::text(created),
            labels: LABELS.iter().filter_map(label).collect(),
            name,
        };
        Self::of(B::RESOURCE.kind(), metadata, body)
    }
}

impl<B> Object<B> {
    fn of(kind: &'static str, metadata: Metadata, body: B) -> Self {
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind,
            metadata,
            body,
        }
    }

    /// The payload of a record.
    pub fn payload_of(record: Metadata, body: B) -> Self {
        Self::of("RecordPayload", record, body)
    }
}

/// The same for one record at all times: `kubectl describe` looks for events by it.
fn uid(map_uid: &str, name: &str) -> Uuid {
    let space = Uuid::parse_str(map_uid).unwrap_or(Uuid::NAMESPACE_OID);
    Uuid::new_v5(&space, name.as_bytes())
}

impl Key {
    /// Of its canonical text.
    pub fn of(canonical: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            text: text(canonical),
            values: crate::mapping::key_columns(canonical)
                .iter()
                .map(|column| text(column))
                .collect(),
        }
    }
}
