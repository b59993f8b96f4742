//! Postgres as a source: logical replication through the `pgoutput` plugin (`PostgreSQL` manual, "Logical Streaming
//! Replication Protocol").

mod admin;
mod assembler;
mod catalog;
mod chunk;
mod error;
mod flow;
mod frame;
mod join;
pub mod pgoutput;
mod publication;
mod reader;
mod session;
mod stream;
mod timeline;

pub use admin::{Admin, ServerFacts, SlotState, SlotsLeft};
pub use catalog::{TableState, WantedTable};
pub use chunk::Chunk;
pub use error::SourceError;
pub use join::{First, JoinError, Store};
pub use stream::{Identity, Started, Stream};
