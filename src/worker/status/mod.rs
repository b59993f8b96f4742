//! The worker's part of a map's status: facts in, one server-side apply out.

mod connection;
mod document;
mod facts;
mod publish;
mod starting;
mod statuses;
mod stores;
mod writer;

pub use connection::{Of, SlotFacts, write_slots};
pub use document::Memory;
pub use facts::{CatchUpFacts, Facts, GapFacts, Lag, Ledger, PauseFacts, RuleFacts, Said};
pub use publish::publish;
pub use starting::Starting;
pub use statuses::Statuses;
pub use writer::{StatusWriter, Update};
