//! Every major of Postgres that is still maintained, as source and as destination.

use crate::support::{
    audit::{compare_databases, install_audit, install_writelog},
    rig::{Majors, Rig, Settings, assert_balanced, same_map},
    timing::{part, timed},
};

/// Each major on each side, with a newer and an older one on the other.
const PAIRS: &[(u32, u32)] = &[(14, 18), (18, 14), (16, 17), (17, 16), (15, 18)];

const TABLE: &str = "CREATE TABLE items (id int, part text COLLATE \"C\", note text, amount numeric(10, 2),
    made timestamptz DEFAULT now(), PRIMARY KEY (id, part))";

const CHANGES: &[&str] = &[
    "INSERT INTO items SELECT n, 'a', repeat(md5(n::text), 200), n / 3.0 FROM generate_series(1, 500) n",
    "UPDATE items SET amount = amount + 1 WHERE id % 3 = 0",
    "UPDATE items SET part = 'b' WHERE id % 50 = 0",
    "DELETE FROM items WHERE id % 7 = 0",
    "INSERT INTO items SELECT n, 'c', 'again', n FROM generate_series(1, 500, 7) n",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_major_is_a_source_and_a_destination() {
    let _time = timed("every_major_is_a_source_and_a_destination");
    for (source, destination) in PAIRS {
        println!("{source} to {destination}");
        let _pair = part("versions");
        let majors = Majors {
            source: *source,
            destination: *destination,
        };
        one_pair(majors).await;
    }
}

async fn one_pair(majors: Majors) {
    let mut rig = Rig::start_with(Settings {
        majors,
        ..Settings::default()
    })
    .await;
    rig.both(TABLE).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    install_audit(&crm, "items", &["id", "part"], &[]).await;
    install_writelog(&erp, "items", &["id", "part"], &[]).await;
    rig.api.apply(&same_map(
        "items",
        &["id", "part"],
        &["id", "part", "note", "amount", "made"],
    ));
    let _operator = rig.operator(&[]);
    rig.condition("items", "CaughtUp", "True").await;
    for sql in CHANGES {
        crm.batch_execute(sql).await.unwrap();
    }
    rig.equal("items", "id, part").await;
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    crm.batch_execute("DELETE FROM items WHERE id % 2 = 0")
        .await
        .unwrap();
    for sql in &CHANGES[1..4] {
        crm.batch_execute(sql).await.unwrap();
    }
    rig.resume("items");
    rig.condition("items", "CaughtUp", "True").await;
    rig.equal("items", "id, part").await;
    assert_balanced(&rig.settled("items").await);
    compare_databases(&crm, &erp, &["items"]).await.unwrap();
}
