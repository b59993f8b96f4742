//! What is done to the destination's table while a map runs: the map waits with a reason and nothing is parked, or it goes
//! on, as the docs say; mended, it goes on by itself.

use crate::{
    scene::Scene,
    support::{
        http::ask,
        ports::free_port,
        rig::{Rig, SOON, said, same_map},
        timing::timed,
        wait::wait_until,
    },
};

/// What is done, and what undoes it.
struct Case {
    broken: &'static str,
    /// A part of the message in `SchemaValid`. None: the map goes on.
    says: Option<&'static str>,
    mended: &'static str,
}

const fn waits(broken: &'static str, says: &'static str, mended: &'static str) -> Case {
    Case {
        broken,
        says: Some(says),
        mended,
    }
}

const fn goes_on(broken: &'static str) -> Case {
    Case {
        broken,
        says: None,
        mended: "",
    }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    waits("ALTER TABLE t DROP COLUMN b", "\"b\"", "ALTER TABLE t ADD COLUMN b text"),
    waits("ALTER TABLE t RENAME COLUMN b TO c", "\"b\"", "ALTER TABLE t RENAME COLUMN c TO b"),
    waits("ALTER TABLE t DROP CONSTRAINT t_pkey", "unique", "ALTER TABLE t ADD CONSTRAINT t_pkey PRIMARY KEY (id)"),
    waits("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE", "ADD CONSTRAINT \"t_pkey\" PRIMARY KEY", "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id)"),
    waits("ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE UNIQUE INDEX part ON t (id) WHERE id > 0", "unique", "DROP INDEX part; ALTER TABLE t ADD CONSTRAINT t_pkey PRIMARY KEY (id)"),
    waits("ALTER TABLE t RENAME TO away", "no table", "ALTER TABLE away RENAME TO t"),
    waits("ALTER TABLE t SET SCHEMA aside", "no table", "ALTER TABLE aside.t SET SCHEMA public"),
    waits("ALTER TABLE t ADD COLUMN d int DEFAULT 0 NOT NULL; ALTER TABLE t ALTER d DROP DEFAULT", "\"d\"", "ALTER TABLE t DROP COLUMN d"),
    waits("REVOKE INSERT ON t FROM writer", "GRANT INSERT ON", "GRANT INSERT ON t TO writer"),
    waits("REVOKE USAGE ON SCHEMA public FROM writer, public", "GRANT USAGE ON SCHEMA", "GRANT USAGE ON SCHEMA public TO writer"),
    goes_on("ALTER TABLE t ADD COLUMN e text"),
    goes_on("ALTER TABLE t ALTER b TYPE varchar(100)"),
    goes_on("CREATE TABLE anew (LIKE t INCLUDING ALL); INSERT INTO anew SELECT * FROM t; DROP TABLE t; ALTER TABLE anew RENAME TO t; GRANT ALL ON t TO writer"),
];

const USER: &str = "
    CREATE SCHEMA aside;
    CREATE ROLE writer LOGIN;
    GRANT CREATE ON DATABASE erp TO writer;
    GRANT USAGE ON SCHEMA public TO writer;
    GRANT ALL ON t TO writer";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_the_destinations_table_parks_nothing() {
    let _time = timed("what_is_done_to_the_destinations_table_parks_nothing");
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text, b text);";
    let mut scene = Scene::start(table, USER, &[], &[]).await;
    scene.rig.api.apply(
        "apiVersion: v1
kind: Secret
metadata: {name: writer, namespace: default}
stringData: {username: writer, password: unused}
",
    );
    let patch = r#"{"spec":{"postgres":{"credentials":{"secretRef":{"name":"writer"}}}}}"#;
    scene
        .rig
        .api
        .kubectl(&["patch", "tmc", "erp", "--type=merge", "-p", patch]);
    scene.rig.api.apply(&same_map("t", &["id"], &["id", "a", "b"]));
    scene.maps = vec!["t".into()];
    scene.all("CaughtUp").await;
    let mut id = 0;
    let mut next = async |scene: &Scene| {
        id += 1;
        let sql =
            format!("INSERT INTO t VALUES ({id}, 'a', 'b'), (-{id}, 'a', NULL); UPDATE t SET a = '{id}'");
        scene.at_source(&sql).await;
        id
    };
    next(&scene).await;
    scene.says("SELECT count(*)::text FROM t", "2").await;

    for case in CASES {
        println!("{}", case.broken);
        scene.erp.batch_execute(case.broken).await.unwrap();
        next(&scene).await;
        if let Some(says) = case.says {
            scene.rig.reason("t", "SchemaValid", "SchemaMismatch").await;
            let what = format!("{says} said of {}", case.broken);
            wait_until(SOON, &what, async || {
                let status = scene.rig.status("t").await;
                said(&status, "SchemaValid")
                    .is_some_and(|said| said["message"].as_str().unwrap().contains(says))
            })
            .await;
            scene.rig.phase("t", "Buffering").await;
            next(&scene).await;
            scene.erp.batch_execute(case.mended).await.unwrap();
        }
        let id = next(&scene).await;
        let rows = format!("SELECT count(*)::text FROM t WHERE a = '{id}'");
        scene.says(&rows, &(2 * id).to_string()).await;
        let status = scene.rig.settled("t").await;
        assert_eq!(status["errors"]["count"], 0, "{}: {status:#}", case.broken);
    }
}

/// What is done to the source's table, what is said of it (phase, and a reason anywhere in the status), and what undoes it.
struct Change {
    broken: &'static str,
    says: Option<(&'static str, &'static str)>,
    mended: &'static str,
    /// Columns that are compared at the end of it.
    then: &'static str,
}

const fn change(broken: &'static str, then: &'static str) -> Change {
    Change {
        broken,
        says: None,
        mended: "",
        then,
    }
}

#[rustfmt::skip]
const CHANGES: &[Change] = &[
    change("ALTER TABLE t ADD COLUMN c text DEFAULT 'c'", "id, a, b"),
    change("ALTER TABLE t DROP COLUMN c", "id, a, b"),
    change("ALTER TABLE t ALTER b TYPE varchar(50)", "id, a, b"),
    change("ALTER TABLE t ALTER b TYPE text; ALTER TABLE t ALTER id TYPE bigint", "id, a, b"),
    change("ALTER TABLE t REPLICA IDENTITY FULL", "id, a, b"),
    change("ALTER TABLE t REPLICA IDENTITY DEFAULT", "id, a, b"),
    change("CREATE UNIQUE INDEX by_id ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX by_id", "id, a, b"),
    change("ALTER TABLE t REPLICA IDENTITY DEFAULT; DROP INDEX by_id", "id, a, b"),
    Change {
        broken: "ALTER TABLE t RENAME COLUMN a TO z",
        says: Some(("Buffering", "SourceColumnMissing")),
        mended: "ALTER TABLE t RENAME COLUMN z TO a",
        then: "id, b",
    },
    Change {
        broken: "ALTER TABLE t RENAME TO away; CREATE VIEW t AS SELECT * FROM away",
        says: Some(("Blocked", "SourceTableGone")),
        mended: "DROP VIEW t; ALTER TABLE away RENAME TO t",
        then: "id, b",
    },
    Change {
        broken: "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY FULL",
        says: None,
        mended: "",
        then: "id, b",
    },
    Change {
        broken: "ALTER TABLE t ADD PRIMARY KEY (id); ALTER TABLE t REPLICA IDENTITY DEFAULT",
        says: None,
        mended: "",
        then: "id, b",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_the_sources_table_loses_nothing() {
    let _time = timed("what_is_done_to_the_sources_table_loses_nothing");
    let table = "CREATE TABLE t (id int PRIMARY KEY, a text, b text);";
    let scene = Scene::start(
        table,
        "ALTER TABLE t ALTER id TYPE bigint",
        &[&["t", "id", "a", "b"]],
        &["--confirm-delay-milliseconds=1000"],
    )
    .await;
    let mut id = 0;
    let mut next = async |scene: &Scene| {
        id += 1;
        let sql = format!(
            "INSERT INTO t (id, b) VALUES ({id}, 'b{id}'), (-{id}, NULL); UPDATE t SET b = b || 'u' WHERE id = {id};
             UPDATE t SET id = id + 1000 WHERE id = {id}; DELETE FROM t WHERE id = 1 - {id}"
        );
        scene.at_source(&sql).await;
    };
    next(&scene).await;
    for change in CHANGES {
        println!("{}", change.broken);
        scene.at_source(change.broken).await;
        next(&scene).await;
        if let Some((phase, reason)) = change.says {
            scene.rig.phase("t", phase).await;
            let status = scene.rig.status("t").await.to_string();
            assert!(status.contains(reason), "{}: {status}", change.broken);
            next(&scene).await;
            scene.at_source(change.mended).await;
        }
        next(&scene).await;
        let columns = change.then;
        let rows =
            format!("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM (SELECT {columns} FROM t) t");
        let at_source: Option<String> = scene.crm.query_one(&rows, &[]).await.unwrap().get(0);
        scene.says(&rows, &at_source.unwrap()).await;
        let status = scene.rig.settled("t").await;
        assert_eq!(status["errors"]["count"], 0, "{}: {status:#}", change.broken);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_is_said_and_counted_and_empties_nothing() {
    let _time = timed("a_truncate_is_said_and_counted_and_empties_nothing");
    let address = format!("127.0.0.1:{}", free_port());
    let mut rig = Rig::start().await;
    rig.both("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    rig.arguments.push(format!("--bind-address={address}"));
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("t", &["id"], &["id"]));
    rig.condition("t", "CaughtUp", "True").await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    crm.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    crm.batch_execute("TRUNCATE t; INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    wait_until(SOON, "both rows", async || {
        let rows = erp.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        rows.get::<_, i64>(0) == 2
    })
    .await;
    wait_until(SOON, "the event", async || {
        let events = rig.api.kubectl(&[
            "get",
            "events",
            "-o",
            "custom-columns=R:.reason,T:.type,O:.involvedObject.name",
        ]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        events
            .lines()
            .any(|line| words(line) == ["TruncateNotReplicated", "Warning", "t"])
    })
    .await;
    wait_until(SOON, "the metric", async || {
        metrics(&address)
            .await
            .contains("tablemap_truncates{namespace=\"default\",tablemap=\"t\"} 1\n")
    })
    .await;
}

/// What /metrics answers.
async fn metrics(address: &str) -> String {
    ask(address, "GET", "/metrics", "").await.unwrap().1
}
