//! Workers as pods: for each source Connection and worker group a Deployment of one replica, with just the rights that it
//! needs. Each look dereferences, builds, applies and removes what nobody asks for any more.

mod explain;
mod rights;
mod worker;

pub use explain::Why;
pub use worker::Settings;

use super::{DEADLINE, Error, within};
use crate::{
    api::{Connection, TableMap},
    worker::Ceilings,
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::ApiResource,
    runtime::{
        Controller, Predicate, PredicateConfig, WatchStreamExt,
        controller::Action,
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use worker::{CONNECTION, GROUP, Groups, Manifest, WORKER, Worker};

const MANAGER: &str = "tablemap-operator";
/// What was changed by hand without an event is put right then.
const AGAIN: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(2);
/// What is known of a worker's pods serves all its maps for so long.
const MOMENT: Duration = Duration::from_secs(2);

/// Namespace and name of a worker.
type Name = (String, String);

/// What is known of workers that do not work.
#[derive(Default)]
struct Troubles {
    /// The API server refuses an object of the worker.
    refused: HashMap<Name, String>,
    looked_at: HashMap<Name, (Instant, Option<Why>)>,
}

/// See the module.
pub struct Pods {
    client: Client,
    settings: Settings,
    ceilings: Ceilings,
    default_queue: Option<String>,
    troubles: Mutex<Troubles>,
}

impl Pods {
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        ceilings: Ceilings,
        default_queue: Option<String>,
    ) -> Self {
        Self {
            client,
            settings,
            ceilings,
            default_queue,
            troubles: Mutex::default(),
        }
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a worker does not work, as far as that is known.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn why(&self, namespace: &str, worker: &str) -> Result<Option<Why>, Error> {
        let name = (namespace.to_owned(), worker.to_owned());
        {
            let troubles = self.troubles();
            if let Some(message) = troubles.refused.get(&name) {
                return Ok(Some(Why::new("WorkerRefused", message)));
            }
            if let Some((at, known)) = troubles.looked_at.get(&name)
                && at.elapsed() < MOMENT
            {
                return Ok(known.clone());
            }
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = within(pods.list(&ListParams::default().labels(&format!("{WORKER}={worker}")))).await?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let deployment = within(deployments.get_opt(worker)).await?;
        let found = explain::why(deployment.as_ref(), &pods.items);
        let mut troubles = self.troubles();
        troubles.looked_at.retain(|_, (at, _)| at.elapsed() < MOMENT);
        troubles.looked_at.insert(name, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Runs until `shutdown`. `namespace`: none is all.
    pub async fn run(self: Arc<Self>, namespace: Option<&str>, shutdown: CancellationToken) {
        let (maps, writer) = reflector::store();
        let watched = watcher(
            super::scoped::<TableMap>(&self.client, namespace),
            watcher::Config::default(),
        );
        // Only what tells who needs a worker.
        let watched = watched.modify(|map| {
            map.status = None;
            map.managed_fields_mut().clear();
        });
        let watched = reflector::reflector(writer, watched.default_backoff())
            .touched_objects()
            .predicate_filter(
                // A map that is gone had its finalizers until then.
                predicates::generation.combine(predicates::finalizers),
                PredicateConfig::default(),
            );
        let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=tablemap-operator");
        let connections = super::scoped::<Connection>(&self.client, namespace);
        let controller = Controller::new(connections.clone(), watcher::Config::default());
        let known = controller.store();
        let sources = {
            let maps = maps.clone();
            let default_queue = self.default_queue.clone();
            move |connection: Connection| sources_of(&maps, default_queue.as_deref(), &connection)
        };
        let store = maps.clone();
        let listed = async move { store.wait_until_ready().await.is_ok() };
        let context = Arc::new(Context {
            pods: self.clone(),
            listed: listed.boxed().shared(),
            maps,
            connections: known,
        });
        controller
            .owns(super::scoped::<Deployment>(&self.client, namespace), ours)
            .watches_stream(watched, |map: TableMap| source_of(&map))
            .watches(connections, watcher::Config::default(), sources)
            .graceful_shutdown_on(shutdown.cancelled_owned())
            .run(reconcile, error_policy, context)
            .for_each(|_| async {})
            .await;
    }
}

struct Context {
    pods: Arc<Pods>,
    /// Without their statuses.
    maps: Store<TableMap>,
    /// All maps were listed. The store itself wakes only one of those that wait for it.
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
    let (namespace, name) = (connection.namespace(), connection.name_any());
    let maps = maps.state().into_iter();
    let here = maps.filter(|map| map.namespace() == namespace);
    let mut sources: Vec<_> = here
        .filter(|map| named(map, default_queue).any(|named| named == name))
        .filter_map(|map| source_of(&map))
        .collect();
    sources.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    sources.dedup();
    sources
}

/// The Connections that a map names.
fn named<'a>(map: &'a TableMap, default_queue: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let spec = &map.spec;
    let queue = spec
        .queue
        .as_ref()
        .and_then(|queue| queue.connection_ref.as_ref());
    let queue = queue.map(|connection| connection.name.as_str()).or(default_queue);
    [
        &spec.source.connection_ref.name,
        &spec.destination.connection_ref.name,
    ]
    .map(String::as_str)
    .into_iter()
    .chain(queue)
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
    let groups = context.groups(&namespace, &connection.name_any());
    let workers = groups.len();
    tracing::debug!(connection = %connection.name_any(), workers, "looking at the workers of a source");
    // Whatever it owns goes with it.
    if connection.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
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
        context.pods.apply(&worker).await?;
    }
    context
        .pods
        .remove(&namespace, &connection.name_any(), &groups)
        .await?;
    Ok(Action::requeue(AGAIN))
}

impl Pods {
    async fn apply(&self, worker: &Worker<'_>) -> Result<(), Error> {
        let name = (worker.namespace.to_owned(), worker.name());
        for manifest in worker.manifests() {
            match self.apply_one(worker.namespace, &manifest).await {
                Ok(()) => {}
                Err(Error::Api(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                    let kind = manifest.resource.kind;
                    let message = format!("Its {kind} is refused: {}", status.message);
                    tracing::warn!(worker = %name.1, %message, "a worker cannot be made");
                    self.troubles().refused.insert(name, message);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.troubles().refused.remove(&name);
        Ok(())
    }

    async fn apply_one(&self, namespace: &str, manifest: &Manifest) -> Result<(), Error> {
        let api = self.objects(namespace, &manifest.resource);
        let params = PatchParams::apply(MANAGER).force();
        within(api.patch(&manifest.name, &params, &Patch::Apply(&manifest.value))).await?;
        Ok(())
    }

    fn objects(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// Removes the workers of a source that no map asks for: the Deployment last, since it tells of the others.
    async fn remove(&self, namespace: &str, source: &str, wanted: &Groups) -> Result<(), Error> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let of_source = ListParams::default().labels(&format!("{CONNECTION}={source}"));
        for deployment in within(deployments.list(&of_source)).await? {
            let group: Option<&String> = deployment.labels().get(GROUP);
            if group.is_none_or(|group| wanted.contains_key(group)) {
                continue;
            }
            let name = deployment.name_any();
            for resource in worker::kinds() {
                let api = self.objects(namespace, &resource);
                match within(api.delete(&name, &DeleteParams::background())).await {
                    Ok(_) => {}
                    Err(Error::Api(kube::Error::Api(status))) if status.code == 404 => {}
                    Err(error) => return Err(error),
                }
            }
            tracing::info!(worker = %name, "no map asks for this worker any more");
            self.troubles().refused.remove(&(namespace.to_owned(), name));
        }
        Ok(())
    }
}

fn error_policy(connection: Arc<Connection>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(connection = %connection.name_any(), %error, "the workers of a source were not made");
    Action::requeue(SOON)
}
