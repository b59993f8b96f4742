//! Making what a worker needs, and removing it.

use super::{
    Pods,
    worker::{self, CONNECTION, GROUP, Groups, Manifest, Worker},
};
use crate::{
    api::Connection,
    controller::{Error, finalizer, within},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::ApiResource,
};

const MANAGER: &str = "tablemap-operator";
/// A Connection with it has workers.
const FINALIZER: &str = "tablemap.dev/workers";

impl Pods {
    /// False: the API server refuses some of it.
    pub(super) async fn apply(&self, worker: &Worker<'_>) -> Result<bool, Error> {
        let name = (worker.namespace.to_owned(), worker.name());
        for manifest in worker.manifests() {
            match self.apply_one(worker.namespace, &manifest).await {
                Ok(()) => {}
                Err(Error::Api(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
                    let kind = manifest.resource.kind;
                    let message = format!("Its {kind} is refused: {}", status.message);
                    tracing::warn!(worker = %name.1, %message, "a worker cannot be made");
                    self.refused().insert(name, message);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.refused().remove(&name);
        Ok(true)
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

    /// Whether a Connection that is to go has been kept for long enough.
    pub(super) fn is_over(&self, connection: &Connection) -> bool {
        let since = connection.metadata.deletion_timestamp.as_ref();
        since.is_some_and(|since| {
            jiff::Timestamp::now().duration_since(since.0).unsigned_abs() >= self.clean_up
        })
    }

    /// Keeps a Connection as long as it has workers.
    pub(super) async fn guard(&self, connection: &Connection, namespace: &str) -> Result<(), Error> {
        if connection.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        finalizer::add(&self.connections(namespace), connection, FINALIZER).await
    }

    pub(super) async fn let_go(&self, connection: &Connection, namespace: &str) -> Result<(), Error> {
        finalizer::remove(&self.connections(namespace), connection, FINALIZER).await
    }

    fn connections(&self, namespace: &str) -> Api<Connection> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Removes the workers of a source that no map asks for: the account last, since it tells of the others.
    pub(super) async fn remove(
        &self,
        connection: &Connection,
        namespace: &str,
        wanted: &Groups,
    ) -> Result<(), Error> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let source = connection.name_any();
        let of_source = ListParams::default().labels(&format!("{CONNECTION}={source}"));
        for account in within(accounts.list(&of_source)).await? {
            let name = account.name_any();
            let Some(group) = account.labels().get(GROUP) else {
                continue;
            };
            let owners = account.owner_references();
            let is_owned = owners
                .iter()
                .any(|owner| Some(&owner.uid) == connection.meta().uid.as_ref());
            // Whoever may label an object must not have another's removed.
            let is_ours = is_owned && name == crate::worker::name(&source, group);
            if !is_ours || wanted.contains_key(group) {
                continue;
            }
            for resource in worker::kinds().iter().rev() {
                let api = self.objects(namespace, resource);
                match within(api.delete(&name, &DeleteParams::background())).await {
                    Ok(_) => {}
                    Err(Error::Api(kube::Error::Api(status))) if status.code == 404 => {}
                    Err(error) => return Err(error),
                }
            }
            tracing::info!(worker = %name, "no map asks for this worker any more");
            self.refused().remove(&(namespace.to_owned(), name));
        }
        Ok(())
    }
}
