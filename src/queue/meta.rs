//! The position of a map's queue: all that a worker needs to go on after a restart.

use super::{
    QueueError,
    account::{Account, FIELDS},
};
use crate::record::{Era, Origin, Parks, Position, Skip};
use std::collections::HashMap;

/// The queue's own account, written in the same script as what it accounts for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub epoch: i64,
    /// False until the map's table has joined the publication.
    pub joined: bool,
    pub era: Era,
    /// `pg_class.oid` of the source table that the map has joined.
    pub table: Option<u32>,
    /// The databases between which the map was made to write (rule 16).
    pub source: Origin,
    pub destination: Origin,
    /// The tables and the key that it was made for: no other map may adopt it.
    pub serves: Option<String>,
    pub account: Account,
    /// The token at which the destination is fenced.
    pub fenced: Option<i64>,
    /// The source table has left the publication, and the gap was not accepted since.
    pub unpublished: bool,
    /// How the map's rules stand, as its worker writes it.
    pub rules: Option<String>,
    /// Records ever parked.
    pub parks: u64,
    pub superseded: u64,
    /// Key changes of which only the new row is still wanted.
    pub moved: u64,
    /// Those that a retry has settled.
    pub settled: u64,
    /// Those that a person has given up.
    pub discarded: u64,
    /// Those whose time was over.
    pub purged: u64,
    /// The last one that was parked.
    pub last_park: Option<Position>,
    /// What is queued up to some position is not to be written, or some of it: one for each operation.
    pub skips: Vec<Skip>,
    /// The operation that is accepting a gap, and the one that did so last.
    pub accepting: Option<String>,
    pub accepted: Option<String>,
}

/// Where a map begins that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    pub first: Position,
    pub era: Era,
    /// `pg_class.oid` of its source table.
    pub table: u32,
    pub source: Origin,
    pub destination: Origin,
    /// Names both tables and the key.
    pub serves: String,
}

impl Meta {
    /// Parked records that were given up or purged.
    #[must_use]
    pub const fn gone(&self) -> u64 {
        self.discarded + self.purged
    }

    /// How many records the destination has parked, replaced or settled of which that is not known here (rule 3): at least
    /// one, if its last one is not.
    #[must_use]
    pub fn missing_parks(&self, known: &Parks) -> u64 {
        let missing = known.parked.saturating_sub(self.parks);
        let marks = [
            known.superseded.saturating_sub(self.superseded),
            known.moved.saturating_sub(self.moved),
            known.settled.saturating_sub(self.settled),
            known.gone.saturating_sub(self.gone()),
        ];
        let last = u64::from(known.last > self.last_park);
        marks.into_iter().fold(missing.max(last), u64::max)
    }
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
            table: optional(fields, "table")?,
            source: field(fields, "source")?,
            destination: field(fields, "destination")?,
            serves: optional(fields, "serves")?,
            account: Account::read(&account)?,
            fenced: optional(fields, "fenced")?,
            unpublished: fields.contains_key("unpublished"),
            rules: optional(fields, "rules")?,
            parks: field(fields, "parks")?,
            superseded: field(fields, "superseded")?,
            moved: optional(fields, "moved")?.unwrap_or_default(),
            settled: optional(fields, "settled")?.unwrap_or_default(),
            discarded: optional(fields, "discarded")?.unwrap_or_default(),
            purged: optional(fields, "purged")?.unwrap_or_default(),
            last_park: optional(fields, "lastPark")?,
            skips: skips(fields)?,
            accepting: optional(fields, "accepting")?,
            accepted: optional(fields, "accepted")?,
        })
    }
}

fn field<T: std::str::FromStr>(fields: &HashMap<String, String>, name: &'static str) -> Result<T, MetaError> {
    optional(fields, name)?.ok_or(MetaError(name))
}

fn skips(fields: &HashMap<String, String>) -> Result<Vec<Skip>, MetaError> {
    let texts = fields.iter().filter(|(name, _)| name.starts_with("skip:"));
    texts
        .map(|(_, text)| text.parse().map_err(|_| MetaError("skip")))
        .collect()
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
