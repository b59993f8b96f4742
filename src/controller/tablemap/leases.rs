//! Leases of workers: each is looked at once for all its maps, and they are told when it changes whether somebody works.

use crate::{
    api::TableMap,
    controller::{Error, within},
    lease, worker,
};
use futures::{SinkExt, channel::mpsc};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A Lease that expires makes no event: it is looked at.
const AGAIN: Duration = Duration::from_secs(2);

/// Namespace and name.
type Name = (String, String);

/// See the module.
pub struct Leases {
    client: Client,
    known: Mutex<HashMap<Name, Lease>>,
}

impl Leases {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, Lease>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Lease of a worker. One that seems to have expired is read again: a worker that was late may have renewed it.
    pub async fn of(&self, namespace: &str, worker: &str) -> Result<Option<Lease>, Error> {
        let name = (namespace.to_owned(), worker.to_owned());
        let known = self.known().get(&name).cloned();
        match known.filter(lease::is_current) {
            Some(lease) => Ok(Some(lease)),
            None => self.read(&name).await,
        }
    }

    async fn read(&self, name: &Name) -> Result<Option<Lease>, Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &name.0);
        let lease = within(api.get_opt(&name.1)).await?;
        let mut known = self.known();
        match &lease {
            Some(lease) => drop(known.insert(name.clone(), lease.clone())),
            None => drop(known.remove(name)),
        }
        Ok(lease)
    }

    /// Looks at them until nobody wants to be told any more.
    pub async fn follow(&self, maps: Store<TableMap>, mut tell: mpsc::Sender<ObjectRef<TableMap>>) {
        let mut working: HashMap<Name, bool> = HashMap::new();
        loop {
            tokio::time::sleep(AGAIN).await;
            let maps = maps.state();
            let names: BTreeSet<Name> = maps.iter().map(|map| worker_of(map)).collect();
            self.known().retain(|name, _| names.contains(name));
            working.retain(|name, _| names.contains(name));
            let mut changed = BTreeSet::new();
            for name in &names {
                // What cannot be asked is not known to have changed.
                let Ok(lease) = self.read(name).await else {
                    continue;
                };
                let works = lease.as_ref().is_some_and(lease::is_current);
                let before = working.insert(name.clone(), works);
                if before.is_some_and(|worked| worked != works) {
                    changed.insert(name.clone());
                }
            }
            for map in maps.iter().filter(|map| changed.contains(&worker_of(map))) {
                if tell.send(ObjectRef::from_obj(&**map)).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn worker_of(map: &TableMap) -> Name {
    let spec = &map.spec;
    let name = worker::name(&spec.source.connection_ref.name, &spec.worker_group);
    (map.namespace().unwrap_or_default(), name)
}
