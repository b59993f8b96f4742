//! The promises, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod fencing;
mod kills;
mod siblings;
