//! Databases whose encoding is not UTF-8: their servers convert, and what cannot be converted is parked.

use crate::support::{
    rig::{NAMESPACE, Rig, SOON},
    timing::timed,
    wait::wait_until,
};
use serde_json::json;

/// Columns and values beyond ASCII.
const TABLE: &str = "CREATE TABLE \"Größen\" (id int PRIMARY KEY, \"Maß\" text)";

async fn made(source: &str, destination: &str) -> Rig {
    let rig = Rig::start().await;
    for (server, name, encoding) in [
        (&rig.source, "crm", source),
        (&rig.destination, "erp", destination),
    ] {
        let postgres = server.client("postgres").await;
        let drop = format!("DROP DATABASE {name}");
        postgres.batch_execute(&drop).await.unwrap();
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        postgres.batch_execute(&create).await.unwrap();
    }
    rig.both(TABLE).await;
    let table = json!({ "schema": "public", "name": "Größen" });
    let field = |name: &str| json!({ "destination": name, "source": name });
    let map = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap",
        "metadata": { "name": "sizes", "namespace": NAMESPACE },
        "spec": {
            "source": { "connectionRef": { "name": "crm" }, "table": table },
            "destination": { "connectionRef": { "name": "erp" }, "table": table },
            "integrationKey": ["id"], "fields": [field("id"), field("Maß")],
            "queue": { "connectionRef": { "name": "queue" } },
        },
    });
    rig.api.apply(&map.to_string());
    rig
}

async fn arrives(source: &str, destination: &str, text: &str, refused: Option<(&str, &str)>) {
    println!("{source} to {destination}");
    let mut rig = made(source, destination).await;
    let _operator = rig.operator(&[]);
    rig.condition("sizes", "CaughtUp", "True").await;
    let crm = rig.crm().await;
    let insert = format!("INSERT INTO \"Größen\" VALUES (1, {text})");
    crm.batch_execute(&insert).await.unwrap();
    rig.pause("sizes");
    rig.condition("sizes", "Paused", "True").await;
    let insert = format!("INSERT INTO \"Größen\" VALUES (2, {text})");
    crm.batch_execute(&insert).await.unwrap();
    rig.resume("sizes");
    rig.condition("sizes", "CaughtUp", "True").await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    let sql = "SELECT string_agg(\"Maß\", ' ' ORDER BY id) FROM \"Größen\" WHERE id < 3";
    let sent: Option<String> = crm.query_one(sql, &[]).await.unwrap().get(0);
    let what = format!("{sent:?} from {source} to {destination}");
    wait_until(SOON, &what, async || {
        erp.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0) == sent
    })
    .await;
    let Some((bad, code)) = refused else { return };
    let insert = format!("INSERT INTO \"Größen\" VALUES (3, {bad})");
    crm.batch_execute(&insert).await.unwrap();
    wait_until(SOON, "a parked record", async || {
        rig.status("sizes").await["errors"]["recent"][0]["code"] == code
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_arrive_or_are_refused_with_a_reason() {
    let _time = timed("other_encodings_arrive_or_are_refused_with_a_reason");
    arrives("LATIN1", "UTF8", "'äöü ß'", None).await;
    // The euro sign is not in it.
    arrives("UTF8", "LATIN1", "'äöü ß'", Some(("'€'", "22P05"))).await;
    // A database without an encoding takes any bytes.
    arrives("SQL_ASCII", "UTF8", "'käse'", Some((r"E'\xff'", "22021"))).await;
    arrives("EUC_JP", "LATIN9", "'abc'", Some(("'日本'", "22P05"))).await;
}
