//! Watches the maps of this worker: pausing needs no operator.

use super::{engine::Event, resolve::Resolver};
use crate::api::{State, TableMap};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use std::{collections::HashMap, time::Duration};
use tokio::sync::mpsc;

/// Objects whose references could not be read are looked at again.
const RETRY: Duration = Duration::from_secs(2);

/// Turns what happens to the worker's objects into plans.
pub struct Watch {
    client: Client,
    namespace: String,
    connection: String,
    group: String,
    resolver: Resolver,
    events: mpsc::UnboundedSender<Event>,
    /// Objects that could not be resolved yet.
    waiting: HashMap<String, TableMap>,
    known: HashMap<String, String>,
}

impl Watch {
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        connection: &str,
        group: &str,
        resolver: Resolver,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            connection: connection.into(),
            group: group.into(),
            resolver,
            events,
            waiting: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Watches until the stream ends, which it does not by itself.
    pub async fn run(mut self) {
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
                    Ok(Some(event)) => self.take(event).await,
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "watching the maps failed; trying again"),
                },
                _ = retry.tick() => self.try_again().await,
            }
        }
    }

    async fn take(&mut self, event: watcher::Event<TableMap>) {
        match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => self.plan(object).await,
            watcher::Event::Delete(object) => self.remove(&object),
            watcher::Event::Init => {}
            watcher::Event::InitDone => {
                let _ = self.events.send(Event::Listed);
            }
        }
    }

    fn remove(&mut self, object: &TableMap) {
        let uid = object.uid().unwrap_or_default();
        self.waiting.remove(&uid);
        self.known.remove(&uid);
        let _ = self.events.send(Event::Removed(uid.into()));
    }

    /// Status writes change the object too: only what a plan is made of counts.
    async fn plan(&mut self, object: TableMap) {
        let uid = object.uid().unwrap_or_default();
        let stamp = format!(
            "{:?}/{:?}",
            object.metadata.generation,
            object.metadata.deletion_timestamp.is_some()
        );
        if self.known.get(&uid) == Some(&stamp) {
            return;
        }
        // Nothing is made outside Kubernetes before the finalizer is there to have it removed.
        let guarded = object
            .finalizers()
            .iter()
            .any(|name| name == crate::api::reasons::FINALIZER);
        if !guarded {
            return;
        }
        match self.resolver.plan(&object).await {
            Ok(plan) => {
                self.waiting.remove(&uid);
                self.known.insert(uid, stamp);
                let _ = self.events.send(Event::Planned(Box::new(plan)));
            }
            Err(error) => {
                tracing::warn!(map = %object.name_any(), %error, "the map's references cannot be read; trying again");
                let wanted = object.spec.state == State::Paused;
                let map = uid.clone().into();
                let _ = self.events.send(Event::Wished { map, wanted });
                self.waiting.insert(uid, object);
            }
        }
    }

    async fn try_again(&mut self) {
        let waiting: Vec<TableMap> = self.waiting.drain().map(|(_, object)| object).collect();
        for object in waiting {
            self.plan(object).await;
        }
    }
}
