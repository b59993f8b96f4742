//! Skips what waits in the queues of maps that are about to be resumed.

use super::{
    Ended,
    args::Skip,
    cluster::Cluster,
    discard, operate,
    print::{counted, out},
    wait::{self, Teller},
};
use crate::api::{Action, RecordsFrom, TableMap, TableMapOperation};
use kube::ResourceExt as _;
use std::time::Duration;

/// An operation is seen at once, unless nobody works for the map.
const SEEN: Duration = Duration::from_secs(30);

/// What waits now is skipped: the operations are known to the workers before the maps are resumed.
///
/// # Errors
/// Nobody said yes, or it cannot be done; then no operation is left, or the message names it.
pub async fn skip(
    cluster: &Cluster,
    maps: &[TableMap],
    skip: Skip,
    yes: bool,
) -> Result<Vec<TableMapOperation>, Ended> {
    if skip == Skip::Discard {
        let names: Vec<String> = maps
            .iter()
            .map(|map| format!("{} ({})", map.name_any(), about(map)))
            .collect();
        let question = format!(
            "All that waits in the queue of {} will be given up, and never written.",
            names.join(", ")
        );
        discard::confirm(&question, yes)?;
    }
    let drafts = drafts(cluster, maps, skip).await;
    let mut made = Vec::new();
    match note(cluster, &drafts, &mut made).await {
        Ok(()) => Ok(drafts),
        Err(ended) => {
            let left = take_back(cluster, &made).await;
            Err(Ended::Failed(format!(
                "the queue could not be skipped: {ended}. Nothing was resumed. {left}"
            )))
        }
    }
}

/// Whether the API server would take the operations.
///
/// # Errors
/// It would not.
pub async fn check(cluster: &Cluster, maps: &[TableMap], skip: Skip) -> Result<(), Ended> {
    for draft in drafts(cluster, maps, skip).await {
        let refused = |ended| {
            Ended::Failed(format!(
                "the queue cannot be skipped: {ended}; nothing was changed"
            ))
        };
        operate::check(cluster, &draft).await.map_err(refused)?;
    }
    Ok(())
}

/// Says what would become of what waits now.
pub fn would(maps: &[TableMap], skip: Skip) {
    let fate = match skip {
        Skip::Preserve => "kept as errors",
        Skip::Discard => "given up",
    };
    for map in maps {
        let (about, name) = (about(map), map.name_any());
        out(format_args!("{about} in the queue of {name} would be {fate}"));
    }
}

/// The status may be some seconds old.
fn about(map: &TableMap) -> String {
    let queue = map.status.as_ref().and_then(|status| status.queue.as_ref());
    let records = queue.and_then(|queue| queue.records).unwrap_or(0);
    format!("about {}", counted(records, "record"))
}

async fn drafts(cluster: &Cluster, maps: &[TableMap], skip: Skip) -> Vec<TableMapOperation> {
    let action = match skip {
        Skip::Preserve => Action::Park,
        Skip::Discard => Action::Discard,
    };
    let mut drafts = Vec::new();
    for map in maps {
        drafts.push(operate::draft(cluster, map, operate::spec(map, action, RecordsFrom::Queue)).await);
    }
    drafts
}

/// Makes them, and waits until workers have noted them. `made` are those that may be there now.
async fn note(
    cluster: &Cluster,
    drafts: &[TableMapOperation],
    made: &mut Vec<TableMapOperation>,
) -> Result<(), Ended> {
    for draft in drafts {
        let created = operate::create(cluster, draft).await;
        if !matches!(created, Err(Ended::Refused { .. })) {
            made.push(draft.clone());
        }
        created?;
    }
    for draft in drafts {
        let taken = wait::operation(cluster, draft, &mut Teller::new(SEEN), is_taken).await?;
        operate::refused(&taken)?;
    }
    Ok(())
}

/// Takes operations back, and says which are still there.
pub async fn take_back(cluster: &Cluster, operations: &[TableMapOperation]) -> String {
    let mut left = Vec::new();
    for operation in operations {
        if operate::take_back(cluster, operation).await.is_err() {
            left.push(operation.name_any());
        }
    }
    if left.is_empty() {
        "No operation is left.".into()
    } else {
        format!(
            "These operations may still be there, and skip what is queued at the next resume; delete them: {}",
            left.join(", ")
        )
    }
}

/// A worker has noted what it skips, or there was nothing to skip.
fn is_taken(operation: &TableMapOperation) -> bool {
    let Some(status) = &operation.status else {
        return false;
    };
    let mut conditions = status.conditions.iter();
    let waiting = conditions.find(|said| said.type_ == "Waiting" && said.status == "True");
    // These two it says of what it has noted; all else may come before.
    let noted = waiting.is_some_and(|said| matches!(said.reason.as_str(), "MapPaused" | "MapBuffering"));
    operation.is_finished() || noted || status.phase.as_deref() == Some("Running")
}
