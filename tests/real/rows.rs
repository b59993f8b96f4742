//! What is written is what the source has: types that changed, keys that moved, rows that refer to each other, and tables
//! that fail (I1, I2, I3, I7).

use crate::{
    scene::Scene,
    support::{
        rig::{SOON, said, same_map},
        timing::timed,
        wait::wait_until,
    },
};

/// Few rows go by statements, many by COPY: both were prepared for the old types.
#[tokio::test(flavor = "multi_thread")]
async fn columns_retyped_in_a_pause_take_what_the_new_type_holds() {
    let _time = timed("columns_retyped_in_a_pause_take_what_the_new_type_holds");
    let table = "CREATE TABLE t (id int PRIMARY KEY, price numeric(10,2), size real, day date, count int);";
    let scene = Scene::start(table, "", &[&["t", "id", "price", "size", "day", "count"]], &[]).await;
    let insert = |from: u32, to: u32, values: &str| {
        format!("INSERT INTO t SELECT n, {values} FROM generate_series({from}, {to}) n")
    };
    for (from, to) in [(1, 200), (201, 203)] {
        scene
            .at_source(&insert(from, to, "1.25, 0.5, '2024-05-06', 7"))
            .await;
        scene.same().await;
    }
    scene.pause().await;
    scene
        .rig
        .both(
            "ALTER TABLE t ALTER price TYPE numeric(12,4), ALTER size TYPE double precision,
             ALTER day TYPE timestamp, ALTER count TYPE bigint",
        )
        .await;
    let precise = "1.2345, 0.1, '2024-05-06 07:08:09', 3000000000";
    scene.at_source(&insert(301, 500, precise)).await;
    scene.resume().await;
    scene.same().await;
    scene.at_source(&insert(601, 603, precise)).await;
    scene.same().await;
}

/// A record that was queued before its table had a column is a whole one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_queued_before_a_column_was_added_arrive() {
    let _time = timed("rows_queued_before_a_column_was_added_arrive");
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text);";
    let scene = Scene::start(table, "", &[&["t", "id", "a"]], &[]).await;
    scene.pause().await;
    scene
        .at_source("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        .await;
    scene.rig.both("ALTER TABLE t ADD COLUMN b text").await;
    scene.at_source("INSERT INTO t VALUES (3, 'three', 'b')").await;
    let fields = r#"{"spec":{"state":"Running","fields":[{"destination":"id","source":"id"},
        {"destination":"a","source":"a"},{"destination":"b","source":"b"}]}}"#;
    scene
        .rig
        .api
        .kubectl(&["patch", "tablemap", "t", "--type=merge", "-p", fields]);
    scene.all("CaughtUp").await;
    scene.same().await;
}

/// The key change was refused; then its new key is deleted or written, or its old key is used again.
#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_a_parked_key_change_leaves_no_row_behind() {
    let _time = timed("what_replaces_a_parked_key_change_leaves_no_row_behind");
    let table = "CREATE TABLE t (id text PRIMARY KEY, name text);";
    let refuse = "ALTER TABLE t ADD CHECK (name <> 'bad')";
    let scene = Scene::start(table, refuse, &[&["t", "id", "name"]], &[]).await;
    scene
        .at_source("INSERT INTO t VALUES ('a', 'x'), ('c', 'x'), ('e', 'x')")
        .await;
    scene.says("SELECT count(*)::text FROM t", "3").await;
    scene
        .at_source(
            "UPDATE t SET id = 'b', name = 'bad' WHERE id = 'a';
             UPDATE t SET id = 'd', name = 'bad' WHERE id = 'c';
             UPDATE t SET id = 'f', name = 'bad' WHERE id = 'e'",
        )
        .await;
    scene.errors("t", 3).await;
    // One source transaction replaces the second twice: it counts once.
    scene
        .at_source(
            "DELETE FROM t WHERE id = 'b';
             BEGIN; UPDATE t SET name = 'good' WHERE id = 'd'; UPDATE t SET name = 'better' WHERE id = 'd'; COMMIT;
             INSERT INTO t VALUES ('e', 'again')",
        )
        .await;
    scene
        .says(
            "SELECT string_agg(id || '=' || name, ' ' ORDER BY id) FROM t",
            "d=better e=again",
        )
        .await;
    scene.received("t", 10).await;
    let status = scene.rig.settled("t").await;
    assert_eq!(status["ledger"]["superseded"], 2, "{status:#}");
    assert_eq!(status["ledger"]["errored"], 1, "the row of f is still wanted");
    scene.at_source("UPDATE t SET name = 'good' WHERE id = 'f'").await;
    scene.errors("t", 0).await;
    scene.same().await;
}

/// Foreign keys within a table, references to a row whose key changes, and one table that two maps write.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_each_other_arrive_in_full() {
    let _time = timed("rows_that_refer_to_each_other_arrive_in_full");
    let tables = "CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree);
        CREATE TABLE people (code text PRIMARY KEY, id int UNIQUE, name text);
        CREATE TABLE active (id int PRIMARY KEY, name text);
        CREATE TABLE archive (id int PRIMARY KEY, name text);";
    let destination =
        "CREATE TABLE children (id int PRIMARY KEY, person int REFERENCES people (id) ON DELETE CASCADE);
        ALTER TABLE people ADD COLUMN local text DEFAULT 'none'";
    let maps: &[&[&str]] = &[
        &["tree", "id", "parent"],
        &["people", "code", "id", "name"],
        &["active", "id", "name"],
        &["archive", "id", "name"],
    ];
    let scene = Scene::start(tables, destination, maps, &[]).await;
    scene
        .at_source("INSERT INTO tree VALUES (2, 1), (1, NULL), (4, 3), (3, 1); INSERT INTO people VALUES ('a', 1, 'Ada')")
        .await;
    scene.says("SELECT count(*)::text FROM tree", "4").await;
    scene.says("SELECT name FROM people", "Ada").await;
    scene
        .erp
        .batch_execute("INSERT INTO children VALUES (7, 1); UPDATE people SET local = 'kept'")
        .await
        .unwrap();
    scene
        .at_source("UPDATE people SET code = 'b', name = 'Ada L.' WHERE code = 'a'; DELETE FROM tree WHERE id IN (1, 2, 3, 4)")
        .await;
    scene
        .says(
            "SELECT code || name || local || (SELECT count(*) FROM children) FROM people",
            "bAda L.kept1",
        )
        .await;
    scene.says("SELECT count(*)::text FROM tree", "0").await;

    // Two sources of one table: a row goes from one to the other, and back.
    scene
        .erp
        .batch_execute("CREATE TABLE everything (id int PRIMARY KEY, name text)")
        .await
        .unwrap();
    for source in ["active", "archive"] {
        let map = same_map(source, &["id"], &["id", "name"])
            .replace(
                &format!("metadata: {{name: {source}"),
                &format!("metadata: {{name: all-{source}"),
            )
            .replace(
                &format!("{{connectionRef: {{name: erp}}, table: {{schema: public, name: {source}}}}}"),
                "{connectionRef: {name: erp}, table: {schema: public, name: everything}}",
            );
        scene.rig.api.apply(&map);
        scene
            .rig
            .condition(&format!("all-{source}"), "CaughtUp", "True")
            .await;
    }
    scene
        .at_source("INSERT INTO active SELECT n, 'x' FROM generate_series(1, 20) n")
        .await;
    scene.says("SELECT count(*)::text FROM everything", "20").await;
    scene
        .at_source(
            "WITH gone AS (DELETE FROM active RETURNING *) INSERT INTO archive SELECT id, 'moved' FROM gone",
        )
        .await;
    scene
        .says("SELECT count(*) || min(name) FROM everything", "20moved")
        .await;
    for map in ["tree", "people", "all-active", "all-archive"] {
        assert_eq!(scene.rig.settled(map).await["errors"]["count"], 0);
    }
}

/// A table whose trigger fails for want of something else, and updates that have nothing for the destination.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_fails_stops_no_other() {
    let _time = timed("a_table_that_fails_stops_no_other");
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE u (id int PRIMARY KEY, name text);
        CREATE TABLE docs (id int PRIMARY KEY, body text, other int);
        ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;";
    let destination = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN RAISE 'the other server is away' USING ERRCODE = '08001'; END $f$;";
    let maps: &[&[&str]] = &[
        &["t", "id", "name"],
        &["u", "id", "name"],
        &["docs", "id", "body"],
    ];
    let scene = Scene::start(tables, destination, maps, &[]).await;
    scene
        .at_source("INSERT INTO docs VALUES (1, repeat('x', 10000), 0)")
        .await;
    scene.says("SELECT length(body)::text FROM docs", "10000").await;
    scene
        .erp
        .batch_execute("CREATE TRIGGER fail BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fail()")
        .await
        .unwrap();
    scene.at_source("INSERT INTO t VALUES (1, 'x')").await;
    let status = scene.rig.phase("t", "Buffering").await;
    let told = said(&status, "DestinationConnected").unwrap();
    assert_eq!(
        (&told["status"], &told["reason"]),
        (&"True".into(), &"TableFailing".into())
    );
    for turn in 0..10 {
        scene
            .at_source(&format!("UPDATE docs SET other = {turn}; INSERT INTO u VALUES ({turn}, 'x'); INSERT INTO t VALUES ({turn} + 10, 'x')"))
            .await;
        scene
            .says("SELECT count(*)::text FROM u", &(turn + 1).to_string())
            .await;
    }
    for map in ["u", "docs"] {
        assert_eq!(scene.rig.status(map).await["phase"], "Running");
    }
    scene.erp.batch_execute("DROP TRIGGER fail ON t").await.unwrap();
    scene.all("CaughtUp").await;
    for table in ["t", "u"] {
        scene.rig.equal(table, "id").await;
    }
    for map in ["t", "u", "docs"] {
        assert_eq!(scene.rig.settled(map).await["errors"]["count"], 0);
    }
}

/// Each row takes the destination a while: all of a batch in one statement would take longer than a statement may.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_is_written_in_smaller_parts() {
    let _time = timed("a_slow_destination_is_written_in_smaller_parts");
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END $f$;
        CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow();";
    let table = "CREATE TABLE t (id int PRIMARY KEY, name text);";
    let arguments = ["--statement-timeout-milliseconds=2000"];
    let scene = Scene::start(table, slow, &[&["t", "id", "name"]], &arguments).await;
    scene.pause().await;
    scene
        .at_source(
            "DO $$ BEGIN FOR n IN 1..300 LOOP
               INSERT INTO t SELECT n * 10 + m, 'x' FROM generate_series(0, 9) m; COMMIT;
             END LOOP; END $$",
        )
        .await;
    scene.resume().await;
    scene.same().await;
}

/// Many new rows are copied into the table itself, which fails if one of them is there, or is refused.
#[tokio::test(flavor = "multi_thread")]
async fn new_rows_that_are_there_already_are_overwritten() {
    let _time = timed("new_rows_that_are_there_already_are_overwritten");
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text);";
    let strict = "ALTER TABLE t ADD CHECK (a <> 'bad');";
    let scene = Scene::start(table, strict, &[&["t", "id", "a"]], &[]).await;
    let rows = |from: u32, to: u32| {
        format!("INSERT INTO t SELECT n, 'row ' || n FROM generate_series({from}, {to}) n")
    };
    scene.at_source(&rows(1, 1000)).await;
    scene.same().await;
    // Somebody else has written some.
    let others = async |from: u32| {
        let sql =
            format!("INSERT INTO t SELECT n, 'another' FROM generate_series({from}, {from} + 900, 100) n");
        scene.rig.erp().await.batch_execute(&sql).await.unwrap();
    };
    others(1001).await;
    scene.at_source(&rows(1001, 2000)).await;
    scene.same().await;
    scene.pause().await;
    others(3001).await;
    let changed = "UPDATE t SET a = 'changed' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0;
                   INSERT INTO t SELECT n, 'again' FROM generate_series(7, 4000, 7) n";
    scene.at_source(&rows(2001, 4000)).await;
    scene.at_source(changed).await;
    scene.resume().await;
    scene.same().await;
    // One that is refused lets all others through.
    scene
        .at_source(&rows(4001, 5000).replace("'row ' || n", "CASE n WHEN 4500 THEN 'bad' ELSE 'good' END"))
        .await;
    scene.rig.more_rows("t", 4999).await;
    wait_until(SOON, "one parked record", async || {
        scene.rig.status("t").await["errors"]["count"] == 1
    })
    .await;
    scene.rig.settled("t").await;
    scene.at_source("UPDATE t SET a = 'mended' WHERE id = 4500").await;
    scene.rig.equal("t", "id").await;
    wait_until(SOON, "nothing parked", async || {
        scene.rig.status("t").await["ledger"]["superseded"] == 1
    })
    .await;
    scene.rig.settled("t").await;
}
