//! The worker's part of a map's status: facts in, one server-side apply out.

mod document;
mod facts;
mod statuses;
mod stores;
mod writer;

pub use facts::{CatchUpFacts, Facts, Ledger, PauseFacts, Said};
pub use statuses::Statuses;
pub use writer::{StatusWriter, Update};
