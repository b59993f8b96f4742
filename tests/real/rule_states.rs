//! Rules that change while changes come, and workers and operators that end in each state of a rule.

use crate::{
    rules::{CLASSES, COUNT, ends_well, insert, mend, paused_by_rule, pauses, scene, set, tried},
    scene::{ON_ITEMS, REFUSES, Scene},
    support::{
        load::{COLUMNS, Load, Rate, prepare},
        process::Process,
        rig::{Rig, SOON, assert_balanced, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use serde_json::Value;
use std::time::Duration;

const BUSY: Rate = Rate {
    connections: 2,
    rows: 20,
    pause: Duration::from_millis(50),
    keys: 2000,
};

/// Beyond the keys of the load.
const REFUSED: &str = "INSERT INTO items SELECT n, 0, 'bad' FROM generate_series(1000001, 1000003) n";

/// Rules come, change and go while changes flow: nothing is begun anew, and the last word counts from then on.
#[tokio::test(flavor = "multi_thread")]
async fn rules_change_under_load_and_nothing_begins_anew() {
    let _time = timed("rules_change_under_load_and_nothing_begins_anew");
    let mut rig = Rig::start().await;
    prepare(&rig, &["items"]).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    let refuses = format!("{REFUSES}{ON_ITEMS}INSERT INTO refused VALUES ('bad%');");
    erp.batch_execute(&refuses).await.unwrap();
    let operator = rig.operator(&[]);
    rig.api.apply(&same_map("items", &["id"], COLUMNS));
    rig.condition("items", "CaughtUp", "True").await;
    let load = Load::start(&rig, &["items"], BUSY);
    for round in 1..=10 {
        for rules in [
            pauses(CLASSES, r#"{"count":1000}"#),
            pauses(
                r#"{"codes":["P0*"]}"#,
                r#"{"percent":{"percent":90,"minRecords":100}}"#,
            ),
            String::new(),
        ] {
            set(&rig, &rules);
            rig.observed("items").await;
        }
        // Refused while no rule is there: no later one counts them.
        if round == 5 {
            crm.batch_execute(REFUSED).await.unwrap();
            wait_until(SOON, "three errors", async || {
                rig.status("items").await["errors"]["count"] == 3
            })
            .await;
        }
    }
    set(&rig, &pauses(CLASSES, COUNT));
    rig.observed("items").await;
    let status = rig.status("items").await;
    assert_eq!(status["rules"][0]["count"], 0, "{status:#}");
    assert_eq!(status["pauses"].as_array().map(Vec::len), Some(0), "{status:#}");
    crm.batch_execute("UPDATE items SET note = 'worse' WHERE id > 1000000; UPDATE items SET note = 'bad again' WHERE id > 1000000")
        .await
        .unwrap();
    paused_by_rule(&rig).await;
    assert_eq!(operator.log().matches("reading from the source").count(), 1);
    load.stop().await;
    let scene = Scene {
        rig,
        crm,
        erp,
        maps: vec!["items".into()],
        operator,
    };
    ends_well(&scene, "go-on").await;
}

/// The worker and the operator of a scene, as processes of their own.
struct Programs {
    operator: Process,
    worker: Process,
}

impl Programs {
    fn start(scene: &mut Scene) -> Self {
        scene.operator.kill9();
        Self {
            operator: scene.rig.controllers(),
            worker: scene.rig.worker(&[]),
        }
    }

    /// Each of them ends, and is followed by another.
    async fn each_ends(&mut self, scene: &mut Scene, holds: impl AsyncFn(&Scene)) {
        self.operator.kill9();
        self.operator = scene.rig.controllers();
        holds(scene).await;
        self.worker.kill9();
        self.worker = scene.rig.worker(&[]);
        holds(scene).await;
    }
}

/// Somebody who works now has taken what comes now.
async fn good_ones(scene: &Scene, from: u32) {
    let before = scene.rig.status("items").await["ledger"]["received"].as_u64();
    insert(scene, "good", from, 2).await;
    wait_until(SOON, "changes that are taken", async || {
        scene.rig.status("items").await["ledger"]["received"].as_u64() >= before.map(|count| count + 2)
    })
    .await;
}

/// The rule holds nothing; `quiet` says that it has, a while ago.
async fn holds_nothing(scene: &Scene, quiet: bool) {
    let status = scene.rig.condition("items", "CaughtUp", "True").await;
    assert_eq!(
        status["rules"][0]["quietUntilTime"].is_string(),
        quiet,
        "{status:#}"
    );
    assert_eq!(status["pauses"].as_array().map(Vec::len), Some(0), "{status:#}");
}

/// Quiet, paused and waiting for a trial, and cooling down: whoever comes next goes on there.
#[tokio::test(flavor = "multi_thread")]
async fn each_state_of_a_rule_outlives_worker_and_operator() {
    let _time = timed("each_state_of_a_rule_outlives_worker_and_operator");
    let mut scene = scene().await;
    let mut programs = Programs::start(&mut scene);
    set(&scene.rig, &tried(3600, 300));
    scene.rig.observed("items").await;
    let ids = std::sync::atomic::AtomicU32::new(1000);
    let next = || ids.fetch_add(10, std::sync::atomic::Ordering::Relaxed);

    programs
        .each_ends(&mut scene, async |scene| {
            good_ones(scene, next()).await;
            holds_nothing(scene, false).await;
        })
        .await;

    insert(&scene, "bad", 1, 3).await;
    paused_by_rule(&scene.rig).await;
    programs
        .each_ends(&mut scene, async |scene| {
            good_ones(scene, next()).await;
            let status = paused_by_rule(&scene.rig).await;
            let message = status["pauses"][0]["message"].as_str().unwrap_or_default();
            assert!(message.contains("A trial follows at"), "{message}");
        })
        .await;
    assert_eq!(
        scene
            .text("SELECT count(*)::text FROM items WHERE id > 1020")
            .await,
        "0"
    );

    ends_well(&scene, "go-on").await;
    scene
        .erp
        .batch_execute("INSERT INTO refused VALUES ('bad%')")
        .await
        .unwrap();
    programs
        .each_ends(&mut scene, async |scene| {
            insert(scene, "bad", next(), 3).await;
            wait_until(SOON, "refusals that are counted", async || {
                let status: Value = scene.rig.status("items").await;
                status["rules"][0]["count"].as_u64() >= Some(3)
            })
            .await;
            holds_nothing(scene, true).await;
        })
        .await;
    mend(&scene).await;
    scene.rig.ask_errors("all", "items", "Retry", "{type: All}");
    scene.rig.ended("all").await;
    scene.rig.equal("items", "id").await;
    assert_balanced(&scene.rig.settled("items").await);
}
