//! What a worker is to do for one map: its object's spec with every reference resolved.

use crate::{
    api::DeletionPolicy,
    connection::{
        postgres,
        redis::{self, RedisConnectError},
    },
    mapping::Mapping,
    queue::Queue,
    record::Lsn,
    rule::Rule,
    worker::{
        limits::Limits,
        status::{Ledger, Memory, PauseFacts},
        wish::Wish,
    },
};
use std::{sync::Arc, time::Duration};

/// One table, by its exact names.
pub type TableName = (String, String);

/// A map's spec, resolved. A changed spec is a new plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names its queue in Redis and its progress at the destination.
    pub id: Arc<str>,
    /// Of its object.
    pub uid: String,
    /// The queue is one that another object had.
    pub adopts: bool,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    /// The pauses that its spec asks for.
    pub wish: Wish,
    /// The generation that asks for them: a later one, if the rest of it cannot be followed.
    pub wished: i64,
    /// Who asked for it, as far as the object says.
    pub state_by: Option<String>,
    pub until_by: Option<String>,
    pub source_table: TableName,
    pub mapping: Arc<Mapping>,
    /// Of what the mapping was compiled from: another stamp is another mapping.
    pub stamp: String,
    /// Names the lane.
    pub destination: String,
    pub destination_settings: postgres::Settings,
    pub destination_table: TableName,
    /// While it is away changes stay at the source.
    pub holds: bool,
    pub queue_connection: String,
    pub queue_settings: redis::Settings,
    pub limits: Limits,
    /// Parked records are kept so long.
    pub retention: Duration,
    /// So many may wait.
    pub most_errors: usize,
    pub cap: Option<u32>,
    pub rules: Vec<Rule>,
    pub deletion: Option<DeletionPolicy>,
    /// The object's status says Paused=True.
    pub shown: bool,
    /// What the object's status said when it was read: repeated until the map is taken over.
    pub said: StatusBefore,
}

/// What stands in a map's status before its worker knows better.
#[derive(Clone, Debug, Default)]
pub struct StatusBefore {
    /// A position: the map has joined.
    pub durable: Option<Lsn>,
    pub ledger: Ledger,
    pub queued: u64,
    pub queue_bytes: u64,
    /// Pauses that rules have begun, and what is known of them, as [`crate::worker::map::Ruling`] recovers it.
    pub pauses: Vec<PauseFacts>,
    pub rules: Option<String>,
    /// Since when things are as they are.
    pub memory: Arc<Memory>,
}

impl Plan {
    /// Connects to the map's queue.
    ///
    /// # Errors
    /// A sentence fit for a condition, without secrets.
    pub async fn connect_queue(&self) -> Result<Queue, RedisConnectError> {
        Queue::connect(&self.queue_settings, &self.namespace, &self.id, &self.name).await
    }

    /// Names the tables and the key of the map: they are what its queue was made for.
    #[must_use]
    pub fn serves(&self) -> String {
        let columns: Vec<&str> = self.mapping.destinations().collect();
        let key: Vec<&str> = self
            .mapping
            .key()
            .iter()
            .filter_map(|at| columns.get(*at).copied())
            .collect();
        format!("{:?} {:?} {key:?}", self.source_table, self.destination_table)
    }

    /// The object's status says that the map has a position.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.said.durable.is_some()
    }
}
