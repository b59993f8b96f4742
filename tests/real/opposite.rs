//! Two opposite maps between two databases: nothing comes back to where it was made (rule 16).

use crate::support::{
    rig::{Rig, SOON, Settings, same_map},
    timing::timed,
    wait::wait_until,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

const TABLE: &str = "CREATE TABLE items (id bigint PRIMARY KEY, version bigint NOT NULL, note text);";

/// Three rows of one side's own keys: some are new, some change, one goes.
const WRITE: &str = r"
CREATE FUNCTION write(side int) RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE changed bigint; gone bigint;
BEGIN
  INSERT INTO items SELECT k * 2 + side, 1, md5(random()::text)
    FROM (SELECT DISTINCT floor(random() * 200)::bigint k FROM generate_series(1, 3) ORDER BY k) keys
    ON CONFLICT (id) DO UPDATE SET version = items.version + 1, note = EXCLUDED.note;
  GET DIAGNOSTICS changed = ROW_COUNT;
  DELETE FROM items WHERE id = floor(random() * 200)::bigint * 2 + side;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN changed + gone;
END $f$;";

/// Writes to one side until it is stopped; counts the changes.
struct Side {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Side {
    fn start(client: tokio_postgres::Client, side: i32) -> Self {
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), changes.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let row = client.query_one("SELECT write($1)", &[&side]).await.unwrap();
                counted.fetch_add(row.get::<_, i64>(0).unsigned_abs(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
        Self { stop, changes, task }
    }

    async fn more(&self, more: u64) {
        let before = self.changes.load(Ordering::Relaxed);
        wait_until(SOON, "more changes", async || {
            self.changes.load(Ordering::Relaxed) > before + more
        })
        .await;
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.changes.load(Ordering::Relaxed)
    }
}

/// The map `there`, and `back` in the opposite direction.
fn maps() -> String {
    let there = same_map("items", &["id"], &["id", "version", "note"]);
    let back = there
        .replace("metadata: {name: items", "metadata: {name: back")
        .replace("{name: crm}", "{name: x}")
        .replace("{name: erp}", "{name: crm}")
        .replace("{name: x}", "{name: erp}");
    format!(
        "{}{back}",
        there.replace("metadata: {name: items", "metadata: {name: there")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_opposite_maps_bring_nothing_back() {
    let _time = timed("two_opposite_maps_bring_nothing_back");
    let mut rig = Rig::start_with(Settings {
        destination: &[("wal_level", "logical")],
        ..Settings::default()
    })
    .await;
    rig.both(TABLE).await;
    rig.both(WRITE).await;
    let _operator = rig.operator(&[]);
    rig.api.apply(&maps());
    for map in ["there", "back"] {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let (crm, erp) = (Side::start(rig.crm().await, 0), Side::start(rig.erp().await, 1));
    crm.more(500).await;

    // By way of a queue, from both sides.
    for map in ["there", "back"] {
        rig.pause(map);
        rig.condition(map, "Paused", "True").await;
        crm.more(500).await;
        erp.more(500).await;
        rig.resume(map);
        rig.condition(map, "CaughtUp", "True").await;
    }
    // Record by record, since some are refused.
    let client = rig.erp().await;
    client
        .batch_execute(
            "ALTER TABLE items ADD CONSTRAINT odd_ones CHECK (id % 14 <> 0 OR note < 'd') NOT VALID",
        )
        .await
        .unwrap();
    crm.more(500).await;
    client
        .batch_execute("ALTER TABLE items DROP CONSTRAINT odd_ones")
        .await
        .unwrap();
    crm.more(100).await;

    let made = [("there", crm.stop().await), ("back", erp.stop().await)];
    rig.crm()
        .await
        .batch_execute("UPDATE items SET version = version + 1 WHERE id % 2 = 0")
        .await
        .unwrap();
    rig.equal("items", "id").await;
    let rewritten: i64 = client
        .query_one("SELECT count(*) FROM items WHERE id % 2 = 0", &[])
        .await
        .unwrap()
        .get(0);
    let made = made.map(|(map, made)| match map {
        "there" => (map, made + rewritten.unsigned_abs()),
        _ => (map, made),
    });
    let taken = async |map: &str| {
        let ledger = rig.settled(map).await["ledger"].clone();
        let count = |name: &str| ledger[name].as_u64().unwrap();
        println!("{map}: {ledger}");
        (count("received") - count("filtered"), count("filtered"))
    };
    // A status may be a second old.
    for (map, made) in made {
        wait_until(SOON, "all changes counted", async || taken(map).await.0 >= made).await;
    }
    for (map, made) in made {
        let (taken, filtered) = taken(map).await;
        assert_eq!(taken, made, "{map} brought something back");
        assert!(filtered > 500, "what the opposite map wrote was seen");
    }
}
