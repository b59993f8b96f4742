//! A queue outlives its map's object, when that goes without its clean-up; and a namespace goes as a whole.

use crate::support::{
    rig::{Rig, SOON, assert_balanced, said, same_map},
    timing::timed,
    wait::wait_until,
};

const ANOTHER: &str = "0d9a4c52-6a30-4a6b-9a55-1f2f5d1a7c11";

async fn start(tables: &[&str]) -> Rig {
    let mut rig = Rig::start().await;
    rig.arguments.push("--confirm-delay-milliseconds=1000".into());
    for table in tables {
        rig.both(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY)"))
            .await;
    }
    rig
}

/// A map that adopts a queue, as `table` or under another name.
fn adopting(name: &str, table: &str, id: &str, state: &str) -> String {
    let map = same_map(table, &["id"], &["id"]);
    let queue = format!("queue: {{id: {id}, connectionRef: {{name: queue}}}}\n  state: {state}");
    map.replace("queue: {connectionRef: {name: queue}}", &queue)
        .replace(
            &format!("metadata: {{name: {table},"),
            &format!("metadata: {{name: {name},"),
        )
}

async fn queued(rig: &Rig, map: &str, records: u64) {
    let what = format!("{records} queued records of {map}");
    wait_until(SOON, &what, async || {
        rig.status(map).await["queue"]["records"] == records
    })
    .await;
}

async fn event(rig: &Rig, map: &str, reason: &str, part: &str) {
    let object = format!("involvedObject.name={map},reason={reason}");
    let what = format!("the event {reason} of {map}");
    wait_until(SOON, &what, async || {
        let columns = "custom-columns=M:.message";
        rig.api
            .kubectl(&["get", "events", "--field-selector", &object, "-o", columns])
            .contains(part)
    })
    .await;
}

/// Its object goes as by force: nobody cleans up.
async fn tear_out(rig: &Rig, map: &str) {
    rig.api.kubectl(&["delete", "tablemap", map, "--wait=false"]);
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    rig.api
        .kubectl(&["patch", "tablemap", map, "--type=merge", "-p", patch]);
    let what = format!("{map} is gone");
    wait_until(SOON, &what, async || {
        rig.maps.get_opt(map).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_adopted_by_its_id() {
    let _time = timed("a_queue_is_adopted_by_its_id");
    let mut rig = start(&["t", "u"]).await;
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("t", &["id"], &["id"]));
    rig.condition("t", "CaughtUp", "True").await;
    event(&rig, "t", "Joined", "begins empty").await;
    let crm = rig.crm().await;
    crm.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    rig.more_rows("t", 1).await;
    rig.pause("t");
    rig.condition("t", "Paused", "True").await;
    crm.batch_execute("INSERT INTO t VALUES (2), (3); DELETE FROM t WHERE id = 1")
        .await
        .unwrap();
    queued(&rig, "t", 3).await;
    let id = rig.status("t").await["queue"]["id"].as_str().unwrap().to_owned();
    let received = rig.status("t").await["ledger"]["received"].clone();
    tear_out(&rig, "t").await;

    rig.api.apply(&adopting("t", "t", &id, "Paused"));
    rig.condition("t", "Paused", "True").await;
    event(&rig, "t", "QueueAdopted", "wait in it: 3").await;
    queued(&rig, "t", 3).await;
    let status = rig.status("t").await;
    assert_eq!(status["queue"]["id"], *id);
    assert_eq!(status["ledger"]["received"], received);

    // A second map must not have it too; and goes without doing any harm.
    rig.api.apply(&adopting("second", "t", &id, "Running"));
    let status = rig.reason("second", "SpecValid", "QueueInUse").await;
    let message = said(&status, "SpecValid").unwrap()["message"].to_string();
    assert!(message.contains("TableMap t:"), "{message}");
    rig.api
        .kubectl(&["delete", "tablemap", "second", "--timeout=30s"]);
    crm.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
    queued(&rig, "t", 4).await;
    assert_eq!(said(&rig.status("t").await, "Paused").unwrap()["status"], "True");

    let patch = format!(r#"{{"spec":{{"queue":{{"id":"{ANOTHER}"}}}}}}"#);
    let output = rig
        .api
        .command()
        .args(["patch", "tablemap", "t", "--type=merge", "-p", &patch])
        .output()
        .unwrap();
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(refused.contains("`queue.id` must not change"), "{refused}");

    rig.resume("t");
    rig.equal("t", "id").await;
    assert_balanced(&rig.settled("t").await);

    // One that nobody knows: it begins empty, and says so.
    crm.batch_execute("INSERT INTO u VALUES (1)").await.unwrap();
    rig.api.apply(&adopting("u", "u", ANOTHER, "Running"));
    event(&rig, "u", "QueueNotFound", "begins empty").await;
    crm.batch_execute("INSERT INTO u VALUES (2)").await.unwrap();
    rig.more_rows("u", 1).await;
    rig.api.kubectl(&["delete", "tablemap", "u", "--timeout=60s"]);

    // One of other tables does not get it, and leaves it as it is.
    let held = async || {
        let sql = "SELECT count(*) FROM tablemap.progress";
        rig.erp()
            .await
            .query_one(sql, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    rig.pause("t");
    rig.condition("t", "Paused", "True").await;
    crm.batch_execute("INSERT INTO t VALUES (5)").await.unwrap();
    queued(&rig, "t", 1).await;
    tear_out(&rig, "t").await;
    rig.api.apply(&adopting("wrong", "u", &id, "Running"));
    let status = rig.phase("wrong", "Blocked").await;
    let why = status["conditions"].to_string();
    assert!(why.contains("it was made for"), "{why}");
    rig.api.kubectl(&["delete", "tablemap", "wrong", "--timeout=60s"]);
    assert_eq!(held().await, 1);
    rig.api.apply(&adopting("t", "t", &id, "Running"));
    event(&rig, "t", "QueueAdopted", "wait in it: 1").await;
    rig.api.kubectl(&["delete", "tablemap", "t", "--timeout=60s"]);
    assert_eq!(held().await, 0);
}

/// Everything in a namespace is deleted at once, Connections, Secrets and the worker's Lease too; nothing can be made in
/// it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_its_maps() {
    let _time = timed("a_namespace_goes_with_its_maps");
    let mut rig = start(&["t", "u"]).await;
    let _controllers = rig.api.namespace_controller();
    let _operator = rig.operator(&[]);
    let manifests = [
        rig.connections(),
        same_map("t", &["id"], &["id"]),
        same_map("u", &["id"], &["id"])
            .replace("  queue:", "  state: Paused\n  deletionPolicy: Discard\n  queue:"),
    ];
    let manifests = manifests
        .concat()
        .replace("namespace: default", "namespace: team");
    let phase = |map: &str| {
        let path = "jsonpath={.status.phase} {.status.queue.records}";
        rig.api
            .kubectl(&["get", "tablemap", map, "--namespace=team", "-o", path])
    };
    let mut client = rig.redis.client().await;
    // Made again, the namespace is served again.
    for row in 1..=2 {
        rig.api.kubectl(&["create", "namespace", "team"]);
        rig.api.apply(&manifests);
        wait_until(SOON, "both maps serve", async || {
            phase("t").starts_with("Running") && phase("u").starts_with("Paused")
        })
        .await;
        let sql = format!("INSERT INTO t VALUES ({row}); INSERT INTO u VALUES ({row})");
        rig.crm().await.batch_execute(&sql).await.unwrap();
        rig.more_rows("t", row).await;
        wait_until(SOON, "a queued record", async || phase("u") == "Paused 1").await;
        rig.api.kubectl(&["delete", "namespace", "team", "--timeout=60s"]);

        let sql = "SELECT count(*) FROM tablemap.progress";
        let rows: i64 = rig.erp().await.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(rows, 0, "rows are left at the destination");
        let sql =
            "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
        let left: i64 = rig.crm().await.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(left, 0, "a slot or publication is left at the source");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut client)
            .await
            .unwrap();
        assert!(keys.is_empty(), "{keys:?} are left in Redis");
    }
}
