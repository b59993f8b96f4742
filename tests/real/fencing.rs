//! A worker that was thought dead wakes up again: nothing of it lands (I6, rules 4 and 5).

use crate::{
    judge::judge,
    support::{
        load::{COLUMNS, Load, Rate, prepare},
        process::Process,
        proxy::Proxy,
        rig::{Rig, SOON, said, same_map},
        timing::timed,
        wait::{wait_for, wait_until},
    },
};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio_postgres::Client;

const TABLES: &[&str] = &["customers", "orders"];
/// Key changes go the ordered way and all else the fast one: with few rows there are enough batches of both kinds.
const RATE: Rate = Rate {
    connections: 2,
    rows: 3,
    pause: Duration::from_millis(10),
    keys: 300,
};

/// Two maps under load, and a worker that stops itself when it comes by `place` for the tenth time.
struct Scene {
    rig: Rig,
    _source: Proxy,
    redis: Proxy,
    old: Process,
    load: Load,
    erp: Client,
    /// The old worker's connections to the destination.
    backends: Vec<i32>,
    _controllers: Process,
}

impl Scene {
    async fn stopped_at(place: &str, paused: Option<&str>) -> Self {
        let mut rig = Rig::start().await;
        prepare(&rig, TABLES).await;
        let erp = rig.erp().await;
        // So that every write tells whose it is.
        let sql = "ALTER TABLE writelog.writes ADD COLUMN pid int DEFAULT pg_backend_pid()";
        erp.batch_execute(sql).await.unwrap();
        let (source, redis) = (Proxy::start(rig.source.port), Proxy::start(rig.redis.port));
        rig.connect(source.port, rig.destination.port, redis.port);
        rig.arguments.push("--lease-seconds=2".into());
        rig.arguments.push("--confirm-delay-milliseconds=2000".into());
        let controllers = rig.controllers();
        for table in TABLES {
            rig.api.apply(&same_map(table, &["id"], COLUMNS));
        }
        let plan = format!("{place}=stop:10");
        let old = rig.worker(&[("TABLEMAP_FAILPOINTS", &plan)]);
        for map in TABLES {
            rig.condition(map, "CaughtUp", "True").await;
        }
        if let Some(map) = paused {
            rig.pause(map);
            rig.condition(map, "Paused", "True").await;
        }
        let load = Load::start(&rig, TABLES, RATE);
        old.line(&format!("failpoint {place} SIGSTOP"), SOON).await;
        wait_until(SOON, "the old worker stands still", async || old.is_stopped()).await;
        // Else it might hear of the other by way of the source, and end before it does what it was about to do.
        source.freeze_open();
        let sql =
            "SELECT pid FROM pg_stat_activity WHERE datname = 'erp' AND application_name LIKE 'tablemap%'";
        let rows = erp.query(sql, &[]).await.unwrap();
        Self {
            backends: rows.iter().map(|row| row.get(0)).collect(),
            rig,
            _source: source,
            redis,
            old,
            load,
            erp,
            _controllers: controllers,
        }
    }

    /// Starts another worker, and waits until it writes.
    async fn taken_over(&mut self) -> Process {
        let new = self.rig.worker(&[]);
        new.line("reading from the source", SOON).await;
        self.rig.phase("orders", "Running").await;
        let before = self.writes("orders").await;
        wait_until(SOON, "writes of the new worker", async || {
            self.writes("orders").await > before + 100
        })
        .await;
        assert!(self.old.is_stopped());
        new
    }

    async fn writes(&self, table: &str) -> i64 {
        let sql = "SELECT count(*) FROM writelog.writes WHERE tbl = $1";
        self.erp.query_one(sql, &[&table]).await.unwrap().get(0)
    }

    /// What the old worker has written so far.
    async fn old_writes(&self) -> i64 {
        let sql = "SELECT count(*) FROM writelog.writes WHERE pid = ANY ($1)";
        self.erp.query_one(sql, &[&self.backends]).await.unwrap().get(0)
    }

    /// Waits until the destination has said something to one of the old worker's lanes.
    async fn said_to_old_lane(&self, text: &str) -> String {
        let starts: Vec<String> = self
            .backends
            .iter()
            .map(|pid| format!("[{pid}] tablemap "))
            .collect();
        let what = format!("'{text}' for {starts:?} in the destination's log");
        wait_for(SOON, &what, async || {
            let log = self.rig.destination.log();
            let to_old = |line: &&str| line.contains(text) && starts.iter().any(|start| line.contains(start));
            log.lines().find(to_old).map(str::to_owned)
        })
        .await
    }

    /// The old worker finds that it is not the writer any more, and ends.
    async fn old_ends(&mut self) {
        let status = self.old.end(SOON).await;
        assert!(!status.success(), "{status}");
        let log = self.old.log();
        assert!(log.contains("another worker has taken over"), "{log}");
    }

    /// Everything arrived, in order; nothing of the old worker did since; the books balance.
    async fn judge(self, mut new: Process) {
        let old_writes = self.old_writes().await;
        judge(&self.rig, self.load, TABLES).await;
        let sql = "SELECT count(*) FROM writelog.writes WHERE pid = ANY ($1)";
        let rows = self.erp.query_one(sql, &[&self.backends]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), old_writes);
        assert!(new.ended().is_none(), "{}", new.log());
        assert!(!new.log().contains("EpochLost"), "{}", new.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_before_its_check_writes_nothing() {
    let _time = timed("a_worker_that_wakes_up_before_its_check_writes_nothing");
    let mut scene = Scene::stopped_at("before-destination-check", None).await;
    let new = scene.taken_over().await;
    let before = scene.old_writes().await;
    assert!(before > 0);
    scene.redis.freeze_open();
    scene.old.signal(Signal::SIGCONT);
    // The check divides by zero in the server, so that all that was sent with it is refused as well.
    println!("{}", scene.said_to_old_lane("division by zero").await);
    scene.old_ends().await;
    assert_eq!(scene.old_writes().await, before);
    scene.judge(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_before_its_commit_writes_nothing() {
    let _time = timed("a_worker_that_wakes_up_before_its_commit_writes_nothing");
    let mut scene = Scene::stopped_at("between-check-and-commit", None).await;
    let open = "SELECT backend_xid::text, pid FROM pg_stat_activity
                WHERE pid = ANY ($1) AND state = 'idle in transaction'";
    let open = scene.erp.query_one(open, &[&scene.backends]).await.unwrap();
    let (transaction, pid): (String, i32) = (open.get(0), open.get(1));
    let new = scene.taken_over().await;
    let line = scene
        .said_to_old_lane("terminating connection due to administrator command")
        .await;
    assert!(line.contains(&format!("[{pid}]")), "{line}");
    let before = scene.old_writes().await;
    scene.old.signal(Signal::SIGCONT);
    scene.old_ends().await;
    let ended = "SELECT pg_xact_status($1::text::xid8)";
    let ended = scene.erp.query_one(ended, &[&transaction]).await.unwrap();
    assert_eq!(ended.get::<_, &str>(0), "aborted");
    assert_eq!(scene.old_writes().await, before);
    scene.judge(new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_before_its_queue_script_queues_nothing() {
    let _time = timed("a_worker_that_wakes_up_before_its_queue_script_queues_nothing");
    let mut scene = Scene::stopped_at("before-queue-script", Some("customers")).await;
    let new = scene.taken_over().await;
    scene.rig.condition("customers", "Paused", "True").await;
    let mut redis = scene.rig.redis.client().await;
    let status = scene.rig.status("customers").await;
    let id = status["queue"]["id"].as_str().unwrap();
    let keys = tablemap::queue::Keys::new(crate::support::rig::NAMESPACE, id);
    let mut entries = async || {
        let mut command = redis::cmd("XLEN");
        command
            .arg(&keys.stream)
            .query_async::<u64>(&mut redis)
            .await
            .unwrap()
    };
    let before = entries().await;
    wait_until(SOON, "entries of the new worker", async || {
        entries().await > before + 20
    })
    .await;
    assert_eq!(refused_scripts(&scene.rig).await, 0);
    scene.old.signal(Signal::SIGCONT);
    wait_until(SOON, "a script that Redis refuses", async || {
        refused_scripts(&scene.rig).await > 0
    })
    .await;
    scene.old_ends().await;
    let paused = scene.writes("customers").await;
    assert!(entries().await > before + 20, "nothing was trimmed");
    assert_eq!(scene.writes("customers").await, paused);
    scene.judge(new).await;
}

/// How often a script has found another epoch.
async fn refused_scripts(rig: &Rig) -> u64 {
    let mut client = rig.redis.client().await;
    let info: String = redis::cmd("INFO")
        .arg("errorstats")
        .query_async(&mut client)
        .await
        .unwrap();
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("errorstat_TMEPOCH:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// What the new worker says is true; the old one finds out before it says anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_says_nothing_of_maps_that_are_another_ones() {
    let _time = timed("a_worker_that_wakes_up_says_nothing_of_maps_that_are_another_ones");
    let mut rig = Rig::start().await;
    prepare(&rig, &["customers"]).await;
    rig.arguments.push("--lease-seconds=2".into());
    let _controllers = rig.controllers();
    rig.api.apply(&same_map("customers", &["id"], COLUMNS));
    let mut old = rig.worker(&[]);
    rig.condition("customers", "CaughtUp", "True").await;
    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    old.signal(Signal::SIGSTOP);
    wait_until(SOON, "the old worker stands still", async || old.is_stopped()).await;
    let _new = rig.worker(&[]);
    rig.resume("customers");
    rig.phase("customers", "Running").await;

    old.signal(Signal::SIGCONT);
    let still = async || {
        let status = rig.status("customers").await;
        let paused = said(&status, "Paused").unwrap();
        assert_eq!(
            (&paused["status"], &status["phase"]),
            (&"False".into(), &"Running".into()),
            "{status:#}"
        );
    };
    wait_until(SOON, "the end of the old worker", async || {
        still().await;
        old.ended().is_some()
    })
    .await;
    assert!(
        old.log().contains("another worker has taken over"),
        "{}",
        old.log()
    );
    still().await;
}
