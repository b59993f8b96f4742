//! Which node of a Redis Cluster serves a key.

use super::{ASKED, Address, Found, Settings, open::open};
use crate::queue::QueueError;
use futures::future::join_all;
use redis::{Value, from_redis_value};
use std::collections::HashMap;
use tokio::time::timeout;

/// How one node sees the cluster.
struct View {
    /// Rises with every failover and every slot that changes hands, so that the newest view has the highest.
    epoch: u64,
    owner: Option<Address>,
    masters: Vec<Address>,
}

/// Asks `nodes`, and the masters that they know of, which node serves `key`. The newest view holds: a node that is cut off
/// from the others has an old one, which names itself (Redis cluster specification, "Cluster current epoch").
pub(super) async fn find_owner(
    settings: &Settings,
    key: &str,
    nodes: &[Address],
) -> Result<Found, QueueError> {
    let mut answers = look(settings, key, nodes).await;
    let known = answers.iter().flatten().flat_map(|view| &view.masters);
    let mut others: Vec<Address> = known.filter(|master| !nodes.contains(master)).cloned().collect();
    others.sort();
    others.dedup();
    answers.extend(look(settings, key, &others).await);
    let (views, errors): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    match views.into_iter().flatten().max_by_key(|view| view.epoch) {
        // A node for which the cluster is well sees most of its masters.
        Some(View {
            owner: Some(address), ..
        }) => Ok(Found {
            address,
            is_sure: true,
        }),
        Some(_) => Err(unavailable(
            "no node of the cluster serves the slot of this map's queue",
        )),
        None => Err(errors
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| unavailable("no node of the cluster answers"))),
    }
}

async fn look(settings: &Settings, key: &str, nodes: &[Address]) -> Vec<Result<View, QueueError>> {
    let asked = nodes.iter().map(async |node| {
        let asked = timeout(ASKED, ask_node(settings, node, key));
        let late = |_| Err(unavailable("no node of the cluster answers"));
        asked.await.unwrap_or_else(late)
    });
    join_all(asked).await
}

async fn ask_node(settings: &Settings, node: &Address, key: &str) -> Result<View, QueueError> {
    let mut connection = open(settings, (&node.0, node.1), true).await?;
    // One after the other: of a pipeline that fails it is not told why.
    let mut info = redis::cmd("CLUSTER");
    let info: String = info
        .arg("INFO")
        .query_async(&mut connection)
        .await
        .map_err(refused)?;
    let mut slot = redis::cmd("CLUSTER");
    let slot: u64 = slot.arg("KEYSLOT").arg(key).query_async(&mut connection).await?;
    let mut ranges = redis::cmd("CLUSTER");
    let ranges: Vec<Vec<Value>> = ranges.arg("SLOTS").query_async(&mut connection).await?;
    let facts: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
    if facts.get("cluster_state") != Some(&"ok") {
        return Err(unavailable("the cluster is down: see CLUSTER INFO"));
    }
    let epoch = facts
        .get("cluster_current_epoch")
        .and_then(|epoch| epoch.parse().ok());
    let ranges: Vec<(u64, u64, Address)> = ranges.into_iter().filter_map(|range| read(node, range)).collect();
    Ok(View {
        epoch: epoch.unwrap_or_default(),
        owner: ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot))
            .map(|(.., master)| master.clone()),
        masters: ranges.into_iter().map(|(.., master)| master).collect(),
    })
}

fn refused(error: redis::RedisError) -> QueueError {
    let is_none = error
        .detail()
        .is_some_and(|detail| detail.contains("cluster support disabled"));
    if is_none {
        unavailable("these servers are no Redis Cluster: name one under topology.standalone instead")
    } else {
        QueueError::from(error)
    }
}

/// First and last slot of a range and its master, as `CLUSTER SLOTS` answers. A master without a name is reached where the
/// node that was asked is, and an unknown one is passed over.
fn read(asked: &Address, range: Vec<Value>) -> Option<(u64, u64, Address)> {
    let mut parts = range.into_iter();
    let mut number = || from_redis_value::<u64>(parts.next()?).ok();
    let (first, last) = (number()?, number()?);
    let master: Vec<Value> = from_redis_value(parts.next()?).ok()?;
    let mut parts = master.into_iter();
    let host: Option<String> = from_redis_value(parts.next()?).ok()?;
    let port = from_redis_value(parts.next()?).ok()?;
    match host.as_deref() {
        None => Some((first, last, (asked.0.clone(), port))),
        Some("" | "?") => None,
        Some(host) => Some((first, last, (host.to_owned(), port))),
    }
}

fn unavailable(text: &str) -> QueueError {
    QueueError::Unavailable(text.to_owned())
}
