//! Records that were skipped together lie together, and wake when something concerns one of them alone: nothing is
//! overwritten, lost or counted twice (I3, I5).

use crate::{
    scene::ITEMS,
    support::{
        audit::compare_databases,
        load::{COLUMNS, Load, Rate, prepare},
        operations::counts,
        records::Records,
        rig::{NAMESPACE, Rig, SOON, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use std::time::Duration;
use tokio_postgres::Client;

const TABLES: &[&str] = &["alpha", "beta"];
/// Few keys, so that what is written concerns what sleeps all the time.
const RATE: Rate = Rate {
    connections: 2,
    rows: 3,
    pause: Duration::from_millis(8),
    keys: 400,
};
const PARK: [&str; 3] = ["action: Park", "from: Queue", "selection: {type: All}"];

async fn queued(rig: &Rig, map: &str, least: u64) {
    wait_until(SOON, &format!("{least} queued records of {map}"), async || {
        rig.status(map).await["queue"]["records"].as_u64() >= Some(least)
    })
    .await;
}

/// Changes go on while records are parked together, woken by newer rows and by retries, and while workers die.
#[tokio::test(flavor = "multi_thread")]
async fn what_sleeps_is_never_written_over_what_is_newer() {
    let _time = timed("what_sleeps_is_never_written_over_what_is_newer");
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    rig.arguments.push("--lease-seconds=2".into());
    let _controllers = rig.controllers();
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    let mut worker = rig.worker(&[]);
    for table in TABLES {
        rig.condition(table, "CaughtUp", "True").await;
    }
    let load = Load::start(&rig, TABLES, RATE);
    let mut retries = Vec::new();
    for round in 0..2 {
        for table in TABLES {
            rig.pause(table);
            rig.condition(table, "Paused", "True").await;
        }
        for table in TABLES {
            queued(&rig, table, 800).await;
            rig.ask(&format!("park-{table}-{round}"), table, &PARK);
            rig.waits(&format!("park-{table}-{round}"), "MapPaused").await;
            rig.resume(table);
        }
        if round == 1 {
            worker.kill9();
            worker = rig.worker(&[]);
        }
        for table in TABLES {
            let status = rig.ended(&format!("park-{table}-{round}")).await;
            let [selected, completed, ..] = counts(&status);
            assert!(selected >= 800 && selected == completed, "{status:#}");
            let retry = format!("retry-{table}-{round}");
            let some = format!("{{type: Match, match: {{expression: \"row.id % 3 == {round}\"}}}}");
            rig.ask_errors(&retry, table, "Retry", &some);
            retries.push(retry);
        }
        if round == 1 {
            worker.kill9();
            worker = rig.worker(&[]);
        }
    }
    for retry in &retries {
        let [selected, completed, failed, superseded, remaining] = counts(&rig.ended(retry).await);
        println!("{retry}: {selected} selected, {completed} written, {superseded} replaced");
        assert_eq!((failed, remaining), (0, 0), "{retry}");
    }
    load.stop().await;
    for table in TABLES {
        let retry = format!("retry-{table}");
        rig.ask_errors(&retry, table, "Retry", "{type: All}");
        let status = rig.ended(&retry).await;
        let [.., failed, _, remaining] = counts(&status);
        assert_eq!((failed, remaining), (0, 0), "{status:#}");
        rig.equal(table, "id").await;
        // The map's counts are told a moment after the end of an operation.
        wait_until(SOON, "no error is left", async || {
            rig.status(table).await["errors"]["count"] == 0
        })
        .await;
        rig.settled(table).await;
    }
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    println!("{:?}", compare_databases(&crm, &erp, TABLES).await.unwrap());
}

/// A worker that dies with a part of them parked, and not known at the destination, leaves none twice.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_parked_together_are_counted_once_and_listed_one_by_one() {
    let _time = timed("records_that_were_parked_together_are_counted_once_and_listed_one_by_one");
    let mut rig = Rig::start().await;
    rig.both(ITEMS).await;
    let records = Records::new();
    rig.arguments.push("--lease-seconds=2".into());
    let arguments = rig.arguments.clone();
    rig.arguments.extend(records.arguments());
    let _controllers = rig.controllers();
    records.register(&rig).await;
    rig.arguments = arguments;
    let map = same_map("items", &["id"], &["id", "kind", "note"]);
    rig.api.apply(&map);
    let mut worker = rig.worker(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    let crm = rig.crm().await;
    for (place, hit) in [("between-park-and-commit", 2), ("between-commit-and-trim", 1)] {
        rig.pause("items");
        rig.condition("items", "Paused", "True").await;
        let sql = "INSERT INTO items SELECT max + n, '', 'row ' || n FROM generate_series(1, 10000) n,
            (SELECT coalesce(max(id), 0) AS max FROM items) last";
        crm.batch_execute(sql).await.unwrap();
        queued(&rig, "items", 10_000).await;
        rig.ask(&format!("park-{hit}"), "items", &PARK);
        rig.waits(&format!("park-{hit}"), "MapPaused").await;
        worker.kill9();
        let mut dying = rig.worker(&[("TABLEMAP_FAILPOINTS", &format!("{place}=kill:{hit}"))]);
        rig.resume("items");
        dying.line(&format!("failpoint {place} SIGKILL"), SOON).await;
        dying.end(SOON).await;
        worker = rig.worker(&[]);
        let status = rig.ended(&format!("park-{hit}")).await;
        assert_eq!(counts(&status), [10_000, 10_000, 0, 0, 0], "{status:#}");
    }
    let status = rig.settled("items").await;
    assert_eq!(status["errors"]["count"], 20_000, "{status:#}");
    assert_eq!(
        status["errors"]["recent"].as_array().unwrap().len(),
        5,
        "{status:#}"
    );

    let name = listed_once(&rig);
    taken_alone_and_together(&rig, &crm, &name).await;
}

/// In order, pages or not. Returns one's name.
fn listed_once(rig: &Rig) -> String {
    let get = |arguments: &str| {
        let get = format!(
            "get {arguments} -n {NAMESPACE} --no-headers -o custom-columns=N:.metadata.name,K:.spec.key"
        );
        rig.api.kubectl(&get.split(' ').collect::<Vec<_>>())
    };
    let listed = get("recorderrors");
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 20_000);
    assert!(listed == get("recorderrors --chunk-size=1500"));
    let name = lines[15_000].split_whitespace().next().unwrap();
    assert_eq!(get(&format!("recorderror {name}")).trim(), lines[15_000]);
    name.to_owned()
}

/// By name and by key they are retried alone, and given up together.
async fn taken_alone_and_together(rig: &Rig, crm: &Client, name: &str) {
    let erp = rig.erp().await;
    let named = format!("{{type: IDs, ids: [{name}]}}");
    rig.ask_errors("named", "items", "Retry", &named);
    assert_eq!(counts(&rig.ended("named").await), [1, 1, 0, 0, 0]);
    let keyed = "{type: Keys, keys: [{values: ['17']}, {values: ['19000']}]}";
    rig.ask_errors("keyed", "items", "Retry", keyed);
    assert_eq!(counts(&rig.ended("keyed").await), [2, 2, 0, 0, 0]);
    let ids = "SELECT string_agg(id::text, ',' ORDER BY id) FROM items";
    let written: String = erp.query_one(ids, &[]).await.unwrap().get(0);
    assert_eq!(written, "17,15001,19000");
    // Who gives a key up wants nothing of it kept.
    rig.ask_errors(
        "erase",
        "items",
        "Discard",
        "{type: Keys, keys: [{values: ['17']}, {values: ['18']}]}",
    );
    assert_eq!(counts(&rig.ended("erase").await), [1, 1, 0, 0, 0]);
    let dry = [
        "action: Discard",
        "from: Errors",
        "selection: {type: All}",
        "mode: DryRun",
    ];
    rig.ask("count", "items", &dry);
    assert_eq!(rig.ended("count").await["counts"]["selected"], 19_996);
    rig.ask_errors("all", "items", "Discard", "{type: All}");
    assert_eq!(counts(&rig.ended("all").await), [19_996, 19_996, 0, 0, 0]);
    wait_until(SOON, "no error", async || {
        rig.status("items").await["errors"]["count"] == 0
    })
    .await;
    let status = rig.settled("items").await;
    assert_eq!(status["ledger"]["discarded"], 19_997, "{status:#}");
    // What was given up wakes no more.
    crm.batch_execute("UPDATE items SET note = 'newer'")
        .await
        .unwrap();
    rig.equal("items", "id").await;
    rig.settled("items").await;
}
