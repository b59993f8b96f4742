//! What the source may do to its tables, and what it may be: nothing of it is taken for nothing to do (I1), and what one
//! map cannot take stops no other (I7).

use crate::{
    scene::Scene,
    support::{
        postgres::Postgres,
        proxy::Proxy,
        rig::{Rig, SOON, assert_balanced, said, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A map with a filter.
fn filtered(table: &str, columns: &[&str], filter: &str) -> String {
    let table_of =
        format!("source: {{connectionRef: {{name: crm}}, table: {{schema: public, name: {table}}}");
    let filter = format!("{table_of}, filter: {{expression: \"{filter}\"}}");
    same_map(table, &columns[..1], columns).replace(&table_of, &filter)
}

fn patch(rig: &Rig, map: &str, patch: &str) {
    rig.api
        .kubectl(&["patch", "tablemap", map, "--type=merge", "-p", patch]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_judges_each_row_by_the_table_as_it_was() {
    let _time = timed("a_filter_judges_each_row_by_the_table_as_it_was");
    let both = "CREATE TABLE t (id int PRIMARY KEY, note text, extra text, country text);";
    let mut scene = Scene::start(both, "", &[], &[]).await;
    scene
        .rig
        .api
        .apply(&filtered("t", &["id", "extra", "country"], "row.country == 'GB'"));
    scene.maps = vec!["t".into()];
    scene.all("CaughtUp").await;
    // In one piece of the stream the columns have two numbers each.
    scene
        .at_source(
            "BEGIN; INSERT INTO t VALUES (1, 'US', '', 'GB'), (2, 'GB', '', 'US'); ALTER TABLE t DROP COLUMN note;
             INSERT INTO t VALUES (3, '', 'GB'), (4, '', 'US'); COMMIT",
        )
        .await;
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";
    scene.says(ids, "1 3").await;

    // While a mapped column is missing, what is outside stays outside.
    scene
        .at_source("ALTER TABLE t DROP COLUMN extra; INSERT INTO t VALUES (5, 'GB'), (6, 'US'); UPDATE t SET country = 'US' WHERE id = 1")
        .await;
    let status = scene.rig.phase("t", "Buffering").await;
    let told = said(&status, "SchemaValid").unwrap();
    assert_eq!(told["reason"], "SourceColumnMissing");
    patch(
        &scene.rig,
        "t",
        r#"{"spec":{"fields":[{"destination":"id","source":"id"},{"destination":"country","source":"country"}]}}"#,
    );
    scene.says(ids, "3 5").await;
    scene.all("CaughtUp").await;
    let status = scene.rig.settled("t").await;
    assert_eq!(status["errors"]["count"], 0, "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_gone_for_a_while_stops_no_other_map() {
    let _time = timed("a_key_that_was_gone_for_a_while_stops_no_other_map");
    let both =
        "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE u (id int PRIMARY KEY, name text);";
    let scene = Scene::start(both, "", &[&["t", "id", "name"], &["u", "id", "name"]], &[]).await;
    scene
        .at_source(
            "ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t SELECT n, 'x' FROM generate_series(1, 10) n;
             INSERT INTO u VALUES (1, 'x')",
        )
        .await;
    let status = scene.rig.phase("t", "Blocked").await;
    assert_eq!(status["blocked"]["reason"], "KeyColumnsGone");
    scene.rig.equal("u", "id").await;
    scene
        .at_source("ALTER TABLE t ADD PRIMARY KEY (id); INSERT INTO t VALUES (11, 'x'); INSERT INTO u VALUES (2, 'x')")
        .await;
    scene.all("CaughtUp").await;
    scene.same().await;

    // A key column that was dropped: of the rows from meanwhile nobody can tell the key.
    scene
        .at_source(
            "ALTER TABLE t DROP COLUMN id; INSERT INTO t VALUES ('lost'), ('lost too'); INSERT INTO u VALUES (3, 'x')",
        )
        .await;
    scene.rig.phase("t", "Blocked").await;
    scene.rig.equal("u", "id").await;
    scene
        .at_source("ALTER TABLE t ADD COLUMN id serial PRIMARY KEY; INSERT INTO t VALUES ('new', 100)")
        .await;
    scene.errors("t", 2).await;
    scene.says("SELECT name FROM t WHERE id = 100", "new").await;
    scene.recent("t", 2).await;
    let status = scene.rig.settled("t").await;
    assert_eq!(status["errors"]["recent"][0]["code"], "NotMapped");
    scene.rig.equal("u", "id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_arrives_as_one() {
    let _time = timed("a_partitioned_table_arrives_as_one");
    let parted = "CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (100) TO (200);";
    let scene = Scene::start(parted, "", &[&["t", "id", "name"]], &[]).await;
    scene
        .at_source("INSERT INTO t SELECT n, 'x' FROM generate_series(50, 150) n; DELETE FROM t WHERE id % 7 = 0;
            UPDATE t SET name = 'y' WHERE id % 5 = 0; UPDATE t SET id = id + 60 WHERE id < 60 AND id + 60 NOT IN (SELECT id FROM t)")
        .await;
    scene.same().await;
    // Its changes are sent as the root's: a map of a partition would get none.
    scene.rig.api.apply(&same_map("t_1", &["id"], &["id", "name"]));
    let status = scene
        .rig
        .reason("t-1", "SourceConnected", "PublicationUnfit")
        .await;
    let message = said(&status, "SourceConnected").unwrap()["message"].to_string();
    assert!(message.contains("workerGroup"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_or_not_published_any_more_is_missed() {
    let _time = timed("a_table_that_is_renamed_or_not_published_any_more_is_missed");
    let both = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE v (id int PRIMARY KEY);";
    let scene = Scene::start(
        both,
        "",
        &[&["t", "id"], &["u", "id"], &["v", "id"]],
        &["--confirm-delay-milliseconds=1000"],
    )
    .await;
    scene
        .at_source("ALTER TABLE t RENAME TO t_old; INSERT INTO t_old VALUES (1); INSERT INTO u VALUES (1)")
        .await;
    let status = scene.rig.phase("t", "Blocked").await;
    assert_eq!(status["blocked"]["reason"], "SourceTableGone");
    scene.rig.equal("u", "id").await;
    scene
        .at_source("ALTER TABLE t_old RENAME TO t; INSERT INTO t VALUES (2)")
        .await;
    scene.rig.condition("t", "CaughtUp", "True").await;
    scene.rig.equal("t", "id").await;

    // Another table of the name sends nothing.
    scene
        .at_source(
            "ALTER TABLE u RENAME TO u_old; CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (7)",
        )
        .await;
    let status = scene.rig.phase("u", "Blocked").await;
    assert_eq!(status["blocked"]["reason"], "SourceTableGone");

    let publication = "SELECT pubname::text FROM pg_publication";
    let publication: String = scene.crm.query_one(publication, &[]).await.unwrap().get(0);
    scene
        .at_source(&format!(
            "ALTER PUBLICATION {publication} DROP TABLE v; INSERT INTO v VALUES (1)"
        ))
        .await;
    let status = scene.rig.phase("v", "Blocked").await;
    assert_eq!(status["blocked"]["reason"], "TableNotPublished");
    scene.at_source("INSERT INTO t VALUES (3)").await;
    scene.rig.equal("t", "id").await;
}

/// Nobody locks the table out, so changes go on while the map joins: it gets all of them from some moment on.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_of_a_given_publication_begins_without_a_hole() {
    let _time = timed("a_map_of_a_given_publication_begins_without_a_hole");
    let scene = Scene::start("CREATE TABLE t (id serial PRIMARY KEY)", "", &[], &[]).await;
    scene.at_source("CREATE PUBLICATION given FOR TABLE t").await;
    scene
        .at_source("SELECT pg_create_logical_replication_slot('given', 'pgoutput')")
        .await;
    let connection = scene.rig.api.kubectl(&["get", "connection", "crm", "-o", "yaml"]);
    let connection = connection
        .replace("name: crm", "name: given")
        .replace("  resourceVersion", "  #")
        .replace("  uid", "  #")
        .replace("management: Managed", "management: External\n      slots: [{workerGroup: default, slotName: given, publicationName: given}]");
    let connection = connection.split("managedFields:").next().unwrap();
    scene.rig.api.apply(connection);
    let stop = Arc::new(AtomicBool::new(false));
    // Storing a first position takes a while.
    let slow = Proxy::start(scene.rig.redis.port);
    scene.rig.queue("slow", slow.port);
    let (slower, until) = (slow, stop.clone());
    let slowing = std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            slower.hold_replies();
            std::thread::sleep(Duration::from_millis(60));
            slower.release_replies();
            std::thread::sleep(Duration::from_millis(20));
        }
        slower
    });
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (url, stop) = (scene.rig.source.url("crm"), stop.clone());
            tokio::spawn(async move {
                let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
                    .await
                    .unwrap();
                tokio::spawn(async move { drop(connection.await) });
                while !stop.load(Ordering::Relaxed) {
                    client.execute("INSERT INTO t DEFAULT VALUES", &[]).await.unwrap();
                    // Less than a replay through the slow proxy manages, much more than none in each of its pauses.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for turn in 0..8 {
        let name = format!("t{turn}");
        scene
            .erp
            .batch_execute(&format!("CREATE TABLE {name} (id int PRIMARY KEY)"))
            .await
            .unwrap();
        let map = same_map("t", &["id"], &["id"])
            .replace("metadata: {name: t,", &format!("metadata: {{name: {name},"))
            .replace("{connectionRef: {name: crm}", "{connectionRef: {name: given}")
            .replace("{name: queue}", "{name: slow}")
            .replace(
                "{connectionRef: {name: erp}, table: {schema: public, name: t}}",
                &format!("{{connectionRef: {{name: erp}}, table: {{schema: public, name: {name}}}}}"),
            );
        scene.rig.api.apply(&map);
        scene.rig.condition(&name, "CaughtUp", "True").await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let _slow = slowing.join().unwrap();
    // Changes of one moment may be committed in another order than that of their numbers: those at the edge do not count.
    let last: i32 = scene
        .crm
        .query_one("SELECT max(id) FROM t", &[])
        .await
        .unwrap()
        .get(0);
    for turn in 0..8 {
        let gaps = format!(
            "SELECT count(*)::text FROM generate_series((SELECT min(id) + 10 FROM t{turn}), {last}) n
             WHERE NOT EXISTS (SELECT FROM t{turn} WHERE id = n)"
        );
        wait_until(SOON, &format!("all of t{turn}"), async || {
            scene.text(&gaps).await == "0"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_while_the_destination_is_away_queues() {
    let _time = timed("a_worker_that_starts_while_the_destination_is_away_queues");
    let both = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);";
    let mut scene = Scene::start(
        both,
        "",
        &[&["t", "id"], &["u", "id"]],
        &["--confirm-delay-milliseconds=1000"],
    )
    .await;
    let ways = [
        (ComesBack::ToIt, 2),
        (ComesBack::BeforeTheNext, 2),
        (ComesBack::ToIt, 1),
        (ComesBack::BeforeTheNext, 1),
        (ComesBack::WhilePaused, 1),
    ];
    for (turn, (comes_back, starts)) in (0..).zip(ways) {
        start_while_away(&mut scene, turn, comes_back, starts).await;
    }
}

/// When a destination comes back, to a worker that has begun without it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ComesBack {
    ToIt,
    BeforeTheNext,
    WhilePaused,
}

/// Both write directly, and the source has forgotten what they wrote: only the destination knows.
async fn start_while_away(scene: &mut Scene, turn: i64, comes_back: ComesBack, starts: u32) {
    let first = 1000 * turn;
    let both = format!(
        "INSERT INTO t SELECT generate_series({first} + 1, {first} + 100);
        INSERT INTO u SELECT generate_series({first} + 1, {first} + 100)"
    );
    scene.at_source(&both).await;
    scene.same().await;
    let now = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
    let now: i64 = scene.crm.query_one(now, &[]).await.unwrap().get(0);
    wait_until(SOON, "the source is confirmed", async || {
        scene.rig.confirmed().await >= now.cast_unsigned()
    })
    .await;
    scene.rig.destination.kill9();
    // A second one begins again with what the first has begun, and knows no more.
    for _ in 0..starts {
        scene.operator.kill9();
        scene.operator = scene.rig.operator(&[]);
        for map in ["t", "u"] {
            scene.operator.line(&format!("map={map} step=Leave"), SOON).await;
            scene.rig.phase(map, "Buffering").await;
        }
    }
    let more = format!("INSERT INTO t SELECT generate_series({first} + 101, {first} + 200)");
    scene.at_source(&more).await;
    wait_until(SOON, "the changes queued", async || {
        scene.rig.status("t").await["queue"]["records"] == 100
    })
    .await;
    match comes_back {
        ComesBack::ToIt => {}
        ComesBack::BeforeTheNext => scene.operator.kill9(),
        ComesBack::WhilePaused => scene.rig.pause("t"),
    }
    scene.rig.destination.start_again().await;
    match comes_back {
        ComesBack::ToIt => {}
        ComesBack::BeforeTheNext => scene.operator = scene.rig.operator(&[]),
        ComesBack::WhilePaused => {
            scene.rig.condition("t", "Paused", "True").await;
            scene.received("t", 200 * turn.cast_unsigned() + 200).await;
            scene.queued("t", 100).await;
            assert_balanced(&scene.rig.status("t").await);
            scene.rig.resume("t");
        }
    }
    scene.erp = scene.rig.erp().await;
    scene.all("CaughtUp").await;
    scene.same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_among_the_hosts_is_passed_over() {
    let _time = timed("a_standby_among_the_hosts_is_passed_over");
    let scene = Scene::start("CREATE TABLE t (id int PRIMARY KEY)", "", &[], &[]).await;
    let mut standby = Postgres::start().await;
    for database in ["crm", "erp"] {
        standby.create_database(database).await;
    }
    standby.stop().await;
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    standby.start_again().await;
    for connection in ["crm", "erp"] {
        let port = if connection == "crm" {
            scene.rig.source.port
        } else {
            scene.rig.destination.port
        };
        let hosts = format!(
            r#"{{"spec":{{"postgres":{{"hosts":[{{"host":"127.0.0.1","port":{}}},{{"host":"127.0.0.1","port":{port}}}]}}}}}}"#,
            standby.port
        );
        scene
            .rig
            .api
            .kubectl(&["patch", "connection", connection, "--type=merge", "-p", &hosts]);
    }
    scene.rig.api.apply(&same_map("t", &["id"], &["id"]));
    scene.rig.condition("t", "CaughtUp", "True").await;
    scene.at_source("INSERT INTO t VALUES (1)").await;
    scene.rig.equal("t", "id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_deleted_all_at_once_leave_nothing_at_the_source() {
    let _time = timed("maps_deleted_all_at_once_leave_nothing_at_the_source");
    let both = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);";
    let scene = Scene::start(both, "", &[&["t", "id"], &["u", "id"]], &[]).await;
    scene
        .rig
        .api
        .kubectl(&["delete", "tablemap", "--all", "--timeout=60s"]);
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
    wait_until(SOON, "neither slot nor publication", async || {
        scene.crm.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    let rows = "SELECT count(*)::text FROM tablemap.progress";
    assert_eq!(scene.text(rows).await, "0");
    // One of them is made anew at once.
    scene.rig.api.apply(&same_map("t", &["id"], &["id"]));
    scene.rig.condition("t", "CaughtUp", "True").await;
    scene.at_source("INSERT INTO t VALUES (1)").await;
    scene.rig.equal("t", "id").await;
}
