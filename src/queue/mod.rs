//! The queue of a map in Redis or Valkey: one stream whose entries are batches, its position, and its error store.
//!
//! Every script checks the epoch and all else before its first write: a script that fails half way is not rolled
//! back (rule 8). Durable means that Redis answers after its fsync (`appendfsync always`).

mod accept;
mod account;
mod batch;
mod blob;
mod error;
mod errors;
mod keys;
mod listing;
mod look;
mod meta;
mod name;
mod operation;
mod pack;
mod packs;
mod parked;
mod scripts;
mod store;

pub use accept::{Accepted, Left};
pub use account::Account;
pub use batch::{BatchError, EntryMeta, Header, Packed, decode, encode};
pub use error::QueueError;
pub use errors::{ErrorSummary, RecentError};
pub use keys::Keys;
pub use listing::{Errors, Listed};
pub use look::Sought;
pub use meta::{Beginning, Meta};
pub use name::{QueuedName, queued_name};
pub use operation::Chosen;
pub use pack::Pack;
pub use parked::Purged;
pub use store::{Counts, Entry, Queue};
