//! Operations that have not ended.

use super::{
    Ended,
    cluster::{Cluster, within},
};
use crate::api::{Action, Mode, RecordsFrom, TableMap, TableMapOperation};
use kube::{ResourceExt as _, api::ListParams};

/// Those of the namespace, or of all, oldest first.
///
/// # Errors
/// They cannot be read.
pub async fn unfinished(cluster: &Cluster) -> Result<Vec<TableMapOperation>, Ended> {
    let all = within(cluster.scope::<TableMapOperation>().list(&ListParams::default())).await?;
    let mut operations = all.items;
    operations.retain(|operation| !operation.is_finished());
    operations.sort_by_key(|operation| operation.creation_timestamp().map(|time| time.0));
    Ok(operations)
}

/// Those of one map.
pub fn of<'a>(
    operations: &'a [TableMapOperation],
    map: &TableMap,
) -> impl Iterator<Item = &'a TableMapOperation> {
    let (namespace, name) = (map.namespace(), map.name_any());
    operations.iter().filter(move |operation| {
        operation.spec.table_map_ref.name == name && operation.namespace() == namespace
    })
}

/// What it does, and its name.
pub fn title(operation: &TableMapOperation) -> String {
    let from = match operation.spec.from {
        Some(RecordsFrom::Errors) => " of errors",
        Some(RecordsFrom::Queue) => " of the queue",
        None => "",
    };
    let dry = if operation.spec.mode == Mode::DryRun {
        "dry run, "
    } else {
        ""
    };
    format!(
        "{:?}{from} ({dry}{})",
        operation.spec.action,
        operation.name_any()
    )
}

/// How to end it.
pub fn how_to_end(operation: &TableMapOperation) -> String {
    let namespace = operation.namespace().unwrap_or_default();
    format!(
        "`kubectl delete tmop {} -n {namespace}` ends it",
        operation.name_any()
    )
}

/// Tells, before maps are resumed, what of their queues will not be written.
pub async fn warn(cluster: &Cluster, maps: &[TableMap]) {
    let operations = match unfinished(cluster).await {
        Ok(operations) => operations,
        Err(ended) => {
            return eprintln!("Warning: whether an operation waits for the resume cannot be seen: {ended}");
        }
    };
    for map in maps {
        for operation in of(&operations, map) {
            if let Some(fate) = fate(operation) {
                eprintln!(
                    "Warning: {} has not ended: when {} is resumed, what it has selected {fate}. {}.",
                    title(operation),
                    map.name_any(),
                    how_to_end(operation)
                );
            }
        }
    }
}

/// What becomes of the queued records that it selects.
fn fate(operation: &TableMapOperation) -> Option<&'static str> {
    let spec = &operation.spec;
    if spec.from != Some(RecordsFrom::Queue) || spec.mode == Mode::DryRun {
        return None;
    }
    match spec.action {
        Action::Discard => Some("is given up, and never written"),
        Action::Park => Some("is kept as errors, and not written"),
        Action::Retry | Action::AcceptGap | Action::Resume => None,
    }
}
