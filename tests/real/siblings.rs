//! One map's pause is its own matter (I7).

use crate::support::{
    audit::compare_databases,
    load::{COLUMNS, Load, Rate, prepare},
    rig::{Rig, SOON, said, same_map},
    timing::timed,
    wait::wait_until,
};
use std::time::Duration;

const TABLES: &[&str] = &["customers", "orders", "order_lines"];
const MAPS: &[&str] = &["customers", "orders", "order-lines"];

#[tokio::test(flavor = "multi_thread")]
async fn one_map_paused_the_other_two_go_on() {
    let _time = timed("one_map_paused_the_other_two_go_on");
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    let _operator = rig.operator(&[]);
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    for map in MAPS {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let rate = Rate {
        connections: 3,
        rows: 5,
        pause: Duration::from_millis(10),
        keys: 500,
    };
    let load = Load::start(&rig, TABLES, rate);
    let erp = rig.erp().await;
    let writes = async |table: &str| {
        let sql = "SELECT count(*) FROM writelog.writes WHERE tbl = $1";
        erp.query_one(sql, &[&table]).await.unwrap().get::<_, i64>(0)
    };
    wait_until(SOON, "writes of all maps", async || {
        writes("customers").await > 100 && writes("orders").await > 100 && writes("order_lines").await > 100
    })
    .await;

    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    let (still, others, confirmed) = (
        writes("customers").await,
        writes("orders").await,
        rig.confirmed().await,
    );
    wait_until(SOON, "2,000 more writes of a sibling", async || {
        writes("orders").await > others + 2000
    })
    .await;
    assert_eq!(writes("customers").await, still, "a paused map writes nothing");
    wait_until(SOON, "the slot moves on", async || {
        rig.confirmed().await > confirmed + 100_000
    })
    .await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let slots: i64 = rig.crm().await.query_one(slots, &[]).await.unwrap().get(0);
    assert_eq!(slots, 1);
    let status = rig.status("orders").await;
    assert_eq!(said(&status, "CaughtUp").unwrap()["status"], "True");

    rig.resume("customers");
    rig.condition("customers", "CaughtUp", "True").await;
    load.stop().await;
    for table in TABLES {
        rig.equal(table, "id").await;
    }
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    println!("{:?}", compare_databases(&crm, &erp, TABLES).await.unwrap());
    for map in MAPS {
        rig.settled(map).await;
    }
}

/// A queue that was used before and is empty now has nothing to read, and must not keep the others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_without_changes_holds_up_no_catch_up() {
    let _time = timed("a_map_without_changes_holds_up_no_catch_up");
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    let _operator = rig.operator(&[]);
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    let crm = rig.crm().await;
    for turn in ["used", "empty"] {
        for map in MAPS {
            rig.pause(map);
        }
        for map in MAPS {
            rig.condition(map, "Paused", "True").await;
        }
        for table in TABLES
            .iter()
            .filter(|table| turn == "used" || **table == "orders")
        {
            let sql = format!(
                "INSERT INTO {table} SELECT n, nextval('versions') FROM generate_series(1, 100) n
                ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version"
            );
            crm.batch_execute(&sql).await.unwrap();
        }
        for map in MAPS {
            rig.resume(map);
        }
        for map in MAPS {
            rig.condition(map, "CaughtUp", "True").await;
        }
    }
    for table in TABLES {
        rig.equal(table, "id").await;
    }
}

/// A change that was held for a cutover goes to the queue, since a sibling joins the catch-up. Nothing more comes from the
/// source then: the sibling's record, which is newer, must not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_ends_although_the_source_falls_silent() {
    let _time = timed("a_catch_up_ends_although_the_source_falls_silent");
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    let operator = rig.operator(&[]);
    for table in &TABLES[..2] {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
        rig.condition(table, "CaughtUp", "True").await;
    }
    let (crm, erp, mut locker) = (rig.crm().await, rig.erp().await, rig.erp().await);
    let insert = async |table: &str, id: i64| {
        let sql = format!("INSERT INTO {table} VALUES ($1, $1, '')");
        crm.execute(&sql, &[&id]).await.unwrap();
    };
    for map in &TABLES[..2] {
        rig.pause(map);
        rig.condition(map, "Paused", "True").await;
    }
    insert("customers", 1).await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE customers IN EXCLUSIVE MODE")
        .await
        .unwrap();
    rig.resume("customers");
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'customers'::regclass";
    wait_until(SOON, "a write that waits for the lock", async || {
        erp.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    insert("customers", 2).await;
    insert("orders", 1).await;
    rig.resume("orders");
    operator.line("the cutover did not come about", SOON).await;
    lock.rollback().await.unwrap();
    wait_until(Duration::from_secs(5), "the newer record", async || {
        let sql = "SELECT count(*) FROM orders";
        erp.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    for map in &TABLES[..2] {
        rig.condition(map, "CaughtUp", "True").await;
    }
}
