//! A map that takes nothing for a while keeps its changes in a slot of its own, and the main slot moves on (I1, I7).

use crate::support::{
    audit::{compare_databases, install_audit, install_writelog},
    process::Process,
    proxy::Proxy,
    redis::Redis,
    rig::{NAMESPACE, Rig, SOON, Settings, postgres, same_map},
    timing::timed,
    wait::wait_until,
};
use serde_json::Value;
use tokio_postgres::Client;

const TABLES: &[&str] = &["items", "others"];

/// `items` has a Redis of its own, which is away; `others` is in step.
struct Scene {
    rig: Rig,
    apart: Redis,
    /// The way to the destination that is called `erp-apart`.
    destination: Proxy,
    crm: Client,
}

impl Scene {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_at(settings, "erp").await
    }

    /// `items` goes to this destination.
    async fn start_at(settings: &[(&str, &str)], destination: &str) -> Self {
        let mut rig = Rig::start_with(Settings {
            source: settings,
            ..Settings::default()
        })
        .await;
        let apart = Redis::start().await;
        rig.queue("apart", apart.port);
        rig.arguments.extend([
            "--confirm-delay-milliseconds=500".into(),
            "--side-slot-seconds=1".into(),
            "--lease-seconds=1".into(),
        ]);
        let (crm, erp) = (rig.crm().await, rig.erp().await);
        for table in TABLES {
            rig.both(&format!(
                "CREATE TABLE {table} (id bigserial PRIMARY KEY, note text)"
            ))
            .await;
            install_audit(&crm, table, &["id"], &[]).await;
            install_writelog(&erp, table, &["id"], &[]).await;
        }
        let proxy = Proxy::start(rig.destination.port);
        let apart_erp = postgres("erp", proxy.port).replace("name: erp,", "name: erp-apart,");
        rig.api.apply(&apart_erp);
        let items = same_map("items", &["id"], &["id", "note"])
            .replace("{name: queue}", "{name: apart}")
            .replace("{name: erp}", &format!("{{name: {destination}}}"));
        rig.api.apply(&items);
        rig.api.apply(&same_map("others", &["id"], &["id", "note"]));
        Self {
            rig,
            apart,
            destination: proxy,
            crm,
        }
    }

    async fn change(&self, table: &str) {
        let sql = format!(
            "INSERT INTO {table} (note) SELECT md5(n::text) FROM generate_series(1, 50) n;
             UPDATE {table} SET note = note || 'x' WHERE id % 3 = 0; DELETE FROM {table} WHERE id % 7 = 0"
        );
        self.crm.batch_execute(&sql).await.unwrap();
    }

    /// Paused, with changes that its Redis does not take.
    async fn block(&mut self) {
        for map in TABLES {
            self.rig.condition(map, "CaughtUp", "True").await;
            self.change(map).await;
        }
        self.rig.pause("items");
        self.rig.condition("items", "Paused", "True").await;
        self.apart.kill9();
        self.change("items").await;
        self.rig.phase("items", "Blocked").await;
    }

    async fn slots(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_replication_slots";
        self.crm.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn has_slots(&self, slots: i64) {
        wait_until(SOON, &format!("{slots} slots"), async || {
            self.slots().await == slots
        })
        .await;
    }

    /// The main slot moves on, and the others' changes arrive.
    async fn goes_on(&self) {
        self.change("items").await;
        self.change("others").await;
        let end = self.rig.end_of_log().await;
        self.rig.equal("others", "id").await;
        wait_until(SOON, "a main slot that moves on", async || {
            self.rig.confirmed().await >= end
        })
        .await;
    }

    fn connection(&self) -> Value {
        let shown = self
            .rig
            .api
            .kubectl(&["get", "connection", "crm", "-n", NAMESPACE, "-o", "json"]);
        serde_json::from_str(&shown).unwrap()
    }

    fn events(&self, reason: &str) -> String {
        let field = format!("reason={reason}");
        let api = &self.rig.api;
        api.kubectl(&["get", "events", "-n", NAMESPACE, "--field-selector", &field])
    }

    /// Everything arrives, in order, and the side slot goes.
    async fn judge(&self) {
        self.rig.resume("items");
        for table in TABLES {
            self.rig.condition(table, "CaughtUp", "True").await;
            self.rig.equal(table, "id").await;
        }
        self.has_slots(1).await;
        self.change("items").await;
        self.rig.equal("items", "id").await;
        for map in TABLES {
            self.rig.settled(map).await;
        }
        let erp = self.rig.erp().await;
        let summary = compare_databases(&self.crm, &erp, TABLES).await;
        println!("{:?}", summary.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_map_holds_only_itself_back() {
    let _time = timed("a_blocked_map_holds_only_itself_back");
    let mut scene = Scene::start(&[("max_slot_wal_keep_size", "1GB")]).await;
    let _operator = scene.rig.operator(&[]);
    scene.block().await;
    scene.has_slots(2).await;
    scene.goes_on().await;
    wait_until(SOON, "a side slot in the Connection's status", async || {
        let status = scene.connection();
        let worker = &status["status"]["workers"][0];
        worker["sideSlots"][0]["tableMap"] == "items"
            && worker["slot"]["walStatus"] == "Reserved"
            && worker["slot"]["safeBytes"].is_number()
    })
    .await;
    wait_until(SOON, "what the source keeps", async || {
        let blocked = &scene.rig.status("items").await["blocked"];
        blocked["sourceRetainedBytes"].as_i64() > Some(0) && blocked["sourceSafeBytes"].is_number()
    })
    .await;
    // The map goes over to the main slot while transactions of many chunks come.
    let load = tokio::spawn(large_transactions(scene.rig.crm().await));
    scene.apart.start_again().await;
    scene.rig.phase("items", "Paused").await;
    scene.has_slots(1).await;
    load.abort();
    scene.goes_on().await;
    scene.judge().await;
}

async fn large_transactions(crm: Client) {
    loop {
        let sql = "BEGIN; INSERT INTO items (note) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 6000) n;
            INSERT INTO others (note) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 6000) n; COMMIT";
        crm.batch_execute(sql).await.unwrap();
    }
}

/// Its Redis is back before the worker knows of the slot that it is making: the map goes on with the main one.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_slot_that_comes_too_late_leaves_no_map_out() {
    let _time = timed("a_side_slot_that_comes_too_late_leaves_no_map_out");
    let mut scene = Scene::start(&[]).await;
    let _controllers = scene.rig.controllers();
    let worker = scene
        .rig
        .worker(&[("TABLEMAP_FAILPOINTS", "side-slot-made=until-streaming")]);
    scene.block().await;
    worker.line("failpoint side-slot-made waits", SOON).await;
    assert_eq!(scene.slots().await, 2);
    scene.apart.start_again().await;
    worker.line("taking changes again", SOON).await;
    scene.goes_on().await;
    scene.judge().await;
    assert!(!worker.log().contains("left out of the stream"));
}

/// A worker that ends while a side slot is there, or is being read, is followed by one that goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_slot_outlives_workers() {
    let _time = timed("a_side_slot_outlives_workers");
    let mut scene = Scene::start(&[]).await;
    let _controllers = scene.rig.controllers();
    let mut worker = scene.rig.worker(&[]);
    scene.block().await;
    scene.has_slots(2).await;
    scene.goes_on().await;
    worker.kill9();
    let mut worker = scene.rig.worker(&[]);
    scene.change("others").await;
    scene.rig.equal("others", "id").await;
    scene.change("items").await;
    assert_eq!(scene.slots().await, 2);
    scene.apart.start_again().await;
    worker.line("reading from the side slot", SOON).await;
    worker.kill9();
    let mut worker = scene.rig.worker(&[]);
    worker.line("the map goes on with the main slot", SOON).await;
    worker.kill9();
    let _worker = scene.rig.worker(&[]);
    scene.change("items").await;
    scene.judge().await;
}

/// What the main stream hands out meanwhile, a map that has its side slot still to read has not taken: it may not be
/// marked at the destination as if it had (I1).
#[tokio::test(flavor = "multi_thread")]
async fn what_a_side_slot_has_still_to_send_is_not_taken_for_written() {
    let _time = timed("what_a_side_slot_has_still_to_send_is_not_taken_for_written");
    let mut scene = Scene::start(&[]).await;
    let _controllers = scene.rig.controllers();
    let mut worker = scene.rig.worker(&[]);
    scene.block().await;
    scene.has_slots(2).await;
    worker.kill9();
    scene.apart.start_again().await;
    for table in TABLES {
        scene.change(table).await;
    }
    scene.rig.resume("items");
    // All that it does at once comes before it begins to read the side slot.
    scene.rig.arguments.push("--clock-milliseconds=2000".into());
    let _worker = scene.rig.worker(&[]);
    scene.judge().await;
}

/// A worker takes a map over after it has begun with others, and cannot reach the map's destination: the map's queue begins
/// where its side slot does, not where the main one is (rule 1).
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_does_not_begin_beyond_a_side_slot() {
    let _time = timed("a_queue_does_not_begin_beyond_a_side_slot");
    let mut scene = Scene::start_at(&[], "erp-apart").await;
    let _controllers = scene.rig.controllers();
    let mut worker = scene.rig.worker(&[]);
    for map in TABLES {
        scene.rig.condition(map, "CaughtUp", "True").await;
        scene.change(map).await;
        scene.rig.equal(map, "id").await;
    }
    scene.apart.kill9();
    scene.destination.refuse();
    scene.change("items").await;
    scene.rig.phase("items", "Blocked").await;
    scene.has_slots(2).await;
    scene.goes_on().await;
    worker.kill9();
    let worker = scene.rig.worker(&[]);
    worker.line("the map could not be taken over", SOON).await;
    scene.change("others").await;
    scene.rig.equal("others", "id").await;
    scene.apart.start_again().await;
    scene.rig.phase("items", "Buffering").await;
    scene.destination.accept();
    scene.judge().await;
    assert!(!worker.log().contains("changes are missing"));
}

/// No slot is left: that is said, and the main slot waits, so that nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_side_slot_the_main_slot_waits() {
    let _time = timed("without_a_side_slot_the_main_slot_waits");
    let limits = [
        ("max_replication_slots", "1"),
        ("max_slot_wal_keep_size", "128MB"),
    ];
    let mut scene = Scene::start(&limits).await;
    let _operator = scene.rig.operator(&[]);
    scene.block().await;
    wait_until(SOON, "an event", async || {
        scene.events("NoSideSlot").contains("the main slot waits")
    })
    .await;
    let confirmed = scene.rig.confirmed().await;
    scene.change("others").await;
    scene.rig.equal("others", "id").await;
    assert_eq!(scene.rig.confirmed().await, confirmed);
    // Said before the source gives the slot up.
    let noise = "CREATE TABLE IF NOT EXISTS noise (x text);
        INSERT INTO noise SELECT repeat(md5(n::text), 60) FROM generate_series(1, 1000) n";
    wait_until(SOON, "a warning", async || {
        if scene.events("SlotNearlyLost").contains("max_slot_wal_keep_size") {
            return true;
        }
        scene.crm.batch_execute(noise).await.unwrap();
        false
    })
    .await;
    scene.apart.start_again().await;
    scene.judge().await;
}

/// A map goes with its side slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_map_takes_its_side_slot_along() {
    let _time = timed("a_deleted_map_takes_its_side_slot_along");
    let mut scene = Scene::start(&[]).await;
    scene.rig.arguments.push("--clean-up-seconds=3".into());
    let _operator: Process = scene.rig.operator(&[]);
    scene.block().await;
    scene.has_slots(2).await;
    let discard = r#"{"spec":{"deletionPolicy":"Discard"}}"#;
    let api = &scene.rig.api;
    api.kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", discard]);
    api.kubectl(&["delete", "tablemap", "items", "-n", NAMESPACE, "--timeout=60s"]);
    scene.has_slots(1).await;
    scene.change("others").await;
    scene.rig.equal("others", "id").await;
}
