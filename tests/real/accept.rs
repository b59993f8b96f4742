//! Accepting a gap: the way on where changes are lost for good (rules 1, 3 and 14).

use crate::support::{
    operations::operation,
    postgres::Postgres,
    process::Process,
    proxy::Proxy,
    rig::{NAMESPACE, Rig, SOON, assert_balanced, said, same_map},
    timing::timed,
    wait::{wait_for, wait_until},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::Client;

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

/// Maps `items` and `others`, in step; the source behind a proxy.
struct Scene {
    rig: Rig,
    source: Proxy,
    crm: Client,
    programs: Vec<Process>,
    copies: TempDir,
}

impl Scene {
    async fn start() -> Self {
        Self::start_as(|rig| vec![rig.operator(&[])]).await
    }

    async fn start_as(run: impl Fn(&mut Rig) -> Vec<Process>) -> Self {
        let mut rig = Rig::start().await;
        rig.both(ITEMS).await;
        rig.both("CREATE TABLE others (id bigserial PRIMARY KEY, note text)")
            .await;
        let erp = rig.erp().await;
        erp.batch_execute("ALTER TABLE items ADD CHECK (note <> 'bad')")
            .await
            .unwrap();
        let crm = rig.crm().await;
        let source = Proxy::start(rig.source.port);
        rig.connect(source.port, rig.destination.port, rig.redis.port);
        rig.arguments.push("--confirm-delay-milliseconds=1000".into());
        for table in ["items", "others"] {
            rig.api.apply(&same_map(table, &["id"], &["id", "note"]));
        }
        let programs = run(&mut rig);
        for map in ["items", "others"] {
            rig.condition(map, "CaughtUp", "True").await;
        }
        let scene = Self {
            rig,
            source,
            crm,
            programs,
            copies: tempfile::tempdir().unwrap(),
        };
        scene.insert("items", 100).await;
        scene.rig.equal("items", "id").await;
        scene
    }

    async fn insert(&self, table: &str, rows: u32) {
        insert(&self.crm, table, rows).await;
    }

    async fn pause(&self, map: &str) {
        self.rig.pause(map);
        self.rig.condition(map, "Paused", "True").await;
    }

    /// Changes the worker's publication.
    async fn publication(&self, change: &str) {
        let name = "SELECT pubname::text FROM pg_publication";
        let name: String = self.crm.query_one(name, &[]).await.unwrap().get(0);
        let sql = format!("ALTER PUBLICATION {name} {change}");
        self.crm.batch_execute(&sql).await.unwrap();
    }

    async fn queued(&self, map: &str, records: u64) {
        wait_until(SOON, &format!("{records} queued records of {map}"), async || {
            self.rig.status(map).await["queue"]["records"] == records
        })
        .await;
    }

    /// Waits for the reason, and tells what must be named to accept the gap.
    async fn lost(&self, map: &str, reason: &str) -> String {
        let status = wait_for(SOON, &format!("{reason} of {map}"), async || {
            let status = self.rig.status(map).await;
            let blocked = &status["blocked"];
            (blocked["reason"] == reason && blocked["gap"]["lostAfter"].is_string()).then_some(status)
        })
        .await;
        status["blocked"]["gap"]["lostAfter"].as_str().unwrap().to_owned()
    }

    /// Asks for the gap to be accepted, and waits for an end.
    async fn accept(&self, name: &str, map: &str, lost_after: &str) -> Value {
        self.ask(name, map, lost_after);
        self.rig.ended(name).await
    }

    fn ask(&self, name: &str, map: &str, lost_after: &str) {
        let gap = format!("acceptGap: {{lostAfter: {lost_after}}}");
        self.rig.ask(name, map, &["action: AcceptGap", &gap]);
    }

    async fn rows(&self, table: &str) -> i64 {
        count(&self.rig.erp().await, table).await
    }

    async fn has_rows(&self, table: &str, rows: i64) {
        wait_until(SOON, &format!("{rows} rows in {table}"), async || {
            self.rows(table).await == rows
        })
        .await;
    }

    /// At rest the books balance; so many records were given up.
    async fn given_up(&self, map: &str, records: u64) {
        let status = self.rig.settled(map).await;
        assert_eq!(status["ledger"]["discarded"], records, "{status:#}");
    }

    /// The parked record was replaced by a newer one.
    async fn one_was_replaced(&self, map: &str) {
        wait_until(SOON, "a superseded record", async || {
            let status = self.rig.status(map).await;
            status["errors"]["count"] == 0 && status["ledger"]["superseded"] == 1
        })
        .await;
        self.rig.settled(map).await;
    }

    fn events(&self, reason: &str) -> String {
        let field = format!("reason={reason}");
        self.rig
            .api
            .kubectl(&["get", "events", "-n", NAMESPACE, "--field-selector", &field])
    }
}

async fn insert(client: &Client, table: &str, rows: u32) {
    let sql = format!("INSERT INTO {table} (note) SELECT md5(n::text) FROM generate_series(1, {rows}) n");
    client.batch_execute(&sql).await.unwrap();
}

async fn count(client: &Client, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

fn is_complete(status: &Value) -> bool {
    said(status, "Complete").is_some_and(|said| said["status"] == "True")
}

fn has_failed_with(status: &Value, reason: &str) -> bool {
    said(status, "Failed").is_some_and(|said| said["status"] == "True" && said["reason"] == reason)
}

/// Redis was emptied while a map was paused: what it held is lost, and the map stays paused.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_is_accepted_only_by_its_position() {
    let _time = timed("an_emptied_redis_is_accepted_only_by_its_position");
    let scene = Scene::start().await;
    scene.rig.park_one().await;
    scene.pause("items").await;
    scene.insert("items", 30).await;
    scene.queued("items", 30).await;
    scene.rig.all_confirmed().await;
    let mut redis = scene.rig.redis.client().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    let lost_after = scene.lost("items", "PositionLost").await;

    let refused = scene.accept("wrong", "items", "F/1234").await;
    assert!(has_failed_with(&refused, "AnotherGap"), "{refused:#}");
    assert!(
        refused["message"].as_str().unwrap().contains(&lost_after),
        "{refused:#}"
    );
    assert_eq!(scene.lost("items", "PositionLost").await, lost_after);

    let accepted = scene.accept("right", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    let status = scene.rig.condition("items", "Paused", "True").await;
    assert_balanced(&status);
    assert_eq!(scene.rows("items").await, 100, "written while paused");
    assert!(scene.events("GapAccepted").contains("Compare the tables"));

    // The other map has lost its queue's position too: it is asked for itself.
    let others = scene.lost("others", "PositionLost").await;
    assert!(is_complete(&scene.accept("others", "others", &others).await));

    scene.insert("items", 7).await;
    scene.queued("items", 7).await;
    scene.rig.resume("items");
    scene.has_rows("items", 107).await;
    // The thirty were queued only, and the parked one was held by Redis.
    let status = scene.rig.settled("items").await;
    assert_eq!(status["errors"]["count"], 0, "{status:#}");
    assert_eq!(status["ledger"]["written"], 107, "{status:#}");

    let again = scene.accept("again", "items", &lost_after).await;
    assert!(has_failed_with(&again, "NoGap"), "{again:#}");
}

/// A destination put back to an older copy: what was written since is lost, what is queued is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_put_back_goes_on_with_what_is_queued() {
    let _time = timed("a_destination_put_back_goes_on_with_what_is_queued");
    let mut scene = Scene::start().await;
    let copy = scene.copies.path().join("copy");
    // What is seen there may not be on its disk yet.
    scene.rig.erp().await.batch_execute("CHECKPOINT").await.unwrap();
    scene.rig.destination.copy_to(&copy);
    scene.insert("items", 50).await;
    scene.rig.equal("items", "id").await;
    scene.pause("items").await;
    scene.insert("items", 30).await;
    scene.queued("items", 30).await;
    scene.rig.destination.restore_from(&copy);
    scene.rig.destination.start_again().await;
    scene.rig.resume("items");
    let lost_after = scene.lost("items", "PositionLost").await;
    let accepted = scene.accept("restored", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 135).await;
    scene.given_up("items", 50).await;
    scene
        .crm
        .batch_execute("UPDATE items SET note = 'new' WHERE id = 1")
        .await
        .unwrap();
    wait_until(SOON, "a later change", async || {
        let row = scene
            .rig
            .erp()
            .await
            .query_one("SELECT note FROM items WHERE id = 1", &[])
            .await;
        row.unwrap().get::<_, String>(0) == "new"
    })
    .await;
}

/// What was parked after a copy of the destination was taken is not dropped by a worker that finds the copy: the source
/// has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_outlives_a_destination_that_is_put_back() {
    let _time = timed("what_was_parked_outlives_a_destination_that_is_put_back");
    let mut scene = Scene::start().await;
    let copy = scene.copies.path().join("copy");
    // What is seen there may not be on its disk yet.
    scene.rig.erp().await.batch_execute("CHECKPOINT").await.unwrap();
    scene.rig.destination.copy_to(&copy);
    scene.rig.park_one().await;
    scene.insert("items", 10).await;
    scene.has_rows("items", 110).await;
    scene.rig.all_confirmed().await;
    scene.programs.clear();
    scene.rig.destination.restore_from(&copy);
    scene.rig.destination.start_again().await;
    let _operator = scene.rig.operator(&[]);
    let lost_after = scene.lost("items", "PositionLost").await;
    let accepted = scene.accept("items", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 105).await;
    wait_until(SOON, "the parked record", async || {
        scene.rig.status("items").await["errors"]["count"] == 1
    })
    .await;
}

/// Redis put back to a copy from before a record was parked: that record is lost, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn lost_errors_are_accepted() {
    let _time = timed("lost_errors_are_accepted");
    let mut scene = Scene::start().await;
    let copy = scene.copies.path().join("copy");
    scene.rig.redis.copy_to(&copy);
    scene.rig.park_one().await;
    scene.insert("items", 10).await;
    scene.has_rows("items", 110).await;
    scene.rig.redis.restore_from(&copy);
    scene.rig.redis.start_again().await;
    let lost_after = scene.lost("items", "ErrorsLost").await;
    let accepted = scene.accept("errors", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 115).await;
    scene.given_up("items", 1).await;
    assert_eq!(scene.rig.status("items").await["errors"]["count"], 0);
}

/// The slot is gone: the first operation makes a new one, and every map goes on by its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_accepted_map_by_map() {
    let _time = timed("a_lost_slot_is_accepted_map_by_map");
    let scene = Scene::start().await;
    scene.rig.park_one().await;
    scene.pause("others").await;
    scene.insert("others", 30).await;
    scene.queued("others", 30).await;
    drop_slot(&scene).await;
    scene.insert("items", 20).await;
    scene.insert("others", 20).await;
    scene.source.accept();
    let items = scene.lost("items", "SlotLost").await;
    scene.lost("others", "SlotLost").await;

    let accepted = scene.accept("items", "items", &items).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 105).await;
    let status = scene.rig.settled("items").await;
    assert_eq!(
        status["errors"]["count"], 1,
        "what was parked stays parked: {status:#}"
    );

    let others = scene.lost("others", "SlotLost").await;
    assert_eq!(scene.rows("others").await, 0);
    let accepted = scene.accept("others", "others", &others).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("others", 3).await;
    scene.queued("others", 33).await;
    assert_eq!(scene.rows("others").await, 0, "written while paused");
    scene.rig.resume("others");
    scene.has_rows("others", 33).await;
    scene.given_up("others", 0).await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(scene.crm.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 1);
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(
        scene
            .crm
            .query_one(publications, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );

    // A parked record of the era before is replaced by a newer one, never the other way round.
    scene
        .crm
        .batch_execute("UPDATE items SET note = 'good' WHERE note = 'bad'")
        .await
        .unwrap();
    scene.has_rows("items", 106).await;
    scene.one_was_replaced("items").await;
}

async fn drop_slot(scene: &Scene) {
    scene.source.refuse();
    let idle = "SELECT count(*) FROM pg_replication_slots WHERE active";
    wait_until(SOON, "an idle slot", async || {
        scene.crm.query_one(idle, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    scene.crm.batch_execute(sql).await.unwrap();
}

/// What changed while a table was out of the publication was not sent: the table joins again.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_left_the_publication_joins_again() {
    let _time = timed("a_table_that_left_the_publication_joins_again");
    let scene = Scene::start().await;
    scene.publication("DROP TABLE items").await;
    scene.insert("items", 20).await;
    let lost_after = scene.lost("items", "TableNotPublished").await;
    let accepted = scene.accept("items", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 105).await;
    scene.given_up("items", 0).await;
    scene.insert("others", 5).await;
    scene.has_rows("others", 5).await;
}

/// Whoever puts a table back does not bring what changed meanwhile: that is said still, also by the next worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_back_in_the_publication_lacks_what_changed_meanwhile() {
    let _time = timed("a_table_that_is_back_in_the_publication_lacks_what_changed_meanwhile");
    let mut scene = Scene::start().await;
    for change in ["DROP", "ADD"] {
        scene.publication(&format!("{change} TABLE items")).await;
        scene.insert("items", 20).await;
        scene.lost("items", "TableNotPublished").await;
    }
    for program in &mut scene.programs {
        program.kill9();
    }
    scene.programs = vec![scene.rig.operator(&[])];
    scene.insert("others", 5).await;
    scene.has_rows("others", 5).await;
    let lost_after = scene.lost("items", "TableNotPublished").await;
    let accepted = scene.accept("items", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    scene.insert("items", 5).await;
    scene.has_rows("items", 105).await;
}

/// An operation belongs to its map, says if there is none, and goes when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_belongs_to_its_map_and_goes_when_its_time_is_over() {
    let _time = timed("an_operation_belongs_to_its_map_and_goes_when_its_time_is_over");
    let scene = Scene::start().await;
    let lost = scene.accept("lost", "itemz", "0/1234").await;
    assert!(has_failed_with(&lost, "MapMissing"), "{lost:#}");
    let none = scene.accept("none", "items", "0/1234").await;
    assert!(has_failed_with(&none, "NoGap"), "{none:#}");
    let owner = "{.metadata.ownerReferences[0].name}";
    let owner = format!("jsonpath={owner}");
    let kubectl = |arguments: &[&str]| scene.rig.api.kubectl(arguments);
    wait_until(SOON, "an owner", async || {
        kubectl(&["get", "tmop", "none", "-n", NAMESPACE, "-o", &owner]) == "items"
    })
    .await;
    let gap = ["action: AcceptGap", "acceptGap: {lostAfter: 0/1234}"];
    let mut short = operation("short", "items", &gap);
    short.push_str("  ttlSecondsAfterFinished: 1\n");
    scene.rig.api.apply(&short);
    wait_until(SOON, "an operation whose time is over", async || {
        !kubectl(&["get", "tmop", "-n", NAMESPACE]).contains("short")
    })
    .await;
    assert!(kubectl(&["get", "tmop", "-n", NAMESPACE]).contains("none"));
}

/// The source is another system, whose log is behind: what is queued is replayed first, and what is newer is newer.
#[tokio::test(flavor = "multi_thread")]
async fn another_source_is_accepted_and_its_changes_are_newer() {
    let _time = timed("another_source_is_accepted_and_its_changes_are_newer");
    let scene = Scene::start().await;
    scene.rig.park_one().await;
    scene.pause("items").await;
    // Positions of the old system are higher than all of the new one.
    for _ in 0..10 {
        scene
            .crm
            .batch_execute("SELECT pg_switch_wal(); CREATE TABLE x (); DROP TABLE x")
            .await
            .unwrap();
    }
    scene.insert("items", 30).await;
    scene.queued("items", 30).await;
    // Another major: the servers of one share their identifier here.
    let replaced = Postgres::start_major(16, &[]).await;
    replaced.create_database("crm").await;
    let crm = replaced.client("crm").await;
    crm.batch_execute(ITEMS).await.unwrap();
    crm.batch_execute("CREATE TABLE others (id bigserial PRIMARY KEY, note text)")
        .await
        .unwrap();
    // The rows as the old system had them.
    crm.batch_execute("INSERT INTO items (note) SELECT 'old' FROM generate_series(1, 131)")
        .await
        .unwrap();
    scene.source.refuse();
    scene
        .rig
        .connect(replaced.port, scene.rig.destination.port, scene.rig.redis.port);
    let lost_after = scene.lost("items", "SourceReplaced").await;
    let accepted = scene.accept("replaced", "items", &lost_after).await;
    assert!(is_complete(&accepted), "{accepted:#}");
    // Number 101 is parked; 102 to 131 are queued.
    crm.batch_execute("UPDATE items SET note = 'new' WHERE id IN (1, 101, 131)")
        .await
        .unwrap();
    scene.queued("items", 33).await;
    scene.rig.resume("items");
    scene.has_rows("items", 131).await;
    scene.one_was_replaced("items").await;
    let new = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM items WHERE note = 'new'";
    let new: Option<String> = scene.rig.erp().await.query_one(new, &[]).await.unwrap().get(0);
    assert_eq!(
        new.as_deref(),
        Some("1 101 131"),
        "an older change came over a newer one"
    );
}

/// A worker that dies in the middle is followed by one that does it again: nothing is lost twice, and it is said once.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_accepting_is_followed_by_one_that_ends_it() {
    let _time = timed("a_worker_that_dies_while_accepting_is_followed_by_one_that_ends_it");
    for place in ["accepting", "accepted"] {
        println!("{place}");
        let plan = format!("{place}=kill:1");
        let mut scene = Scene::start_as(|rig| {
            rig.arguments.push("--lease-seconds=1".into());
            let worker = rig.worker(&[("TABLEMAP_FAILPOINTS", &plan)]);
            vec![worker, rig.controllers()]
        })
        .await;
        scene.pause("others").await;
        scene.insert("others", 30).await;
        scene.queued("others", 30).await;
        drop_slot(&scene).await;
        scene.insert("others", 20).await;
        scene.source.accept();
        let lost_after = scene.lost("others", "SlotLost").await;
        scene.ask("others", "others", &lost_after);
        scene.programs[0]
            .line(&format!("failpoint {place} SIGKILL"), SOON)
            .await;
        let _next = scene.rig.worker(&[]);
        let ended = scene.rig.ended("others").await;
        assert!(is_complete(&ended), "{ended:#}");
        scene.insert("others", 3).await;
        scene.queued("others", 33).await;
        scene.rig.resume("others");
        scene.has_rows("others", 33).await;
        scene.given_up("others", 0).await;
    }
}
