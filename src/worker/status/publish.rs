//! Warning events, which never hold anything up.

use super::statuses::{About, Warning};
use crate::api::{Connection, TableMap};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// Publishes until the engine is gone.
pub async fn publish(client: Client, identity: String, mut warnings: mpsc::UnboundedReceiver<Warning>) {
    let reporter = Reporter {
        controller: "tablemap-worker".into(),
        instance: Some(identity),
    };
    let recorder = Recorder::new(client, reporter);
    while let Some(warning) = warnings.recv().await {
        let event = Event {
            type_: EventType::Warning,
            reason: warning.reason.into(),
            note: Some(warning.note),
            action: "Replicate".into(),
            secondary: None,
        };
        let kind = match warning.about {
            About::TableMap => TableMap::kind(&()),
            About::Connection => Connection::kind(&()),
        };
        let about = ObjectReference {
            api_version: Some(TableMap::api_version(&()).into()),
            kind: Some(kind.into()),
            namespace: Some(warning.namespace),
            name: Some(warning.name),
            uid: Some(warning.uid),
            ..ObjectReference::default()
        };
        let published = tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &about)).await;
        if !matches!(published, Ok(Ok(()))) {
            tracing::warn!(reason = warning.reason, "an event was not published");
        }
    }
}
