//! The records API: what waits and what was refused, read by kubectl, by those who may.

use crate::{
    scene::{ITEMS, ON_ITEMS, REFUSES, Scene},
    support::{
        apiserver::{FRONT, USERS},
        certificates::{Authority, Signed},
        ports::free_port,
        records::{Records, ask, base64_of, registered, registration},
        rig::{Rig, SOON, same_map},
        timing::timed,
        wait::wait_until,
    },
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

const PATH: &str = "/apis/records.tablemap.dev/v1alpha1/namespaces/default";

async fn scene(records: &Records) -> Scene {
    let refuses = format!("{REFUSES}{ON_ITEMS} INSERT INTO refused VALUES ('bad%');");
    let arguments = records.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Scene::start(ITEMS, &refuses, &[&["items", "id", "kind", "note"]], &arguments).await
}

/// What kubectl prints, and says; and whether it succeeds.
fn kubectl(scene: &Scene, arguments: &[&str]) -> (bool, String) {
    let output = scene.rig.api.command().args(arguments).output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(both).unwrap())
}

fn raw(scene: &Scene, path: &str) -> Value {
    let printed = scene
        .rig
        .api
        .kubectl(&["get", "--raw", &format!("{PATH}/{path}")]);
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_was_refused_and_why() {
    let _time = timed("kubectl_shows_what_was_refused_and_why");
    let records = Records::new();
    let scene = scene(&records).await;
    records.register(&scene.rig).await;
    scene
        .at_source("INSERT INTO items VALUES (1, 'a', 'bad one'), (2, 'b', 'good'), (3, 'c', 'bad three')")
        .await;
    scene.errors("items", 2).await;

    let show = |arguments: &[&str]| {
        let (success, printed) = kubectl(&scene, &[&["get", "recorderrors"], arguments].concat());
        assert!(success, "{printed}");
        printed
    };
    let listed = show(&["--field-selector", "tableMap=items"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[0].starts_with("NAME"), "{listed}");
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        words[1..8],
        ["items", "1", "Insert", "Application", "P0001", "1", "Pending"]
    );
    assert!(words[8].ends_with('s'), "an age: {listed}");
    let name = words[0];

    // What is not asked for is not shown; row data never, but the key.
    assert!(show(&["--field-selector", "key=3"]).contains(" 3 "));
    assert_eq!(
        show(&["--field-selector", "key=1,class=Schema"]).trim(),
        "No resources found in default namespace."
    );
    assert_eq!(
        show(&["-l", "tablemap.dev/retry-status=Pending", "-o", "name"])
            .lines()
            .count(),
        2
    );
    let whole = show(&["-o", "yaml"]);
    assert!(whole.contains("remedy:") && !whole.contains("bad one"), "{whole}");
    let (success, printed) = kubectl(&scene, &["get", "recorderrors", "--field-selector", "colour=red"]);
    assert!(
        !success && printed.contains("use one of metadata.name"),
        "{printed}"
    );
    assert!(show(&["--field-selector", "tableMap=nobody"]).contains("There is no TableMap nobody here."));

    // One record, its payload, and what the destination has.
    let (_, described) = kubectl(&scene, &["describe", "recorderror", name]);
    assert!(
        described.contains("Retry Status:") && described.contains("P0001"),
        "{described}"
    );
    let (_, explained) = kubectl(&scene, &["explain", "recorderrors.retryStatus"]);
    assert!(explained.contains("Superseded"), "{explained}");
    let payload = raw(&scene, &format!("recorderrors/{name}/payload"));
    assert_eq!(payload["row"]["note"], "bad one");
    assert_eq!(payload["mapped"]["kind"], "a");
    assert_eq!(payload["destination"], Value::Null);
    assert_eq!(payload["message"], "no bad one");
    scene
        .erp
        .batch_execute("INSERT INTO items VALUES (1, 'a', 'of the destination')")
        .await
        .unwrap();
    let payload = raw(&scene, &format!("recorderrors/{name}/payload"));
    let difference = &payload["differences"][0];
    assert_eq!(difference["column"], "note", "{payload:#}");
    assert_eq!(
        (&difference["record"], &difference["destination"]),
        (&"bad one".into(), &"of the destination".into())
    );
    assert_eq!(payload["differences"].as_array().unwrap().len(), 1);

    // Mended and written: it stays, and says so.
    scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
    scene.rig.ask_errors(
        "again",
        "items",
        "Retry",
        &format!("{{type: IDs, ids: [{name}]}}"),
    );
    scene.rig.ended("again").await;
    assert!(show(&["--field-selector", "retryStatus=Completed"]).contains(name));
    assert_eq!(
        show(&["--field-selector", "retryStatus=Pending", "-o", "name"])
            .lines()
            .count(),
        1
    );
    scene.rig.ask_errors("rest", "items", "Discard", "{type: All}");
    scene.rig.ended("rest").await;
    assert_eq!(
        show(&["--field-selector", "retryStatus!=Completed", "-o", "name"]),
        ""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_waits_in_a_queue() {
    let _time = timed("kubectl_shows_what_waits_in_a_queue");
    let records = Records::new();
    let scene = scene(&records).await;
    records.register(&scene.rig).await;
    scene.pause().await;
    scene
        .at_source(
            "INSERT INTO items SELECT n, 'kind', 'note ' || n FROM generate_series(1, 1200) n;
             UPDATE items SET note = 'second' WHERE id = 7; UPDATE items SET id = 5000 WHERE id = 8;
             DELETE FROM items WHERE id = 9",
        )
        .await;
    scene.queued("items", 1203).await;

    let show = |arguments: &[&str]| {
        let all = [&["get", "queuedrecords"], arguments].concat();
        let (success, printed) = kubectl(&scene, &all);
        assert!(success, "{printed}");
        printed
    };
    let of_map = ["--field-selector", "tableMap=items"];
    let names = show(&[&of_map[..], &["--chunk-size=100", "-o", "name"]].concat());
    let distinct: BTreeSet<&str> = names.lines().collect();
    assert_eq!((names.lines().count(), distinct.len()), (1203, 1203));
    let first = raw(&scene, "queuedrecords?fieldSelector=tableMap%3Ditems&limit=10");
    assert_eq!(first["items"].as_array().unwrap().len(), 10);
    assert_eq!(first["metadata"]["remainingItemCount"], 1193);

    let of_key = |key: &str| {
        let printed = show(&["--field-selector", &format!("tableMap=items,key={key}")]);
        let word = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
        printed.lines().skip(1).filter_map(word).collect::<Vec<String>>()
    };
    assert_eq!(of_key("7"), ["Insert", "Update"]);
    assert_eq!(of_key("8"), ["Insert", "Update"]);
    assert_eq!(of_key("5000"), ["Update"]);
    assert_eq!(of_key("9"), ["Insert", "Delete"]);
    assert!(of_key("4711").is_empty());
    for name in ["items-q-x-1-0", "items-q-+1-0", "nobody-q-1-0", "..-q-1-0"] {
        let (success, printed) = kubectl(&scene, &["get", "queuedrecord", name]);
        assert!(!success && printed.contains("not found"), "{name}: {printed}");
    }
    let (success, printed) = kubectl(&scene, &["get", "queuedrecords"]);
    assert!(
        !success && printed.contains("name one with --field-selector tableMap=NAME"),
        "{printed}"
    );

    let last = names.lines().last().unwrap().rsplit('/').next().unwrap();
    let whole = show(&[last, "-o", "json"]);
    let record: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(
        (&record["operation"], &record["key"]["values"][0]),
        (&"Delete".into(), &"9".into())
    );
    let moved = show(&["--field-selector", "tableMap=items,key=5000", "-o", "name"]);
    let moved = moved.trim().rsplit('/').next().unwrap();
    let payload = raw(&scene, &format!("queuedrecords/{moved}/payload"));
    assert_eq!(
        (&payload["row"]["id"], &payload["oldRow"]["id"]),
        (&"5000".into(), &"8".into())
    );

    scene.resume().await;
    assert_eq!(show(&[&of_map[..], &["-o", "name"]].concat()), "");
    let (success, printed) = kubectl(&scene, &["get", "queuedrecord", last]);
    assert!(
        !success && printed.contains("it has been written, or given up"),
        "{printed}"
    );
}

/// A mapped column is dropped at the source, and another before the key: what is queued then is found by key all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_whatever_its_table_looked_like() {
    let _time = timed("a_key_is_found_whatever_its_table_looked_like");
    let records = Records::new();
    let scene = scene(&records).await;
    scene
        .at_source("CREATE TABLE wide (first text, id bigint PRIMARY KEY, kind text, note text)")
        .await;
    let same = "CREATE TABLE wide (id bigint PRIMARY KEY, kind text, note text)";
    scene.erp.batch_execute(same).await.unwrap();
    let rig = &scene.rig;
    rig.api.apply(&same_map("wide", &["id"], &["id", "kind", "note"]));
    rig.condition("wide", "CaughtUp", "True").await;
    rig.pause("wide");
    rig.condition("wide", "Paused", "True").await;
    scene
        .at_source(
            "INSERT INTO wide SELECT '', n, 'kind', 'note' FROM generate_series(1, 50) n;
             ALTER TABLE wide DROP COLUMN first; INSERT INTO wide SELECT n, 'kind', 'note' FROM generate_series(51, 60) n;
             ALTER TABLE wide DROP COLUMN note; INSERT INTO wide SELECT n, 'kind' FROM generate_series(61, 70) n",
        )
        .await;
    scene.queued("wide", 70).await;
    for key in [1, 50, 51, 60, 61, 70, 71] {
        let path = format!("namespaces/default/queuedrecords?fieldSelector=tableMap%3Dwide%2Ckey%3D{key}");
        let answer = records.list(rig, records.port, &path).await;
        let found = answer["items"].as_array().unwrap().len();
        assert_eq!(found, usize::from(key <= 70), "key {key}");
    }
}

/// While the destination cannot be asked, everything is shown that Redis has, with a warning.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_shown_while_the_destination_is_away() {
    let _time = timed("records_are_shown_while_the_destination_is_away");
    let records = Records::new();
    let mut scene = scene(&records).await;
    records.register(&scene.rig).await;
    scene.at_source("INSERT INTO items VALUES (1, 'a', 'bad')").await;
    scene.errors("items", 1).await;
    scene.pause().await;
    scene.rig.destination.kill9();
    let (success, printed) = kubectl(&scene, &["get", "recorderrors"]);
    assert!(
        success && printed.contains("Warning: The destination of TableMap items does not tell"),
        "{printed}"
    );
    let name = printed.lines().find(|line| line.starts_with("items-e-")).unwrap();
    let name = name.split_whitespace().next().unwrap();
    let payload = raw(&scene, &format!("recorderrors/{name}/payload"));
    assert_eq!(payload["row"]["note"], "bad");
    assert!(
        payload["notes"][0]
            .as_str()
            .unwrap()
            .contains("destination's row cannot be read"),
        "{payload:#}"
    );
}

const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: viewer, namespace: default}
rules: [{apiGroups: [records.tablemap.dev], resources: [recorderrors, queuedrecords], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: owner, namespace: default}
rules:
- {apiGroups: [records.tablemap.dev], resources: [recorderrors, queuedrecords, recorderrors/payload], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: engineer, namespace: default}
rules: [{apiGroups: [tablemap.dev], resources: [tablemapoperations], verbs: [create]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn records_are_for_those_who_may_read_them() {
    let _time = timed("records_are_for_those_who_may_read_them");
    let records = Records::new();
    let scene = scene(&records).await;
    let rig = &scene.rig;
    records.register(rig).await;
    rig.api.apply(ROLES);
    for user in ["viewer", "owner", "engineer"] {
        rig.api.kubectl(&[
            "create",
            "rolebinding",
            user,
            &format!("--role={user}"),
            &format!("--user={user}"),
        ]);
    }
    scene.at_source("INSERT INTO items VALUES (1, 'a', 'bad')").await;
    scene.errors("items", 1).await;
    let (_, name) = kubectl(&scene, &["get", "recorderrors", "-o", "name"]);
    let name = name.trim().rsplit('/').next().unwrap().to_owned();
    let payload = format!("{PATH}/recorderrors/{name}/payload");

    // Who may list, and who may read rows: asked by way of the Kubernetes API, and round it.
    let front = rig.api.front.sign(FRONT);
    let list = format!("{PATH}/recorderrors");
    let expected = BTreeMap::from([
        ("viewer", (true, false)),
        ("owner", (true, true)),
        ("engineer", (false, false)),
        ("stranger", (false, false)),
    ]);
    for user in USERS {
        let token = format!("--token={user}-token");
        let bare = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &token];
        let server = format!("--server={}", rig.api.url());
        let as_user = |path: &str| kubectl(&scene, &[&bare[..], &[&server, "get", "--raw", path]].concat());
        let (lists, reads) = expected[user];
        assert_eq!(as_user(&list).0, lists, "{user}: {}", as_user(&list).1);
        assert_eq!(as_user(&payload).0, reads, "{user}: {}", as_user(&payload).1);
        let code = |may| if may { 200 } else { 403 };
        for (path, may) in [(&list, lists), (&payload, reads)] {
            let (found, answer) = records
                .ask(records.port, Some(&front), Some(user), path)
                .await
                .unwrap();
            assert_eq!(found, code(may), "{user}: {answer}");
        }
    }

    // Who is not the front proxy is nobody.
    let another = Authority::new();
    let ask = async |certificate: Option<&Signed>, user: Option<&str>| {
        let (code, answer) = records.ask(records.port, certificate, user, &list).await.unwrap();
        assert!(code == 200 || answer["kind"] == "Status", "{answer}");
        code
    };
    assert_eq!(ask(None, Some("admin")).await, 401);
    assert_eq!(ask(Some(&another.sign(FRONT)), Some("admin")).await, 401);
    assert_eq!(
        ask(Some(&rig.api.front.sign("somebody")), Some("admin")).await,
        401
    );
    assert_eq!(ask(Some(&front), None).await, 401);
    assert_eq!(ask(Some(&front), Some("owner")).await, 200);

    // Its authority changes while we serve.
    let both = serde_json::json!({"data": {
        "requestheader-client-ca-file": format!("{}{}", rig.api.front.certificate, another.certificate),
    }});
    rig.api.kubectl(&[
        "patch",
        "configmap",
        "extension-apiserver-authentication",
        "-n",
        "kube-system",
        "-p",
        &both.to_string(),
    ]);
    let signed = another.sign(FRONT);
    wait_until(SOON, "the new authority", async || {
        ask(Some(&signed), Some("owner")).await == 200
    })
    .await;
    assert_eq!(ask(Some(&front), Some("owner")).await, 200);

    // So does our own certificate.
    let before = std::fs::read_to_string(records.certificate()).unwrap();
    records.certify();
    assert_ne!(before, std::fs::read_to_string(records.certificate()).unwrap());
    wait_until(SOON, "the new certificate", async || {
        scene
            .operator
            .log()
            .contains("the records API has a new certificate")
    })
    .await;
    assert!(kubectl(&scene, &["get", "recorderrors"]).0);
}

/// Each record that waits all the while comes exactly once, whoever serves which page: what does not come was written.
#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_right_while_the_queue_moves() {
    let _time = timed("pages_stay_right_while_the_queue_moves");
    let records = Records::new();
    let mut scene = scene(&records).await;
    let (other, _replica) = records.replica(&mut scene.rig);
    scene.pause().await;
    scene
        .at_source("INSERT INTO items SELECT n, 'kind', 'note' FROM generate_series(1, 100000) n")
        .await;
    scene.queued("items", 100_000).await;
    let front = scene.rig.api.front.sign(FRONT);
    wait_until(SOON, "the replica", async || {
        matches!(
            records.ask(other, Some(&front), Some("admin"), "/apis").await,
            Some((200, _))
        )
    })
    .await;

    let mut seen: Vec<i64> = Vec::new();
    let mut token = String::new();
    for page in 0_usize.. {
        let path = format!(
            "namespaces/default/queuedrecords?fieldSelector=tableMap%3Ditems&limit=1000&continue={token}"
        );
        let port = if page % 2 == 0 { records.port } else { other };
        let answer = records.list(&scene.rig, port, &path).await;
        let key = |item: &Value| item["key"]["text"].as_str().unwrap().parse::<i64>().unwrap();
        for id in answer["items"].as_array().unwrap().iter().map(key) {
            were_written(&scene.erp, seen.last().map_or(1, |last| last + 1), id).await;
            seen.push(id);
        }
        // The tail grows; then the head is written, slowly.
        if page == 20 {
            scene
                .at_source(
                    "INSERT INTO items SELECT n, 'kind', 'note' FROM generate_series(100001, 120000) n",
                )
                .await;
            scene.queued("items", 120_000).await;
        }
        if page == 40 {
            let slowly = r#"{"spec":{"state":"Running","catchUp":{"maxRecordsPerSecond":30000}}}"#;
            scene
                .rig
                .api
                .kubectl(&["patch", "tablemap", "items", "--type=merge", "-p", slowly]);
        }
        match answer["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
    were_written(&scene.erp, seen.last().unwrap() + 1, 120_001).await;
    assert_eq!(seen[..41_000], (1..=41_000).collect::<Vec<i64>>());
    scene.all("CaughtUp").await;
    scene.same().await;
}

/// All rows from one id up to another, which is not meant, are at the destination.
async fn were_written(erp: &Client, from: i64, to: i64) {
    if from < to {
        let sql = "SELECT count(*) FROM items WHERE id >= $1 AND id < $2";
        let count: i64 = erp.query_one(sql, &[&from, &to]).await.unwrap().get(0);
        assert_eq!(count, to - from, "between {from} and {to}");
    }
}

/// Kept in a Secret, told the API server, and made anew when it is of no more use: by whichever operator comes first.
#[tokio::test(flavor = "multi_thread")]
async fn operators_make_the_certificate_themselves() {
    let _time = timed("operators_make_the_certificate_themselves");
    let mut rig = Rig::start().await;
    let first = free_port();
    rig.api.apply(&registration(first, ""));
    let arguments = |port: u16| {
        vec![
            format!("--records-api-address=127.0.0.1:{port}"),
            "--records-api-service=default/tablemap-records".to_owned(),
        ]
    };
    let second = free_port();
    rig.arguments = arguments(first);
    let mut one = rig.controllers();
    rig.arguments = arguments(second);
    let _other = rig.controllers();
    registered(&rig).await;
    shows_what_is_trusted(&rig, second).await;
    assert_eq!(trusted(&rig).matches(BEGIN).count(), 1, "both show the same");

    // Cut off in the middle, say; an operator that begins finds it.
    let broken = format!(r#"{{"data":{{"tls.crt":"{}"}}}}"#, base64_of("not a certificate"));
    rig.api.kubectl(&[
        "patch",
        "secret",
        "tablemap-records-tls",
        "--type=merge",
        "-p",
        &broken,
    ]);
    one.kill9();
    rig.arguments = arguments(first);
    let _one = rig.controllers();
    shows_what_is_trusted(&rig, first).await;
    registered(&rig).await;
    assert_eq!(
        trusted(&rig).matches(BEGIN).count(),
        2,
        "the one before is trusted still"
    );
    shows_what_is_trusted(&rig, second).await;
}

const API: &str = "v1alpha1.records.tablemap.dev";

const BEGIN: &str = "BEGIN CERTIFICATE";

/// Whom the API server was told to trust.
fn trusted(rig: &Rig) -> String {
    let template = "go-template={{if .spec.caBundle}}{{.spec.caBundle | base64decode}}{{end}}";
    rig.api.kubectl(&["get", "apiservice", API, "-o", template])
}

/// Waits until an operator shows a certificate that the API server trusts: it refuses us only for who we are.
async fn shows_what_is_trusted(rig: &Rig, port: u16) {
    wait_until(SOON, "a certificate that is trusted", async || {
        let trusted = trusted(rig);
        matches!(ask(&trusted, port, None, None, "/apis").await, Some((401, _)))
    })
    .await;
}
