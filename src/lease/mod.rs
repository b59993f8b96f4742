//! Leases. A worker's tells a new worker when to begin, and the operator that nobody works; what keeps two workers apart is
//! the epoch (rule 4), so a worker that cannot renew goes on. The operators' tells which of them leads; one that cannot renew
//! stops.

mod holder;
mod leader;
mod watcher;

pub use holder::{Held, HeldLease, LeaseError, until_held};
pub use leader::{Candidate, LeaderError, lead};
pub use watcher::{Observed, has_begun, is_current};

/// The highest epoch that a worker of this Lease has used.
pub const EPOCH: &str = "tablemap.dev/epoch";
