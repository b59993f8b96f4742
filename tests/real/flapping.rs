//! A destination that is mended and broken again and again: its rule pauses the map ever more rarely, and says so (I5).

use crate::{
    rules::{insert, mend, scene, set, tried},
    scene::Scene,
    support::{
        clock::Clock,
        rig::{SOON, assert_balanced},
        timing::timed,
        wait::{wait_for, wait_until},
    },
};
use serde_json::Value;
use std::time::Duration;

/// So long it is well, and then refuses what comes.
const STEP: Duration = Duration::from_secs(15);
/// After its pause the rule is quiet for as long; a trial may follow sooner.
const COOLDOWN: u32 = 30;
const TRIAL_AFTER: u32 = 10;

/// Three more are refused; then the status, once it tells of them: as a pause, or as a count of a rule that is quiet.
async fn refuse_three_more(scene: &Scene, refused: u32) -> Value {
    let sql = "INSERT INTO refused VALUES ('bad%')";
    scene.erp.batch_execute(sql).await.unwrap();
    insert(scene, "bad", refused + 1, 3).await;
    wait_for(SOON, "three more that are refused", async || {
        let status = scene.rig.status("items").await;
        let is_counted = status["rules"][0]["count"].as_u64() > Some(0);
        let is_told = status["errors"]["count"] == refused + 3 && (is_counted || !holds(&status).is_null());
        is_told.then_some(status)
    })
    .await
}

/// What the status says of the rule's pause.
fn holds(status: &Value) -> &Value {
    &status["pauses"][0]["message"]
}

fn fired_at(status: &Value) -> jiff::Timestamp {
    status["rules"][0]["lastFiredTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_flaps_pauses_its_map_ever_more_rarely() {
    let _time = timed("a_destination_that_flaps_pauses_its_map_ever_more_rarely");
    let mut scene = scene().await;
    let mut clock = Clock::new();
    scene.operator.kill9();
    scene.operator = scene.rig.operator(&[clock.variable()]);
    set(&scene.rig, &tried(COOLDOWN, TRIAL_AFTER));
    scene.rig.observed("items").await;
    let (mut refused, mut pauses, mut said) = (0, Vec::new(), String::new());
    // Ten minutes, by the clock of the operator.
    for step in 0..40 {
        let status = refuse_three_more(&scene, refused).await;
        refused += 3;
        mend(&scene).await;
        if let Some(message) = holds(&status).as_str() {
            pauses.push(fired_at(&status));
            message.clone_into(&mut said);
        }
        // How often it has fired outlives whoever works.
        if step == 20 {
            scene.operator.kill9();
            scene.operator = scene.rig.operator(&[clock.variable()]);
        }
        clock.forward(STEP);
        wait_until(SOON, "a map that goes on", async || {
            let status = scene.rig.status("items").await;
            holds(&status).is_null() && status["phase"] == "Running"
        })
        .await;
    }
    println!("paused at {pauses:?}; {said}");
    let apart: Vec<f64> = pauses
        .windows(2)
        .map(|two| two[1].duration_since(two[0]).as_secs_f64())
        .collect();
    assert!((4..=6).contains(&pauses.len()), "{pauses:?}");
    assert!(apart.windows(2).all(|two| two[1] > 1.2 * two[0]), "{apart:?}");
    let times = format!("has fired {} times in a row", pauses.len());
    assert!(said.contains(&times), "{said}");
    let status = scene.rig.status("items").await;
    assert!(status["rules"][0]["quietUntilTime"].is_string(), "{status:#}");
    scene.rig.ask_errors("again", "items", "Retry", "{type: All}");
    scene.rig.ended("again").await;
    scene.rig.equal("items", "id").await;
    assert_balanced(&scene.rig.settled("items").await);
}
