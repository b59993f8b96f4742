//! `TableMap` keeps tables in step, and lets you pause without losing a change.
#![forbid(unsafe_code)]

pub mod api;
mod apiserver;
pub mod check;
pub mod cli;
mod clock;
pub mod connection;
pub mod controller;
pub mod destination;
pub mod failpoint;
pub mod failure;
pub mod gate;
pub mod lease;
mod log;
pub mod mapping;
pub mod metrics;
pub mod plugin;
pub mod queue;
mod readiness;
pub mod record;
pub mod records;
pub mod rule;
pub mod serve;
pub mod source;
mod trace;
pub mod worker;
