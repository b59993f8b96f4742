//! As many columns as a map may have, with names of every kind, in a schema of its own.

use crate::support::{
    rig::{NAMESPACE, Rig, assert_balanced},
    timing::timed,
    wait::wait_until,
};
use serde_json::json;
use std::time::Duration;

/// `fields` takes so many.
const COLUMNS: usize = 512;
const SCHEMA: &str = "Ä b";
const TABLE: &str = "o'dd \"t\\";

/// 63 bytes, the most that Postgres keeps.
fn column(n: usize) -> String {
    let mut name = format!("{n} \"'\\{{}}[],;:%$?*.\t\nä@ ");
    while name.len() < 63 {
        name.push('x');
    }
    name
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn map() -> String {
    let fields = (0..COLUMNS).map(|n| json!({ "destination": column(n), "source": column(n) }));
    let table = json!({ "schema": SCHEMA, "name": TABLE });
    json!({
        "apiVersion": "tablemap.dev/v1alpha1",
        "kind": "TableMap",
        "metadata": { "name": "odd", "namespace": NAMESPACE },
        "spec": {
            "source": { "connectionRef": { "name": "crm" }, "table": table },
            "destination": { "connectionRef": { "name": "erp" }, "table": table },
            "integrationKey": [column(0), column(1)],
            "fields": fields.collect::<Vec<_>>(),
            "queue": { "connectionRef": { "name": "queue" } },
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_columns_with_odd_names_arrive() {
    let _time = timed("five_hundred_columns_with_odd_names_arrive");
    let mut rig = Rig::start().await;
    let table = format!("{}.{}", quoted(SCHEMA), quoted(TABLE));
    let columns: Vec<String> = (0..COLUMNS).map(|n| quoted(&column(n))).collect();
    let all: Vec<String> = columns.iter().map(|name| format!("{name} text")).collect();
    rig.both(&format!(
        "CREATE SCHEMA {}; CREATE TABLE {table} ({}, PRIMARY KEY ({}, {}))",
        quoted(SCHEMA),
        all.join(", "),
        columns[0],
        columns[1]
    ))
    .await;
    let _operator = rig.operator(&[]);
    rig.api.apply(&map());
    rig.condition("odd", "CaughtUp", "True").await;
    let crm = rig.crm().await;
    let order = columns[0].clone();
    let run = async |sql: &str| crm.batch_execute(sql).await.unwrap();
    let values: Vec<String> = (0..COLUMNS).map(|n| format!("{n} || 'v' || n")).collect();
    let insert = |from: u32, to: u32| {
        let values = values.join(", ");
        format!("INSERT INTO {table} SELECT {values} FROM generate_series({from}, {to}) n")
    };

    run(&insert(1, 20)).await;
    rig.equal(&table, &order).await;
    // A key change, an update and a delete.
    run(&format!(
        "UPDATE {table} SET {0} = {0} || 'k' WHERE {1} = '1v3'",
        columns[0], columns[1]
    ))
    .await;
    run(&format!("UPDATE {table} SET {} = NULL", columns[COLUMNS - 1])).await;
    run(&format!("DELETE FROM {table} WHERE {} = '1v4'", columns[1])).await;
    rig.equal(&table, &order).await;

    rig.pause("odd");
    rig.condition("odd", "Paused", "True").await;
    run(&insert(21, 40)).await;
    run(&format!("UPDATE {table} SET {} = 'again'", columns[2])).await;
    wait_until(Duration::from_secs(60), "59 are queued", async || {
        rig.status("odd").await["queue"]["records"] == 59
    })
    .await;
    rig.resume("odd");
    rig.equal(&table, &order).await;
    let status = rig.settled("odd").await;
    assert_eq!(status["errors"]["count"], 0, "{:#}", status["errors"]);
    assert_balanced(&status);
}
