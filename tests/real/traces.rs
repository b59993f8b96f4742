//! Traces are sent to a collector that the environment names, and tell what is done, not of which rows.

use crate::support::{
    collector::{Collector, attribute},
    ports::free_port,
    rig::{Rig, SOON, same_map},
    timing::timed,
    wait::wait_until,
};
use nix::sys::signal::Signal;

const SERVICE: &str = "tablemap-worker";
const SECRET: &str = "a word of a row";

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_a_change_is_traced_without_its_row() {
    let _time = timed("the_way_of_a_change_is_traced_without_its_row");
    let (collector, endpoint) = Collector::start();
    let mut rig = Rig::start().await;
    rig.both("CREATE TABLE items (id int PRIMARY KEY, note text)")
        .await;
    rig.erp()
        .await
        .batch_execute("ALTER TABLE items ADD CHECK (id <> 3)")
        .await
        .unwrap();
    let _operator = rig.controllers();
    let mut worker = rig.worker(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ]);
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    rig.condition("items", "CaughtUp", "True").await;
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    let sql = format!("INSERT INTO items SELECT n, '{SECRET}' FROM generate_series(1, 3) n");
    rig.crm().await.batch_execute(&sql).await.unwrap();
    wait_until(SOON, "a span of what was queued", async || {
        !collector.spans(SERVICE, "queue.append").is_empty()
    })
    .await;
    let append = &collector.spans(SERVICE, "queue.append")[0];
    let map = attribute(&append.attributes, "map");
    assert_eq!(map.as_deref(), Some("items"), "{append:?}");

    rig.resume("items");
    rig.condition("items", "CaughtUp", "True").await;
    // What was not sent yet is sent when the process ends.
    worker.signal(Signal::SIGTERM);
    worker.end(SOON).await;
    let write = collector.spans(SERVICE, "destination.write");
    assert!(!write.is_empty());
    let connection = attribute(&write[0].attributes, "connection");
    assert_eq!(connection.as_deref(), Some("erp"), "{:?}", write[0]);
    for name in [
        "map.take_over",
        "source.look",
        "destination.fence",
        "destination.check",
    ] {
        assert!(!collector.spans(SERVICE, name).is_empty(), "{name}");
    }
    assert!(!collector.text().contains(SECRET), "row data in a trace");
    // Spans are none of the log's: it stays as it is without a collector.
    assert!(!worker.log().contains("destination.write"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nothing_up() {
    let _time = timed("a_collector_that_is_away_holds_nothing_up");
    let mut rig = Rig::start().await;
    rig.both("CREATE TABLE items (id int PRIMARY KEY)").await;
    let _operator = rig.controllers();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mut worker = rig.worker(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    rig.api.apply(&same_map("items", &["id"], &["id"]));
    rig.condition("items", "CaughtUp", "True").await;
    let sql = "INSERT INTO items SELECT n FROM generate_series(1, 1000) n";
    rig.crm().await.batch_execute(sql).await.unwrap();
    rig.equal("items", "id").await;
    worker.signal(Signal::SIGTERM);
    worker.end(SOON).await;

    let worker = rig.worker(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "no address")]);
    worker.line("OTEL_EXPORTER_OTLP_ENDPOINT", SOON).await;
}
