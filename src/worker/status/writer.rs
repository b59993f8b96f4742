//! Writes statuses: transitions at once, counters seldom (a status write costs the API server about 10 ms).

use super::{Facts, document::Memory};
use crate::{
    api::TableMap,
    apiserver,
    lease::{Held, until_held},
    worker::{engine::Event, map::MapId},
};
use futures::StreamExt;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

const MANAGER: &str = "tablemap-worker";
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

/// One status to be written; a newer one replaces it.
#[derive(Debug)]
pub struct Update {
    pub map: MapId,
    pub facts: Box<Facts>,
    pub version: u64,
    /// Take the fields over from the operator, which forced them while the Lease was expired.
    pub force: bool,
}

/// The task that writes.
pub struct StatusWriter {
    client: Client,
    updates: mpsc::UnboundedReceiver<Update>,
    events: mpsc::UnboundedSender<Event>,
    lease: watch::Receiver<Held>,
    waiting: BTreeMap<MapId, Update>,
    memories: HashMap<MapId, Memory>,
}

impl StatusWriter {
    #[must_use]
    pub fn new(
        client: Client,
        updates: mpsc::UnboundedReceiver<Update>,
        events: mpsc::UnboundedSender<Event>,
        lease: watch::Receiver<Held>,
    ) -> Self {
        Self {
            client,
            updates,
            events,
            lease,
            waiting: BTreeMap::new(),
            memories: HashMap::new(),
        }
    }

    /// Writes until the engine is gone and nothing waits.
    pub async fn run(mut self) {
        while let Some(update) = self.updates.recv().await {
            self.put(update);
            while !self.waiting.is_empty() {
                // Else another worker may have taken the maps over, and what it says is true (I6).
                if !until_held(&mut self.lease).await {
                    return;
                }
                while let Ok(update) = self.updates.try_recv() {
                    self.put(update);
                }
                self.write_all().await;
            }
        }
    }

    fn put(&mut self, mut update: Update) {
        if let Some(known) = self.waiting.get(&update.map) {
            update.force |= known.force;
        }
        self.waiting.insert(update.map.clone(), update);
    }

    /// Several at a time: a burst of transitions must not wait in line.
    async fn write_all(&mut self) {
        let batch: Vec<Update> = std::mem::take(&mut self.waiting).into_values().collect();
        let now = jiff::Timestamp::now();
        let writes = batch.into_iter().map(|update| {
            let status = self
                .memories
                .entry(update.map.clone())
                .or_insert_with(|| Memory::clone(&update.facts.before))
                .status(&update.facts, now);
            let client = self.client.clone();
            async move {
                let result = write(client, &update, status).await;
                (update, result)
            }
        });
        let writes: Vec<_> = writes.collect();
        let mut results = futures::stream::iter(writes);
        let mut failed = false;
        let mut running = results.by_ref().buffer_unordered(16);
        let mut again = Vec::new();
        while let Some((update, result)) = running.next().await {
            match result {
                Ok(()) => {
                    let _ = self.events.send(Event::StatusWritten {
                        map: update.map,
                        version: update.version,
                    });
                }
                Err(error) if is_gone(&error) => {}
                Err(error) if is_another(&error) => {}
                Err(error) => {
                    tracing::warn!(map = %update.facts.name, %error, "the status was not written; trying again");
                    failed = true;
                    again.push((is_conflict(&error), update));
                }
            }
        }
        for (conflict, mut update) in again {
            // The operator has taken our fields while our Lease was expired: they are ours again.
            update.force |= conflict;
            self.waiting.entry(update.map.clone()).or_insert(update);
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An object of the same name that is not the one that was meant.
fn is_another(error: &kube::Error) -> bool {
    is_conflict(error) && error.to_string().contains("UID in precondition")
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

async fn write(client: Client, update: &Update, status: serde_json::Value) -> Result<(), kube::Error> {
    let api: Api<TableMap> = Api::namespaced(client, &update.facts.namespace);
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap",
        "metadata": {"name": update.facts.name, "uid": update.facts.uid},
        "status": status,
    });
    let mut params = PatchParams::apply(MANAGER);
    params.force = update.force;
    let patch = Patch::Apply(&patch);
    let write = api.patch_status(&update.facts.name, &params, &patch);
    apiserver::within(DEADLINE, write).await.map(|_| ())
}
