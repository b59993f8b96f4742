//! TableMap keeps tables in step, and lets you pause without losing a change.
#![forbid(unsafe_code)]

pub mod connection;
pub mod destination;
pub mod failpoint;
pub mod failure;
pub mod gate;
pub mod mapping;
pub mod queue;
pub mod record;
