//! Events, which never hold anything up.

use super::statuses::{About, Notice};
use crate::api::{Connection, TableMap, TableMapOperation};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, Recorder, Reporter},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// Publishes until the engine is gone.
pub async fn publish(client: Client, identity: String, mut notices: mpsc::UnboundedReceiver<Notice>) {
    let reporter = Reporter {
        controller: "tablemap-worker".into(),
        instance: Some(identity),
    };
    let recorder = Recorder::new(client, reporter);
    while let Some(notice) = notices.recv().await {
        let operation = notice.operation.map(|(name, uid)| ObjectReference {
            api_version: Some(TableMapOperation::api_version(&()).into()),
            kind: Some(TableMapOperation::kind(&()).into()),
            namespace: Some(notice.namespace.clone()),
            name: Some(name),
            uid: Some(uid),
            ..ObjectReference::default()
        });
        let event = Event {
            type_: notice.type_,
            reason: notice.reason.into(),
            note: Some(notice.note),
            action: "Replicate".into(),
            secondary: operation,
        };
        let kind = match notice.about {
            About::TableMap => TableMap::kind(&()),
            About::Connection => Connection::kind(&()),
        };
        let about = ObjectReference {
            api_version: Some(TableMap::api_version(&()).into()),
            kind: Some(kind.into()),
            namespace: Some(notice.namespace),
            name: Some(notice.name),
            uid: Some(notice.uid),
            ..ObjectReference::default()
        };
        let published = tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &about)).await;
        if !matches!(published, Ok(Ok(()))) {
            tracing::warn!(reason = notice.reason, "an event was not published");
        }
    }
}
