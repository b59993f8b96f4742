//! Memory is bounded by bytes, whatever a transaction or a row is like.

use crate::support::{
    process::Process,
    rig::{Rig, same_map},
    timing::alone,
    wait::wait_until,
};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(240);

async fn start() -> (Rig, Process, Process) {
    let mut rig = Rig::start().await;
    rig.both("CREATE TABLE big (id bigint PRIMARY KEY, note text)")
        .await;
    rig.api.apply(&same_map("big", &["id"], &["id", "note"]));
    let controllers = rig.controllers();
    let worker = rig.worker(&[]);
    rig.condition("big", "CaughtUp", "True").await;
    (rig, controllers, worker)
}

async fn rows(rig: &Rig) -> i64 {
    let sql = "SELECT count(*) FROM big";
    rig.erp().await.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_million_rows_takes_less_than_200_mb() {
    let _time = alone("a_transaction_of_a_million_rows_takes_less_than_200_mb");
    let (rig, _controllers, worker) = start().await;
    let crm = rig.crm().await;
    let insert = |from: u32| {
        format!(
            "INSERT INTO big SELECT n, repeat('x', 100) || n FROM generate_series({from}, {}) n",
            from + 999_999
        )
    };
    crm.batch_execute(&insert(1)).await.unwrap();
    wait_until(LONG, "a million rows while Running", async || {
        rows(&rig).await == 1_000_000
    })
    .await;
    rig.pause("big");
    rig.condition("big", "Paused", "True").await;
    crm.batch_execute(&insert(1_000_001)).await.unwrap();
    wait_until(LONG, "a million rows queued", async || {
        rig.status("big").await["queue"]["records"] == 1_000_000
    })
    .await;
    rig.resume("big");
    wait_until(LONG, "two million rows", async || rows(&rig).await == 2_000_000).await;
    let peak = worker.peak_memory() / 1024;
    println!("peak {peak} MiB");
    assert!(peak < 200, "{peak} MiB");
    rig.settled("big").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_50_mb_takes_less_than_400_mb() {
    let _time = alone("a_row_of_50_mb_takes_less_than_400_mb");
    let (rig, _controllers, worker) = start().await;
    let crm = rig.crm().await;
    let insert = |id: u32| {
        format!(
            "INSERT INTO big SELECT {id}, string_agg(md5(n::text), '') FROM generate_series(1, 1638400) n"
        )
    };
    crm.batch_execute(&insert(1)).await.unwrap();
    wait_until(LONG, "the row while Running", async || rows(&rig).await == 1).await;
    rig.pause("big");
    rig.condition("big", "Paused", "True").await;
    crm.batch_execute(&insert(2)).await.unwrap();
    wait_until(LONG, "the row queued", async || {
        rig.status("big").await["queue"]["records"] == 1
    })
    .await;
    rig.resume("big");
    wait_until(LONG, "both rows", async || rows(&rig).await == 2).await;
    rig.equal("big", "id").await;
    let peak = worker.peak_memory() / 1024;
    println!("peak {peak} MiB");
    assert!(peak < 400, "{peak} MiB");
    rig.settled("big").await;
}
