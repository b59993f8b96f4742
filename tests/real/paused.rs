//! Paused=True is true: once it is shown, nothing of the map lands (I6, rule 5).

use super::judge::judge;
use crate::support::{
    load::{COLUMNS, Load, Rate, prepare},
    process::Process,
    rig::{Rig, SOON, said, same_map},
    timing::{alone, timed},
    wait::{wait_for, wait_until},
};
use futures::StreamExt;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant, SystemTime},
};
use tablemap::api::TableMap;
use tokio_postgres::Client;

const TABLES: &[&str] = &["customers", "orders", "lines", "products", "invoices", "payments"];
const TWO: &[&str] = &["customers", "orders"];
/// How many pauses are looked at. More by `TABLEMAP_PAUSES`.
const PAUSES: usize = 50;
/// How long nothing may land.
const STILL: Duration = Duration::from_secs(5);
/// A pause counts when the map was writing so shortly before.
const BUSY: Duration = Duration::from_millis(100);

/// A destination table and all that was written to it, at one moment.
#[derive(Debug, PartialEq)]
struct Snapshot {
    rows: i64,
    hash: Option<String>,
    writes: i64,
    last: i64,
    at: Option<SystemTime>,
}

async fn snapshot(erp: &Client, table: &str) -> Snapshot {
    let sql = format!(
        "SELECT count(*), coalesce(max(id), 0), max(at),
           (SELECT count(*) FROM {table}), (SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {table} t)
         FROM writelog.writes WHERE tbl = '{table}'"
    );
    let row = erp.query_one(&sql, &[]).await.unwrap();
    Snapshot {
        rows: row.get(3),
        hash: row.get(4),
        writes: row.get(0),
        last: row.get(1),
        at: row.get(2),
    }
}

fn is_paused(object: &TableMap) -> bool {
    let status = serde_json::to_value(&object.status).unwrap();
    said(&status, "Paused").is_some_and(|paused| paused["status"] == "True")
}

/// Begins to watch a map, and returns what ends with the event that says Paused=True.
async fn watch_for_pause(rig: &Rig, map: &str) -> impl Future<Output = ()> + use<> {
    let object = rig.maps.get(map).await.unwrap();
    assert!(!is_paused(&object));
    let params = WatchParams::default().fields(&format!("metadata.name={map}"));
    let version = object.metadata.resource_version.unwrap();
    let events = rig.maps.watch(&params, &version).await.unwrap();
    async move {
        let mut events = pin!(events);
        loop {
            match events.next().await.expect("the watch ended").unwrap() {
                WatchEvent::Modified(object) if is_paused(&object) => return,
                WatchEvent::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// Pauses at once, without the time that kubectl needs to start; and takes a snapshot when Paused=True is told.
async fn pause_at_once(rig: &Rig, erp: &Client, table: &str) -> Snapshot {
    let told = watch_for_pause(rig, table).await;
    let patch = Patch::Merge(serde_json::json!({"spec": {"state": "Paused"}}));
    rig.maps
        .patch(table, &PatchParams::default(), &patch)
        .await
        .unwrap();
    tokio::time::timeout(SOON, told).await.expect("Paused=True");
    snapshot(erp, table).await
}

async fn start(tables: &[&str]) -> Rig {
    let mut rig = Rig::start().await;
    prepare(&rig, tables).await;
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    for table in tables {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    rig
}

/// One small map, direct.
async fn start_items() -> (Rig, Process) {
    let mut rig = Rig::start().await;
    rig.both("CREATE TABLE items (id bigint PRIMARY KEY, note text)")
        .await;
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let operator = rig.operator(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    (rig, operator)
}

/// One map that is paused and resumed with kubectl, over and over.
struct Turns<'a> {
    rig: &'a Rig,
    table: &'a str,
    erp: Client,
    /// Pauses of all maps that count, and those that came when the map had nothing to write.
    counted: &'a AtomicUsize,
    idle: &'a AtomicUsize,
}

impl Turns<'_> {
    async fn run(&self) {
        let wanted = std::env::var("TABLEMAP_PAUSES").map_or(PAUSES, |pauses| pauses.parse().unwrap());
        while self.counted.load(Ordering::Relaxed) < wanted {
            self.turn().await;
            assert!(
                self.idle.load(Ordering::Relaxed) < wanted,
                "the maps do not write enough"
            );
        }
    }

    async fn turn(&self) {
        let told = watch_for_pause(self.rig, self.table).await;
        let sent = SystemTime::now();
        let (before, ()) = tokio::join!(
            async {
                told.await;
                snapshot(&self.erp, self.table).await
            },
            self.pause(),
        );
        tokio::time::sleep(STILL).await;
        let after = snapshot(&self.erp, self.table).await;
        assert_eq!(before, after, "{} was written while it was paused", self.table);
        let status = self.rig.status(self.table).await;
        assert!(is_paused_with_queue(&status), "{status:#}");
        let busy = before.at.is_some_and(|at| at >= sent - BUSY);
        let count = if busy { self.counted } else { self.idle };
        count.fetch_add(1, Ordering::Relaxed);
        self.resume().await;
    }

    async fn pause(&self) {
        self.patch("Paused").await;
        self.wait_for("Paused").await;
    }

    async fn resume(&self) {
        self.patch("Running").await;
        self.wait_for("CaughtUp").await;
    }

    async fn patch(&self, state: &str) {
        let patch = format!(r#"{{"spec":{{"state":"{state}"}}}}"#);
        let arguments = ["patch", "tablemap", self.table, "--type=merge", "-p", &patch];
        self.rig.api.kubectl_aside(&arguments).await;
    }

    async fn wait_for(&self, condition: &str) {
        let condition = format!("--for=condition={condition}=True");
        let map = format!("tablemap/{}", self.table);
        let arguments = ["wait", &condition, &map, "--timeout=60s"];
        self.rig.api.kubectl_aside(&arguments).await;
    }
}

/// Still paused, and something waits that a hole in the fence would let through.
fn is_paused_with_queue(status: &serde_json::Value) -> bool {
    status["phase"] == "Paused" && status["queue"]["records"].as_u64() > Some(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_pauses_under_load_let_nothing_through() {
    let _time = alone("fifty_pauses_under_load_let_nothing_through");
    let mut rig = start(TABLES).await;
    let _operator = rig.operator(&[]);
    for table in TABLES {
        rig.condition(table, "CaughtUp", "True").await;
    }
    let rate = Rate {
        connections: 4,
        rows: 20,
        pause: Duration::from_millis(25),
        keys: 1000,
    };
    let (load, started) = (Load::fill(&rig, TABLES, rate), Instant::now());
    for table in TABLES {
        rig.more_writes(table, 100, SOON).await;
    }
    let (counted, idle) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut turns = Vec::new();
    for table in TABLES {
        turns.push(Turns {
            rig: &rig,
            table,
            erp: rig.erp().await,
            counted: &counted,
            idle: &idle,
        });
    }
    futures::future::join_all(turns.iter().map(Turns::run)).await;
    let seconds = started.elapsed().as_secs_f64();
    let changes = "SELECT count(*)::float8 FROM audit.changes";
    let changes: f64 = rig.crm().await.query_one(changes, &[]).await.unwrap().get(0);
    let rate = changes / seconds;
    println!("{counted:?} pauses, {idle:?} of an idle map, at {rate:.0} changes a second for {seconds:.0} s");
    assert!(rate >= 1000.0, "the source was too slow for the test");
    judge(&rig, load, TABLES).await;
}

/// Asks for a pause of so many seconds, and returns when it ends.
fn pause_for(rig: &Rig, seconds: u64) -> String {
    let until = jiff::Timestamp::now() + Duration::from_secs(seconds);
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = format!(r#"{{"spec":{{"pauseUntilTime":"{until}"}}}}"#);
    let arguments = ["patch", "tablemap", "items", "--type=merge", "-p", &patch];
    rig.api.kubectl(&arguments);
    until
}

/// It ends at its time, whoever runs then; not before, and not beside another pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_until_a_time_ends_by_itself() {
    let _time = timed("a_pause_until_a_time_ends_by_itself");
    let (mut rig, mut operator) = start_items().await;
    let crm = rig.crm().await;
    let insert = async |from: i32| {
        let sql = format!("INSERT INTO items SELECT n FROM generate_series({from}, {from} + 9) n");
        crm.batch_execute(&sql).await.unwrap();
    };
    // What no clock reaches, or is no time, would be read by nobody.
    for (time, why) in [
        ("9999-12-31T23:59:59Z", "must be a time before the year 9000"),
        ("2026-13-01T00:00:00Z", "pauseUntilTime"),
        ("2026-11-24T22:00:00+99:99", "pauseUntilTime"),
        ("tomorrow", "pauseUntilTime"),
    ] {
        let patch = format!(r#"{{"spec":{{"pauseUntilTime":"{time}"}}}}"#);
        let arguments = ["patch", "tablemap", "items", "--type=merge", "-p", &patch];
        let refused = rig.api.command().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{time}: {said}");
    }

    // One that is over does nothing.
    pause_for(&rig, 0);
    rig.observed("items").await;
    insert(1).await;
    rig.equal("items", "id").await;

    let until = pause_for(&rig, 6);
    let status = rig.condition("items", "Paused", "True").await;
    let pause = serde_json::json!({"cause": "Spec", "name": "spec.pauseUntilTime", "untilTime": until});
    for (name, value) in pause.as_object().unwrap() {
        assert_eq!(status["pauses"][0][name], *value, "{status:#}");
    }
    insert(11).await;
    queued(&rig, "items", 10).await;
    let rows = "SELECT count(*) FROM items";
    let rows: i64 = rig.erp().await.query_one(rows, &[]).await.unwrap().get(0);
    assert_eq!(rows, 10);
    rig.condition("items", "CaughtUp", "True").await;
    assert!(jiff::Timestamp::now() >= until.parse::<jiff::Timestamp>().unwrap());
    assert_eq!(rig.status("items").await["pauses"], serde_json::json!([]));
    rig.equal("items", "id").await;
    wait_until(SOON, "an event of its end", async || {
        rig.api.kubectl(&["get", "events"]).contains("PauseEnded")
    })
    .await;

    // The time comes while nobody runs.
    pause_for(&rig, 3);
    rig.condition("items", "Paused", "True").await;
    insert(21).await;
    queued(&rig, "items", 10).await;
    operator.kill9();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _operator = rig.operator(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    rig.equal("items", "id").await;

    // Another pause goes on.
    rig.pause("items");
    pause_for(&rig, 5);
    rig.condition("items", "Paused", "True").await;
    let pauses = async |count: usize| {
        let what = format!("{count} pauses");
        wait_until(SOON, &what, async || {
            rig.status("items").await["pauses"].as_array().map(Vec::len) == Some(count)
        })
        .await;
    };
    pauses(2).await;
    pauses(1).await;
    assert_eq!(rig.status("items").await["phase"], "Paused");
    rig.resume("items");
    rig.condition("items", "CaughtUp", "True").await;
}

const UNREADABLE: &str = r#"{"expression":"row.id >"}"#;

/// Nor does whoever waits for it: kubectl counts only what is told of the newest generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_the_rest_of_a_spec_that_cannot_be_followed() {
    let _time = timed("a_pause_does_not_wait_for_the_rest_of_a_spec_that_cannot_be_followed");
    let (rig, _operator) = start_items().await;
    let change = |state: &str, filter: &str| {
        let patch = format!(r#"{{"spec":{{"state":"{state}","source":{{"filter":{filter}}}}}}}"#);
        rig.api
            .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", &patch]);
    };
    let wait = |condition: &str| {
        let condition = format!("--for=condition={condition}=True");
        rig.api
            .kubectl(&["wait", &condition, "tablemap/items", "--timeout=30s"]);
    };
    change("Paused", UNREADABLE);
    wait("Paused");
    rig.reason("items", "SpecValid", "MappingInvalid").await;
    let crm = rig.crm().await;
    crm.batch_execute("INSERT INTO items SELECT n FROM generate_series(1, 10) n")
        .await
        .unwrap();
    queued(&rig, "items", 10).await;
    change("Running", UNREADABLE);
    wait("CaughtUp");
    rig.equal("items", "id").await;
    change("Running", "null");
    rig.observed("items").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_waits_for_a_lock_never_lands_after_a_pause() {
    let _time = alone("a_write_that_waits_for_a_lock_never_lands_after_a_pause");
    let mut rig = start(TWO).await;
    let _operator = rig.operator(&[]);
    for map in TWO {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let load = Load::start(&rig, TWO, RATE);
    rig.more_writes("orders", 100, SOON).await;
    let (mut locker, erp) = (rig.erp().await, rig.erp().await);
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE orders IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE NOT granted AND relation = 'orders'::regclass AND application_name = 'tablemap'";
    wait_until(SOON, "a write that waits for the lock", async || {
        erp.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;

    let asked = Instant::now();
    let before = pause_at_once(&rig, &erp, "orders").await;
    println!("Paused=True after {:.1?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(8), "it waited for the lock");
    // Whether the write was ended by the fence or by its own lock_timeout, or waits still: its lock is free now.
    lock.rollback().await.unwrap();
    // The lane is alive, and the paused map has plenty that it could write.
    rig.more_writes("customers", 1000, SOON).await;
    queued(&rig, "orders", 1000).await;
    assert_eq!(snapshot(&erp, "orders").await, before);
    judge(&rig, load, TWO).await;
}

const RATE: Rate = Rate {
    connections: 3,
    rows: 5,
    pause: Duration::from_millis(10),
    keys: 500,
};

/// Waits until so many records are in a map's queue.
async fn queued(rig: &Rig, map: &str, records: u64) {
    let what = format!("{records} queued records of {map}");
    wait_until(SOON, &what, async || {
        rig.status(map).await["queue"]["records"].as_u64() >= Some(records)
    })
    .await;
}

/// Of which map a transaction that is open at the destination, and that nobody works on, has written rows.
async fn written_by_the_open_transaction(erp: &Client) -> &'static str {
    let sql = "SELECT DISTINCT relation::regclass::text FROM pg_locks JOIN pg_stat_activity USING (pid)
               WHERE state = 'idle in transaction' AND application_name = 'tablemap'
                 AND relation IN ('customers'::regclass, 'orders'::regclass) AND mode = 'RowExclusiveLock'";
    wait_for(SOON, "the open transaction", async || {
        let rows = erp.query(sql, &[]).await.unwrap();
        let table: &str = rows.first()?.get(0);
        TWO.iter().find(|known| **known == table).copied()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_worker_thought_dead_never_lands_after_a_pause() {
    let _time = timed("a_transaction_of_a_worker_thought_dead_never_lands_after_a_pause");
    let mut rig = start(TWO).await;
    rig.arguments.push("--lease-seconds=2".into());
    let _controllers = rig.controllers();
    let mut old = rig.worker(&[("TABLEMAP_FAILPOINTS", "between-check-and-commit=stop:20")]);
    for map in TWO {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let load = Load::start(&rig, TWO, RATE);
    old.line("failpoint between-check-and-commit SIGSTOP", SOON).await;
    let erp = rig.erp().await;
    let table = written_by_the_open_transaction(&erp).await;
    let other = TWO.iter().find(|other| **other != table).unwrap();

    let mut new = rig.worker(&[]);
    let before = pause_at_once(&rig, &erp, table).await;
    rig.more_writes(other, 200, SOON).await;
    old.signal(Signal::SIGCONT);
    ends_for_good(&mut old).await;
    rig.more_writes(other, 1000, SOON).await;
    queued(&rig, table, 1000).await;
    assert_eq!(snapshot(&erp, table).await, before);
    assert!(new.ended().is_none(), "{}", new.log());
    judge(&rig, load, TWO).await;
}

/// The old worker finds that it is not the writer any more.
async fn ends_for_good(old: &mut Process) {
    let status = old.end(SOON).await;
    assert!(!status.success(), "{status}");
    assert!(
        old.log().contains("another worker has taken over"),
        "{}",
        old.log()
    );
}

/// Nothing is written that would tell; people ask before they resume.
#[tokio::test(flavor = "multi_thread")]
async fn the_destination_of_a_paused_map_is_looked_at() {
    let _time = timed("the_destination_of_a_paused_map_is_looked_at");
    let (mut rig, _operator) = start_items().await;
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;

    rig.destination.stop().await;
    let status = rig.condition("items", "DestinationConnected", "False").await;
    assert_eq!((&status["phase"], paused(&status)), (&"Paused".into(), "True"));
    rig.destination.start_again().await;
    rig.condition("items", "DestinationConnected", "True").await;

    let erp = rig.erp().await;
    erp.batch_execute("ALTER TABLE items RENAME note TO remark")
        .await
        .unwrap();
    let status = rig.condition("items", "SchemaValid", "False").await;
    assert_eq!((&status["phase"], paused(&status)), (&"Paused".into(), "True"));
    rig.crm()
        .await
        .batch_execute("INSERT INTO items VALUES (1, 'one')")
        .await
        .unwrap();
    rig.resume("items");
    rig.phase("items", "Buffering").await;
    erp.batch_execute("ALTER TABLE items RENAME remark TO note")
        .await
        .unwrap();
    rig.condition("items", "CaughtUp", "True").await;
    rig.equal("items", "id").await;
    rig.settled("items").await;
}

fn paused(status: &Value) -> &str {
    said(status, "Paused").unwrap()["status"].as_str().unwrap()
}
