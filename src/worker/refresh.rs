//! Reads Connections and their Secrets again, so that what was rotated or corrected is used without a restart.

use super::{
    engine::Event,
    resolve::{Reached, Resolver},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// How often: a handful of reads for each Connection, however many maps use it.
const EVERY: Duration = Duration::from_secs(10);

/// Tells how the Connections that `names` holds are reached now, when that changes, until the engine is gone.
pub async fn run(
    resolver: Resolver,
    names: watch::Receiver<BTreeSet<String>>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut known: BTreeMap<String, Reached> = BTreeMap::new();
    while !events.is_closed() {
        tokio::time::sleep(EVERY).await;
        let wanted = names.borrow().clone();
        for name in wanted {
            // What cannot be read now is in use still; the Connection's own status says what is wrong.
            let Ok(reached) = resolver.reached(&name).await else {
                continue;
            };
            if known.get(&name) != Some(&reached) {
                known.insert(name.clone(), reached.clone());
                let _ = events.send(Event::Reached {
                    connection: name,
                    reached: Box::new(reached),
                });
            }
        }
    }
}
