//! Pausing by rule: what the destination refuses pauses a map, and a person ends that (I6, and the books: I5).

use crate::{
    scene::{ITEMS, ON_ITEMS, REFUSES, Scene},
    support::{
        rig::{Rig, SOON, assert_balanced, said, same_map},
        timing::timed,
        wait::{wait_for, wait_until},
    },
};
use serde_json::{Value, json};

pub const CLASSES: &str = r#"{"classes":["Application"]}"#;
const CODES: &str = r#"{"codes":["P0*"]}"#;
pub const COUNT: &str = r#"{"count":3}"#;
const PERCENT: &str = r#"{"percent":{"percent":50,"minRecords":4}}"#;

/// One rule, as JSON.
fn rule(matching: &str, threshold: &str, action: &str, enforcement: &str) -> String {
    format!(
        r#"{{"name":"refusals","match":{matching},"threshold":{threshold},"windowSeconds":600,"cooldownSeconds":0,
            "action":"{action}","enforcement":"{enforcement}"}}"#
    )
}

pub fn pauses(matching: &str, threshold: &str) -> String {
    rule(matching, threshold, "Pause", "Enforce")
}

pub fn set(rig: &Rig, rules: &str) {
    let patch = format!(r#"{{"spec":{{"rules":[{rules}]}}}}"#);
    rig.api
        .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", &patch]);
}

/// A map, and a destination that refuses every note `bad%`.
pub async fn scene() -> Scene {
    let destination = format!("{REFUSES}{ON_ITEMS}INSERT INTO refused VALUES ('bad%');");
    Scene::start(ITEMS, &destination, &[&["items", "id", "kind", "note"]], &[]).await
}

pub async fn insert(scene: &Scene, note: &str, from: u32, rows: u32) {
    let last = from + rows - 1;
    let sql = format!("INSERT INTO items SELECT n, 'k', '{note}' FROM generate_series({from}, {last}) n");
    scene.at_source(&sql).await;
}

pub async fn mend(scene: &Scene) {
    scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
}

async fn event(rig: &Rig, reason: &str) -> String {
    let mut found = String::new();
    wait_until(SOON, reason, async || {
        let events = rig.api.kubectl(&["get", "events", "-o", "wide"]);
        let line = events.lines().find(|line| line.contains(reason));
        line.unwrap_or_default().clone_into(&mut found);
        line.is_some()
    })
    .await;
    found
}

/// The map is paused by its rule alone, and says so.
pub async fn paused_by_rule(rig: &Rig) -> Value {
    let status = rig.reason("items", "Paused", "RequestedByRule").await;
    assert_eq!(status["pauses"].as_array().map(Vec::len), Some(1), "{status:#}");
    let pause = &status["pauses"][0];
    assert_eq!(
        (&pause["cause"], &pause["name"]),
        (&json!("Rule"), &json!("refusals"))
    );
    let message = pause["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("P0001") && message.contains("kubectl tablemap resume items"),
        "{message}"
    );
    rig.reason("items", "Stalled", "PausedByRule").await
}

/// Ends the pause by an operation, writes what was refused, and looks that nothing is missing.
pub async fn ends_well(scene: &Scene, name: &str) {
    let rig = &scene.rig;
    mend(scene).await;
    rig.ask(name, "items", &["action: Resume"]);
    let ended = rig.ended(name).await;
    assert_eq!(
        said(&ended, "Complete").unwrap()["reason"],
        "Resumed",
        "{ended:#}"
    );
    rig.condition("items", "CaughtUp", "True").await;
    let retry = format!("{name}-retry");
    rig.ask_errors(&retry, "items", "Retry", "{type: All}");
    rig.ended(&retry).await;
    rig.equal("items", "id").await;
    assert_balanced(&rig.settled("items").await);
}

/// Where refusals come from.
#[derive(Clone, Copy, Debug)]
enum From {
    Live,
    CatchUp,
    Retry,
}

/// Three are refused, in this way.
async fn refuse_three(scene: &Scene, from: From, rules: &str) {
    let rig = &scene.rig;
    match from {
        From::Live => {
            set(rig, rules);
            rig.observed("items").await;
            insert(scene, "bad", 101, 3).await;
        }
        From::CatchUp => {
            rig.pause("items");
            rig.condition("items", "Paused", "True").await;
            insert(scene, "bad", 101, 3).await;
            set(rig, rules);
            rig.observed("items").await;
            rig.resume("items");
        }
        From::Retry => {
            insert(scene, "bad", 101, 3).await;
            scene.errors("items", 3).await;
            set(rig, rules);
            rig.observed("items").await;
            rig.ask_errors("again", "items", "Retry", "{type: All}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_a_rule_fires_wherever_refusals_come_from() {
    let _time = timed("each_form_of_a_rule_fires_wherever_refusals_come_from");
    for from in [From::Live, From::CatchUp, From::Retry] {
        let forms = [CLASSES, CODES].map(|matching| [COUNT, PERCENT].map(|threshold| (matching, threshold)));
        for (matching, threshold) in forms.concat() {
            println!("{from:?} {matching} {threshold}");
            let scene = scene().await;
            let rig = &scene.rig;
            insert(&scene, "good", 1, 1).await;
            rig.equal("items", "id").await;
            refuse_three(&scene, from, &pauses(matching, threshold)).await;
            if threshold == PERCENT {
                // Too few records yet.
                scene.errors("items", 3).await;
                rig.condition("items", "CaughtUp", "True").await;
                insert(&scene, "bad", 110, 1).await;
            }
            paused_by_rule(rig).await;
            event(rig, "RuleFired").await;
            insert(&scene, "good", 201, 5).await;
            scene.queued("items", 5).await;
            ends_well(&scene, "go-on").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_and_a_notice_change_nothing() {
    let _time = timed("a_dry_run_and_a_notice_change_nothing");
    let scene = scene().await;
    let rig = &scene.rig;
    let ways = [
        ("Pause", "DryRun", "RuleWouldPause"),
        ("Notify", "Enforce", "RuleMatched"),
    ];
    for (index, (action, enforcement, reason)) in (1_u32..).zip(ways) {
        set(rig, &rule(CLASSES, COUNT, action, enforcement));
        rig.observed("items").await;
        insert(&scene, "bad", 100 * index, 4).await;
        let said = event(rig, reason).await;
        assert!(said.contains("P0001"), "{said}");
        insert(&scene, "good", 100 * index + 50, 5).await;
        scene.errors("items", u64::from(4 * index)).await;
        let status = rig.settled("items").await;
        assert_eq!(
            (&status["phase"], &status["pauses"]),
            (&json!("Running"), &json!([]))
        );
        assert!(status["rules"][0]["lastFiredTime"].is_string(), "{status:#}");
    }
    // What no rule counts is no news.
    set(rig, &pauses(r#"{"codes":["23505"]}"#, r#"{"count":1}"#));
    rig.observed("items").await;
    insert(&scene, "bad", 300, 4).await;
    scene.errors("items", 12).await;
    assert_eq!(rig.status("items").await["phase"], "Running");
}

/// Neither a worker that ends, nor whoever changes or removes the rule, ends its pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_by_rule_stays_until_it_is_ended() {
    let _time = timed("a_pause_by_rule_stays_until_it_is_ended");
    let mut scene = scene().await;
    set(&scene.rig, &pauses(CLASSES, COUNT));
    scene.rig.observed("items").await;
    insert(&scene, "bad", 1, 3).await;
    paused_by_rule(&scene.rig).await;
    scene.operator.kill9();
    insert(&scene, "good", 10, 5).await;
    scene.operator = scene.rig.operator(&[]);
    scene.queued("items", 5).await;
    paused_by_rule(&scene.rig).await;
    set(&scene.rig, "");
    scene.rig.observed("items").await;
    paused_by_rule(&scene.rig).await;
    assert_eq!(scene.text("SELECT count(*)::text FROM items").await, "0");

    // By state: Paused, and Running again.
    scene.rig.pause("items");
    let both = scene.rig.reason("items", "Paused", "RequestedBySpec").await;
    assert_eq!(both["pauses"].as_array().map(Vec::len), Some(2), "{both:#}");
    scene.rig.ask("refused", "items", &["action: Resume"]);
    let ended = scene.rig.ended("refused").await;
    assert_eq!(said(&ended, "Failed").unwrap()["reason"], "PausedBySpec");
    scene.operator.kill9();
    scene.rig.resume("items");
    scene.operator = scene.rig.operator(&[]);
    scene.rig.condition("items", "CaughtUp", "True").await;
    scene.rig.more_rows("items", 5).await;
    assert_eq!(scene.rig.status("items").await["pauses"], json!([]));
    scene.rig.ask("nothing", "items", &["action: Resume"]);
    let ended = scene.rig.ended("nothing").await;
    assert_eq!(said(&ended, "Failed").unwrap()["reason"], "NothingToResume");

    // A rule that is new counts from now on, and the plugin ends its pause.
    set(&scene.rig, &pauses(CODES, COUNT));
    scene.rig.observed("items").await;
    insert(&scene, "bad", 20, 3).await;
    paused_by_rule(&scene.rig).await;
    ends_well(&scene, "go-on").await;
}

/// Redis forgets all, and the gap is accepted.
async fn goes_on_without_redis(scene: &mut Scene, name: &str, restarts: bool) {
    let mut redis = scene.rig.redis.client().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    if restarts {
        scene.operator.kill9();
        scene.operator = scene.rig.operator(&[]);
    }
    let rig = &scene.rig;
    let status = wait_for(SOON, "a gap", async || {
        let status = rig.status("items").await;
        status["blocked"]["gap"]["lostAfter"]
            .is_string()
            .then_some(status)
    })
    .await;
    assert_eq!(status["pauses"][0]["name"], "refusals", "{status:#}");
    let gap = format!(
        "acceptGap: {{lostAfter: {}}}",
        status["blocked"]["gap"]["lostAfter"]
    );
    rig.ask(name, "items", &["action: AcceptGap", &gap]);
    let ended = rig.ended(name).await;
    assert!(said(&ended, "Complete").is_some(), "{ended:#}");
}

/// What a rule has paused stays paused though Redis was emptied and the gap accepted, whether or not the worker lived on.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_by_rule_outlives_an_emptied_redis() {
    let _time = timed("a_pause_by_rule_outlives_an_emptied_redis");
    let mut scene = scene().await;
    set(&scene.rig, &pauses(CLASSES, COUNT));
    scene.rig.observed("items").await;
    insert(&scene, "bad", 1, 3).await;
    paused_by_rule(&scene.rig).await;
    scene.rig.all_confirmed().await;
    goes_on_without_redis(&mut scene, "first", false).await;
    paused_by_rule(&scene.rig).await;
    goes_on_without_redis(&mut scene, "second", true).await;
    insert(&scene, "good", 10, 5).await;
    scene.queued("items", 5).await;
    let status = scene.rig.reason("items", "Stalled", "PausedByRule").await;
    let message = status["pauses"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("not known any more"), "{message}");
    mend(&scene).await;
    scene.rig.ask("go-on", "items", &["action: Resume"]);
    scene.rig.ended("go-on").await;
    scene.rig.condition("items", "CaughtUp", "True").await;
    assert_eq!(scene.text("SELECT count(*)::text FROM items").await, "5");
    assert_eq!(scene.rig.status("items").await["pauses"], json!([]));
}

/// The manifests of a page, about the map of this test.
fn documented(page: &str) -> Vec<String> {
    let spec = same_map("items", &["id"], &["id", "kind", "note"]);
    let (_, spec) = spec.split_once("spec:\n").unwrap();
    let spec = spec.trim_end_matches("---\n");
    let is_code = |line: &&str| line.starts_with("    ");
    let blocks = page
        .split("\n\n")
        .filter(|block| block.lines().all(|line| is_code(&line)));
    let manifests = blocks.filter(|block| block.contains("apiVersion:"));
    let shown = |block: &str| {
        let lines: Vec<&str> = block.lines().map(|line| &line[4..]).collect();
        let text = lines.join("\n").replace("customers", "items");
        text.replace("  # ...\n", spec) + "\n"
    };
    manifests.map(shown).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_documentation_shows_is_accepted() {
    let _time = timed("what_the_documentation_shows_is_accepted");
    let scene = scene().await;
    let rig = &scene.rig;
    for outages in documented(include_str!("../../docs/outages.md")) {
        rig.api.apply(&outages);
        rig.observed("items").await;
    }
    let manifests = documented(include_str!("../../docs/rules.md"));
    let [map, operation] = manifests.as_slice() else {
        panic!("a map and an operation, not {manifests:?}");
    };
    rig.api.apply(map);
    rig.observed("items").await;
    wait_until(SOON, "two rules", async || {
        let status = rig.status("items").await;
        let names: Vec<&Value> = status["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|rule| &rule["name"])
            .collect();
        names == ["application-errors", "half-of-all"]
    })
    .await;
    insert(&scene, "bad", 1, 10).await;
    rig.reason("items", "Paused", "RequestedByRule").await;
    mend(&scene).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("operation.yaml");
    std::fs::write(&file, operation).unwrap();
    rig.api.kubectl(&["create", "-f", &file.display().to_string()]);
    rig.condition("items", "CaughtUp", "True").await;
}

/// A rule whose pause a trial of five records may end.
pub fn tried(cooldown: u32, after: u32) -> String {
    format!(
        r#"{{"name":"refusals","match":{CLASSES},"threshold":{COUNT},"action":"Pause","cooldownSeconds":{cooldown},
            "resume":{{"policy":"WhenHealthy","whenHealthy":{{"canaryRecords":5,"afterSeconds":{after}}}}}}}"#
    )
}

/// A trial writes no more than it may, in order; one that is refused leaves the pause, and one that is not ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_ends_a_pause_by_rule_only_if_nothing_is_refused() {
    let _time = timed("a_trial_ends_a_pause_by_rule_only_if_nothing_is_refused");
    let mut scene = scene().await;
    set(&scene.rig, &tried(0, 5));
    scene.rig.observed("items").await;
    insert(&scene, "bad", 1, 3).await;
    paused_by_rule(&scene.rig).await;
    insert(&scene, "good", 10, 4).await;
    for id in 20..40 {
        insert(&scene, "bad", id, 1).await;
    }
    insert(&scene, "good", 100, 50).await;
    // The fifth is bad: the four before it are written, and what follows it waits.
    let said = event(&scene.rig, "TrialFailed").await;
    assert!(said.contains("The next trial is at"), "{said}");
    paused_by_rule(&scene.rig).await;
    scene.errors("items", 4).await;
    assert_eq!(scene.text("SELECT count(*)::text FROM items").await, "4");
    // Whoever works by then makes the next one.
    scene.operator.kill9();
    mend(&scene).await;
    scene.operator = scene.rig.operator(&[]);
    scene.rig.condition("items", "CaughtUp", "True").await;
    assert_eq!(scene.rig.status("items").await["pauses"], json!([]));
    scene.rig.ask_errors("again", "items", "Retry", "{type: All}");
    scene.rig.ended("again").await;
    scene.rig.equal("items", "id").await;
    assert_balanced(&scene.rig.settled("items").await);
}
