//! Deleting a map: what is queued is written first, or dropped if that is chosen; and nothing holds a deletion for ever.

use crate::support::{
    rig::{Rig, SOON, said, same_map},
    timing::timed,
    wait::wait_until,
};
use std::time::{Duration, Instant};

async fn start(tables: &[&str]) -> Rig {
    let mut rig = Rig::start().await;
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    rig.arguments.push("--clean-up-seconds=6".into());
    for table in tables {
        rig.both(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY)"))
            .await;
        rig.api.apply(&same_map(table, &["id"], &["id"]));
    }
    rig
}

async fn caught_up(rig: &Rig, maps: &[&str]) {
    for map in maps {
        rig.condition(map, "CaughtUp", "True").await;
    }
}

fn delete(rig: &Rig, map: &str) {
    rig.api.kubectl(&["delete", "tablemap", map, "--wait=false"]);
}

async fn is_gone(rig: &Rig, map: &str) {
    let what = format!("{map} is gone");
    wait_until(SOON, &what, async || {
        rig.maps.get_opt(map).await.unwrap().is_none()
    })
    .await;
}

/// Waits for the event that names what is left of a map.
async fn left_behind(rig: &Rig, map: &str, parts: &[&str]) {
    let object = format!("involvedObject.name={map},reason=LeftBehind");
    let what = format!("the event that {parts:?} of {map} are left behind");
    wait_until(SOON, &what, async || {
        let columns = "custom-columns=T:.type,M:.message";
        let told = rig
            .api
            .kubectl(&["get", "events", "--field-selector", &object, "-o", columns]);
        told.contains("Warning") && parts.iter().all(|part| told.contains(part))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_the_queue_or_drops_it() {
    let _time = timed("a_deletion_waits_for_the_queue_or_drops_it");
    let mut rig = start(&["written", "dropped"]).await;
    let _operator = rig.operator(&[]);
    caught_up(&rig, &["written", "dropped"]).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    for map in ["written", "dropped"] {
        rig.pause(map);
        rig.condition(map, "Paused", "True").await;
        crm.batch_execute(&format!("INSERT INTO {map} VALUES (1)"))
            .await
            .unwrap();
        wait_until(SOON, "a queued record", async || {
            rig.status(map).await["queue"]["records"] == 1
        })
        .await;
        delete(&rig, map);
        let status = rig.reason(map, "CleanedUp", "QueueNotEmpty").await;
        let message = said(&status, "CleanedUp").unwrap()["message"].to_string();
        assert!(message.contains("Set spec.state to Running"), "{message}");
        assert_eq!(said(&status, "Paused").unwrap()["status"], "True");
    }
    rig.resume("written");
    let discard = r#"{"spec":{"deletionPolicy":"Discard"}}"#;
    rig.api
        .kubectl(&["patch", "tablemap", "dropped", "--type=merge", "-p", discard]);
    for map in ["written", "dropped"] {
        is_gone(&rig, map).await;
    }
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        erp.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!((count("written").await, count("dropped").await), (1, 0));
    assert_eq!(count("tablemap.progress").await, 0);
}

/// What is queued is to be written first: that its Connection is gone for a while is no reason to drop it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_waits_for_its_queue_survives_a_missing_connection() {
    let _time = timed("a_deletion_that_waits_for_its_queue_survives_a_missing_connection");
    let mut rig = start(&["t"]).await;
    let operator = rig.operator(&[]);
    caught_up(&rig, &["t"]).await;
    rig.pause("t");
    rig.condition("t", "Paused", "True").await;
    rig.crm()
        .await
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    wait_until(SOON, "a queued record", async || {
        rig.status("t").await["queue"]["records"] == 1
    })
    .await;
    delete(&rig, "t");
    rig.reason("t", "CleanedUp", "QueueNotEmpty").await;
    drop(operator);
    rig.api.kubectl(&["delete", "connection", "erp"]);
    let _operator = rig.operator(&[]);
    rig.reason("t", "SpecValid", "ConnectionMissing").await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(15) {
        assert!(rig.maps.get_opt("t").await.unwrap().is_some(), "it was given up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    rig.connect(rig.source.port, rig.destination.port, rig.redis.port);
    rig.resume("t");
    is_gone(&rig, "t").await;
    let sql = "SELECT count(*) FROM t";
    let rows: i64 = rig.erp().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);
}

/// The last map that can be read goes: what another may need at the source stays there.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_leaves_the_slot_to_a_map_that_cannot_be_read() {
    let _time = timed("a_deletion_leaves_the_slot_to_a_map_that_cannot_be_read");
    let mut rig = start(&["goes"]).await;
    rig.both("CREATE TABLE stays (id bigint PRIMARY KEY)").await;
    rig.queue("other", rig.redis.port);
    let stays = same_map("stays", &["id"], &["id"]).replace("{name: queue}", "{name: other}");
    rig.api.apply(&stays);
    let operator = rig.operator(&[]);
    caught_up(&rig, &["goes", "stays"]).await;
    drop(operator);
    rig.api.kubectl(&["delete", "connection", "other"]);
    let crm = rig.crm().await;
    crm.batch_execute("INSERT INTO stays VALUES (1)").await.unwrap();
    let _operator = rig.operator(&[]);
    rig.reason("stays", "SpecValid", "ConnectionMissing").await;
    delete(&rig, "goes");
    is_gone(&rig, "goes").await;
    left_behind(&rig, "goes", &["slot and publication"]).await;
    rig.queue("other", rig.redis.port);
    rig.equal("stays", "id").await;
    rig.settled("stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_gives_up_what_is_gone_for_good_and_says_so() {
    let _time = timed("a_deletion_gives_up_what_is_gone_for_good_and_says_so");
    let maps = ["a", "b", "c", "d"];
    let mut rig = start(&maps).await;
    let operator = rig.operator(&[]);
    caught_up(&rig, &maps).await;

    rig.destination.kill9();
    rig.phase("a", "Buffering").await;
    delete(&rig, "a");
    is_gone(&rig, "a").await;
    left_behind(&rig, "a", &["tablemap.progress at Connection erp"]).await;
    rig.destination.start_again().await;
    caught_up(&rig, &["b", "c", "d"]).await;

    rig.redis.kill9();
    delete(&rig, "b");
    is_gone(&rig, "b").await;
    left_behind(&rig, "b", &["in Redis at Connection queue"]).await;
    rig.redis.start_again().await;
    caught_up(&rig, &["c", "d"]).await;

    rig.source.kill9();
    delete(&rig, "c");
    is_gone(&rig, "c").await;
    left_behind(&rig, "c", &["public.c in publication tablemap_"]).await;
    rig.source.start_again().await;
    caught_up(&rig, &["d"]).await;

    // Nobody knows any more where its parts are.
    drop(operator);
    rig.api.kubectl(&["delete", "connection", "erp"]);
    delete(&rig, "d");
    let _operator = rig.operator(&[]);
    is_gone(&rig, "d").await;
    left_behind(
        &rig,
        "d",
        &["tablemap.progress", "in Redis", "slot and publication"],
    )
    .await;
}

/// What nobody has begun holds no deletion up, and leaves nothing behind of which somebody would have to hear.
#[tokio::test(flavor = "multi_thread")]
async fn maps_that_nobody_has_begun_go_without_a_worker() {
    let _time = timed("maps_that_nobody_has_begun_go_without_a_worker");
    let mut rig = Rig::start().await;
    let _controllers = rig.controllers();
    let map = |name: &str| same_map(name, &["id"], &["id"]);
    let filtered = "public, name: invalid}, filter: {expression: 'row.id >'}}";
    let invalid = map("invalid").replacen("public, name: invalid}}", filtered, 1);
    rig.api.apply(&map("waits"));
    rig.api
        .apply(&map("misspelt").replacen("{name: erp}", "{name: epr}", 1));
    rig.api.apply(&invalid);
    rig.reason("waits", "SpecValid", "Accepted").await;
    rig.reason("misspelt", "SpecValid", "ConnectionMissing").await;
    rig.reason("invalid", "SpecValid", "MappingInvalid").await;
    for map in ["waits", "misspelt", "invalid"] {
        delete(&rig, map);
    }
    for map in ["waits", "misspelt", "invalid"] {
        is_gone(&rig, map).await;
    }
    let told = rig
        .api
        .kubectl(&["get", "events", "--field-selector", "reason=LeftBehind"]);
    assert!(!told.contains("LeftBehind"), "{told}");
}

/// Whoever works by then cannot reach the source, nor ever will.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_gives_up_a_source_whose_secret_is_gone() {
    let _time = timed("a_deletion_gives_up_a_source_whose_secret_is_gone");
    let mut rig = start(&["t"]).await;
    rig.api.kubectl(&[
        "create",
        "secret",
        "generic",
        "crm",
        "--from-literal=username=postgres",
        "--from-literal=password=unused",
    ]);
    let patch = r#"{"spec":{"postgres":{"credentials":{"secretRef":{"name":"crm"}}}}}"#;
    rig.api
        .kubectl(&["patch", "connection", "crm", "--type=merge", "-p", patch]);
    let operator = rig.operator(&[]);
    caught_up(&rig, &["t"]).await;
    drop(operator);
    rig.api.kubectl(&["delete", "secret", "crm"]);
    let _operator = rig.operator(&[]);
    rig.reason("t", "SpecValid", "ConnectionMissing").await;
    delete(&rig, "t");
    is_gone(&rig, "t").await;
    left_behind(&rig, "t", &["Secret crm", "slot and publication"]).await;
}
