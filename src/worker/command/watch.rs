//! Watches the operations of the namespace; which of them are for maps of this worker the engine knows.

use super::{Act, Command, OnErrors, OnQueue, Order, QueueSelection, Selection};
use crate::{
    api::{self, Action, Mode, RecordsFrom, TableMapOperation, TableMapOperationSpec},
    record::Fate,
    worker::engine::Event,
};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::mpsc;

/// Watches until the engine is gone.
pub async fn watch(client: Client, namespace: String, events: mpsc::UnboundedSender<Event>) {
    let api: Api<TableMapOperation> = Api::namespaced(client, &namespace);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    // Those of the list that is being read.
    let mut listed = BTreeSet::new();
    while !events.is_closed() {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "watching the operations failed; trying again");
                continue;
            }
        };
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert(id(&object));
                tell(&object, &events);
            }
            watcher::Event::InitDone => drop(events.send(Event::CommandsListed(std::mem::take(&mut listed)))),
            watcher::Event::Apply(object) => tell(&object, &events),
            watcher::Event::Delete(object) => drop(events.send(Event::TakenBack(id(&object)))),
        }
    }
}

fn id(object: &TableMapOperation) -> Arc<str> {
    object.uid().unwrap_or_default().into()
}

fn tell(object: &TableMapOperation, events: &mpsc::UnboundedSender<Event>) {
    if let Some(command) = command(object) {
        let _ = events.send(Event::Commanded(command));
    } else if object.is_finished() {
        let _ = events.send(Event::Finished(id(object)));
    }
}

/// What an object asks for. None: it has ended, or is of a kind that a newer version knows.
fn command(object: &TableMapOperation) -> Option<Command> {
    if object.is_finished() || object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = &object.spec;
    let order = match (spec.action, spec.from, &spec.selection) {
        (Action::AcceptGap, ..) => Order::AcceptGap {
            lost_after: spec.accept_gap.as_ref()?.lost_after.parse().ok()?,
        },
        (Action::Discard, Some(RecordsFrom::Queue), Some(selection)) => {
            on_queue(Fate::Discard, selection, spec)
        }
        (Action::Park, _, Some(selection)) => on_queue(Fate::Park, selection, spec),
        (Action::Retry, _, Some(selection)) => on_errors(Act::Retry, selection, spec),
        (Action::Discard, _, Some(selection)) => on_errors(Act::Discard, selection, spec),
        (Action::Resume, ..) => Order::Resume,
        (Action::Retry | Action::Discard | Action::Park, _, None) => return None,
    };
    let by = object.annotations().get(CREATED_BY).cloned();
    Some(Command {
        id: object.uid()?.into(),
        namespace: object.namespace()?,
        name: object.name_any(),
        generation: object.metadata.generation.unwrap_or(0),
        created: object.creation_timestamp().map_or(0, |time| time.0.as_second()),
        map: object.spec.table_map_ref.name.clone(),
        requested_by: by,
        order,
    })
}

/// Who made an operation: set by whoever makes it, and proved by an admission policy.
const CREATED_BY: &str = "tablemap.dev/created-by";

fn on_errors(act: Act, selection: &api::Selection, spec: &TableMapOperationSpec) -> Order {
    match Selection::of(selection) {
        Ok(selection) => Order::Errors(OnErrors {
            act,
            selection,
            dry_run: spec.mode == Mode::DryRun,
            cap: spec.max_records_per_second,
        }),
        Err(message) => Order::Unfit { message },
    }
}

fn on_queue(fate: Fate, selection: &api::Selection, spec: &TableMapOperationSpec) -> Order {
    match QueueSelection::of(selection) {
        Ok(selection) => Order::Queue(OnQueue {
            fate,
            selection,
            dry_run: spec.mode == Mode::DryRun,
        }),
        Err(message) => Order::Unfit { message },
    }
}
