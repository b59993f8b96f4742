//! The worker's Lease. It tells a new worker when to begin, and the operator that nobody works; what keeps two
//! workers apart is the epoch (rule 4), so a worker that cannot renew goes on.

mod holder;
mod watcher;

pub use holder::{Held, LeaseError, WorkerLease};
pub use watcher::{Observed, is_current};

/// The highest epoch that a worker of this Lease has used.
pub const EPOCH: &str = "tablemap.dev/epoch";
