//! What a map may have queued (I7: a full queue stops no other map).

use crate::{
    scene::Scene,
    support::{
        clock::Clock,
        redis::ask,
        rig::{Rig, SOON, said, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const TABLES: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text);
    CREATE TABLE others (id bigserial PRIMARY KEY, note text)";

async fn scene(arguments: &[&str]) -> Scene {
    let tables: &[&[&str]] = &[&["items", "id", "note"], &["others", "id", "note"]];
    let scene = Scene::start(TABLES, "", tables, arguments).await;
    scene.rig.pause("items");
    scene.rig.condition("items", "Paused", "True").await;
    scene
}

fn limit(rig: &Rig, hard: &str) {
    let patch = format!(r#"{{"spec":{{"queue":{{"limits":{{"hard":{hard}}}}}}}}}"#);
    rig.api
        .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", &patch]);
}

async fn insert(scene: &Scene, table: &str, rows: u32) {
    let sql = format!("INSERT INTO {table} (note) SELECT md5(n::text) FROM generate_series(1, {rows}) n");
    scene.at_source(&sql).await;
}

async fn queued(scene: &Scene, records: u64) {
    wait_until(SOON, &format!("{records} queued records"), async || {
        scene.rig.status("items").await["queue"]["records"] == records
    })
    .await;
}

/// The map's sibling goes on.
async fn others_go_on(scene: &Scene) {
    insert(scene, "others", 10).await;
    scene.rig.equal("others", "id").await;
}

/// All is written, and the books balance.
async fn ends_well(scene: &Scene) {
    scene.rig.resume("items");
    scene.rig.condition("items", "CaughtUp", "True").await;
    scene.rig.equal("items", "id").await;
    let status = scene.rig.settled("items").await;
    assert_eq!(said(&status, "WithinLimits").unwrap()["reason"], "BelowSoftLimit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_stays_full_until_it_is_drained_or_may_be_larger() {
    let _time = timed("a_full_queue_stays_full_until_it_is_drained_or_may_be_larger");
    let scene = scene(&[]).await;
    let rig = &scene.rig;
    limit(rig, r#"{"records":100}"#);
    insert(&scene, "items", 79).await;
    queued(&scene, 79).await;
    assert_eq!(
        said(&rig.status("items").await, "WithinLimits").unwrap()["status"],
        "True"
    );

    insert(&scene, "items", 1).await;
    rig.reason("items", "WithinLimits", "SoftLimit").await;
    insert(&scene, "items", 20).await;
    let full = rig.reason("items", "WithinLimits", "HardLimit").await;
    let blocked = rig.phase("items", "Blocked").await;
    assert_eq!(blocked["blocked"]["reason"], "QueueHardLimit", "{full:#}");
    assert_eq!(said(&blocked, "Paused").unwrap()["status"], "True");
    let message = rig.reason("items", "Ready", "QueueHardLimit").await;
    let message = said(&message, "Ready").unwrap()["message"].to_string();
    assert!(
        message.contains("100 of 100 records") && message.contains("hard.records"),
        "{message}"
    );
    insert(&scene, "items", 50).await;
    others_go_on(&scene).await;
    queued(&scene, 100).await;

    // What waits at the source comes when there is room.
    limit(rig, r#"{"records":400}"#);
    queued(&scene, 150).await;
    rig.phase("items", "Paused").await;
    insert(&scene, "items", 250).await;
    rig.phase("items", "Blocked").await;
    insert(&scene, "items", 5).await;
    others_go_on(&scene).await;
    let events = rig.api.kubectl(&["get", "events", "-o", "wide"]);
    let warned = events.lines().filter(|line| line.contains("SoftLimit")).count();
    assert!(warned >= 1, "{events}");
    ends_well(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_age_limit_too_and_the_operator_has_the_last_word() {
    let _time = timed("bytes_and_age_limit_too_and_the_operator_has_the_last_word");
    let scene = scene(&["--max-queue-records=9999", "--max-queue-records=default=1000"]).await;
    let rig = &scene.rig;
    limit(rig, r#"{"bytes":"6Ki"}"#);
    insert(&scene, "items", 500).await;
    let full = rig.phase("items", "Blocked").await;
    assert!(full["queue"]["bytes"].as_u64() >= Some(6 << 10), "{full:#}");
    limit(rig, r#"{"bytes":"1Gi","ageSeconds":3}"#);
    let aged = async || {
        let status = rig.status("items").await;
        let message = said(&status, "WithinLimits").unwrap()["message"].to_string();
        status["phase"] == "Blocked" && message.contains("the limit is 3")
    };
    wait_until(SOON, "an aged queue", aged).await;
    limit(rig, r#"{"bytes":"1Gi","ageSeconds":86400,"records":1000000}"#);
    rig.phase("items", "Paused").await;
    insert(&scene, "items", 500).await;
    let full = rig.phase("items", "Blocked").await;
    let message = said(&full, "WithinLimits").unwrap()["message"].to_string();
    assert!(message.contains("of 1000 records"), "{message}");
    others_go_on(&scene).await;
    ends_well(&scene).await;
}

/// While the second worker runs, eight days pass.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_for_too_long_is_purged_with_a_word_before() {
    let _time = timed("what_has_waited_for_too_long_is_purged_with_a_word_before");
    let mut rig = Rig::start().await;
    rig.both(TABLES).await;
    let erp = rig.erp().await;
    erp.batch_execute("ALTER TABLE items ADD CHECK (note <> 'bad')")
        .await
        .unwrap();
    rig.arguments.push("--lease-seconds=2".into());
    rig.arguments.push("--confirm-delay-milliseconds=1000".into());
    let _controllers = rig.controllers();
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let mut worker = rig.worker(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    rig.park_one().await;
    // Replaced, and kept as long.
    let crm = rig.crm().await;
    let bad = "INSERT INTO items VALUES (1000, 'bad')";
    crm.batch_execute(bad).await.unwrap();
    wait_until(SOON, "two errors", async || {
        rig.status("items").await["errors"]["count"] == 2
    })
    .await;
    let good = "UPDATE items SET note = 'good' WHERE id = 1000";
    crm.batch_execute(good).await.unwrap();
    wait_until(SOON, "a replaced record", async || {
        rig.status("items").await["ledger"]["superseded"] == 1
    })
    .await;
    // Of those that lie together one is replaced.
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    let many = "INSERT INTO items SELECT n, 'skipped' FROM generate_series(2001, 2300) n";
    crm.batch_execute(many).await.unwrap();
    let skip = ["action: Park", "from: Queue", "selection: {type: All}"];
    wait_until(SOON, "300 queued records", async || {
        rig.status("items").await["queue"]["records"] == 300
    })
    .await;
    rig.ask("skip", "items", &skip);
    rig.waits("skip", "MapPaused").await;
    rig.resume("items");
    rig.ended("skip").await;
    let good = "UPDATE items SET note = 'good' WHERE id = 2100";
    crm.batch_execute(good).await.unwrap();
    wait_until(SOON, "another replaced record", async || {
        rig.status("items").await["ledger"]["superseded"] == 2
    })
    .await;
    let event = async |rig: &Rig, reason: &str| {
        wait_until(SOON, reason, async || {
            rig.api
                .kubectl(&["get", "events"])
                .lines()
                .any(|line| line.contains(reason))
        })
        .await;
    };
    worker.kill9();
    let mut clock = Clock::new();
    clock.forward(6 * DAY + Duration::from_secs(60));
    let _worker = rig.worker(&[clock.variable()]);
    event(&rig, "PurgeSoon").await;
    assert_eq!(rig.status("items").await["errors"]["count"], 300);
    clock.forward(2 * DAY);
    event(&rig, "ErrorsPurged").await;
    wait_until(SOON, "no error", async || {
        rig.status("items").await["errors"]["count"] == 0
    })
    .await;
    let status = rig.settled("items").await;
    assert_eq!(
        (&status["ledger"]["purged"], &status["ledger"]["superseded"]),
        (&300.into(), &2.into()),
        "{status:#}"
    );
    for store in ["*:errors", "*:packs"] {
        let left: Vec<String> = ask(rig.redis.port, &["KEYS", store]).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_refuses_everything_makes_no_more_errors_than_may_be() {
    let _time = timed("a_rule_that_refuses_everything_makes_no_more_errors_than_may_be");
    let tables: &[&[&str]] = &[&["items", "id", "note"], &["others", "id", "note"]];
    let rule = "ALTER TABLE items ADD CONSTRAINT nothing CHECK (note = 'good') NOT VALID";
    let scene = Scene::start(TABLES, rule, tables, &[]).await;
    let rig = &scene.rig;
    let patch = r#"{"spec":{"errors":{"maxRecords":7}}}"#;
    rig.api
        .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", patch]);
    rig.observed("items").await;
    scene
        .at_source("INSERT INTO items (note) SELECT 'bad' FROM generate_series(1, 20)")
        .await;
    let full = rig.reason("items", "DestinationConnected", "TooManyErrors").await;
    assert_eq!(full["phase"], "Buffering", "{full:#}");
    scene.errors("items", 7).await;
    insert(&scene, "items", 3).await;
    others_go_on(&scene).await;
    scene.errors("items", 7).await;
    scene
        .erp
        .batch_execute("ALTER TABLE items DROP CONSTRAINT nothing")
        .await
        .unwrap();
    rig.condition("items", "CaughtUp", "True").await;
    scene.errors("items", 7).await;
    let status = rig.settled("items").await;
    assert_eq!(status["ledger"]["written"], 16, "{status:#}");
    rig.ask_errors("again", "items", "Retry", "{type: All}");
    rig.ended("again").await;
    rig.equal("items", "id").await;
}
