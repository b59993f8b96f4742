//! Says how far an operation is: all of its status in one apply.

use super::{Command, Failure, Said, Stand, Work};
use crate::{
    api::TableMapOperation,
    apiserver, clock,
    lease::{Held, until_held},
    worker::engine::Event,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);

/// What must survive from one write to the next: since when each condition is as it is.
type Since = HashMap<(Arc<str>, &'static str), (&'static str, String)>;

/// Writes until the engine is gone, or the Lease was given up. An end is written until it is seen written: a worker that
/// has carried something out and could not say so would do it again.
pub async fn write(
    client: Client,
    mut said: mpsc::UnboundedReceiver<Said>,
    events: mpsc::UnboundedSender<Event>,
    mut lease: watch::Receiver<Held>,
) {
    let mut since = Since::new();
    while let Some(said) = said.recv().await {
        let status = status(&said, &mut since);
        loop {
            // Else another worker may carry it out, and what that says is true.
            if !until_held(&mut lease).await {
                return;
            }
            let Err(error) = apply(&client, &said.command, &status).await else {
                break;
            };
            if matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409)) {
                break;
            }
            tracing::warn!(operation = said.command.name, %error, "an operation's status was not written");
            tokio::time::sleep(RETRY).await;
        }
        if said.stand.is_end() {
            let _ = events.send(Event::EndSaid(said.command));
        }
    }
}

fn status(said: &Said, since: &mut Since) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (reason, message) = (reason(&said.stand), said.stand.message());
    let holds = |type_| said.stand.phase() == type_;
    let conditions: Vec<Value> = ["Complete", "Failed", "Waiting"]
        .into_iter()
        .map(|type_| {
            let status = if holds(type_) { "True" } else { "False" };
            let known = since
                .entry((said.command.id.clone(), type_))
                .or_insert_with(|| (status, now.clone()));
            if known.0 != status {
                *known = (status, now.clone());
            }
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "observedGeneration": said.command.generation, "lastTransitionTime": known.1,
            })
        })
        .collect();
    let mut status = json!({
        "observedGeneration": said.command.generation, "phase": said.stand.phase(), "message": message,
        "conditions": conditions,
    });
    if let Some(by) = &said.command.requested_by {
        status["requestedBy"] = json!(by);
    }
    if let Some(work) = &said.work {
        tell(&mut status, work, &now);
    }
    if said.stand.is_end() {
        status["completionTime"] = json!(now);
        since.retain(|(id, _), _| *id != said.command.id);
    }
    status
}

fn tell(status: &mut Value, work: &Work, now: &str) {
    let counts = work.counts;
    status["counts"] = json!({
        "selected": counts.selected, "completed": counts.completed, "failed": counts.failed,
        "superseded": counts.superseded, "remaining": counts.remaining, "time": now,
    });
    status["startTime"] = json!(clock::text(work.started));
    if let Some(id) = &work.last_error {
        status["cutoff"] = json!({"errorId": id});
    }
    if !work.failures.is_empty() {
        status["failures"] = work.failures.iter().map(failure).collect();
    }
}

fn failure(failure: &Failure) -> Value {
    let mut value = json!({
        "id": failure.id, "class": failure.class.as_str(), "code": failure.code, "attempts": failure.attempts,
    });
    if let Some(object) = &failure.object {
        value["object"] = json!(object);
    }
    value
}

fn reason(stand: &Stand) -> &'static str {
    match stand {
        Stand::Waiting { reason, .. } | Stand::Complete { reason, .. } | Stand::Failed { reason, .. } => {
            reason
        }
        Stand::Running { .. } => "InProgress",
    }
}

async fn apply(client: &Client, command: &Command, status: &Value) -> Result<(), kube::Error> {
    let api: Api<TableMapOperation> = Api::namespaced(client.clone(), &command.namespace);
    let patch = json!({
        "apiVersion": "tablemap.dev/v1alpha1", "kind": "TableMapOperation",
        "metadata": {"name": command.name, "uid": &*command.id}, "status": status,
    });
    let params = PatchParams::apply("tablemap-worker").force();
    let patch = Patch::Apply(&patch);
    let write = api.patch_status(&command.name, &params, &patch);
    apiserver::within(DEADLINE, write).await.map(|_| ())
}
