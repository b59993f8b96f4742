//! `kubectl tablemap`, as people run it.

use crate::{
    scene::Scene,
    support::{records::Records, rig::same_map, timing::timed},
};
use serde_json::Value;
use std::{path::PathBuf, process::Command};
use tablemap::api::State;

const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, kind text, note text);
    CREATE TABLE others (id bigint PRIMARY KEY, kind text, note text)";
/// At the destination.
const RULE: &str = "ALTER TABLE items ADD CONSTRAINT modest CHECK (kind <> 'bad')";

async fn scene(arguments: &[&str]) -> Scene {
    let scene = Scene::start(ITEMS, RULE, &[&["items", "id", "kind", "note"]], arguments).await;
    scene
        .rig
        .api
        .apply(&same_map("others", &["id"], &["id", "kind", "note"]));
    scene.rig.condition("others", "CaughtUp", "True").await;
    scene
}

/// The plugin with a kubeconfig.
struct Plugin(PathBuf);

impl Plugin {
    /// What it prints at both outputs, and its exit code.
    fn run(&self, line: &str) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tablemap"))
            .args(line.split(' '))
            .env("KUBECONFIG", &self.0)
            .output()
            .unwrap();
        let both = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(both).unwrap())
    }

    /// Runs it, and sees that it prints just this.
    fn prints(&self, code: i32, line: &str, expected: &str) {
        let (found, printed) = self.run(line);
        assert_eq!(
            (found, steady(&printed).as_str()),
            (code, expected),
            "{line}: {printed}"
        );
    }

    /// Runs it, and sees that it says this. All that it prints.
    fn says(&self, code: i32, line: &str, expected: &str) -> String {
        let (found, printed) = self.run(line);
        assert!(
            found == code && printed.contains(expected),
            "{line}: {found}: {printed}"
        );
        printed
    }

    /// The words of what it lists.
    fn lists(&self, line: &str) -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        self.says(0, line, "NAME").lines().skip(1).map(words).collect()
    }
}

/// Ages and generated names differ from run to run.
fn steady(printed: &str) -> String {
    let word = |word: &str| {
        let age = word
            .strip_suffix(['s', 'm'])
            .is_some_and(|number| number.parse::<u32>().is_ok());
        let generated = word.strip_prefix("tablemapoperation.tablemap.dev/");
        match (age, generated) {
            (true, _) => "AGE".into(),
            (_, Some(name)) => format!("operation/{}", name.rsplit_once('-').unwrap().0),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| {
        line.split_whitespace()
            .map(word)
            .collect::<Vec<String>>()
            .join(" ")
    };
    printed.lines().map(line).collect::<Vec<String>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maintenance_by_the_plugin() {
    let _time = timed("a_maintenance_by_the_plugin");
    let records = Records::new();
    let arguments = records.arguments();
    let scene = scene(&[&arguments[0], &arguments[1]]).await;
    records.register(&scene.rig).await;
    let plugin = Plugin(scene.rig.api.kubeconfig());
    pause_and_look(&scene, &plugin).await;
    resume_and_mend(&scene, &plugin).await;
    skip(&scene, &plugin).await;
}

async fn pause_and_look(scene: &Scene, plugin: &Plugin) {
    plugin.prints(
        0,
        "list",
        "NAME STATE PHASE SINCE QUEUED ERRORS WHY\n\
         items Running Running AGE 0 0 Running\n\
         others Running Running AGE 0 0 Running",
    );
    // All or none.
    plugin.prints(
        1,
        "pause items nobody",
        "error: there is no TableMap nobody in namespace default",
    );
    for line in [
        "queued nobody",
        "errors nobody",
        "operations nobody",
        "retry nobody --all",
    ] {
        plugin.prints(1, line, "error: there is no TableMap nobody in namespace default");
    }
    plugin.prints(
        1,
        "pause --destination nowhere",
        "error: there is no Connection nowhere in namespace default",
    );
    plugin.says(
        2,
        "errors --class Bad",
        "possible values: Application, BadRequest",
    );
    plugin.says(
        2,
        "errors --retry-status Bad",
        "possible values: Pending, InProgress",
    );
    plugin.says(2, "pause items -o json", "-o json and -o yaml go with list");
    plugin.says(
        2,
        "pause",
        "say which maps: by name, -l LABELS, --destination CONNECTION, or --all",
    );
    assert_eq!(scene.rig.status("items").await["phase"], "Running");
    plugin.prints(
        0,
        "pause tm/items --dry-run",
        "tablemap.tablemap.dev/items would be paused",
    );
    plugin.prints(
        0,
        "resume items",
        "tablemap.tablemap.dev/items resumed (no change)",
    );
    plugin.prints(
        0,
        "pause --destination erp --wait --timeout 60s -n default",
        "tablemap.tablemap.dev/items paused\n\
         tablemap.tablemap.dev/others paused\n\
         tablemap.tablemap.dev/items Paused\n\
         tablemap.tablemap.dev/others Paused",
    );
    scene
        .at_source(
            "INSERT INTO items VALUES (1, 'good', 'a'), (2, 'bad', 'b'), (3, 'bad', 'c');
             DELETE FROM items WHERE id = 1",
        )
        .await;
    scene.queued("items", 4).await;
    plugin.says(
        2,
        "queued items --key 1,2",
        "the key 1,2 has 2 columns, but that of items has 1: id.",
    );
    for line in ["queued items --limit 1", "queued items --limit 1 -o json"] {
        plugin.says(0, line, "There are 3 more: --limit shows more of them.");
    }
    plugin.says(2, "queued items --limit 0", "0 is not in 1..");
    let listed = plugin.lists("queued items --key 1");
    let operations: Vec<&str> = listed.iter().map(|words| words[2].as_str()).collect();
    assert_eq!(operations, ["Insert", "Delete"]);
    let shown = plugin.says(0, &format!("show {} -o json", listed[0][0]), "payload");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["payload"]["row"]["note"], "a");
    plugin.prints(
        1,
        "show items-q-999-0",
        "error: no record items-q-999-0 waits now in namespace default: it was written or given up, or never was",
    );
    plugin.says(1, "show nothing", "nothing does not name a record");
    let by = "Paused by  spec.state by fieldManager:tablemap-plugin";
    let status = plugin.says(0, "status items", by);
    assert!(status.contains("] 4 records, "), "{status}");
}

async fn resume_and_mend(scene: &Scene, plugin: &Plugin) {
    plugin.says(0, "resume --all --wait", "tablemap.tablemap.dev/items CaughtUp");
    scene.errors("items", 2).await;
    plugin.says(0, "errors items --limit 1", "There is 1 more");
    let listed = plugin.lists("errors items --class application");
    assert_eq!(listed.len(), 2);
    assert_eq!(
        listed[0][1..7],
        ["items", "2", "Insert", "Application", "23514", "Pending"]
    );
    let id = &listed[0][0];
    let shown = plugin.says(0, &format!("show {id}"), "modest");
    assert!(shown.contains("note: b"), "{shown}");
    plugin.prints(
        0,
        "retry items --all --dry-run",
        "operation/items-retry created\n\
         2 selected: 0 done, 0 failed, 0 superseded, 2 left. 2 records are selected; nothing was done.",
    );
    let refused = "error: 1 record was refused again: kubectl tablemap errors items";
    plugin.says(1, &format!("retry items --id {id} --wait"), refused);
    let mend = "ALTER TABLE items DROP CONSTRAINT modest";
    scene.erp.batch_execute(mend).await.unwrap();
    plugin.says(0, "retry items --key 2 --wait", "1 selected: 1 done");
    plugin.says(0, "retry items --key 77 --wait", "No record is selected");
    settled(plugin, id);
    plugin.says(
        2,
        "discard items --all",
        "will be given up, and never written. Say --yes to do it.",
    );
    plugin.says(0, "discard items --all --yes --wait", "1 selected: 1 done");
    let operations = plugin.says(0, "operations items", "Discard Errors");
    let last = operations.lines().last().unwrap();
    assert!(last.contains("   admin   "), "{operations}");
    assert!(operations.contains("Retry Errors (dry run)"), "{operations}");
}

/// An error that was written is listed when that is asked for.
fn settled(plugin: &Plugin, id: &str) {
    let is_listed = |line: &str| plugin.lists(line).iter().any(|words| words[0] == id);
    assert!(!is_listed("errors items"));
    assert!(is_listed("errors items --settled"));
    assert!(is_listed("errors items --retry-status completed"));
}

/// A queue that is not worth writing.
async fn skip(scene: &Scene, plugin: &Plugin) {
    plugin.says(0, "pause items --wait", "items Paused");
    scene
        .at_source("INSERT INTO items SELECT n, 'good', '' FROM generate_series(10, 19) n")
        .await;
    scene.queued("items", 10).await;
    plugin.says(
        2,
        "resume items --skip discard",
        "All that waits in the queue of items (about 10 records) will be given up",
    );
    plugin.prints(
        0,
        "resume items --skip preserve --dry-run",
        "tablemap.tablemap.dev/items would be resumed\n\
         about 10 records in the queue of items would be kept as errors",
    );
    discard_later(scene, plugin).await;
    let printed = plugin.says(0, "resume items --skip discard --yes --wait", "items CaughtUp");
    assert!(printed.contains("10 selected: 10 done"), "{printed}");
    let status = scene.rig.settled("items").await;
    assert_eq!(status["ledger"]["discarded"], 11, "{status:#}");
    scene
        .says("SELECT string_agg(id::text, ',') FROM items", "2")
        .await;
    let printed = plugin.says(0, "list -o yaml", "kind: List");
    assert_eq!(printed.matches("kind: TableMap").count(), 2, "{printed}");
}

/// An operation that waits for the resume is seen, and warned of.
async fn discard_later(scene: &Scene, plugin: &Plugin) {
    scene.rig.ask(
        "later",
        "items",
        &["action: Discard", "from: Queue", "selection: {type: All}"],
    );
    scene.rig.waits("later", "MapPaused").await;
    plugin.says(
        0,
        "status items",
        "Operations Discard of the queue (later): Waiting, 10 records will be skipped when the map is resumed.",
    );
    plugin.says(
        0,
        "resume items --dry-run",
        "Warning: Discard of the queue (later) has not ended: when items is resumed, what it has selected is given up",
    );
    scene
        .rig
        .api
        .kubectl(&["delete", "tmop", "later", "-n", "default"]);
}

const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: engineer, namespace: default}
rules:
- {apiGroups: [tablemap.dev], resources: [tablemaps], verbs: [get, list]}
- {apiGroups: [tablemap.dev], resources: [tablemaps], resourceNames: [items], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: engineer, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: engineer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: engineer}]
";

/// Without the records API, without a worker, and for somebody who may change one map alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_cannot_do_it_says() {
    let _time = timed("what_the_plugin_cannot_do_it_says");
    let mut scene = scene(&[]).await;
    scene.rig.api.apply(ROLES);
    let engineer = Plugin(scene.rig.api.kubeconfig_of("engineer"));
    let printed = engineer.says(1, "pause items others", "others cannot be changed");
    assert!(printed.contains("nothing was changed"), "{printed}");
    let state = scene.rig.maps.get("items").await.unwrap().spec.state;
    assert_eq!(state, State::Running);
    engineer.says(0, "pause items --wait", "items Paused");
    let printed = engineer.says(
        1,
        "resume items --skip preserve --dry-run",
        "the queue cannot be skipped",
    );
    assert!(printed.contains("nothing was changed"), "{printed}");
    let printed = engineer.says(1, "resume items --skip discard --yes", "Nothing was resumed.");
    assert!(!printed.contains("may still be there"), "{printed}");
    engineer.says(0, "resume items --wait", "items CaughtUp");

    let admin = Plugin(scene.rig.api.kubeconfig());
    scene.at_source("INSERT INTO items VALUES (1, 'bad', '')").await;
    scene.errors("items", 1).await;
    let printed = admin.says(0, "errors items", "Only the newest five errors");
    assert!(printed.contains("23514"), "{printed}");
    admin.says(0, "errors items --retry-status Completed", "No records found.");
    admin.says(1, "queued items", "has no records API");
    scene.operator.kill9();
    admin.says(
        3,
        "pause items --wait --timeout 2s",
        "items is not Paused after 2 s",
    );
    admin.says(0, "completion bash", "complete");
    admin.prints(0, "__complete resume a --skip p", "preserve\n:4");
    admin.says(2, "retry items", "required");
}
