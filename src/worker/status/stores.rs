//! The error stores of a worker's maps.

use crate::{
    connection::redis::Durability,
    destination::postgres::{ErrorStore, StoreError},
    queue::Queue,
    record::{Has, KeyHash, Mark, PackId, PackKeys, ParkedKey, ParkedRecord, Retried, Waiting},
    worker::map::MapId,
};
use futures::future::BoxFuture;
use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

/// What is known of a map's Redis.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub queue: Option<Queue>,
    pub durability: Option<Durability>,
}

/// Finds a map's error store by its id.
#[derive(Debug, Default)]
pub struct Stores {
    maps: Mutex<HashMap<MapId, Known>>,
}

impl Stores {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<MapId, Known>) -> T) -> T {
        // A panic while holding the lock leaves a plain map behind: it stays usable.
        act(&mut self
            .maps
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub fn add(&self, id: &MapId, queue: Queue) {
        self.with(|maps| maps.entry(id.clone()).or_default().queue = Some(queue));
    }

    pub fn know_durability(&self, id: &MapId, durability: Durability) {
        self.with(|maps| maps.entry(id.clone()).or_default().durability = Some(durability));
    }

    pub fn known(&self, id: &MapId) -> Option<Known> {
        self.with(|maps| maps.get(id).cloned())
    }

    pub fn forget(&self, id: &MapId) {
        self.with(|maps| maps.remove(id));
    }

    fn queue(&self, map_id: &str) -> Result<Queue, StoreError> {
        let found = self.with(|maps| maps.get(map_id).and_then(|known| known.queue.clone()));
        found.ok_or_else(|| StoreError("the map has no error store".into()))
    }
}

impl ErrorStore for Stores {
    fn park<'a>(
        &'a self,
        map_id: &'a str,
        records: &'a [ParkedRecord],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let parked = self.queue(map_id)?.park(records).await;
            parked.map(|_| ()).map_err(|error| StoreError(error.to_string()))
        })
    }

    fn mark<'a>(
        &'a self,
        map_id: &'a str,
        marks: &'a [Mark],
    ) -> BoxFuture<'a, Result<Vec<bool>, StoreError>> {
        Box::pin(async move {
            let marked = self.queue(map_id)?.mark(marks).await;
            marked.map_err(|error| StoreError(error.to_string()))
        })
    }

    fn completed<'a>(
        &'a self,
        map_id: &'a str,
        operation: &'a str,
        completed: &'a [Retried],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let kept = self.queue(map_id)?.keep_retried(operation, completed).await;
            kept.map_err(|error| StoreError(error.to_string()))
        })
    }

    fn pack<'a>(
        &'a self,
        map_id: &'a str,
        records: &'a [ParkedRecord],
    ) -> BoxFuture<'a, Result<Vec<PackKeys>, StoreError>> {
        Box::pin(async move {
            let packed = self.queue(map_id)?.pack(records).await;
            packed.map_err(|error| StoreError(error.to_string()))
        })
    }

    fn wake<'a>(
        &'a self,
        map_id: &'a str,
        pack: PackId,
        hashes: &'a HashSet<KeyHash>,
    ) -> BoxFuture<'a, Result<Option<Vec<ParkedKey>>, StoreError>> {
        Box::pin(async move {
            let woken = self.queue(map_id)?.wake_keys(pack, hashes).await;
            woken.map_err(|error| StoreError(error.to_string()))
        })
    }

    fn settle<'a>(
        &'a self,
        map_id: &'a str,
        has: Has,
        known: &'a [PackId],
    ) -> BoxFuture<'a, Result<Waiting, StoreError>> {
        Box::pin(async move {
            let settled = self.queue(map_id)?.settle_errors(has, known).await;
            settled.map_err(|error| StoreError(error.to_string()))
        })
    }
}
