//! A Redis Cluster: three masters, and a replica of each.

use super::{
    folder,
    ports::free_port,
    process::command_as,
    redis::{Redis, ask},
    wait::{wait_for, wait_until},
};
use redis::Value;
use std::time::Duration;

const NODES: usize = 6;
const SOON: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub nodes: Vec<Redis>,
}

/// One node, as another sees it.
struct Seen {
    id: String,
    port: u16,
    flags: String,
    /// Of a replica: its master's id.
    master: String,
    connected: bool,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            // By default the bus listens ten thousand ports higher.
            let bus = free_port().to_string();
            let settings = [
                ("cluster-enabled", "yes"),
                ("cluster-node-timeout", "2000"),
                ("cluster-port", &bus),
                ("repl-diskless-sync-delay", "0"),
            ];
            nodes.push(Redis::start_with(&settings).await);
        }
        let mut command = command_as("nobody", "redis-cli");
        command.current_dir("/").arg("--cluster").arg("create");
        for node in &nodes {
            command.arg(format!("127.0.0.1:{}", node.port));
        }
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        folder::run(&mut command);
        let cluster = Self { nodes };
        cluster.whole().await;
        cluster
    }

    pub fn node(&mut self, port: u16) -> &mut Redis {
        let mut nodes = self.nodes.iter_mut();
        nodes.find(|node| node.port == port).unwrap()
    }

    /// Every node knows of three masters, each with a replica that has all it has.
    pub async fn whole(&self) {
        wait_until(SOON, "a whole cluster", async || {
            for node in &self.nodes {
                let Some(seen) = look(node.port).await else {
                    return false;
                };
                let masters: Vec<_> = seen.iter().filter(|node| !node.slots.is_empty()).collect();
                let followed = |id: &str| seen.iter().any(|node| node.master == id && node.connected);
                let healthy = seen.iter().all(|node| !node.flags.contains("fail"));
                if masters.len() != 3 || !healthy || !masters.iter().all(|node| followed(&node.id)) {
                    return false;
                }
            }
            self.replicas_in_step().await
        })
        .await;
    }

    async fn replicas_in_step(&self) -> bool {
        for node in &self.nodes {
            let Ok(info) = ask::<String>(node.port, &["INFO", "replication"]).await else {
                return false;
            };
            let is_master = info.contains("role:master");
            if is_master && !info.contains("state=online") || !is_master && !info.contains("link_status:up") {
                return false;
            }
        }
        true
    }

    pub async fn slot_of(&self, key: &str) -> u16 {
        let port = self.nodes[0].port;
        ask(port, &["CLUSTER", "KEYSLOT", key]).await.unwrap()
    }

    /// The port of the master of a slot, on which all that answer agree.
    pub async fn owner(&self, slot: u16) -> Option<u16> {
        let mut owners = Vec::new();
        for node in &self.nodes {
            let Some(seen) = look(node.port).await else {
                continue;
            };
            owners.push(seen.iter().find(|node| node.has(slot))?.port);
        }
        owners.dedup();
        (owners.len() == 1).then(|| owners[0])
    }

    /// The port of a replica of the slot's master.
    pub async fn replica(&self, slot: u16) -> u16 {
        let seen = look(self.nodes[0].port).await.unwrap();
        let master = &seen.iter().find(|node| node.has(slot)).unwrap().id;
        seen.iter().find(|node| &node.master == master).unwrap().port
    }

    /// Moves a slot to another master, as a resharding does; `half_way` runs when one of its keys has moved.
    pub async fn move_slot(&self, slot: u16, half_way: impl Future<Output = ()>) {
        let from = wait_for(SOON, "an owner", async || self.owner(slot).await).await;
        let seen = look(from).await.unwrap();
        let source = seen.iter().find(|node| node.port == from).unwrap();
        let mut masters = seen.iter().filter(|node| !node.slots.is_empty());
        let target = masters.find(|node| node.port != from).unwrap();
        let text = slot.to_string();
        let set = async |port: u16, state: &str, id: &str| {
            let () = ask(port, &["CLUSTER", "SETSLOT", &text, state, id])
                .await
                .unwrap();
        };
        set(target.port, "IMPORTING", &source.id).await;
        set(from, "MIGRATING", &target.id).await;
        migrate(from, target.port, &text, "1").await;
        half_way.await;
        while migrate(from, target.port, &text, "100").await > 0 {}
        set(target.port, "NODE", &target.id).await;
        set(from, "NODE", &target.id).await;
        let port = target.port;
        wait_until(SOON, "another owner", async || {
            self.owner(slot).await == Some(port)
        })
        .await;
    }
}

/// Moves up to `most` keys of a slot, and says how many.
async fn migrate(from: u16, to: u16, slot: &str, most: &str) -> usize {
    let keys: Vec<String> = ask(from, &["CLUSTER", "GETKEYSINSLOT", slot, most])
        .await
        .unwrap();
    if !keys.is_empty() {
        let to = to.to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &to, "", "0", "10000", "REPLACE", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        let _: Value = ask(from, &words).await.unwrap();
    }
    keys.len()
}

impl Seen {
    fn has(&self, slot: u16) -> bool {
        self.slots
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&slot))
    }

    /// A line of CLUSTER NODES (Redis manual).
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let port = fields[1].split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let range = |text: &&str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some(Self {
            id: fields[0].into(),
            port,
            flags: fields[2].into(),
            master: fields[3].into(),
            connected: fields[7] == "connected",
            slots: fields[8..].iter().filter_map(range).collect(),
        })
    }
}

async fn look(port: u16) -> Option<Vec<Seen>> {
    let nodes: String = ask(port, &["CLUSTER", "NODES"]).await.ok()?;
    nodes.lines().map(Seen::read).collect()
}
