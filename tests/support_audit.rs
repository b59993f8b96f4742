//! The comparison of two logs that the other tests rely on: it must find what is wrong.

mod support;

use support::{
    audit::{
        Comparer, Entry, Finding, Op, Wrong, assert_equal_tables, compare_databases, install_audit,
        install_writelog,
    },
    postgres::Postgres,
};
use tokio_postgres::Client;

/// A log of one key: a state is a text, and "-" is a delete.
fn log(states: &[&str]) -> Vec<Entry> {
    keyed("1", states)
}

fn keyed(key: &str, states: &[&str]) -> Vec<Entry> {
    let entry = |(n, state): (usize, &&str)| {
        let op = match *state {
            "-" => Op::Delete,
            _ if n == 0 => Op::Insert,
            _ => Op::Update,
        };
        let row = if op == Op::Delete { "before" } else { state };
        Entry {
            id: i64::try_from(n).unwrap() + 1,
            table: "t".into(),
            key: key.into(),
            op,
            row: row.into(),
        }
    };
    states.iter().enumerate().map(entry).collect()
}

fn findings(source: &[&str], written: &[&str]) -> Vec<Wrong> {
    match Comparer::compare(log(source), log(written)) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.iter().map(|finding| finding.wrong).collect(),
    }
}

#[test]
fn equal_logs_pass() {
    let all = ["a", "b", "-", "c", "d"];
    let summary = Comparer::compare(log(&all), log(&all)).unwrap();
    assert_eq!(
        (summary.keys, summary.changes, summary.writes, summary.skipped()),
        (1, 5, 5, 0)
    );
}

#[test]
fn left_out_states_pass() {
    for written in [&["a", "d"][..], &["d"], &["-", "d"], &["b", "c", "d"]] {
        assert_eq!(findings(&["a", "b", "-", "c", "d"], written), []);
    }
}

#[test]
fn an_upsert_may_be_an_insert_for_an_update() {
    let mut written = log(&["a", "b"]);
    written[0].op = Op::Update;
    written[1].op = Op::Insert;
    Comparer::compare(log(&["a", "b"]), written).unwrap();
}

#[test]
fn two_writes_swapped_are_found() {
    assert_eq!(findings(&["a", "b", "c"], &["b", "a", "c"]), [Wrong::SteppedBack]);
    assert_eq!(
        findings(&["a", "b", "c"], &["a", "c", "b"]),
        [Wrong::SteppedBack, Wrong::MissingEnd]
    );
    assert_eq!(
        findings(&["a", "-", "c"], &["a", "c", "-"]),
        [Wrong::SteppedBack, Wrong::MissingEnd]
    );
}

#[test]
fn a_missing_end_is_found() {
    assert_eq!(findings(&["a", "b"], &["a"]), [Wrong::MissingEnd]);
    assert_eq!(findings(&["a", "-"], &["a"]), [Wrong::MissingEnd]);
    assert_eq!(findings(&["a", "-", "b"], &["a", "-"]), [Wrong::MissingEnd]);
}

#[test]
fn a_row_that_was_never_written_is_lost() {
    assert_eq!(findings(&["a", "b"], &[]), [Wrong::Lost]);
}

#[test]
fn a_deleted_row_need_not_have_been_written() {
    assert_eq!(findings(&["a", "-"], &[]), []);
    assert_eq!(findings(&["a", "b", "-"], &["a", "-"]), []);
}

#[test]
fn a_write_that_the_source_never_had_is_found() {
    assert_eq!(findings(&["a", "b"], &["a", "x", "b"]), [Wrong::NeverAtSource]);
    assert_eq!(findings(&["a", "b"], &["a", "-", "b"]), [Wrong::NeverAtSource]);
    assert_eq!(
        findings(&[], &["a", "-"]),
        [Wrong::NeverAtSource, Wrong::NeverAtSource]
    );
}

#[test]
fn an_earlier_write_written_again_is_found() {
    assert_eq!(
        findings(&["a", "b", "c"], &["a", "b", "a", "c"]),
        [Wrong::SteppedBack]
    );
    assert_eq!(
        findings(&["a", "b", "c"], &["a", "b", "b", "c"]),
        [Wrong::Repeated]
    );
    assert_eq!(findings(&["a", "b"], &["a", "b", "b"]), [Wrong::Repeated]);
}

#[test]
fn states_that_the_source_had_more_than_once_may_be_written_as_often() {
    let source = ["a", "b", "a", "-", "a", "b"];
    assert_eq!(findings(&source, &source), []);
    for written in [
        &["b"][..],
        &["a", "a", "a", "b"],
        &["b", "a", "a", "b"],
        &["b", "-", "b"],
    ] {
        assert_eq!(findings(&source, written), []);
    }
    assert_eq!(findings(&source, &["a", "a", "a", "a", "b"]), [Wrong::Repeated]);
    assert_eq!(
        findings(&source, &["b", "b", "a"]),
        [Wrong::SteppedBack, Wrong::MissingEnd]
    );
}

#[test]
fn a_finding_names_the_key_and_both_places() {
    let source = [keyed("1", &["a", "b"]), keyed("2", &["a", "b", "c"])].concat();
    let written = [keyed("1", &["a", "b"]), keyed("2", &["b", "a", "c"])].concat();
    let found = Comparer::compare(source, written).unwrap_err();
    let Finding {
        wrong,
        key,
        source,
        written,
        ..
    } = &found[0];
    assert_eq!((found.len(), *wrong, key.as_str()), (1, Wrong::SteppedBack, "2"));
    assert_eq!((*source, *written), (Some(2), Some(2)));
    assert_eq!(
        found[0].to_string(),
        "SteppedBack: t, key 2, change 2, write 2: went back to change 1: a"
    );
}

const TABLE: &str = "CREATE TABLE orders (
    shop text, nr int, version int, taken timestamptz, secret text, PRIMARY KEY (shop, nr))";

/// What happens at the source, and, in the same order, at a faithful destination.
const LOAD: &[&str] = &[
    "INSERT INTO orders SELECT 'a|b', n, 0, '2024-01-01 10:00+02', 'x' FROM generate_series(1, 20) n",
    "INSERT INTO orders VALUES ('it''s', 1, 0, NULL, 'x')",
    "UPDATE orders SET version = version + 1 WHERE nr <= 10",
    "UPDATE orders SET version = version + 1",
    "UPDATE orders SET nr = nr + 100, version = version + 1 WHERE nr BETWEEN 15 AND 17",
    "DELETE FROM orders WHERE nr = 3",
    "INSERT INTO orders VALUES ('a|b', 3, 10, now(), 'y')",
    "DELETE FROM orders WHERE nr > 110",
];

async fn databases(server: &Postgres) -> (Client, Client) {
    server.create_database("source").await;
    server.create_database("destination").await;
    let (source, destination) = (server.client("source").await, server.client("destination").await);
    for client in [&source, &destination] {
        client.batch_execute(TABLE).await.unwrap();
    }
    source
        .batch_execute("INSERT INTO orders VALUES ('before', 1, 0, NULL, 'x')")
        .await
        .unwrap();
    install_audit(&source, "orders", &["shop", "nr"], &["secret"]).await;
    install_writelog(&destination, "orders", &["shop", "nr"], &["secret"]).await;
    (source, destination)
}

/// Copies the source's log to the destination's table, change by change.
async fn copy(source: &Client, destination: &Client) {
    // A destination may write as a replication role and in another time zone.
    let settings = "SET session_replication_role = replica; SET timezone = 'Asia/Tokyo'";
    destination.batch_execute(settings).await.unwrap();
    for row in source
        .query("SELECT op::text, row::text FROM audit.changes ORDER BY id", &[])
        .await
        .unwrap()
    {
        let json = row.get::<_, &str>(1).replace('\'', "''");
        let from = format!("jsonb_populate_record(NULL::orders, '{json}')");
        let sql = match row.get(0) {
            "D" => {
                format!("DELETE FROM orders USING {from} r WHERE (orders.shop, orders.nr) = (r.shop, r.nr)")
            }
            _ => format!(
                "INSERT INTO orders SELECT * FROM {from} ON CONFLICT (shop, nr)
                DO UPDATE SET version = excluded.version, taken = excluded.taken"
            ),
        };
        destination.batch_execute(&sql).await.unwrap();
    }
}

/// Swaps what two writes say, and thereby their order.
const SWAP: &str = "UPDATE writelog.writes w SET op = o.op, row = o.row FROM writelog.writes o
    WHERE w.key = 'a\\|b|5' AND o.key = w.key AND w.id <> o.id AND w.row->>'version' IN ('0', '1')
        AND o.row->>'version' IN ('0', '1')";

#[tokio::test]
async fn the_logs_of_two_databases() {
    let server = Postgres::start().await;
    let (source, destination) = databases(&server).await;
    let nothing = compare_databases(&source, &destination, &["orders"])
        .await
        .unwrap_err();
    assert!(nothing.contains("Lost: orders, key before|1"), "{nothing}");

    for sql in LOAD {
        source.batch_execute(sql).await.unwrap();
    }
    copy(&source, &destination).await;
    let summary = compare_databases(&source, &destination, &["orders"])
        .await
        .unwrap();
    assert_eq!((summary.keys, summary.changes, summary.writes), (25, 67, 67));
    let mapped = "(SELECT shop, nr, version, taken FROM orders)";
    assert_equal_tables(&source, &destination, mapped, "shop, nr").await;

    assert_eq!(destination.execute(SWAP, &[]).await.unwrap(), 2);
    let found = compare_databases(&source, &destination, &["orders"])
        .await
        .unwrap_err();
    assert!(found.contains("SteppedBack: orders, key a\\|b|5"), "{found}");
    assert!(found.starts_with("1 findings"), "{found}");
}

/// Many writers, each in transactions of one key.
async fn write_at_once(server: &Postgres) {
    let writers = (0..8).map(|writer| async move {
        let client = server.client("source").await;
        for n in 0..100 {
            let (nr, version) = ((writer + n) % 2, writer * 1000 + n);
            let sql = match (writer + n / 2) % 3 {
                0 => format!("DELETE FROM orders WHERE nr = {nr}"),
                1 => format!("INSERT INTO orders VALUES ('a', {nr}, {version}) ON CONFLICT DO NOTHING"),
                _ => format!("UPDATE orders SET version = {version} WHERE nr = {nr}"),
            };
            client
                .batch_execute(&format!("BEGIN; {sql}; SELECT pg_sleep(0.001); COMMIT"))
                .await
                .unwrap();
        }
    });
    futures::future::join_all(writers).await;
}

/// Changes of one key that are out of order would be seen: an insert must follow a delete, and nothing else may.
#[tokio::test]
async fn the_log_has_the_order_of_commits() {
    let server = Postgres::start().await;
    let (source, _) = databases(&server).await;
    source.batch_execute("DELETE FROM orders").await.unwrap();
    write_at_once(&server).await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE (op = 'I') <> (before = 'D')) FROM (
        SELECT op, coalesce(lag(op) OVER (PARTITION BY key ORDER BY id), 'D') AS before FROM audit.changes) c";
    let row = source.query_one(sql, &[]).await.unwrap();
    let (changes, wrong): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        changes > 100 && wrong == 0,
        "{wrong} of {changes} changes are out of order"
    );
}

#[tokio::test]
async fn a_table_without_a_log_is_no_success() {
    let server = Postgres::start().await;
    let (source, destination) = databases(&server).await;
    copy(&source, &destination).await;
    compare_databases(&source, &destination, &["orders"])
        .await
        .unwrap();
    let found = compare_databases(&source, &destination, &["orders", "customers"])
        .await
        .unwrap_err();
    assert!(found.contains("customers"), "{found}");
}

#[tokio::test]
#[should_panic(expected = "key [\"a\", 2]")]
async fn tables_that_differ() {
    let server = Postgres::start().await;
    let (source, destination) = databases(&server).await;
    source
        .batch_execute("TRUNCATE orders; INSERT INTO orders VALUES ('a', 1, 1), ('a', 2, 1)")
        .await
        .unwrap();
    destination
        .batch_execute("INSERT INTO orders VALUES ('a', 1, 1), ('a', 2, 2)")
        .await
        .unwrap();
    assert_equal_tables(&source, &destination, "orders", "shop, nr").await;
}

#[tokio::test]
async fn a_long_log_is_compared_in_reasonable_time() {
    let server = Postgres::start().await;
    let (source, destination) = databases(&server).await;
    let lines = "(tbl, key, op, row) SELECT 'orders', (n % 5000)::text, 'U', jsonb_build_object('version', n)
        FROM generate_series(1, 100000) n";
    source
        .batch_execute(&format!(
            "TRUNCATE audit.changes; INSERT INTO audit.changes {lines}"
        ))
        .await
        .unwrap();
    destination
        .batch_execute(&format!("INSERT INTO writelog.writes {lines}"))
        .await
        .unwrap();
    let summary = compare_databases(&source, &destination, &["orders"])
        .await
        .unwrap();
    assert_eq!((summary.keys, summary.writes), (5000, 100_000));
}
