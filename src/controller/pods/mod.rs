//! Workers as pods: for each source Connection and worker group a Deployment of one replica, with just the rights that it
//! needs. Each look dereferences, builds, applies and removes what nobody asks for any more.

mod apply;
mod explain;
mod rights;
mod worker;

pub use explain::Why;
pub use worker::Settings;

use super::{
    DEADLINE, Error,
    changes::changes,
    references::{named, naming},
    scoped, tell_of, unlisted,
};
use crate::{
    api::{Connection, TableMap},
    apiserver::{Answer, Answers},
    worker::Ceilings,
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use worker::{Groups, WORKER, Worker};

/// What was changed by hand without an event is put right then.
const AGAIN: Duration = Duration::from_secs(60);
/// What was refused may be mended by then.
const REFUSED: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(2);
/// What is known of a worker's pods serves all its maps for so long.
const MOMENT: Duration = Duration::from_secs(2);

/// Namespace and name of a worker.
type Name = (String, String);

/// See the module.
pub struct Pods {
    client: Client,
    settings: Settings,
    ceilings: Ceilings,
    default_queue: Option<String>,
    /// A Connection that is to go is kept for its maps so long.
    clean_up: Duration,
    /// Workers of which the API server refuses an object.
    refused: Mutex<HashMap<Name, String>>,
    /// Why workers do not work.
    looks: Answers<Name, Option<Why>>,
}

impl Pods {
    #[must_use]
    pub fn new(client: Client, settings: Settings, options: &super::Options) -> Self {
        Self {
            client,
            settings,
            ceilings: options.ceilings.clone(),
            default_queue: options.default_queue.clone(),
            clean_up: options.pace.clean_up,
            refused: Mutex::default(),
            looks: Answers::default(),
        }
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<Name, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of a worker the API server refuses.
    pub fn refusal(&self, namespace: &str, worker: &str) -> Option<Why> {
        let name = (namespace.to_owned(), worker.to_owned());
        let refused = self.refused();
        let message = refused.get(&name)?;
        Some(Why::new("WorkerRefused", message))
    }

    /// Why a worker does not work, as far as that is known.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn why(&self, namespace: &str, worker: &str) -> Result<Option<Why>, Error> {
        let name = (namespace.to_owned(), worker.to_owned());
        if let Some(refused) = self.refusal(namespace, worker) {
            return Ok(Some(refused));
        }
        let serves = |look: &Answer<Option<Why>>| look.at.elapsed() < MOMENT;
        let look = async {
            self.looks.retain(|_, look| look.is_some_and(serves));
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let of_worker = ListParams::default().labels(&format!("{WORKER}={worker}"));
            let pods = pods.list(&of_worker).await?;
            let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
            let deployment = deployments.get_opt(worker).await?;
            Ok(explain::why(deployment.as_ref(), &pods.items))
        };
        Ok(self.looks.get(&name, DEADLINE, serves, look).await?)
    }

    /// Runs until `shutdown`. `namespace`: none is all.
    pub async fn run(self: Arc<Self>, namespace: Option<&str>, shutdown: CancellationToken) {
        let (maps, writer) = reflector::store();
        let watched = watcher(
            scoped::<TableMap>(&self.client, namespace),
            watcher::Config::default(),
        );
        // Only what tells who needs a worker.
        let watched = watched.modify(|map| {
            map.status = None;
            map.managed_fields_mut().clear();
        });
        let map_changes = changes(reflector::reflector(writer, watched.default_backoff()));
        let (connections, writer) = reflector::store();
        let watched = watcher(
            scoped::<Connection>(&self.client, namespace),
            watcher::Config::default(),
        );
        let connection_changes = changes(reflector::reflector(writer, watched.default_backoff()));
        let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=tablemap-operator");
        let sources = {
            let (maps, default_queue) = (maps.clone(), self.default_queue.clone());
            move |connection: Connection| {
                let itself = ObjectRef::from_obj(&connection);
                let sources = sources_of(&maps, default_queue.as_deref(), &connection);
                sources.into_iter().chain([itself])
            }
        };
        let all_maps = maps.clone();
        let listed = async move { all_maps.wait_until_ready().await.is_ok() };
        let context = Arc::new(Context {
            pods: self.clone(),
            listed: listed.boxed().shared(),
            maps,
            connections: connections.clone(),
        });
        let unlisted = unlisted(connections.clone(), shutdown.clone());
        // It waits itself until the Connections are listed.
        Controller::for_stream(stream::empty(), connections)
            .owns(scoped::<Deployment>(&self.client, namespace), ours)
            .watches_stream(map_changes, |map: TableMap| source_of(&map))
            .watches_stream(connection_changes, sources)
            .graceful_shutdown_on(shutdown.cancelled_owned())
            .run(reconcile, error_policy, context)
            .take_until(unlisted)
            .for_each(|result| tell_of("workers", &result))
            .await;
    }
}

struct Context {
    pods: Arc<Pods>,
    /// Without their statuses.
    maps: Store<TableMap>,
    /// All maps were listed. A store itself wakes only one of those that wait for it.
    listed: Shared<BoxFuture<'static, bool>>,
    connections: Store<Connection>,
}

fn reference(namespace: &str, name: &str) -> ObjectRef<Connection> {
    ObjectRef::new(name).within(namespace)
}

fn source_of(map: &TableMap) -> Option<ObjectRef<Connection>> {
    Some(reference(&map.namespace()?, &map.spec.source.connection_ref.name))
}

/// The sources of those maps that name a Connection.
fn sources_of(
    maps: &Store<TableMap>,
    default_queue: Option<&str>,
    connection: &Connection,
) -> Vec<ObjectRef<Connection>> {
    let maps = naming(maps, default_queue, connection).into_iter();
    let mut sources: Vec<_> = maps.filter_map(|map| source_of(&map)).collect();
    sources.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    sources.dedup();
    sources
}

impl Context {
    /// The workers that a source needs.
    fn groups(&self, namespace: &str, source: &str) -> Groups {
        let mut groups = Groups::new();
        for map in self.maps.state() {
            let is_its = map.spec.source.connection_ref.name == source;
            if is_its && map.namespace().as_deref() == Some(namespace) {
                let names = named(&map, self.pods.default_queue.as_deref()).map(str::to_owned);
                groups
                    .entry(map.spec.worker_group.clone())
                    .or_default()
                    .extend(names);
            }
        }
        groups
    }

    fn connection(&self, namespace: &str, name: &str) -> Option<Arc<Connection>> {
        self.connections.get(&reference(namespace, name))
    }
}

async fn reconcile(connection: Arc<Connection>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = connection.namespace().ok_or(Error::NoNamespace)?;
    // What was not listed yet is not gone.
    let listed = tokio::time::timeout(DEADLINE, context.listed.clone()).await;
    if !listed.unwrap_or_default() {
        return Err(Error::Timeout);
    }
    let mut groups = context.groups(&namespace, &connection.name_any());
    let workers = groups.len();
    tracing::debug!(connection = %connection.name_any(), workers, "looking at the workers of a source");
    // Whoever is to clean up after the maps needs what it reads from; but not for ever.
    if context.pods.is_over(&connection) {
        groups.clear();
    }
    if !groups.is_empty() {
        context.pods.guard(&connection, &namespace).await?;
    }
    let mut refused = false;
    for (group, names) in &groups {
        let named: Vec<Arc<Connection>> = names
            .iter()
            .filter_map(|name| context.connection(&namespace, name))
            .collect();
        let connections: Vec<&Connection> = named.iter().map(AsRef::as_ref).collect();
        let worker = Worker {
            connection: &connection,
            namespace: &namespace,
            group,
            limits: context.pods.ceilings.of(&namespace),
            connections: &connections,
            settings: &context.pods.settings,
        };
        refused |= !context.pods.apply(&worker).await?;
    }
    context.pods.remove(&connection, &namespace, &groups).await?;
    if groups.is_empty() {
        context.pods.let_go(&connection, &namespace).await?;
    }
    let waits = refused || connection.metadata.deletion_timestamp.is_some();
    Ok(Action::requeue(if waits { REFUSED } else { AGAIN }))
}

fn error_policy(connection: Arc<Connection>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(connection = %connection.name_any(), %error, "the workers of a source were not made");
    Action::requeue(SOON)
}
