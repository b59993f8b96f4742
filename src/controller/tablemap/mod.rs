//! `TableMaps`: finalizer, worker, and the operator's part of the status.

mod deletion;
#[cfg(test)]
mod fixture;
mod leases;
mod summary;

pub use leases::Leases;

use super::{Context, Error, Workers, embedded::Key, finalizer as object, pods::Why, within};
use crate::{
    api::{
        TableMap,
        reasons::{FINALIZER, LEFT_BEHIND},
    },
    lease, metrics,
    worker::{self, ResolveError, Resolver},
};
use deletion::{Finalizer, finalizer};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
    },
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use summary::{Found, Worker};

const MANAGER: &str = "tablemap-operator";
/// What a map refers to makes no event here: it is looked at, and soon if something is wrong.
const AGAIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

/// Looks at one map.
pub async fn reconcile(map: Arc<TableMap>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = map.namespace().ok_or(Error::NoNamespace)?;
    let api: Api<TableMap> = Api::namespaced(context.client.clone(), &namespace);
    // The worker makes nothing outside Kubernetes before this is there.
    if map.metadata.deletion_timestamp.is_none() {
        object::add(&api, &map, FINALIZER).await?;
    }
    if let Workers::Embedded(workers) = &context.workers {
        workers.ensure(Key {
            namespace: namespace.clone(),
            connection: map.spec.source.connection_ref.name.clone(),
            group: map.spec.worker_group.clone(),
        });
    }
    let found = dereference(&map, &context, &namespace).await?;
    match finalizer(&map, &found, context.clean_up, jiff::Timestamp::now()) {
        Finalizer::Stays => {
            apply(&api, &map, &found, &context.leases).await?;
            return Ok(Action::requeue(if found.is_well() { AGAIN } else { SOON }));
        }
        Finalizer::Goes => {}
        Finalizer::GivesUp(why) => abandon(&map, &context, &why).await,
    }
    release(&api, &map).await?;
    Ok(Action::await_change())
}

/// Nothing of it is left to look after.
async fn release(api: &Api<TableMap>, map: &TableMap) -> Result<(), Error> {
    metrics::forget_sum(&map.namespace().unwrap_or_default(), &map.name_any());
    object::remove(api, map, FINALIZER).await
}

/// Says that a map goes of which nobody knows any more where its parts are; a lost event does not hold it up.
async fn abandon(map: &TableMap, context: &Context, why: &str) {
    let reporter = Reporter {
        controller: MANAGER.into(),
        instance: Some(context.identity.clone()),
    };
    let uid = map.queue_id();
    let event = Event {
        type_: EventType::Warning,
        reason: LEFT_BEHIND.into(),
        note: Some(format!(
            "Left behind, since what the map refers to cannot be used ({why}): the row of {uid} in tablemap.progress at the \
             destination, its keys in Redis, and its part of slot and publication at the source."
        )),
        action: "CleanUp".into(),
        secondary: None,
    };
    let recorder = Recorder::new(context.client.clone(), reporter);
    if let Err(error) = within(recorder.publish(&event, &map.object_ref(&()))).await {
        tracing::warn!(map = %map.name_any(), %error, "what a deletion left behind could not be told");
    }
}

/// What the map refers to, and its worker.
async fn dereference(map: &TableMap, context: &Context, namespace: &str) -> Result<Found, Error> {
    let resolver = Resolver::new(context.cluster.clone(), namespace, context.default_queue.clone());
    let spec = resolver.plan(map).await.map(|_| ());
    let source = source(&resolver, &map.spec.source.connection_ref.name).await;
    let name = worker::name(&map.spec.source.connection_ref.name, &map.spec.worker_group);
    let lease = context.leases.of(namespace, &name).await?;
    let lease = lease.filter(lease::has_begun);
    let works = lease.as_ref().is_some_and(lease::is_current);
    let why = hinders(context, namespace, &name, works).await?;
    // A Lease may be gone, and made anew: what a worker has said of the map is not known to be true any more.
    let has_worked = lease.is_some() || map.status.as_ref().is_some_and(|said| said.phase.is_some());
    let worker = match (works, has_worked) {
        (true, _) => Worker::Holds { name, why },
        (false, true) => Worker::Expired { name, why },
        (false, false) => Worker::None { why },
    };
    Ok(Found {
        spec: spec.and(source),
        worker,
    })
}

/// What a worker needs to reach the source; what it needs for a map is of the map's plan.
async fn source(resolver: &Resolver, name: &str) -> Result<(), ResolveError> {
    let connection = resolver.connection(name).await?;
    resolver.postgres(&connection).await.map(|_| ())
}

/// Why its pod does not run, or what of a worker that works was refused.
async fn hinders(
    context: &Context,
    namespace: &str,
    worker: &str,
    works: bool,
) -> Result<Option<Why>, Error> {
    match &context.workers {
        Workers::Pods(pods) if works => Ok(pods.refusal(namespace, worker)),
        Workers::Pods(pods) => pods.why(namespace, worker).await,
        Workers::Embedded(_) | Workers::Elsewhere => Ok(None),
    }
}

/// The operator's part in one apply; and, while the worker is gone, the worker's part as Unknown.
async fn apply(api: &Api<TableMap>, map: &TableMap, found: &Found, leases: &Leases) -> Result<(), Error> {
    let status = summary::status(map, found, jiff::Timestamp::now());
    let reason = |type_: &str| summary::reason(&status, type_);
    metrics::summed_up(
        &map.namespace().unwrap_or_default(),
        &map.name_any(),
        reason("Stalled"),
        reason("WorkerAvailable").is_some(),
    );
    if summary::says(map, &status) {
        return Ok(());
    }
    let force = matches!(found.worker, Worker::Expired { .. });
    if let Worker::Expired { name, .. } = &found.worker {
        let namespace = map.namespace().unwrap_or_default();
        // A worker that is back writes its statuses once: nothing older may be put over them.
        if leases
            .now(&namespace, name)
            .await?
            .as_ref()
            .is_some_and(lease::is_current)
        {
            return Ok(());
        }
    }
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMap",
        "metadata": {"name": map.name_any(), "uid": map.uid()},
        "status": status,
    });
    let mut params = PatchParams::apply(MANAGER);
    params.force = force;
    let (name, patch) = (map.name_any(), Patch::Apply(&patch));
    match within(api.patch_status(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        // The worker is back and holds its fields again: the next look says so.
        Err(Error::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tries again soon.
pub fn error_policy(map: Arc<TableMap>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(map = %map.name_any(), %error, "reconciling failed");
    Action::requeue(Duration::from_secs(2))
}
