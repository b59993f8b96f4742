//! Watches the maps of this worker: pausing needs no operator.

use super::{
    engine::Event,
    map::MapId,
    resolve::{ResolveError, Resolver},
    wish::Wish,
};
use crate::{
    api::{DeletionPolicy, TableMap, TableMapStatus},
    clock,
    gate::Phase,
};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Objects whose references could not be read are looked at again.
const RETRY: Duration = Duration::from_secs(2);

/// Turns what happens to the worker's objects into plans.
pub struct Watch {
    client: Client,
    namespace: String,
    connection: String,
    group: String,
    resolver: Resolver,
    /// Names of the Connections in use.
    names: watch::Sender<BTreeSet<String>>,
    events: mpsc::UnboundedSender<Event>,
    /// Objects that could not be resolved yet.
    waiting: HashMap<String, TableMap>,
    known: HashMap<String, Known>,
    /// What a list that is under way has named so far.
    listed: Option<HashSet<String>>,
}

/// What was told of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    map: MapId,
    generation: Option<i64>,
    wish: Wish,
    deletion: Option<DeletionPolicy>,
}

impl Known {
    /// Status writes change the object too: only what a plan is made of counts.
    fn of(object: &TableMap) -> Self {
        let deleted = object.metadata.deletion_timestamp.is_some();
        Self {
            map: object.queue_id().into(),
            generation: object.metadata.generation,
            wish: Wish::of(object),
            deletion: deleted.then_some(object.spec.deletion_policy),
        }
    }
}

impl Watch {
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        connection: &str,
        group: &str,
        resolver: Resolver,
        names: watch::Sender<BTreeSet<String>>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            connection: connection.into(),
            group: group.into(),
            resolver,
            names,
            events,
            waiting: HashMap::new(),
            known: HashMap::new(),
            listed: None,
        }
    }

    /// Watches until the stream ends, which it does not by itself; cancels `listed` once all maps are known.
    pub async fn run(mut self, listed: CancellationToken) {
        let selector = format!(
            "spec.source.connectionRef.name={},spec.workerGroup={}",
            self.connection, self.group
        );
        let api: Api<TableMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let config = watcher::Config::default().fields(&selector);
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut retry = tokio::time::interval(RETRY);
        loop {
            tokio::select! {
                event = stream.try_next() => match event {
                    Ok(Some(event)) => {
                        let is_whole = matches!(event, watcher::Event::InitDone);
                        self.take(event).await;
                        if is_whole {
                            listed.cancel();
                        }
                    }
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "watching the maps failed; trying again"),
                },
                _ = retry.tick() => self.try_again().await,
            }
        }
    }

    async fn take(&mut self, event: watcher::Event<TableMap>) {
        match event {
            watcher::Event::Apply(object) => self.plan(object).await,
            watcher::Event::Delete(object) => self.remove(&object.uid().unwrap_or_default()),
            watcher::Event::Init => self.listed = Some(HashSet::new()),
            watcher::Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(object.uid().unwrap_or_default());
                }
                self.plan(object).await;
            }
            watcher::Event::InitDone => self.listed(),
        }
    }

    /// A list is complete. What it does not name went while nobody watched.
    fn listed(&mut self) {
        let listed = self.listed.take().unwrap_or_default();
        let known = self.known.keys().chain(self.waiting.keys());
        let gone: HashSet<String> = known.filter(|uid| !listed.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
        let _ = self.events.send(Event::Listed);
    }

    fn remove(&mut self, uid: &str) {
        let waiting = self.waiting.remove(uid).map(|object| object.queue_id().into());
        if waiting.is_some() {
            let _ = self.events.send(Event::UnreadGone(uid.to_owned()));
        }
        let gone = self.known.remove(uid).map(|known| known.map).or(waiting);
        // An object that was refused another's queue goes without it.
        if let Some(map) = gone.filter(|map| self.known.values().all(|known| known.map != *map)) {
            let _ = self.events.send(Event::Removed(map));
        }
    }

    async fn plan(&mut self, object: TableMap) {
        let uid = object.uid().unwrap_or_default();
        let now = Known::of(&object);
        let before = self.known.get(&uid);
        if before == Some(&now) {
            if is_unknown(&object) {
                let _ = self.events.send(Event::SaidUnknown(now.map));
            }
            return;
        }
        // A pause does not wait for what the object refers to. Its end does: the queue is written as the spec says now.
        let is_pause = now.wish.wants(clock::now());
        if is_pause && before.is_some_and(|before| before.wish != now.wish) {
            self.wish(&now);
        }
        // Nothing is made outside Kubernetes before the finalizer is there to have it removed.
        let guarded = object
            .finalizers()
            .iter()
            .any(|name| name == crate::api::reasons::FINALIZER);
        if !guarded {
            return;
        }
        let served = |(other, known): (&String, &Known)| *other != uid && known.map == now.map;
        let planned = if self.known.iter().any(served) {
            Err(ResolveError::QueueInUse("that has it already".into()))
        } else {
            Box::pin(self.resolver.plan(&object)).await
        };
        match planned {
            Ok(plan) => {
                self.waiting.remove(&uid);
                self.known.insert(uid, now);
                self.names.send_modify(|names| {
                    names.extend([plan.destination.clone(), plan.queue_connection.clone()]);
                });
                let _ = self.events.send(Event::Planned(Box::new(plan)));
            }
            Err(error) => {
                tracing::warn!(map = %object.name_any(), %error, "the map's references cannot be read; trying again");
                // Of a queue that may be another's nothing is wished; and what could only not be read now will be.
                let is_ours = self.known.contains_key(&uid) || !object.adopts();
                let is_certain = !matches!(error, ResolveError::Api(_));
                if is_ours && (is_certain || is_pause || now.deletion.is_some()) {
                    self.wish(&now);
                }
                // One that has still to adopt its queue has nothing at the source.
                let has_joined = object.status.as_ref().is_some_and(has_joined);
                let may_have = has_joined || !object.adopts() || !is_certain;
                // What is said of a queue that is another's would be said of the other.
                let is_its_own = has_joined && !matches!(error, ResolveError::QueueInUse(_));
                if may_have && !self.known.contains_key(&uid) {
                    let table = &object.spec.source.table;
                    let _ = self.events.send(Event::Unread {
                        uid: uid.clone(),
                        table: (table.schema.clone(), table.name.clone()),
                        map: now.map.clone(),
                        facts: is_its_own.then(|| Box::new(self.resolver.unread(&object, &error))),
                    });
                } else {
                    let _ = self.events.send(Event::UnreadGone(uid.clone()));
                }
                self.waiting.insert(uid, object);
            }
        }
    }

    fn wish(&self, now: &Known) {
        let _ = self.events.send(Event::Wished {
            map: now.map.clone(),
            generation: now.generation.unwrap_or_default(),
            wish: now.wish,
            deletion: now.deletion,
        });
    }

    async fn try_again(&mut self) {
        let waiting: Vec<TableMap> = self.waiting.drain().map(|(_, object)| object).collect();
        for object in waiting {
            self.plan(object).await;
        }
    }
}

fn is_unknown(object: &TableMap) -> bool {
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some(Phase::Unknown.as_str())
}

/// The status says that the map has a position.
fn has_joined(status: &TableMapStatus) -> bool {
    let position = status.position.as_ref();
    position.is_some_and(|position| position.durable.is_some())
}
