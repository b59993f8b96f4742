//! Leases of workers: each is looked at once for all its maps, and they are told when it changes whether somebody works.

use crate::{
    api::TableMap,
    apiserver::{Answer, Answers},
    controller::{DEADLINE, Error},
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
    time::Duration,
};

/// A Lease that expires makes no event: it is looked at.
const AGAIN: Duration = Duration::from_secs(2);
/// One that has expired, or is not there, is not read more often.
const MOMENT: Duration = Duration::from_millis(500);

/// Namespace and name.
type Name = (String, String);

/// See the module.
pub struct Leases {
    client: Client,
    known: Answers<Name, Option<Lease>>,
}

impl Leases {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Answers::default(),
        }
    }

    /// The Lease of a worker. One that seems to have expired is read again: a worker that was late may have renewed it.
    pub async fn of(&self, namespace: &str, worker: &str) -> Result<Option<Lease>, Error> {
        let serves = |known: &Answer<Option<Lease>>| {
            known.said.as_ref().is_some_and(lease::is_current) || known.at.elapsed() < MOMENT
        };
        self.get(&(namespace.to_owned(), worker.to_owned()), serves).await
    }

    /// The Lease as it is now.
    pub async fn now(&self, namespace: &str, worker: &str) -> Result<Option<Lease>, Error> {
        self.get(&(namespace.to_owned(), worker.to_owned()), |_| false)
            .await
    }

    async fn get(
        &self,
        name: &Name,
        serves: impl Fn(&Answer<Option<Lease>>) -> bool,
    ) -> Result<Option<Lease>, Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &name.0);
        Ok(self
            .known
            .get(name, DEADLINE, serves, api.get_opt(&name.1))
            .await?)
    }

    /// Looks at them until nobody wants to be told any more.
    pub async fn follow(&self, maps: Store<TableMap>, mut tell: mpsc::Sender<ObjectRef<TableMap>>) {
        let mut working: HashMap<Name, bool> = HashMap::new();
        loop {
            tokio::time::sleep(AGAIN).await;
            let maps = maps.state();
            let names: BTreeSet<Name> = maps.iter().map(|map| worker_of(map)).collect();
            self.known.retain(|name, _| names.contains(name));
            working.retain(|name, _| names.contains(name));
            let mut changed = BTreeSet::new();
            for name in &names {
                // What cannot be asked is not known to have changed.
                let Ok(lease) = self.get(name, |_| false).await else {
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
