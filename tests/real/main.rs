//! The promises, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod siblings;
