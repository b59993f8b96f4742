//! Ways into other systems: what a `Connection` object says, with its Secrets read, and how to connect with it.

pub mod postgres;
pub mod redis;
