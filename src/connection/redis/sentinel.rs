//! Which server sentinels name.

use super::{ASKED, Address, Found, Settings, open::open};
use crate::queue::QueueError;
use futures::future::join_all;
use std::collections::HashMap;
use tokio::time::timeout;

/// What one sentinel says.
struct Named {
    address: Address,
    /// Rises with every failover.
    epoch: u64,
}

/// Asks the sentinels which server is the master now (Redis manual, "SENTINEL MASTER"). The newest failover counts: a
/// sentinel that is cut off from the others has not heard of it. More than half of them must agree for the master to be sure.
pub(super) async fn find_master(
    settings: &Settings,
    name: &str,
    sentinels: &[Address],
) -> Result<Found, QueueError> {
    let answers = join_all(sentinels.iter().map(|sentinel| ask(settings, sentinel, name))).await;
    let named: Vec<Named> = answers.into_iter().flatten().collect();
    let newest = named.iter().max_by_key(|named| named.epoch);
    let Some(newest) = newest else {
        return Err(QueueError::Unavailable(format!(
            "no sentinel names a master {name:?}"
        )));
    };
    let agree = named
        .iter()
        .filter(|named| named.address == newest.address)
        .count();
    Ok(Found {
        is_sure: agree * 2 > sentinels.len(),
        address: newest.address.clone(),
    })
}

/// A sentinel may have another login than the servers: then it is asked without one.
async fn ask(settings: &Settings, sentinel: &Address, name: &str) -> Option<Named> {
    for logs_in in [true, false] {
        match timeout(ASKED, ask_once(settings, sentinel, logs_in, name)).await {
            Ok(Ok(named)) => return named,
            Ok(Err(_)) => {}
            Err(_) => return None,
        }
    }
    None
}

async fn ask_once(
    settings: &Settings,
    sentinel: &Address,
    logs_in: bool,
    name: &str,
) -> Result<Option<Named>, QueueError> {
    let mut connection = open(settings, (&sentinel.0, sentinel.1), logs_in).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("MASTER").arg(name);
    let facts: HashMap<String, String> = ask.query_async(&mut connection).await?;
    let number = |name: &str| facts.get(name)?.parse::<u64>().ok();
    let port = number("port").and_then(|port| u16::try_from(port).ok());
    Ok(facts.get("ip").cloned().zip(port).map(|address| Named {
        address,
        epoch: number("config-epoch").unwrap_or_default(),
    }))
}
