//! Waits until something is so, and tells what it waits for.

use super::{
    Ended,
    cluster::{Cluster, within},
    print::out,
};
use crate::api::{TableMap, TableMapOperation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use std::time::{Duration, Instant};

const AGAIN: Duration = Duration::from_millis(300);
/// What takes less is not worth a word.
const QUIET: Duration = Duration::from_secs(2);

/// Tells why it is not so yet: each reason once, and none in the first moments. Waits that share one share its time.
pub struct Teller {
    begun: Instant,
    timeout: Duration,
    told: String,
}

impl Teller {
    pub fn new(timeout: Duration) -> Self {
        Self {
            begun: Instant::now(),
            timeout,
            told: String::new(),
        }
    }

    /// Waits a moment.
    ///
    /// # Errors
    /// The time is over; `what` begins the message.
    async fn wait(&mut self, what: &str, why: &str) -> Result<(), Ended> {
        let waited = self.begun.elapsed();
        if waited >= self.timeout {
            return Err(Ended::TimedOut(format!(
                "{what} after {} s: {why}",
                self.timeout.as_secs()
            )));
        }
        if waited >= QUIET && why != self.told {
            eprintln!("{why}");
            why.clone_into(&mut self.told);
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }
}

/// Waits for a condition of maps, which speaks of the generation that each map has now.
///
/// # Errors
/// It is not so in time; the message tells why.
pub async fn maps(
    cluster: &Cluster,
    maps: &[TableMap],
    condition: &str,
    teller: &mut Teller,
) -> Result<(), Ended> {
    for map in maps {
        let (namespace, name) = (map.namespace().unwrap_or_default(), map.name_any());
        let api = cluster.maps(&namespace);
        loop {
            let why = match within(api.get(&name)).await {
                Ok(now) => {
                    let conditions = now.status.map(|status| status.conditions).unwrap_or_default();
                    let speaks = |said: &Condition| said.observed_generation >= map.metadata.generation;
                    let mut found = conditions.iter().filter(|said| said.type_ == condition);
                    match found.find(|said| speaks(said)) {
                        Some(said) if said.status == "True" => break,
                        Some(said) => format!("{name}: {}: {}", said.reason, said.message),
                        None => format!("{name}: no worker has answered yet"),
                    }
                }
                // The API server may be away for a moment.
                Err(ended) => ended.to_string(),
            };
            teller.wait(&format!("{name} is not {condition}"), &why).await?;
        }
        out(format_args!("tablemap.tablemap.dev/{name} {condition}"));
    }
    Ok(())
}

/// Waits until an operation's status tells what is asked for.
///
/// # Errors
/// It does not in time; the message tells why.
pub async fn operation(
    cluster: &Cluster,
    operation: &TableMapOperation,
    teller: &mut Teller,
    is_met: impl Fn(&TableMapOperation) -> bool,
) -> Result<TableMapOperation, Ended> {
    let name = operation.name_any();
    let api = cluster.operations(&operation.namespace().unwrap_or_default());
    loop {
        let why = match within(api.get(&name)).await {
            Ok(now) if is_met(&now) => return Ok(now),
            Ok(now) => now.status.and_then(|status| status.message),
            // The API server may be away for a moment.
            Err(ended) => Some(ended.to_string()),
        };
        let why = why.unwrap_or_else(|| "no worker has answered yet".into());
        teller
            .wait(&format!("operation {name} has not ended"), &why)
            .await?;
    }
}
