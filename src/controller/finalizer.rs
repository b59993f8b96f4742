//! Finalizers of ours, put on and taken off.

use super::{Error, within};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

fn has(object: &impl Resource, finalizer: &str) -> bool {
    object.finalizers().iter().any(|name| name == finalizer)
}

/// # Errors
/// The API server refuses, or the object is another since it was read.
pub async fn add<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    if has(object, finalizer) {
        return Ok(());
    }
    let ours = [finalizer.to_owned()];
    patch(api, object, object.finalizers().iter().chain(&ours).collect()).await
}

/// # Errors
/// As [`add`].
pub async fn remove<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    if !has(object, finalizer) {
        return Ok(());
    }
    let others = object.finalizers().iter().filter(|name| *name != finalizer);
    patch(api, object, others.collect()).await
}

/// With the resourceVersion that was read, so that no other finalizer is lost.
async fn patch<K>(api: &Api<K>, object: &K, finalizers: Vec<&String>) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let patch = json!({"metadata": {
        "finalizers": finalizers, "resourceVersion": object.resource_version(),
    }});
    let (name, params, patch) = (object.name_any(), PatchParams::default(), Patch::Merge(&patch));
    match within(api.patch(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        // Gone already.
        Err(Error::Api(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
