//! Lists of maps and operations.

use super::{
    Ended,
    args::{Output, Pick},
    cluster::{Cluster, within},
    pick,
    print::{self, count, since},
};
use crate::api::{Mode, TableMap, TableMapOperation};
use jiff::Timestamp;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

/// # Errors
/// The maps cannot be read.
pub async fn list(cluster: &Cluster, pick: &Pick, output: Output) -> Result<(), Ended> {
    let maps = pick.maps(cluster).await?;
    if output != Output::Table {
        return print::objects(maps.iter().map(|map| json!(map)).collect(), output);
    }
    if maps.is_empty() {
        eprintln!("No TableMaps found.");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = maps.iter().map(|map| row(map, now)).collect();
    let mut heading = vec!["NAME", "STATE", "PHASE", "SINCE", "QUEUED", "ERRORS", "WHY"];
    let rows = with_namespace(
        cluster,
        &mut heading,
        rows,
        maps.iter().map(ResourceExt::namespace),
    );
    print::write(&print::table(&heading, &rows));
    Ok(())
}

fn with_namespace(
    cluster: &Cluster,
    heading: &mut Vec<&str>,
    mut rows: Vec<Vec<String>>,
    namespaces: impl Iterator<Item = Option<String>>,
) -> Vec<Vec<String>> {
    if cluster.all_namespaces {
        heading.insert(0, "NAMESPACE");
        for (row, namespace) in rows.iter_mut().zip(namespaces) {
            row.insert(0, namespace.unwrap_or_default());
        }
    }
    rows
}

fn row(map: &TableMap, now: Timestamp) -> Vec<String> {
    let status = map.status.clone().unwrap_or_default();
    let number = |number: Option<i64>| number.map_or_else(|| "-".into(), count);
    let ready = status.conditions.iter().find(|said| said.type_ == "Ready");
    vec![
        map.name_any(),
        format!("{:?}", map.spec.state),
        status.phase.clone().unwrap_or_else(|| "-".into()),
        status
            .phase_time
            .as_ref()
            .map_or_else(|| "-".into(), |time| since(time.0, now)),
        number(status.queue.as_ref().and_then(|queue| queue.records)),
        number(status.errors.as_ref().and_then(|errors| errors.count)),
        ready.map_or_else(|| "-".into(), |said| said.reason.clone()),
    ]
}

/// # Errors
/// The operations cannot be read; or there are none, since there is no such map.
pub async fn operations(cluster: &Cluster, map: Option<&str>, output: Output) -> Result<(), Ended> {
    let all = within(cluster.scope::<TableMapOperation>().list(&ListParams::default())).await?;
    let mut operations = all.items;
    operations.retain(|operation| map.is_none_or(|map| operation.spec.table_map_ref.name == map));
    if let Some(map) = map.filter(|_| operations.is_empty()) {
        pick::named(cluster, map).await?;
    }
    operations.sort_by_key(|operation| operation.creation_timestamp().map(|time| time.0));
    if output != Output::Table {
        let objects = operations.iter().map(|operation| json!(operation)).collect();
        return print::objects(objects, output);
    }
    if operations.is_empty() {
        eprintln!("No operations found.");
        return Ok(());
    }
    let now = Timestamp::now();
    let rows = operations
        .iter()
        .map(|operation| operation_row(operation, now))
        .collect();
    let mut heading = vec![
        "NAME", "MAP", "ACTION", "PHASE", "DONE", "FAILED", "LEFT", "AGE", "BY", "MESSAGE",
    ];
    let namespaces = operations.iter().map(ResourceExt::namespace);
    let rows = with_namespace(cluster, &mut heading, rows, namespaces);
    print::write(&print::table(&heading, &rows));
    Ok(())
}

fn operation_row(operation: &TableMapOperation, now: Timestamp) -> Vec<String> {
    let status = operation.status.clone().unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let from = operation
        .spec
        .from
        .map_or_else(String::new, |from| format!(" {from:?}"));
    let dry = match operation.spec.mode {
        Mode::DryRun => " (dry run)",
        Mode::Execute => "",
    };
    vec![
        operation.name_any(),
        operation.spec.table_map_ref.name.clone(),
        format!("{:?}{from}{dry}", operation.spec.action),
        status.phase.unwrap_or_else(|| "-".into()),
        count(counts.completed),
        count(counts.failed),
        count(counts.remaining),
        operation
            .creation_timestamp()
            .map_or_else(|| "-".into(), |time| since(time.0, now)),
        status.requested_by.unwrap_or_else(|| "-".into()),
        status.message.unwrap_or_else(|| "-".into()),
    ]
}
