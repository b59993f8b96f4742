//! Redis behind sentinels: a failover is followed, under load.

use super::judge::judge;
use crate::support::{
    load::{COLUMNS, Load, Rate, prepare},
    redis::{Redis, ask},
    rig::{NAMESPACE, Rig, SOON, same_map},
    sentinel::Sentinel,
    timing::timed,
    wait::{wait_for, wait_until},
};
use std::time::{Duration, Instant};

const TABLES: &[&str] = &["customers", "orders"];
const RATE: Rate = Rate {
    connections: 3,
    rows: 5,
    pause: Duration::from_millis(10),
    keys: 500,
};

/// The port of the master that a sentinel names.
async fn master(sentinel: &Sentinel) -> Option<u16> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", sentinel.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg("tm");
    let named: Option<(String, u16)> = ask.query_async(&mut connection).await.ok()?;
    Some(named?.1)
}

async fn replicas_in_step(redis: &Redis) -> bool {
    let mut client = redis.client().await;
    let info: String = redis::cmd("INFO")
        .arg("replication")
        .query_async(&mut client)
        .await
        .unwrap();
    info.matches("state=online").count() == 2
}

/// The sentinels name another master, and the old one does not hear of it: it goes on taking writes that nobody keeps.
async fn cut_off(rig: &Rig, sentinel: &Sentinel, servers: &[Redis]) {
    let old = master(sentinel).await.unwrap();
    let () = ask(old, &["ACL", "SETUSER", "default", "-replicaof", "-slaveof"])
        .await
        .unwrap();
    // A failover that does not come about is not tried again by itself.
    let mut asked: Option<Instant> = None;
    let new = wait_for(SOON, "another master", async || {
        if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(15)) {
            asked = Some(Instant::now());
            let () = ask(sentinel.port, &["SENTINEL", "FAILOVER", "tm"]).await.unwrap();
        }
        master(sentinel).await.filter(|port| *port != old)
    })
    .await;
    let role: Vec<redis::Value> = ask(old, &["ROLE"]).await.unwrap();
    assert_eq!(
        role[0],
        redis::Value::BulkString(b"master".to_vec()),
        "it is cut off"
    );
    assert!(servers.iter().any(|server| server.port == new));
    let uid = rig.status("customers").await["queue"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let meta = format!("{{tm:{NAMESPACE}:{uid}}}:meta");
    let appended = async || ask::<u64>(new, &["HGET", &meta, "appended"]).await.unwrap();
    let before = appended().await;
    wait_until(
        Duration::from_secs(15),
        "changes queued at the named master",
        async || appended().await > before + 200,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failovers_by_sentinels_lose_nothing() {
    let _time = timed("failovers_by_sentinels_lose_nothing");
    let first = [("repl-diskless-sync-delay", "0")];
    let mut servers = [
        Redis::start_with(&first).await,
        Redis::start_with(&first).await,
        Redis::start_with(&first).await,
    ];
    for replica in &servers[1..] {
        let mut client = replica.client().await;
        let mut command = redis::cmd("REPLICAOF");
        let command = command.arg("127.0.0.1").arg(servers[0].port);
        command.query_async::<()>(&mut client).await.unwrap();
    }
    wait_until(SOON, "two replicas", async || replicas_in_step(&servers[0]).await).await;
    let sentinels = [(); 3].map(|()| Sentinel::start("tm", servers[0].port));

    let mut rig = Rig::start().await;
    prepare(&rig, TABLES).await;
    let hosts: Vec<String> = sentinels
        .iter()
        .map(|sentinel| format!("{{host: 127.0.0.1, port: {}}}", sentinel.port))
        .collect();
    rig.queue_at(&format!(
        "{{sentinel: {{masterName: tm, hosts: [{}]}}}}",
        hosts.join(", ")
    ));
    rig.arguments.push("--confirm-delay-milliseconds=5000".into());
    let _operator = rig.operator(&[]);
    for table in TABLES {
        rig.api.apply(&same_map(table, &["id"], COLUMNS));
        rig.condition(table, "CaughtUp", "True").await;
    }
    let load = Load::start(&rig, TABLES, RATE);
    rig.pause("customers");
    rig.condition("customers", "Paused", "True").await;
    for _ in 0..2 {
        let before = wait_for(SOON, "a master", async || master(&sentinels[0]).await).await;
        let queued = rig.status("customers").await["queue"]["records"]
            .as_u64()
            .unwrap();
        wait_until(SOON, "a growing queue", async || {
            rig.status("customers").await["queue"]["records"].as_u64() > Some(queued + 200)
        })
        .await;
        let killed = servers.iter_mut().find(|server| server.port == before).unwrap();
        killed.kill9();
        wait_until(SOON, "another master", async || {
            master(&sentinels[0]).await.is_some_and(|port| port != before)
        })
        .await;
        rig.more_writes("orders", 200, SOON).await;
        let queued = rig.status("customers").await["queue"]["records"]
            .as_u64()
            .unwrap();
        wait_until(SOON, "changes queued at the new master", async || {
            rig.status("customers").await["queue"]["records"].as_u64() > Some(queued + 200)
        })
        .await;
        // It comes back as a replica.
        let killed = servers.iter_mut().find(|server| server.port == before).unwrap();
        killed.start_again().await;
        // Asked each time: on a slow machine two sentinels may lead, one after the other, and name different ones.
        wait_until(SOON, "two replicas again", async || {
            let named = master(&sentinels[0]).await;
            match servers.iter().find(|server| Some(server.port) == named) {
                Some(master) => replicas_in_step(master).await,
                None => false,
            }
        })
        .await;
    }
    cut_off(&rig, &sentinels[0], &servers).await;
    rig.resume("customers");
    judge(&rig, load, TABLES).await;
}
