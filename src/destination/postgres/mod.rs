//! A Postgres destination: everything that happens on one lane's connection, and beside it to fence it.
//!
//! `write` chooses for a batch one of three ways, each slower and surer than the one before (rule 9): `fast`
//! (coalesced, reordered by foreign keys), `ordered` (a source transaction at a time, constraints deferred), `single`
//! (record by record, constraints immediate: only what fails there is parked). Parked records are tried again in the
//! last way (`retry`).

mod asleep;
mod batch;
mod bulk;
mod cascade;
mod control;
mod direct;
mod error;
mod fast;
mod inspect;
mod ordered;
mod parked;
mod progress;
mod retry;
mod session;
mod single;
mod skip;
mod skipped;
mod sql;
mod statement;
mod target;
mod turn;
mod write;

pub use control::{Control, InspectError, Regained};
pub use error::{Aside, LaneError, SchemaProblem, StoreError};
pub use progress::{Progress, Upto};
pub use retry::Tried;
pub use session::Session;
pub use skip::Skips;
pub use skipped::Skipped;
pub use target::{ForeignKey, Item, Shape, Target};
pub use write::{Around, Written, last_of};

use crate::record::{
    Has, KeyHash, Mark, PackId, PackKeys, ParkedKey, ParkedRecord, Position, Retried, Waiting,
};
use futures::future::BoxFuture;
use std::collections::HashSet;

/// Where refused records are parked, durably, before the progress that passes them (rule 3).
pub trait ErrorStore: Send + Sync {
    fn park<'a>(
        &'a self,
        map_id: &'a str,
        records: &'a [ParkedRecord],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The same of records that were refused for one reason at one time, and may lie together: tells in which packs.
    fn pack<'a>(
        &'a self,
        map_id: &'a str,
        records: &'a [ParkedRecord],
    ) -> BoxFuture<'a, Result<Vec<PackKeys>, StoreError>>;

    /// Wakes what sleeps of these keys in a pack; tells what waits of it, also if it was awake. None: the pack is gone.
    fn wake<'a>(
        &'a self,
        map_id: &'a str,
        pack: PackId,
        hashes: &'a HashSet<KeyHash>,
    ) -> BoxFuture<'a, Result<Option<Vec<ParkedKey>>, StoreError>>;

    /// Marks parked records as replaced; a mark holds once the destination is so far. Tells of each whether it is new: a
    /// record may be gone.
    fn mark<'a>(&'a self, map_id: &'a str, marks: &'a [Mark])
    -> BoxFuture<'a, Result<Vec<bool>, StoreError>>;

    /// Marks records as written that an operation has tried again; a mark holds once the destination is so far.
    fn completed<'a>(
        &'a self,
        map_id: &'a str,
        operation: &'a str,
        completed: &'a [Retried],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Drops what is parked or marked beyond `has`, and tells what waits, but for the keys of packs that are `known`.
    fn settle<'a>(
        &'a self,
        map_id: &'a str,
        has: Has,
        known: &'a [PackId],
    ) -> BoxFuture<'a, Result<Waiting, StoreError>>;
}

/// Who else of this worker writes to this destination.
pub trait Parents: Sync {
    /// The map of `table` if its destination position lies below `record` (rule 10).
    fn behind(&self, child: &str, table: (&str, &str), record: Position) -> Option<String>;
}
