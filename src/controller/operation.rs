//! `TableMapOperations`: each belongs to its map, is told if there is none, and goes when its time is over. What it asks
//! for the map's worker does.

use super::{Context, Error, within};
use crate::api::{TableMap, TableMapOperation};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::controller::Action,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

const MANAGER: &str = "tablemap-operator";

/// Looks at one operation.
pub async fn reconcile(operation: Arc<TableMapOperation>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = operation.namespace().ok_or(Error::NoNamespace)?;
    let api: Api<TableMapOperation> = Api::namespaced(context.client.clone(), &namespace);
    if operation.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let maps: Api<TableMap> = Api::namespaced(context.client.clone(), &namespace);
    // One that has ended before it was first seen here belongs to its map too.
    match within(maps.get_opt(&operation.spec.table_map_ref.name)).await? {
        Some(map) => adopt(&api, &operation, &map).await?,
        None if operation.is_finished() => {}
        None => fail(&api, &operation).await?,
    }
    if operation.is_finished() {
        return expire(&api, &operation).await;
    }
    Ok(Action::await_change())
}

/// It goes with its map.
async fn adopt(
    api: &Api<TableMapOperation>,
    operation: &TableMapOperation,
    map: &TableMap,
) -> Result<(), Error> {
    let adopted = operation
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == map.uid().as_ref());
    let Some(owner) = map.owner_ref(&()).filter(|_| !adopted) else {
        return Ok(());
    };
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMapOperation",
        "metadata": {"uid": operation.uid(), "ownerReferences": [owner]},
    });
    settle(api.patch(
        &operation.name_any(),
        &PatchParams::apply(MANAGER),
        &Patch::Apply(&patch),
    ))
    .await
}

async fn fail(api: &Api<TableMapOperation>, operation: &TableMapOperation) -> Result<(), Error> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let message = format!(
        "There is no TableMap {} in this namespace: make the operation anew with the right name.",
        operation.spec.table_map_ref.name
    );
    let generation = operation.metadata.generation;
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMapOperation",
        "metadata": {"uid": operation.uid()},
        "status": {
            "observedGeneration": generation, "phase": "Failed", "message": message, "completionTime": now,
            "conditions": [{
                "type": "Failed", "status": "True", "reason": "MapMissing", "message": message,
                "observedGeneration": generation, "lastTransitionTime": now,
            }],
        },
    });
    let params = PatchParams::apply(MANAGER).force();
    settle(api.patch_status(&operation.name_any(), &params, &Patch::Apply(&patch))).await
}

/// Gone meanwhile, or another one of its name: nothing is left to do.
async fn settle<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<(), Error> {
    match within(call).await {
        Ok(_) => Ok(()),
        Err(Error::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn expire(api: &Api<TableMapOperation>, operation: &TableMapOperation) -> Result<Action, Error> {
    let ended = operation
        .status
        .as_ref()
        .and_then(|status| status.completion_time.as_ref());
    let (Some(ttl), Some(Time(ended))) = (operation.spec.ttl_seconds_after_finished, ended) else {
        return Ok(Action::await_change());
    };
    let age = Timestamp::now().duration_since(*ended).as_secs();
    if let Ok(left @ 1..) = u64::try_from(ttl - age) {
        return Ok(Action::requeue(Duration::from_secs(left)));
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: operation.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    settle(api.delete(&operation.name_any(), &params)).await?;
    Ok(Action::await_change())
}

/// Tries again soon.
pub fn error_policy(operation: Arc<TableMapOperation>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(operation = %operation.name_any(), %error, "reconciling failed");
    Action::requeue(Duration::from_secs(2))
}
