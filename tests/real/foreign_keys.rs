//! Parents and children in maps of their own, with foreign keys at the destination that are checked at once: no record
//! is parked only because its parent is behind (rule 10).

use super::judge::judge;
use crate::support::{
    load::{Load, TREE_COLUMNS, TREES, prepare_trees},
    process::Process,
    proxy::Proxy,
    rig::{Rig, SOON, said, same_map},
    timing::timed,
    wait::wait_until,
};
use std::time::Duration;

async fn start() -> (Rig, Process) {
    let mut rig = Rig::start().await;
    prepare_trees(&rig).await;
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    let operator = rig.operator(&[]);
    for (table, columns) in TREES.iter().zip(TREE_COLUMNS) {
        rig.api.apply(&same_map(table, &["id"], columns));
    }
    all_caught_up(&rig).await;
    (rig, operator)
}

async fn all_caught_up(rig: &Rig) {
    for map in TREES {
        rig.condition(map, "CaughtUp", "True").await;
    }
}

/// No record was ever parked: neither now, nor before a later one replaced it.
async fn nothing_parked(rig: &Rig) {
    let sql = "SELECT coalesce(sum(parks), 0)::bigint FROM tablemap.progress";
    let parks: i64 = rig.erp().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(parks, 0);
    for map in TREES {
        let status = rig.status(map).await;
        assert_eq!(status["errors"]["count"], 0, "{status:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn families_paused_and_resumed_in_every_way_park_nothing() {
    let _time = timed("families_paused_and_resumed_in_every_way_park_nothing");
    let (rig, _operator) = start().await;
    let load = Load::trees(&rig, 4, Duration::from_millis(10), false);
    let ways: &[&[&str]] = &[
        TREES,
        &["customers"],
        &["lines"],
        &["orders"],
        &["customers", "lines"],
        &["orders", "customers"],
        TREES,
    ];
    for paused in ways {
        for map in *paused {
            rig.pause(map);
        }
        for map in *paused {
            rig.condition(map, "Paused", "True").await;
        }
        more(&load, 300).await;
        // The first is resumed while the others are still paused, or replay already.
        for map in *paused {
            rig.resume(map);
        }
        // In catch-up too: changes go on coming.
        more(&load, 100).await;
        all_caught_up(&rig).await;
        nothing_parked(&rig).await;
    }
    judge(&rig, load, TREES).await;
    nothing_parked(&rig).await;
}

async fn more(load: &Load, more: u64) {
    let before = load.written();
    wait_until(SOON, "more load", async || load.written() > before + more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_waits_for_its_paused_parent_and_says_so() {
    let _time = timed("a_child_waits_for_its_paused_parent_and_says_so");
    let (rig, _operator) = start().await;
    let load = Load::trees(&rig, 3, Duration::from_millis(15), false);
    for table in TREES {
        rig.more_writes(table, 50, SOON).await;
    }
    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    waits_for(&rig, "orders", "customers").await;
    waits_for(&rig, "lines", "orders").await;
    more(&load, 300).await;
    nothing_parked(&rig).await;
    let status = rig.status("orders").await;
    assert_eq!(said(&status, "Paused").unwrap()["status"], "False");
    rig.resume("customers");
    all_caught_up(&rig).await;
    judge(&rig, load, TREES).await;
    nothing_parked(&rig).await;
}

/// Each transaction adds a family and removes parts of another, so that both tables need each other's records.
#[tokio::test(flavor = "multi_thread")]
async fn maps_that_need_each_other_catch_up_together_whoever_resumes_first() {
    let _time = timed("maps_that_need_each_other_catch_up_together_whoever_resumes_first");
    let (rig, _operator) = start().await;
    let load = Load::renewed_trees(&rig, 2, Duration::from_millis(20));
    for (first, needed) in [("orders", "customers"), ("customers", ""), ("lines", "orders")] {
        for map in TREES {
            rig.pause(map);
        }
        for map in TREES {
            rig.condition(map, "Paused", "True").await;
        }
        more(&load, 300).await;
        rig.resume(first);
        // It has met a record that needs another map, before that one is resumed.
        if needed.is_empty() {
            rig.condition(first, "Paused", "False").await;
        } else {
            waits_for(&rig, first, needed).await;
        }
        let others: Vec<&&str> = TREES.iter().filter(|map| **map != first).collect();
        for map in others.iter().rev() {
            rig.resume(map);
            more(&load, 20).await;
        }
        let resumed = std::time::Instant::now();
        all_caught_up(&rig).await;
        println!(
            "{first} first: caught up {:.1?} after the last was resumed",
            resumed.elapsed()
        );
        nothing_parked(&rig).await;
    }
    judge(&rig, load, TREES).await;
    nothing_parked(&rig).await;
}

/// Waits until a map buffers, and says for which one it waits.
async fn waits_for(rig: &Rig, child: &str, parent: &str) {
    let what = format!("{child} waits for {parent}");
    wait_until(SOON, &what, async || {
        let status = rig.status(child).await;
        let said = said(&status, "DestinationConnected").unwrap();
        let message = said["message"].as_str().unwrap();
        let named = message.contains(&format!("map {parent},"));
        status["phase"] == "Buffering" && said["reason"] == "WaitsForParent" && named
    })
    .await;
}

/// Commits many small transactions: five children and five others each. One child, in the middle, belongs to the
/// second parent.
const BURST: &str = r"
CREATE PROCEDURE burst(transactions int) LANGUAGE plpgsql AS $p$
BEGIN
  INSERT INTO parents VALUES (2);
  COMMIT;
  FOR t IN 1..transactions LOOP
    INSERT INTO children SELECT t * 5 + n, CASE WHEN t = 150 AND n = 3 THEN 2 ELSE 1 END FROM generate_series(0, 4) n;
    INSERT INTO others SELECT t * 5 + n FROM generate_series(0, 4) n;
    COMMIT;
  END LOOP;
END $p$;";

/// The child's first records of a batch are committed, a later one waits, and more than a batch stands behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_waits_in_the_middle_of_a_batch_takes_nothing_of_its_sibling_along() {
    let _time = timed("a_child_that_waits_in_the_middle_of_a_batch_takes_nothing_of_its_sibling_along");
    let mut rig = Rig::start().await;
    let tables = ["parents", "children", "others"];
    rig.both(
        "CREATE TABLE parents (id bigint PRIMARY KEY);
         CREATE TABLE children (id bigint PRIMARY KEY, parent_id bigint NOT NULL REFERENCES parents);
         CREATE TABLE others (id bigint PRIMARY KEY)",
    )
    .await;
    let crm = rig.crm().await;
    crm.batch_execute(BURST).await.unwrap();
    let destination = Proxy::start(rig.destination.port);
    rig.connect(rig.source.port, destination.port, rig.redis.port);
    let _operator = rig.operator(&[]);
    let columns: [&[&str]; 3] = [&["id"], &["id", "parent_id"], &["id"]];
    for (table, columns) in tables.iter().zip(columns) {
        rig.api.apply(&same_map(table, &["id"], columns));
    }
    for map in tables {
        rig.condition(map, "CaughtUp", "True").await;
    }
    crm.batch_execute("INSERT INTO parents VALUES (1)").await.unwrap();
    rig.equal("parents", "id").await;
    rig.pause("parents");
    rig.condition("parents", "Paused", "True").await;

    // More than a batch gathers in the lane meanwhile.
    destination.hold_requests();
    crm.batch_execute("CALL burst(4000)").await.unwrap();
    destination.release_requests();
    waits_for(&rig, "children", "parents").await;
    rig.equal("others", "id").await;
    rig.resume("parents");
    for map in tables {
        rig.condition(map, "CaughtUp", "True").await;
        rig.equal(map, "id").await;
        assert_eq!(rig.settled(map).await["errors"]["count"], 0);
    }
}

/// The destination alone has the foreign key, so that the source may leave a child without its parent.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_a_deleted_parent_is_refused_and_does_not_go_with_it() {
    let _time = timed("a_child_of_a_deleted_parent_is_refused_and_does_not_go_with_it");
    let mut rig = Rig::start().await;
    rig.both(
        "CREATE TABLE parents (id char(4) PRIMARY KEY);
         CREATE TABLE children (id bigint PRIMARY KEY, parent_id char(4))",
    )
    .await;
    rig.erp()
        .await
        .batch_execute(
            "ALTER TABLE children ADD FOREIGN KEY (parent_id) REFERENCES parents ON DELETE CASCADE",
        )
        .await
        .unwrap();
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("parents", &["id"], &["id"]));
    rig.api
        .apply(&same_map("children", &["id"], &["id", "parent_id"]));
    for map in ["parents", "children"] {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let crm = rig.crm().await;
    crm.batch_execute("INSERT INTO parents VALUES (1), (2)")
        .await
        .unwrap();
    rig.equal("parents", "id").await;
    crm.batch_execute(
        "BEGIN; DELETE FROM parents WHERE id = '1'; INSERT INTO children VALUES (1, 2), (2, 1), (3, NULL); COMMIT",
    )
    .await
    .unwrap();
    rig.equal("parents", "id").await;
    wait_until(SOON, "the child as an error", async || {
        rig.status("children").await["errors"]["count"] == 1
    })
    .await;
    let sql = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM children";
    let children: String = rig.erp().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(children, "1 3");
    rig.settled("children").await;
}
