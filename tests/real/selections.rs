//! Each action on queued records, by each selection, in each phase in which something is queued.

use crate::{
    scene::{ITEMS, ON_ITEMS, REFUSES, Scene},
    support::{
        operations::counts,
        records::Records,
        rig::{NAMESPACE, Rig, SOON, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use std::collections::HashMap;
use tablemap::queue::Keys;
use tokio_postgres::Client;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Paused,
    CatchingUp,
    /// The destination is away.
    Buffering,
}

/// What is done in which phase, and whether all that the first three selections leave is skipped too.
const ROUNDS: [(Phase, &str, bool); 8] = [
    (Phase::Paused, "Discard", false),
    (Phase::Paused, "Discard", true),
    (Phase::Paused, "Park", false),
    (Phase::Paused, "Park", true),
    (Phase::CatchingUp, "Discard", true),
    (Phase::CatchingUp, "Park", true),
    (Phase::Buffering, "Discard", true),
    (Phase::Buffering, "Park", true),
];
/// Of the seven records of a round: one, the two of a key, one, and those that are left.
const SELECTIONS: [(&str, u64); 4] = [("IDs", 1), ("Keys", 2), ("Match", 1), ("All", 3)];

/// One action in one phase, on six rows that were inserted, one of which was updated then.
struct Round {
    phase: Phase,
    action: &'static str,
    is_whole: bool,
    /// Of the first row.
    first: u64,
}

impl Round {
    fn name(&self, selection: &str) -> String {
        let Self {
            phase, action, first, ..
        } = self;
        format!("{phase:?}-{action}-{selection}-{first}").to_lowercase()
    }

    fn selections(&self) -> &'static [(&'static str, u64)] {
        if self.is_whole {
            &SELECTIONS
        } else {
            &SELECTIONS[..3]
        }
    }

    async fn enter(&self, scene: &mut Scene) {
        let first = self.first;
        match self.phase {
            Phase::Buffering => scene.rig.destination.stop().await,
            Phase::Paused | Phase::CatchingUp => scene.pause().await,
        }
        let mut queued = 7;
        if self.phase == Phase::CatchingUp {
            let more = format!(
                "INSERT INTO items SELECT n, '', 'before' FROM generate_series({0}, {0} + 2499) n",
                first * 100_000
            );
            scene.at_source(&more).await;
            queued += 2500;
        }
        let rows =
            format!("INSERT INTO items SELECT n, '', 'queued' FROM generate_series({first}, {first} + 5) n");
        scene.at_source(&rows).await;
        let update = format!("UPDATE items SET note = 'updated' WHERE id = {first} + 1");
        scene.at_source(&update).await;
        scene.queued("items", queued).await;
        if self.phase == Phase::CatchingUp {
            let slowly = r#"{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":500}}}"#;
            let patch = ["patch", "tablemap", "items", "--type=merge", "-p", slowly];
            scene.rig.api.kubectl(&patch);
            scene.rig.phase("items", "CatchingUp").await;
        }
    }

    fn selection(&self, rig: &Rig, selection: &str) -> String {
        let first = self.first;
        match selection {
            "IDs" => {
                let field = format!("tableMap=items,key={first}");
                let arguments = ["get", "queuedrecords", "--field-selector", &field, "-o", "name"];
                let printed = rig.api.kubectl(&arguments);
                let name = printed.lines().find_map(|line| line.split_once('/'));
                format!(
                    "{{type: IDs, ids: [{}, items-q-1-99, other-q-1-1]}}",
                    name.unwrap().1
                )
            }
            "Keys" => format!("{{type: Keys, keys: [{{values: ['{}']}}]}}", first + 1),
            "Match" => {
                let expression = format!("row.id == {} && record.operation == 'Insert'", first + 2);
                format!("{{type: Match, match: {{expression: \"{expression}\"}}}}")
            }
            _ => "{type: All}".into(),
        }
    }

    async fn ask(&self, scene: &Scene) {
        let action = format!("action: {}", self.action);
        let rig = &scene.rig;
        for (selection, _) in self.selections() {
            let name = self.name(selection);
            let chosen = format!("selection: {}", self.selection(rig, selection));
            rig.ask(&name, "items", &[&action, "from: Queue", &chosen]);
            match self.phase {
                Phase::Paused => drop(rig.waits(&name, "MapPaused").await),
                Phase::Buffering => drop(rig.waits(&name, "MapBuffering").await),
                Phase::CatchingUp => {}
            }
        }
        // What others have chosen waits still, and is counted.
        if self.phase == Phase::Paused {
            let (name, chosen) = (self.name("dry"), self.selection(rig, "Keys"));
            let chosen = format!("selection: {chosen}");
            rig.ask(&name, "items", &[&action, "from: Queue", &chosen, "mode: DryRun"]);
            let message = "2 of the records in the queue are selected; nothing was done.";
            let status = rig.ended(&name).await;
            assert_eq!(
                (&status["message"], counts(&status)),
                (&message.into(), [2, 0, 0, 0, 2])
            );
        }
    }

    async fn leave(&self, scene: &mut Scene) {
        if self.phase == Phase::Buffering {
            scene.rig.destination.start_again().await;
            scene.erp = scene.rig.erp().await;
        }
        scene.rig.resume("items");
        scene.rig.condition("items", "CaughtUp", "True").await;
    }

    /// What was parked is written after all, in its order.
    async fn retry(&self, scene: &Scene, skipped: u64, discarded: u64) {
        scene.books("items", skipped, discarded).await;
        let retry = self.name("retry");
        scene.rig.ask_errors(&retry, "items", "Retry", "{type: All}");
        let status = scene.rig.ended(&retry).await;
        assert_eq!(counts(&status), [skipped, skipped, 0, 0, 0], "{status:#}");
        let rows = format!(
            "SELECT string_agg(note, ',' ORDER BY id) FROM items WHERE id BETWEEN {0} AND {0} + 5",
            self.first
        );
        scene
            .says(&rows, "queued,updated,queued,queued,queued,queued")
            .await;
    }

    /// How many records were skipped.
    async fn judge(&self, scene: &Scene) -> u64 {
        let mut skipped = 0;
        for (selection, count) in self.selections() {
            let status = scene.rig.ended(&self.name(selection)).await;
            let [selected, completed, rest @ ..] = counts(&status);
            assert_eq!((selected, rest), (completed, [0, 0, 0]), "{status:#}");
            // While it catches up, what came before them was skipped too.
            let with_others = *selection == "All" && self.phase == Phase::CatchingUp;
            assert!(
                completed == *count || with_others && completed > *count,
                "{status:#}"
            );
            skipped += completed;
        }
        let left = if self.is_whole {
            ""
        } else {
            "3queued,4queued,5queued"
        };
        let rows = format!(
            "SELECT string_agg(id - {0} || note, ',' ORDER BY id) FROM items WHERE id BETWEEN {0} AND {0} + 5",
            self.first
        );
        scene.says(&rows, left).await;
        skipped
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_on_queued_records_by_each_selection_in_each_phase() {
    let _time = timed("each_action_on_queued_records_by_each_selection_in_each_phase");
    let records = Records::new();
    let arguments = records.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let refuses = format!("{REFUSES}{ON_ITEMS}");
    let maps: &[&[&str]] = &[&["items", "id", "kind", "note"]];
    let mut scene = Scene::start(ITEMS, &refuses, maps, &arguments).await;
    records.register(&scene.rig).await;
    let mut discarded = 0;
    for (number, (phase, action, is_whole)) in (1..).zip(ROUNDS) {
        let round = Round {
            phase,
            action,
            is_whole,
            first: 10 * number,
        };
        println!("{phase:?} {action} {is_whole}");
        round.enter(&mut scene).await;
        round.ask(&scene).await;
        round.leave(&mut scene).await;
        let skipped = round.judge(&scene).await;
        match action {
            "Discard" => discarded += skipped,
            _ => round.retry(&scene, skipped, discarded).await,
        }
        scene.books("items", 0, discarded).await;
    }
}

/// Where a worker dies, and what it was about to do with every third record.
const KILLS: [(&str, &str); 4] = [
    ("skip-stored", "Park"),
    ("between-park-and-commit", "Park"),
    ("skip-stored", "Discard"),
    ("between-check-and-commit", "Discard"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_outlives_the_worker_that_was_skipping_it() {
    let _time = timed("a_selection_outlives_the_worker_that_was_skipping_it");
    let mut rig = Rig::start().await;
    rig.both(ITEMS).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    rig.arguments.push("--lease-seconds=2".into());
    let _controllers = rig.controllers();
    rig.api
        .apply(&same_map("items", &["id"], &["id", "kind", "note"]));
    let mut worker = rig.worker(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    for (round, (place, action)) in KILLS.into_iter().enumerate() {
        rig.pause("items");
        rig.condition("items", "Paused", "True").await;
        let first = round * 1000;
        let insert =
            format!("INSERT INTO items SELECT n, '', '' FROM generate_series({first} + 1, {first} + 300) n");
        crm.batch_execute(&insert).await.unwrap();
        wait_until(SOON, "300 queued records", async || {
            rig.status("items").await["queue"]["records"] == 300
        })
        .await;
        worker.kill9();

        let mut dying = rig.worker(&[("TABLEMAP_FAILPOINTS", &format!("{place}=kill:1"))]);
        let name = format!("kill-{round}");
        let selection = "selection: {type: Match, match: {expression: \"row.id % 3 == 0\"}}";
        rig.ask(
            &name,
            "items",
            &[&format!("action: {action}"), "from: Queue", selection],
        );
        if place != "skip-stored" {
            rig.waits(&name, "MapPaused").await;
            rig.resume("items");
        }
        dying.line(&format!("failpoint {place} SIGKILL"), SOON).await;
        dying.end(SOON).await;

        worker = rig.worker(&[]);
        if place == "skip-stored" {
            rig.waits(&name, "MapPaused").await;
            rig.resume("items");
        }
        let status = rig.ended(&name).await;
        assert_eq!(counts(&status), [100, 100, 0, 0, 0], "{place}: {status:#}");
        rig.condition("items", "CaughtUp", "True").await;
        let sql =
            format!("SELECT count(*), count(*) FILTER (WHERE id % 3 = 0) FROM items WHERE id > {first}");
        let row = erp.query_one(&sql, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (200_i64, 0_i64), "{place}");
        let status = rig.settled("items").await;
        assert_eq!(
            status["errors"]["count"],
            if round == 0 { 100 } else { 200 },
            "{status:#}"
        );
        assert_eq!(
            status["ledger"]["discarded"],
            100 * round.saturating_sub(1),
            "{status:#}"
        );
    }
}

/// What a person was told would be skipped is, and no record more, though Redis has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn a_skip_outlives_a_redis_that_went_back() {
    let _time = timed("a_skip_outlives_a_redis_that_went_back");
    let mut rig = Rig::start().await;
    rig.both(ITEMS).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    // The source keeps all that Redis will have forgotten.
    rig.arguments.push("--confirm-delay-milliseconds=60000".into());
    rig.api
        .apply(&same_map("items", &["id"], &["id", "kind", "note"]));
    let _operator = rig.operator(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    insert(&rig, &crm, 1, 3).await;
    let copies = tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap();
    let copy = copies.path().join("copy");
    rig.redis.copy_to(&copy);
    insert(&rig, &crm, 4, 5).await;
    let all = ["action: Discard", "from: Queue", "selection: {type: All}"];
    rig.ask("skip", "items", &all);
    rig.waits("skip", "MapPaused").await;
    insert(&rig, &crm, 6, 8).await;

    rig.redis.restore_from(&copy);
    rig.redis.start_again().await;
    let keys = Keys::new(
        NAMESPACE,
        rig.status("items").await["queue"]["id"].as_str().unwrap(),
    );
    let mut redis = rig.redis.client().await;
    wait_until(SOON, "what was forgotten is told again", async || {
        let mut read = redis::cmd("HGETALL");
        read.arg(&keys.meta);
        let meta: HashMap<String, String> = read.query_async(&mut redis).await.unwrap();
        meta["records"] == "8" && meta.keys().any(|field| field.starts_with("skip:"))
    })
    .await;
    rig.resume("items");
    assert_eq!(counts(&rig.ended("skip").await), [5, 5, 0, 0, 0]);
    rig.condition("items", "CaughtUp", "True").await;
    let sql = "SELECT string_agg(id::text, ',' ORDER BY id) FROM items";
    let ids: String = erp.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(ids, "6,7,8");
    assert_eq!(rig.settled("items").await["ledger"]["discarded"], 5);
}

/// Adds rows, until the queue has so many records.
async fn insert(rig: &Rig, crm: &Client, from: i64, to: i64) {
    let sql = "INSERT INTO items SELECT n, '', '' FROM generate_series($1::bigint, $2::bigint) n";
    crm.execute(sql, &[&from, &to]).await.unwrap();
    wait_until(SOON, "queued records", async || {
        rig.status("items").await["queue"]["records"] == to
    })
    .await;
}
