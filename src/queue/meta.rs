//! The position of a map's queue: all that a worker needs to go on after a restart.

use super::{
    QueueError,
    account::{Account, FIELDS},
};
use crate::record::Era;
use std::collections::HashMap;

/// The queue's own account, written in the same script as what it accounts for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub epoch: i64,
    /// False until the map's table has joined the publication.
    pub joined: bool,
    pub era: Era,
    pub account: Account,
    /// The token at which the destination is fenced.
    pub fenced: Option<i64>,
    /// Records ever parked.
    pub parks: u64,
    pub superseded: u64,
}

/// A field of the meta cannot be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the queue's field `{0}` in Redis cannot be read: did something else write there?")]
pub struct MetaError(pub &'static str);

impl Meta {
    /// Reads the hash.
    ///
    /// # Errors
    /// A field is missing or has another form.
    pub fn read(epoch: i64, fields: &HashMap<String, String>) -> Result<Self, QueueError> {
        let account: Vec<Option<String>> = FIELDS.iter().map(|name| fields.get(*name).cloned()).collect();
        Ok(Self {
            epoch,
            joined: field::<u8>(fields, "joined")? == 1,
            era: field(fields, "era")?,
            account: Account::read(&account)?,
            fenced: optional(fields, "fenced")?,
            parks: field(fields, "parks")?,
            superseded: field(fields, "superseded")?,
        })
    }
}

fn field<T: std::str::FromStr>(fields: &HashMap<String, String>, name: &'static str) -> Result<T, MetaError> {
    optional(fields, name)?.ok_or(MetaError(name))
}

fn optional<T: std::str::FromStr>(
    fields: &HashMap<String, String>,
    name: &'static str,
) -> Result<Option<T>, MetaError> {
    fields
        .get(name)
        .map(|text| text.parse().map_err(|_| MetaError(name)))
        .transpose()
}
