//! Which maps name which Connections.

use crate::api::{Connection, TableMap};
use kube::{ResourceExt, runtime::reflector::Store};
use std::sync::Arc;

/// The Connections that a map names.
pub fn named<'a>(map: &'a TableMap, default_queue: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let spec = &map.spec;
    let queue = spec
        .queue
        .as_ref()
        .and_then(|queue| queue.connection_ref.as_ref());
    let queue = queue.map(|connection| connection.name.as_str()).or(default_queue);
    [
        &spec.source.connection_ref.name,
        &spec.destination.connection_ref.name,
    ]
    .map(String::as_str)
    .into_iter()
    .chain(queue)
}

/// The maps that name a Connection.
pub fn naming(
    maps: &Store<TableMap>,
    default_queue: Option<&str>,
    connection: &Connection,
) -> Vec<Arc<TableMap>> {
    let (namespace, name) = (connection.namespace(), connection.name_any());
    let here = maps
        .state()
        .into_iter()
        .filter(|map| map.namespace() == namespace);
    here.filter(|map| named(map, default_queue).any(|named| named == name))
        .collect()
}
