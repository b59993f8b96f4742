//! Connections: whether what they refer to is there.

use super::{Context, Error, within};
use crate::{api::Connection, worker::Resolver};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Secrets are not watched: they are looked at again.
const AGAIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

/// Looks at one Connection.
pub async fn reconcile(connection: Arc<Connection>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = connection.namespace().ok_or(Error::NoNamespace)?;
    let resolver = Resolver::new(context.cluster.clone(), &namespace, None);
    let found = resolver.usable(&connection).await;
    let (status, reason, message) = match &found {
        Ok(()) => (
            "True",
            "Resolved",
            "The Connection and what it refers to are there.".to_owned(),
        ),
        Err(error) => ("False", "Unresolved", error.to_string()),
    };
    let generation = connection.metadata.generation;
    let known = connection
        .status
        .as_ref()
        .and_then(|status| status.conditions.first());
    let same = known.is_some_and(|known| {
        known.status == status && known.message == message && known.observed_generation == generation
    });
    if !same {
        let since = match known.filter(|known| known.status == status) {
            Some(known) => json!(known.last_transition_time),
            None => json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        };
        let patch = json!({
            "apiVersion": "tablemap.dev/v1alpha1", "kind": "Connection",
            "status": {"observedGeneration": generation, "conditions": [{
                "type": "Ready", "status": status, "reason": reason, "message": message,
                "observedGeneration": generation, "lastTransitionTime": since,
            }]},
        });
        let api: Api<Connection> = Api::namespaced(context.client.clone(), &namespace);
        let name = connection.name_any();
        let params = PatchParams::apply("tablemap-operator");
        let patch = Patch::Apply(&patch);
        within(api.patch_status(&name, &params, &patch)).await?;
    }
    Ok(Action::requeue(if found.is_ok() { AGAIN } else { SOON }))
}

/// Tries again soon.
pub fn error_policy(connection: Arc<Connection>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(connection = %connection.name_any(), %error, "reconciling failed");
    Action::requeue(SOON)
}
