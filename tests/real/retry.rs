//! What a person does with parked records: write them again, or give them up (I3, rule 15).

use crate::{
    judge::judge,
    kills::rounds,
    scene::{ITEMS, ON_ITEMS, REFUSES, Scene, ids},
    support::{
        load::{COLUMNS, Load, Rate, prepare},
        operations::counts,
        rig::{NAMESPACE, Rig, SOON, same_map},
        timing::timed,
        wait::{wait_for, wait_until},
    },
};
use std::time::Duration;
use tokio_postgres::Client;

async fn scene() -> Scene {
    let refuses = format!("{REFUSES}{ON_ITEMS} INSERT INTO refused VALUES ('bad%');");
    Scene::start(ITEMS, &refuses, &[&["items", "id", "kind", "note"]], &[]).await
}

/// Servers for a worker of its own, and a connection to the destination, which refuses `bad`.
async fn refusing() -> (Rig, Client) {
    let mut rig = Rig::start().await;
    rig.both(ITEMS).await;
    let erp = rig.erp().await;
    erp.batch_execute(&format!("{REFUSES}{ON_ITEMS} INSERT INTO refused VALUES ('bad')"))
        .await
        .unwrap();
    rig.arguments.push("--lease-seconds=2".into());
    (rig, erp)
}

#[tokio::test(flavor = "multi_thread")]
async fn selected_records_are_written_again_or_given_up() {
    let _time = timed("selected_records_are_written_again_or_given_up");
    let scene = scene().await;
    let rig = &scene.rig;
    scene
        .at_source(
            "INSERT INTO items SELECT n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, 'bad ' || n
             FROM generate_series(1, 5) n",
        )
        .await;
    scene.errors("items", 5).await;
    let first = &ids(&rig.status("items").await)[0];

    // Nothing is done, and nothing is mended.
    rig.ask(
        "count",
        "items",
        &[
            "action: Retry",
            "from: Errors",
            "selection: {type: All}",
            "mode: DryRun",
        ],
    );
    let count = rig.ended("count").await;
    assert_eq!(counts(&count), [5, 0, 0, 0, 5], "{count:#}");
    rig.ask_errors(
        "too-early",
        "items",
        "Retry",
        &format!("{{type: IDs, ids: [{first}]}}"),
    );
    let early = rig.ended("too-early").await;
    assert_eq!(counts(&early), [1, 0, 1, 0, 0], "{early:#}");
    assert_eq!(early["conditions"][0]["reason"], "CompletedWithFailures");
    let failure = &early["failures"][0];
    assert_eq!(failure["id"], **first, "{early:#}");
    assert_eq!(
        (&failure["code"], &failure["attempts"]),
        (&"P0001".into(), &2.into())
    );
    assert!(!early.to_string().contains("bad 1"), "row data: {early:#}");
    wait_until(SOON, "its retry status", async || {
        let status = rig.status("items").await;
        let recent = status["errors"]["recent"].as_array().unwrap();
        let retried = recent.iter().find(|error| error["id"] == **first);
        retried.is_some_and(|error| error["retryStatus"] == "Failed" && error["attempts"] == 2)
    })
    .await;

    // Mended: by id, by key, by an expression, and the rest given up.
    scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
    rig.ask_errors(
        "by-id",
        "items",
        "Retry",
        &format!("{{type: IDs, ids: [{first}, nobody]}}"),
    );
    assert_eq!(counts(&rig.ended("by-id").await), [1, 1, 0, 0, 0]);
    rig.ask_errors(
        "by-key",
        "items",
        "Retry",
        "{type: Keys, keys: [{values: ['2']}, {values: ['9']}]}",
    );
    assert_eq!(counts(&rig.ended("by-key").await), [1, 1, 0, 0, 0]);
    let odd = "{type: Match, match: {expression: \"row.kind == 'odd' && error.attempts == 1 && error.key[0] == '3'\"}}";
    rig.ask_errors("by-match", "items", "Retry", odd);
    assert_eq!(counts(&rig.ended("by-match").await), [1, 1, 0, 0, 0]);
    scene.books("items", 2, 0).await;
    rig.ask_errors(
        "give-up",
        "items",
        "Discard",
        "{type: Keys, keys: [{values: ['4']}]}",
    );
    assert_eq!(counts(&rig.ended("give-up").await), [1, 1, 0, 0, 0]);
    scene.books("items", 1, 1).await;
    rig.ask_errors("rest", "items", "Retry", "{type: All}");
    assert_eq!(counts(&rig.ended("rest").await), [1, 1, 0, 0, 0]);
    scene.books("items", 0, 1).await;
    scene
        .says(
            "SELECT string_agg(id::text, ',' ORDER BY id) FROM items",
            "1,2,3,5",
        )
        .await;

    forgets_a_key(&scene).await;
    refuses_what_cannot_be_meant(rig).await;
    for (action, said) in [("RecordsRetried", "by-id"), ("RecordsDiscarded", "give-up")] {
        wait_until(SOON, action, async || {
            let events = rig.api.kubectl(&["get", "events", "-o", "wide"]);
            events
                .lines()
                .any(|line| line.contains(action) && line.contains(said))
        })
        .await;
    }
}

/// What was written is kept for a while, but not of a key that is given up.
async fn forgets_a_key(scene: &Scene) {
    let rig = &scene.rig;
    assert_eq!(kept(rig).await, 4);
    let key = "{type: Keys, keys: [{values: ['1']}]}";
    rig.ask_errors("erase", "items", "Discard", key);
    assert_eq!(counts(&rig.ended("erase").await), [0; 5]);
    assert_eq!(kept(rig).await, 3);
    scene.books("items", 0, 1).await;
}

/// How many records the error store holds.
async fn kept(rig: &Rig) -> usize {
    let status = rig.status("items").await;
    let keys = tablemap::queue::Keys::new(NAMESPACE, status["queue"]["id"].as_str().unwrap());
    let mut read = redis::cmd("HKEYS");
    read.arg(&keys.errors);
    let fields: Vec<String> = read.query_async(&mut rig.redis.client().await).await.unwrap();
    fields.iter().filter(|field| field.starts_with("r:")).count()
}

async fn refuses_what_cannot_be_meant(rig: &Rig) {
    let wrong = "{type: Match, match: {expression: \"error.kind == 'x'\"}}";
    rig.ask_errors("wrong", "items", "Retry", wrong);
    let wrong = rig.ended("wrong").await;
    assert_eq!(wrong["conditions"][1]["reason"], "SelectionInvalid", "{wrong:#}");
    assert!(
        wrong["message"]
            .as_str()
            .unwrap()
            .contains("`spec.selection.match.expression`")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_a_pause_and_a_discard_does_not() {
    let _time = timed("a_retry_waits_for_a_pause_and_a_discard_does_not");
    let scene = scene().await;
    let rig = &scene.rig;
    scene
        .at_source("INSERT INTO items SELECT n, '', 'bad' FROM generate_series(1, 3) n")
        .await;
    scene.errors("items", 3).await;
    scene.pause().await;
    // A newer row of one of them waits in the queue.
    scene
        .at_source("UPDATE items SET note = 'good' WHERE id = 1")
        .await;
    scene.received("items", 4).await;
    scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
    rig.ask_errors("retry", "items", "Retry", "{type: All}");
    rig.waits("retry", "MapPaused").await;
    rig.ask_errors(
        "discard",
        "items",
        "Discard",
        "{type: Keys, keys: [{values: ['3']}]}",
    );
    assert_eq!(counts(&rig.ended("discard").await), [1, 1, 0, 0, 0]);
    assert_eq!(scene.text("SELECT count(*)::text FROM items").await, "0");
    scene.resume().await;
    let retry = rig.ended("retry").await;
    // The first was replaced, or written before it was: the newer row stays either way.
    assert_eq!(retry["counts"]["failed"], 0, "{retry:#}");
    assert_eq!(retry["counts"]["remaining"], 0, "{retry:#}");
    scene
        .says(
            "SELECT string_agg(id || note, ',' ORDER BY id) FROM items",
            "1good,2bad",
        )
        .await;
    scene.books("items", 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_never_overwrites_newer_data() {
    let _time = timed("a_retry_never_overwrites_newer_data");
    let scene = scene().await;
    let rig = &scene.rig;
    // A row; a key change that is refused, whose old key is used again; a row that is refused and then gone.
    scene
        .at_source(
            "INSERT INTO items VALUES (1, '', 'one'), (2, '', 'two'), (4, '', 'four');
             INSERT INTO items VALUES (3, '', 'bad');
             UPDATE items SET note = 'bad' WHERE id = 1;
             UPDATE items SET id = 20, note = 'bad' WHERE id = 2;
             INSERT INTO items VALUES (2, '', 'new two')",
        )
        .await;
    scene.errors("items", 3).await;
    rig.ask_errors("slowly", "items", "Retry", "{type: All}");
    assert_eq!(counts(&rig.ended("slowly").await), [3, 0, 3, 0, 0]);
    // Chosen while they wait; two are replaced before it comes to them.
    scene
        .at_source("UPDATE items SET note = 'bad' WHERE id = 4")
        .await;
    scene.errors("items", 4).await;
    scene.erp.batch_execute("DELETE FROM refused").await.unwrap();
    rig.ask(
        "late",
        "items",
        &[
            "action: Retry",
            "from: Errors",
            "selection: {type: All}",
            "maxRecordsPerSecond: 1",
        ],
    );
    wait_until(SOON, "the first record", async || {
        rig.operation("late")["counts"]["completed"].as_u64() >= Some(1)
    })
    .await;
    scene
        .at_source("DELETE FROM items WHERE id = 3; UPDATE items SET note = 'newer' WHERE id = 4")
        .await;
    let late = rig.ended("late").await;
    let [selected, completed, failed, superseded, remaining] = counts(&late);
    assert_eq!((selected, failed, remaining), (4, 0, 0), "{late:#}");
    assert_eq!(completed + superseded, 4, "{late:#}");
    scene
        .says(
            "SELECT string_agg(id || note, ',' ORDER BY id) FROM items",
            "1bad,2new two,4newer,20bad",
        )
        .await;
    rig.equal("items", "id").await;
    scene.books("items", 0, 0).await;
}

const TABLES: &[&str] = &["customers", "orders"];
/// Few keys, so that records of a key follow each other closely.
const RATE: Rate = Rate {
    connections: 2,
    rows: 5,
    pause: Duration::from_millis(20),
    keys: 100,
};

/// Under load on the same keys, killed at every step of an operation: each record is written once at most, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_killed_at_every_step_does_nothing_twice() {
    let _time = timed("a_retry_killed_at_every_step_does_nothing_twice");
    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    let erp = rig.erp().await;
    erp.batch_execute(REFUSES).await.unwrap();
    for table in TABLES {
        let sql = format!(
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        erp.batch_execute(&sql).await.unwrap();
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
    }
    rig.arguments.push("--lease-seconds=2".into());
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    let _controllers = rig.controllers();
    let load = Load::start(&rig, TABLES, RATE);
    let places = ["chosen", "between-park-and-commit", "retried"];
    let (mut round, mut vain) = (0, 0);
    while round < rounds(1) * places.len() {
        let place = places[round % places.len()];
        let plan = format!("{place}=kill:1");
        let mut worker = rig.worker(&[]);
        rig.condition("customers", "CaughtUp", "True").await;
        erp.batch_execute("INSERT INTO refused VALUES ('%a%')")
            .await
            .unwrap();
        wait_until(SOON, "many errors", async || {
            rig.status("customers").await["errors"]["count"].as_u64() > Some(50)
        })
        .await;
        worker.kill9();
        erp.batch_execute("DELETE FROM refused").await.unwrap();
        let mut dying = rig.worker(&[("TABLEMAP_FAILPOINTS", &plan)]);
        rig.condition("customers", "CaughtUp", "True").await;
        let name = format!("round-{round}-{vain}");
        rig.ask_errors(&name, "customers", "Retry", "{type: All}");
        let what = format!("a kill at {place}, or the end");
        let died = wait_for(SOON, &what, async || {
            let died = dying.log().contains(&format!("failpoint {place} SIGKILL"));
            let ended = rig.operation(&name)["completionTime"].is_string();
            (died || ended).then_some(died)
        });
        if !died.await {
            // The load had replaced every record before: there was nothing to write.
            vain += 1;
            assert!(vain < 30, "nothing is left to be written, again and again");
            dying.kill9();
            continue;
        }
        println!("round {round}: killed at {place}");
        (round, vain) = (round + 1, 0);
        dying.end(SOON).await;
        let after = rig.worker(&[]);
        let ended = rig.ended(&name).await;
        let [selected, completed, failed, superseded, remaining] = counts(&ended);
        assert_eq!(selected, completed + failed + superseded, "{ended:#}");
        assert_eq!((failed, remaining), (0, 0), "{ended:#}");
        drop(after);
    }
    let _last = rig.worker(&[]);
    rig.condition("customers", "CaughtUp", "True").await;
    rig.ask_errors("rest", "customers", "Retry", "{type: All}");
    rig.ask_errors("others", "orders", "Retry", "{type: All}");
    rig.ended("rest").await;
    rig.ended("others").await;
    judge(&rig, load, TABLES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_that_is_killed_counts_each_record_once() {
    let _time = timed("a_discard_that_is_killed_counts_each_record_once");
    let (mut rig, _) = refusing().await;
    let _controllers = rig.controllers();
    let mut dying = rig.worker(&[("TABLEMAP_FAILPOINTS", "discarded=kill:2")]);
    rig.api
        .apply(&same_map("items", &["id"], &["id", "kind", "note"]));
    rig.condition("items", "CaughtUp", "True").await;
    let sql = "INSERT INTO items SELECT n, '', 'bad' FROM generate_series(1, 2500) n";
    rig.crm().await.batch_execute(sql).await.unwrap();
    wait_until(SOON, "the errors", async || {
        rig.status("items").await["errors"]["count"] == 2500
    })
    .await;
    rig.ask_errors("discard", "items", "Discard", "{type: All}");
    dying.line("failpoint discarded SIGKILL", SOON).await;
    dying.end(SOON).await;
    let _after = rig.worker(&[]);
    let ended = rig.ended("discard").await;
    assert_eq!(counts(&ended), [2500, 2500, 0, 0, 0], "{ended:#}");
    wait_until(SOON, "2500 discarded", async || {
        let status = rig.status("items").await;
        status["ledger"]["discarded"] == 2500 && status["errors"]["count"] == 0
    })
    .await;
    rig.settled("items").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_skipped_and_what_comes_later_is_not() {
    let _time = timed("what_is_queued_is_skipped_and_what_comes_later_is_not");
    let scene = scene().await;
    let rig = &scene.rig;
    scene
        .at_source("INSERT INTO items SELECT n, '', 'old' FROM generate_series(1, 10) n")
        .await;
    rig.equal("items", "id").await;
    scene.pause().await;
    scene
        .at_source("UPDATE items SET note = 'skipped' WHERE id <= 3; DELETE FROM items WHERE id = 4")
        .await;
    scene
        .at_source("INSERT INTO items SELECT n, '', 'skipped' FROM generate_series(1001, 3000) n")
        .await;
    scene.received("items", 2014).await;
    let queue = |action: &'static str| [action, "from: Queue", "selection: {type: All}"];
    rig.ask("discard", "items", &queue("action: Discard"));
    rig.waits("discard", "MapPaused").await;
    scene
        .at_source("UPDATE items SET note = 'later' WHERE id = 3; INSERT INTO items VALUES (11, '', 'later')")
        .await;
    scene.resume().await;
    let discard = rig.ended("discard").await;
    assert_eq!(counts(&discard), [2004, 2004, 0, 0, 0], "{discard:#}");
    scene
        .says(
            "SELECT string_agg(id || note, ',' ORDER BY id) FROM items",
            "1old,2old,3later,4old,5old,6old,7old,8old,9old,10old,11later",
        )
        .await;
    scene.books("items", 0, 2004).await;

    // Kept as errors, they are written later; what is newer stays.
    scene.pause().await;
    scene
        .at_source("UPDATE items SET note = 'kept' WHERE id IN (1, 2, 5)")
        .await;
    scene.received("items", 2019).await;
    // A retry that waits takes what was refused when it was asked for, not what is parked by the skip.
    rig.ask_errors("early", "items", "Retry", "{type: All}");
    wait_until(SOON, "its choice", async || {
        counts(&rig.waits("early", "MapPaused").await) == [0; 5]
    })
    .await;
    rig.ask("park", "items", &queue("action: Park"));
    rig.waits("park", "MapPaused").await;
    scene.resume().await;
    let park = rig.ended("park").await;
    assert_eq!(counts(&park), [3, 3, 0, 0, 0], "{park:#}");
    assert_eq!(counts(&rig.ended("early").await), [0; 5]);
    scene.errors("items", 3).await;
    scene
        .at_source("UPDATE items SET note = 'newer' WHERE id = 2")
        .await;
    scene.says("SELECT note FROM items WHERE id = 2", "newer").await;
    rig.ask_errors("retry", "items", "Retry", "{type: All}");
    assert_eq!(counts(&rig.ended("retry").await), [2, 2, 0, 0, 0]);
    scene
        .says(
            "SELECT string_agg(id || note, ',' ORDER BY id) FROM items WHERE id <= 5",
            "1kept,2newer,3later,4old,5kept",
        )
        .await;
    scene.books("items", 0, 2004).await;
    for name in ["nothing", "again"] {
        rig.ask(name, "items", &queue("action: Discard"));
        assert_eq!(rig.ended(name).await["message"], "Nothing waits in the queue.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_was_deleted_while_no_worker_ran_does_nothing() {
    let _time = timed("an_operation_that_was_deleted_while_no_worker_ran_does_nothing");
    let (mut rig, erp) = refusing().await;
    let _controllers = rig.controllers();
    let mut worker = rig.worker(&[]);
    rig.api
        .apply(&same_map("items", &["id"], &["id", "kind", "note"]));
    rig.condition("items", "CaughtUp", "True").await;
    let crm = rig.crm().await;
    crm.batch_execute("INSERT INTO items VALUES (1, '', 'bad')")
        .await
        .unwrap();
    wait_until(SOON, "an error", async || {
        rig.status("items").await["errors"]["count"] == 1
    })
    .await;
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    crm.batch_execute("INSERT INTO items VALUES (2, '', 'queued')")
        .await
        .unwrap();
    wait_until(SOON, "a queued record", async || {
        rig.status("items").await["queue"]["records"] == 1
    })
    .await;
    rig.ask(
        "skip",
        "items",
        &["action: Discard", "from: Queue", "selection: {type: All}"],
    );
    rig.waits("skip", "MapPaused").await;
    worker.kill9();
    rig.api.kubectl(&["delete", "tmop", "skip"]);
    let _worker = rig.worker(&[]);
    rig.resume("items");
    rig.condition("items", "CaughtUp", "True").await;
    let status = rig.settled("items").await;
    assert_eq!(
        (&status["ledger"]["written"], &status["ledger"]["discarded"]),
        (&1.into(), &0.into()),
        "{status:#}"
    );
    erp.batch_execute("DELETE FROM refused").await.unwrap();
    rig.ask_errors("retry", "items", "Retry", "{type: All}");
    assert_eq!(counts(&rig.ended("retry").await), [1, 1, 0, 0, 0]);
    rig.equal("items", "id").await;
}
