//! Whatever is killed, and when: nothing is lost, nothing steps back, nothing is made up (I1, I2, I4).

use crate::support::{
    audit::compare_databases,
    load::{COLUMNS, Load, Rate, prepare},
    process::Process,
    proxy::Proxy,
    rig::{Rig, SOON, same_map},
    timing::timed,
    wait::wait_until,
};
use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

/// Where the worker kills itself. Each place is logged before.
const PLACES: &[&str] = &[
    "running",
    "pausing",
    "paused",
    "catching-up",
    "cutover",
    "between-append-and-confirm",
    "between-commit-and-trim",
    "between-park-and-commit",
];
const TABLES: &[&str] = &["customers", "orders"];
const RATE: Rate = Rate {
    connections: 2,
    rows: 3,
    pause: Duration::from_millis(12),
    keys: 300,
};

/// More by `TABLEMAP_KILLS`: that many rounds over all places.
pub fn rounds(default: usize) -> usize {
    std::env::var("TABLEMAP_KILLS").map_or(default, |rounds| rounds.parse().unwrap())
}

/// Three maps: two with every kind of change, and one whose destination refuses some records.
async fn start(arguments: &[&str]) -> Rig {
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    rig.both("CREATE TABLE notes (id bigserial PRIMARY KEY, text text)")
        .await;
    rig.erp()
        .await
        .batch_execute("ALTER TABLE notes ADD CONSTRAINT polite CHECK (text <> 'bad')")
        .await
        .unwrap();
    rig.arguments
        .extend(arguments.iter().map(|argument| (*argument).to_owned()));
    apply(&rig);
    rig
}

fn apply(rig: &Rig) {
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    rig.api.apply(&same_map("notes", &["id"], &["id", "text"]));
}

const MAPS: &[&str] = &["customers", "orders", "notes"];

fn notes(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let url = rig.source.url("crm");
    tokio::spawn(async move {
        let sql = "INSERT INTO notes (text) SELECT CASE WHEN random() < 0.008 THEN 'bad' ELSE md5(random()::text) END
                   FROM generate_series(1, 5)";
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                tokio::spawn(async move { drop(connection.await) });
                while client.execute(sql, &[]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

/// Everything arrived, in order, once; what was refused is parked; the books balance.
async fn judge(rig: &Rig) {
    for map in MAPS {
        rig.resume(map);
    }
    for map in MAPS {
        rig.condition(map, "CaughtUp", "True").await;
    }
    for table in TABLES {
        rig.equal(table, "id").await;
    }
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    let summary = compare_databases(&crm, &erp, TABLES).await.unwrap();
    println!("{summary:?}");
    let good = "SELECT count(*) FROM notes WHERE text <> 'bad'";
    let bad = "SELECT count(*) FROM notes WHERE text = 'bad'";
    let count = async |client: &tokio_postgres::Client, sql: &str| {
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let (good, bad) = (count(&crm, good).await, count(&crm, bad).await);
    wait_until(SOON, "all notes", async || {
        count(&erp, "SELECT count(*) FROM notes").await == good
    })
    .await;
    let status = rig.settled("notes").await;
    assert_eq!(status["errors"]["count"], bad, "{status:#}");
    for map in ["customers", "orders"] {
        let status = rig.settled(map).await;
        assert_eq!(status["errors"]["count"], 0, "{status:#}");
    }
}

/// Pauses and resumes until the worker has killed itself, and asserts that it did so where it was told to.
async fn drive_to_death(rig: &Rig, worker: &mut Process, place: &str) {
    let started = Instant::now();
    let mut paused = false;
    while worker.ended().is_none() {
        assert!(
            started.elapsed() < Duration::from_secs(90),
            "{place} was not reached\n{}",
            worker.log()
        );
        let state = if paused { "Running" } else { "Paused" };
        for map in MAPS {
            rig.set_state(map, state);
        }
        paused = !paused;
        // Long enough for a queue to fill, or for a cutover to come about; it ends with the worker.
        let longest = Duration::from_millis(if paused { 600 } else { 8000 });
        let turn = Instant::now();
        while worker.ended().is_none() && turn.elapsed() < longest {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if !paused && turn.elapsed() > Duration::from_millis(500) && all_direct(rig).await {
                break;
            }
        }
    }
    let status = worker.ended().unwrap();
    assert_eq!(status.signal(), Some(9), "{place}: {status}\n{}", worker.log());
    let line = format!("failpoint {place} SIGKILL");
    assert!(
        worker.log().contains(&line),
        "it did not die at {place}\n{}",
        worker.log()
    );
}

async fn all_direct(rig: &Rig) -> bool {
    for map in MAPS {
        if rig.status(map).await["phase"] != "Running" {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_every_step_loses_nothing() {
    let _time = timed("a_worker_killed_at_every_step_loses_nothing");
    let mut rig = start(&["--lease-seconds=1", "--confirm-delay-milliseconds=500"]).await;
    let _controllers = rig.controllers();
    let first = rig.worker(&[]);
    for map in MAPS {
        rig.condition(map, "CaughtUp", "True").await;
    }
    drop(first);
    let load = Load::start(&rig, TABLES, RATE);
    let notes = notes(&rig);
    let mut kills = 0;
    for round in 0..rounds(8) {
        for place in PLACES {
            // Not always the first time that it comes by.
            let plan = format!("{place}=kill:{}", 1 + round % 4);
            let mut worker = rig.worker(&[("TABLEMAP_FAILPOINTS", &plan)]);
            drive_to_death(&rig, &mut worker, place).await;
            kills += 1;
        }
    }
    println!("{kills} kills");
    let _worker = rig.worker(&[]);
    notes.abort();
    load.stop().await;
    judge(&rig).await;
}

/// What is killed while the worker goes on.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Redis,
    Source,
    Destination,
    Connections,
}

async fn killed_under_load(victim: Victim) {
    let mut rig = start(&["--confirm-delay-milliseconds=1000"]).await;
    let proxies = [rig.source.port, rig.destination.port, rig.redis.port].map(Proxy::start);
    if victim == Victim::Connections {
        rig.connect(proxies[0].port, proxies[1].port, proxies[2].port);
    }
    let _operator = rig.operator(&[]);
    for map in MAPS {
        rig.condition(map, "CaughtUp", "True").await;
    }
    let load = Load::start(&rig, TABLES, RATE);
    let notes = notes(&rig);
    for kill in 0..rounds(12) {
        let state = if kill % 2 == 0 { "Paused" } else { "Running" };
        for map in MAPS {
            rig.set_state(map, state);
        }
        let before = load.written();
        // At different moments of a pause or a catch-up.
        let more = 20 + 40 * (kill as u64 % 5);
        wait_until(SOON, "more load", async || load.written() > before + more).await;
        match victim {
            Victim::Redis => {
                rig.redis.kill9();
                rig.redis.start_again().await;
            }
            Victim::Source => {
                rig.source.kill9();
                rig.source.start_again().await;
            }
            Victim::Destination => {
                rig.destination.kill9();
                rig.destination.start_again().await;
            }
            // Within what is being sent: a batch to the destination, or a script to Redis.
            Victim::Connections => {
                let proxy = &proxies[1 + kill % 2];
                proxy.cut_after(3000);
                for map in MAPS {
                    rig.set_state(map, if kill % 2 == 0 { "Running" } else { "Paused" });
                }
                wait_until(SOON, "a connection cut in the middle", async || {
                    !proxy.cut_is_due()
                })
                .await;
                proxies[0].cut();
            }
        }
    }
    notes.abort();
    load.stop().await;
    judge(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_under_load_loses_nothing() {
    let _time = timed("redis_killed_under_load_loses_nothing");
    killed_under_load(Victim::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_killed_under_load_loses_nothing() {
    let _time = timed("the_source_killed_under_load_loses_nothing");
    killed_under_load(Victim::Source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_killed_under_load_loses_nothing() {
    let _time = timed("the_destination_killed_under_load_loses_nothing");
    killed_under_load(Victim::Destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_in_the_middle_lose_nothing() {
    let _time = timed("connections_cut_in_the_middle_lose_nothing");
    killed_under_load(Victim::Connections).await;
}
