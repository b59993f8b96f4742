//! The worker's part of its source Connection's status: its slots.

use crate::{api::Connection, apiserver, record::Lsn};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(10);

/// One slot of the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    pub name: String,
    /// The map for which a side slot was made.
    pub map: Option<String>,
    pub main: bool,
    pub wal_status: Option<String>,
    pub retained: i64,
    pub safe: Option<i64>,
    pub confirmed: Lsn,
}

/// Whose status it is.
#[derive(Clone, Debug)]
pub struct Of {
    pub namespace: String,
    pub connection: String,
    pub group: String,
    /// The worker's name: of its Lease.
    pub worker: String,
}

/// Writes until the engine is gone: at once when a slot comes, goes or changes its state, figures every `idle`.
pub async fn write_slots(client: Client, of: Of, mut slots: watch::Receiver<Vec<SlotFacts>>, idle: Duration) {
    let mut last: (Vec<SlotFacts>, Option<Instant>) = (Vec::new(), None);
    while slots.changed().await.is_ok() {
        let now = slots.borrow_and_update().clone();
        let early = last.1.is_some_and(|at| at.elapsed() < idle);
        if now == last.0 || (early && shape(&now) == shape(&last.0)) {
            continue;
        }
        match apply(&client, &of, &now).await {
            Ok(()) => last = (now, Some(Instant::now())),
            Err(error) => {
                tracing::warn!(connection = of.connection, %error, "the slots' status was not written; trying again");
            }
        }
    }
}

/// What is said at once when it changes.
fn shape(slots: &[SlotFacts]) -> Vec<(&str, Option<&str>)> {
    slots
        .iter()
        .map(|slot| (slot.name.as_str(), slot.wal_status.as_deref()))
        .collect()
}

async fn apply(client: &Client, of: &Of, slots: &[SlotFacts]) -> Result<(), kube::Error> {
    let api: Api<Connection> = Api::namespaced(client.clone(), &of.namespace);
    let main = slots.iter().find(|slot| slot.main).map(slot);
    let sides: Vec<Value> = slots.iter().filter(|slot| !slot.main).map(slot).collect();
    let mut worker = json!({"workerGroup": of.group, "name": of.worker, "sideSlots": sides});
    if let Some(main) = main {
        worker["slot"] = main;
    }
    let workers = if slots.is_empty() {
        json!([])
    } else {
        json!([worker])
    };
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "Connection", "status": {"workers": workers},
    });
    // One manager for each worker: a Connection has several.
    let params = PatchParams::apply(&format!("tablemap-worker-{}", of.group));
    let patch = Patch::Apply(&patch);
    let write = api.patch_status(&of.connection, &params, &patch);
    apiserver::within(DEADLINE, write).await.map(|_| ())
}

fn slot(facts: &SlotFacts) -> Value {
    let mut slot = json!({
        "name": facts.name, "retainedBytes": facts.retained, "confirmedPosition": facts.confirmed.to_string(),
        "observedTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    if let Some(map) = &facts.map {
        slot["tableMap"] = json!(map);
    }
    if let Some(safe) = facts.safe {
        slot["safeBytes"] = json!(safe);
    }
    if let Some(status) = &facts.wal_status {
        let (first, rest) = status.split_at(status.len().min(1));
        slot["walStatus"] = json!(first.to_uppercase() + rest);
    }
    slot
}
