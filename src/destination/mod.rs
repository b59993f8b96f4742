//! Where changes go.

pub mod postgres;
