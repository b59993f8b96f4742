//! Watches the operations of the namespace; which of them are for maps of this worker the engine knows.

use super::{Command, Order};
use crate::{
    api::{Action, TableMapOperation},
    worker::engine::Event,
};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::mpsc;

/// Watches until the engine is gone.
pub async fn watch(client: Client, namespace: String, events: mpsc::UnboundedSender<Event>) {
    let api: Api<TableMapOperation> = Api::namespaced(client, &namespace);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while !events.is_closed() {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                if let Some(command) = command(&object) {
                    let _ = events.send(Event::Commanded(command));
                }
            }
            Ok(Some(watcher::Event::Delete(object))) => {
                let id = object.uid().unwrap_or_default().into();
                let _ = events.send(Event::TakenBack(id));
            }
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching the operations failed; trying again"),
        }
    }
}

/// What an object asks for. None: it has ended, or is of a kind that a newer version knows.
fn command(object: &TableMapOperation) -> Option<Command> {
    if object.is_finished() || object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let order = match object.spec.action {
        Action::AcceptGap => Order::AcceptGap {
            lost_after: object.spec.accept_gap.as_ref()?.lost_after.parse().ok()?,
        },
    };
    Some(Command {
        id: object.uid()?.into(),
        namespace: object.namespace()?,
        name: object.name_any(),
        generation: object.metadata.generation.unwrap_or(0),
        map: object.spec.table_map_ref.name.clone(),
        order,
    })
}
