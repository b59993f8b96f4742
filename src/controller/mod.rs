//! The operator's controllers: one folder a kind; each reconcile dereferences, validates, builds, applies and writes
//! status, in this order.

mod changes;
mod connection;
mod embedded;
mod finalizer;
mod operation;
mod pods;
mod references;
mod tablemap;

pub use embedded::Embedded;
pub use pods::{Pods, Settings as PodSettings};

use crate::{
    apiserver,
    worker::{self, Cluster},
};
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        Controller, WatchStreamExt, controller, reflector,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    future::{Ready, pending, ready},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Every call to the API server ends within this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What maps refer to is read again after this. That a Connection has changed is told at once; a Secret which is mended is
/// seen this much later.
const SERVES: Duration = Duration::from_secs(5);

/// So many objects of a kind are looked at at a time: thousands that are due together would each ask for the same, and take
/// memory.
const AT_ONCE: u16 = 16;

/// What the controllers share.
pub struct Context {
    pub client: Client,
    /// The same, for what the objects refer to.
    pub cluster: Cluster,
    pub default_queue: Option<String>,
    pub identity: String,
    /// A deletion whose references are gone is given up after this.
    pub clean_up: Duration,
    pub workers: Workers,
    pub leases: tablemap::Leases,
}

/// Where workers run.
#[derive(Clone)]
pub enum Workers {
    /// As tasks of this process.
    Embedded(Arc<Embedded>),
    Pods(Arc<Pods>),
    Elsewhere,
}

/// Where workers are to run.
#[derive(Clone, Debug)]
pub enum Wanted {
    Embedded,
    Pods(PodSettings),
    Elsewhere,
}

/// The operator's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// None is all.
    pub namespaces: Vec<String>,
    pub default_queue: Option<String>,
    pub workers: Wanted,
    pub identity: String,
    pub lease_duration: Duration,
    pub pace: worker::Pace,
    /// What no map may have queued.
    pub ceilings: worker::Ceilings,
}

/// Runs the controllers until `shutdown`: with rights in some namespaces alone each is watched by itself.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let mut places: Vec<Option<&str>> = options.namespaces.iter().map(|name| Some(&**name)).collect();
    if places.is_empty() {
        places.push(None);
    }
    let runs = places
        .into_iter()
        .map(|place| run_in(&client, &options, place, shutdown.clone()));
    futures::future::join_all(runs).await;
}

async fn run_in(client: &Client, options: &Options, namespace: Option<&str>, shutdown: CancellationToken) {
    let workers = match options.workers.clone() {
        Wanted::Embedded => Workers::Embedded(Arc::new(Embedded::new(
            client.clone(),
            options.clone(),
            shutdown.clone(),
        ))),
        Wanted::Pods(settings) => Workers::Pods(Arc::new(Pods::new(client.clone(), settings, options))),
        Wanted::Elsewhere => Workers::Elsewhere,
    };
    let context = Arc::new(Context {
        client: client.clone(),
        cluster: Cluster::new(client.clone(), SERVES),
        default_queue: options.default_queue.clone(),
        identity: options.identity.clone(),
        clean_up: options.pace.clean_up,
        workers: workers.clone(),
        leases: tablemap::Leases::new(client.clone()),
    });
    let maps = scoped::<crate::api::TableMap>(client, namespace);
    let connections = scoped::<crate::api::Connection>(client, namespace);
    let (tell, told) = futures::channel::mpsc::channel(64);
    let tablemaps = looking_after(maps);
    let follow = context.leases.follow(tablemaps.store(), tell);
    let (store, default_queue) = (tablemaps.store(), options.default_queue.clone());
    let cluster = context.cluster.clone();
    let naming = move |connection: crate::api::Connection| {
        cluster.forget(&connection);
        let maps = references::naming(&store, default_queue.as_deref(), &connection).into_iter();
        maps.map(|map| ObjectRef::from_obj(&*map)).collect::<Vec<_>>()
    };
    let changed =
        changes::changes(watcher(connections.clone(), watcher::Config::default()).default_backoff());
    let unlisted_maps = unlisted(tablemaps.store(), shutdown.clone());
    let tablemaps = tablemaps
        .watches_stream(changed, naming)
        .reconcile_on(told)
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(tablemap::reconcile, tablemap::error_policy, context.clone())
        .take_until(unlisted_maps)
        .for_each(|result| tell_of("TableMaps", &result));
    let connections = looking_after(connections);
    let unlisted_connections = unlisted(connections.store(), shutdown.clone());
    let connections = connections
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(connection::reconcile, connection::error_policy, context.clone())
        .take_until(unlisted_connections)
        .for_each(|result| tell_of("Connections", &result));
    let operations = looking_after(scoped::<crate::api::TableMapOperation>(client, namespace));
    let unlisted_operations = unlisted(operations.store(), shutdown.clone());
    let operations = operations
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(operation::reconcile, operation::error_policy, context.clone())
        .take_until(unlisted_operations)
        .for_each(|result| tell_of("TableMapOperations", &result));
    let pods = async {
        if let Workers::Pods(pods) = &workers {
            pods.clone().run(namespace, shutdown.clone()).await;
        }
    };
    let controllers = async { tokio::join!(tablemaps, connections, operations, pods) };
    let followed = async {
        follow.await;
        pending::<()>().await;
    };
    tokio::select! {
        _ = controllers => {}
        () = followed => {}
    }
    if let Workers::Embedded(workers) = workers {
        workers.end().await;
    }
}

/// Keeps of each object all but who wrote which field: nobody here reads it, and it is larger than the rest.
fn looking_after<K>(objects: Api<K>) -> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let watched =
        watcher(objects, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear());
    let changed = reflector::reflector(writer, watched.default_backoff()).applied_objects();
    Controller::for_stream(changed, store).with_config(controller::Config::default().concurrency(AT_ONCE))
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Ends once a controller is to end that has no list of its objects yet: kube's own waits for the list all the same, and
/// while it ends it does not ask for one. Never ends once they are listed: what is being reconciled then comes to its end.
async fn unlisted<K>(store: Store<K>, shutdown: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    // It wakes only one task of those that wait: this has to run in the controller's.
    tokio::select! {
        biased;
        Ok(()) = store.wait_until_ready() => pending::<()>().await,
        () = shutdown.cancelled() => {}
    }
}

/// Tells what no reconcile tells: that a controller cannot watch.
fn tell_of<T, E>(of: &str, result: &Result<T, controller::Error<E, watcher::Error>>) -> Ready<()>
where
    E: std::error::Error + 'static,
{
    if let Err(error @ (controller::Error::QueueError(_) | controller::Error::RunnerError(_))) = result {
        tracing::warn!(controller = of, %error, "a controller's watch failed");
    }
    ready(())
}

/// Why a reconcile has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Timeout,
    #[error("the object has no namespace")]
    NoNamespace,
}

/// A deadline on a call to the API server.
pub(crate) async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    Ok(apiserver::within(DEADLINE, call).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Connection;
    use futures::{poll, stream};
    use kube::runtime::controller::Action;
    use std::pin::pin;

    fn reconcile(_: Arc<Connection>, _: Arc<()>) -> Ready<Result<Action, Error>> {
        ready(Ok(Action::await_change()))
    }

    fn error_policy(_: Arc<Connection>, _: &Error, _: Arc<()>) -> Action {
        Action::await_change()
    }

    #[tokio::test]
    async fn a_controller_ends_without_a_list() {
        let (store, _writer) = reflector::store::<Connection>();
        let shutdown = CancellationToken::new();
        let controller = Controller::for_stream(stream::pending(), store.clone())
            .graceful_shutdown_on(shutdown.clone().cancelled_owned())
            .run(reconcile, error_policy, Arc::new(()))
            .take_until(unlisted(store, shutdown.clone()))
            .for_each(|result| tell_of("Connections", &result));
        let mut controller = pin!(controller);
        assert!(poll!(controller.as_mut()).is_pending());
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), controller).await;
        assert!(ended.is_ok());
    }

    #[tokio::test]
    async fn a_controller_that_has_a_list_is_not_broken_off() {
        let (store, mut writer) = reflector::store::<Connection>();
        let shutdown = CancellationToken::new();
        let mut unlisted = pin!(unlisted(store, shutdown.clone()));
        assert!(poll!(unlisted.as_mut()).is_pending());
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        shutdown.cancel();
        assert!(poll!(unlisted.as_mut()).is_pending());
    }
}
