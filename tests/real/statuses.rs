//! A status says what is so, and not what is hoped for.

use crate::support::{
    proxy::Proxy,
    rig::{Rig, SOON, said, same_map},
    timing::timed,
    wait::{wait_for, wait_until},
};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn reason<'a>(status: &'a Value, type_: &str) -> &'a str {
    said(status, type_).unwrap()["reason"].as_str().unwrap()
}

async fn start(columns: &[&str], tables: &str) -> (Rig, Proxy, crate::support::process::Process) {
    let mut rig = Rig::start().await;
    rig.both(tables).await;
    let destination = Proxy::start(rig.destination.port);
    rig.connect(rig.source.port, destination.port, rig.redis.port);
    let operator = rig.operator(&[]);
    rig.api.apply(&same_map("items", &["id"], columns));
    rig.condition("items", "CaughtUp", "True").await;
    (rig, destination, operator)
}

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY)";

/// What is connected goes on; who has to connect anew, as the fence has, cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_be_fenced_says_why() {
    let _time = timed("a_pause_that_cannot_be_fenced_says_why");
    let (rig, destination, _operator) = start(&["id"], ITEMS).await;
    destination.refuse();
    rig.pause("items");
    let status = rig.reason("items", "Paused", "CannotFence").await;
    assert_eq!(status["phase"], "Pausing");
    let away = rig.condition("items", "DestinationConnected", "False").await;
    assert_eq!(reason(&away, "DestinationConnected"), "Unreachable");
    rig.crm()
        .await
        .batch_execute("INSERT INTO items VALUES (1)")
        .await
        .unwrap();
    wait_until(SOON, "the change in the queue", async || {
        rig.status("items").await["queue"]["records"] == 1
    })
    .await;

    destination.accept();
    rig.condition("items", "Paused", "True").await;
    rig.condition("items", "DestinationConnected", "True").await;
    rig.resume("items");
    rig.condition("items", "CaughtUp", "True").await;
    rig.equal("items", "id").await;
    rig.settled("items").await;
}

/// What waited at the source is not written yet when the map takes changes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_was_blocked_is_caught_up_once_it_has_what_waited() {
    let _time = timed("a_map_that_was_blocked_is_caught_up_once_it_has_what_waited");
    let (rig, destination, _operator) = start(&["id"], ITEMS).await;
    let crm = rig.crm().await;
    let renamed = "ALTER TABLE items RENAME TO old; INSERT INTO old SELECT generate_series(1, 500)";
    crm.batch_execute(renamed).await.unwrap();
    let status = rig.phase("items", "Blocked").await;
    assert_eq!(status["blocked"]["reason"], "SourceTableGone");

    destination.hold_requests();
    crm.batch_execute("ALTER TABLE old RENAME TO items")
        .await
        .unwrap();
    let status = wait_for(SOON, "the end of the block", async || {
        let status = rig.status("items").await;
        (status["phase"] != "Blocked").then_some(status)
    })
    .await;
    assert_eq!(status["phase"], "CatchingUp", "{status:#}");
    assert_eq!(reason(&status, "CaughtUp"), "Replaying");
    destination.release_requests();
    rig.condition("items", "CaughtUp", "True").await;
    let sql = "SELECT count(*) FROM items";
    let rows: i64 = rig.erp().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(rows, 500);
    rig.settled("items").await;

    // Where nothing waited, nothing comes that would tell.
    crm.batch_execute("ALTER TABLE items RENAME TO old")
        .await
        .unwrap();
    rig.phase("items", "Blocked").await;
    crm.batch_execute("ALTER TABLE old RENAME TO items")
        .await
        .unwrap();
    rig.condition("items", "CaughtUp", "True").await;
}

/// Neither of a column that the source lacks, nor of one that the destination lacks, has a change to tell.
#[tokio::test(flavor = "multi_thread")]
async fn changed_fields_are_said_to_fit_only_once_they_were_looked_at() {
    let _time = timed("changed_fields_are_said_to_fit_only_once_they_were_looked_at");
    let tables = "CREATE TABLE items (id bigint PRIMARY KEY, note text)";
    let (rig, _destination, _operator) = start(&["id"], tables).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    rig.condition("items", "SchemaValid", "True").await;
    for paused in [false, true] {
        if paused {
            rig.pause("items");
            rig.condition("items", "Paused", "True").await;
        }
        let lacks = if paused { &erp } else { &crm };
        let expected = if paused {
            "SchemaMismatch"
        } else {
            "SourceColumnMissing"
        };
        lacks
            .batch_execute("ALTER TABLE items RENAME note TO remark")
            .await
            .unwrap();
        rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
        never_fits_before(&rig, expected).await;
        lacks
            .batch_execute("ALTER TABLE items RENAME remark TO note")
            .await
            .unwrap();
        rig.condition("items", "SchemaValid", "True").await;
        if !paused {
            rig.api.apply(&same_map("items", &["id"], &["id"]));
            rig.condition("items", "SchemaValid", "True").await;
        }
    }
}

/// Nobody has looked at the new fields and found that they fit.
async fn never_fits_before(rig: &Rig, reason: &str) {
    let generation = rig.maps.get("items").await.unwrap().metadata.generation.unwrap();
    let what = format!("{reason} said of the new fields");
    wait_until(SOON, &what, async || {
        let status = rig.status("items").await;
        let schema = said(&status, "SchemaValid").unwrap();
        let is_new = schema["observedGeneration"] == generation;
        assert!(!is_new || schema["status"] != "True", "{status:#}");
        is_new && schema["reason"] == reason
    })
    .await;
}

/// A restart is no news of a pause that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn times_outlive_a_worker() {
    let _time = timed("times_outlive_a_worker");
    let (mut rig, _destination, mut operator) = start(&["id"], ITEMS).await;
    rig.pause("items");
    let status = rig.condition("items", "Paused", "True").await;
    let times = |status: &Value| {
        let paused = said(status, "Paused").unwrap();
        (
            status["pauses"][0]["sinceTime"].clone(),
            paused["lastTransitionTime"].clone(),
        )
    };
    let before = times(&status);
    assert!(before.0.is_string(), "{status:#}");
    // They are told to the second.
    let second = jiff::Timestamp::now();
    operator.kill9();
    wait_until(SOON, "another second", async || {
        second.duration_until(jiff::Timestamp::now()).as_secs() >= 1
    })
    .await;
    let _operator = rig.operator(&[]);
    rig.crm()
        .await
        .batch_execute("INSERT INTO items VALUES (1)")
        .await
        .unwrap();
    let status = wait_for(SOON, "what the next worker has queued", async || {
        let status = rig.status("items").await;
        (status["queue"]["records"] == 1).then_some(status)
    })
    .await;
    assert_eq!(times(&status), before, "{status:#}");
}

/// The worker before said that it runs: that is over, though nobody has taken it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_whose_references_cannot_be_read_does_not_run() {
    let _time = timed("a_map_whose_references_cannot_be_read_does_not_run");
    let (mut rig, _destination, mut operator) = start(&["id"], ITEMS).await;
    operator.kill9();
    let patch = r#"{"spec":{"postgres":{"credentials":{"secretRef":{"name":"mislaid"}}}}}"#;
    rig.api
        .kubectl(&["patch", "tmc", "erp", "--type=merge", "-p", patch]);
    let _operator = rig.operator(&[]);
    let status = rig.reason("items", "CaughtUp", "Starting").await;
    assert_eq!(status["phase"], "Starting", "{status:#}");
    let told = said(&status, "SourceConnected").unwrap();
    assert_eq!(told["status"], "Unknown", "{status:#}");
    assert!(told["message"].as_str().unwrap().contains("mislaid"), "{told}");
    rig.reason("items", "Ready", "SpecInvalid").await;

    rig.api.apply(
        "apiVersion: v1
kind: Secret
metadata: {name: mislaid, namespace: default}
stringData: {username: postgres, password: unused}
",
    );
    rig.condition("items", "CaughtUp", "True").await;
    rig.condition("items", "Ready", "True").await;
}

/// An operator that has found the Lease of a worker expired writes Unknown, maybe a moment after a worker is back. A map without
/// changes has nothing else to tell.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_does_not_stay_over_what_a_worker_has_said() {
    let _time = timed("unknown_does_not_stay_over_what_a_worker_has_said");
    let (rig, _destination, _operator) = start(&["id"], ITEMS).await;
    let version = async || rig.maps.get("items").await.unwrap().metadata.resource_version;
    let mut quiet = (version().await, Instant::now());
    wait_until(
        SOON,
        "a map that has had nothing to tell for a while",
        async || {
            let now = version().await;
            if now != quiet.0 {
                quiet = (now, Instant::now());
            }
            quiet.1.elapsed() > Duration::from_secs(15)
        },
    )
    .await;
    let unknown = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap", "metadata": {"name": "items"},
        "status": {"phase": "Unknown"},
    });
    let late = PatchParams::apply("tablemap-operator").force();
    let written = rig
        .maps
        .patch_status("items", &late, &Patch::Apply(&unknown))
        .await
        .unwrap();
    assert_eq!(written.status.unwrap().phase.as_deref(), Some("Unknown"));
    rig.phase("items", "Running").await;
}
