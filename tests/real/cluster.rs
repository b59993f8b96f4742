//! Queues in a Redis Cluster: slots that move and nodes that die, under load.

use super::judge::judge;
use crate::support::{
    cluster::Cluster,
    load::{COLUMNS, Load, Rate, prepare},
    process::Process,
    rig::{NAMESPACE, Rig, SOON, same_map},
    timing::timed,
    wait::{wait_for, wait_until},
};
use std::time::{Duration, Instant};

const TABLES: &[&str] = &["customers", "orders"];
const RATE: Rate = Rate {
    connections: 3,
    rows: 5,
    pause: Duration::from_millis(30),
    keys: 500,
};

/// The Connection of the queue names two nodes of the cluster, and both maps serve.
async fn begin(rig: &mut Rig, cluster: &Cluster) -> Process {
    prepare(rig, TABLES).await;
    let nodes = cluster.nodes[..2].iter();
    let nodes: Vec<String> = nodes
        .map(|node| format!("{{host: 127.0.0.1, port: {}}}", node.port))
        .collect();
    rig.queue_at(&format!("{{cluster: {{nodes: [{}]}}}}", nodes.join(", ")));
    let operator = rig.operator(&[]);
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
        rig.condition(table, "CaughtUp", "True").await;
    }
    operator
}

async fn records(rig: &Rig) -> u64 {
    let status = rig.status("customers").await;
    status["queue"]["records"].as_u64().unwrap()
}

async fn grows(rig: &Rig, what: &str) {
    let before = records(rig).await;
    wait_until(SOON, what, async || records(rig).await > before + 200).await;
}

async fn slot(rig: &Rig, cluster: &Cluster) -> u16 {
    let status = rig.status("customers").await;
    let id = status["queue"]["id"].as_str().unwrap();
    cluster.slot_of(&format!("{{tm:{NAMESPACE}:{id}}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_and_nodes_that_die_lose_nothing() {
    let _time = timed("slots_that_move_and_nodes_that_die_lose_nothing");
    let mut cluster = Cluster::start().await;
    let mut rig = Rig::start().await;
    rig.arguments.push("--confirm-delay-milliseconds=5000".into());
    let _operator = begin(&mut rig, &cluster).await;
    let slot = slot(&rig, &cluster).await;
    let load = Load::start(&rig, TABLES, RATE);
    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    for _ in 0..2 {
        grows(&rig, "a growing queue").await;
        // Half of its keys here, half there: nothing can be queued, and the other map does not notice.
        let half_way = async {
            rig.more_writes("orders", 200, SOON).await;
            rig.phase("customers", "Blocked").await;
        };
        cluster.move_slot(slot, half_way).await;
        grows(&rig, "changes queued where the slot is now").await;

        let before = wait_for(SOON, "an owner", async || cluster.owner(slot).await).await;
        cluster.node(before).kill9();
        wait_until(SOON, "another owner", async || {
            cluster.owner(slot).await.is_some_and(|port| port != before)
        })
        .await;
        grows(&rig, "changes queued at the new master").await;
        cluster.node(before).start_again().await;
        cluster.whole().await;
    }
    rig.resume("customers");
    rig.phase("customers", "Running").await;
    cluster.move_slot(slot, async {}).await;
    judge(&rig, load, TABLES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_replica_has_is_not_confirmed() {
    let _time = timed("what_no_replica_has_is_not_confirmed");
    let mut cluster = Cluster::start().await;
    let mut rig = Rig::start().await;
    rig.arguments.push("--confirm-delay-milliseconds=1000".into());
    let _operator = begin(&mut rig, &cluster).await;
    let slot = slot(&rig, &cluster).await;
    let load = Load::start(&rig, TABLES, RATE);
    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    let confirmed_more = async |what: &str| {
        let before = rig.confirmed().await;
        wait_until(SOON, what, async || rig.confirmed().await > before + 100_000).await;
    };
    confirmed_more("changes confirmed").await;

    // A master whose replica says nothing goes on taking changes; a failover would lose them.
    let replica = cluster.replica(slot).await;
    cluster.node(replica).hang();
    let end = rig.end_of_log().await;
    let began = Instant::now();
    grows(&rig, "changes queued without a replica").await;
    while began.elapsed() < Duration::from_secs(10) {
        let confirmed = rig.confirmed().await;
        assert!(confirmed <= end, "{confirmed} confirmed, and no replica has it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.end_of_log().await > end + 100_000, "the load went on");
    cluster.node(replica).wake();
    wait_until(SOON, "all confirmed again", async || {
        rig.confirmed().await > end + 100_000
    })
    .await;
    rig.resume("customers");
    judge(&rig, load, TABLES).await;
}
