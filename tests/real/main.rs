//! The promises, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod accept;
mod adoption;
mod broken;
mod cluster;
mod custody;
mod deletion;
mod demo;
mod durability;
mod encodings;
mod fencing;
mod foreign_keys;
mod judge;
mod kills;
mod leader;
mod limits;
mod names;
mod opposite;
mod outages;
mod packs;
mod paused;
mod phases;
mod plugin;
mod pods;
mod preflight;
mod probes;
mod queue;
mod records;
mod retry;
mod rows;
mod scene;
mod schema;
mod secure;
mod selections;
mod sentinel;
mod servers;
mod siblings;
mod side;
mod sizes;
mod soak;
mod source;
mod traces;
mod types;
mod versions;
