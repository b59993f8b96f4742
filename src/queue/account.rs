//! What is in a map's queue, as Redis counts it.

use super::{QueueError, meta::MetaError};
use crate::record::{Counters, Position};
use std::str::FromStr;

/// The queue's own count. Every script that changes it answers with all of it and a version that only rises, so that
/// of two answers which overtook each other the newer is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub version: u64,
    /// Q: custody reaches up to here.
    pub q: Position,
    /// The last record that was appended.
    pub last: Position,
    /// T: everything at or below it is not in the queue.
    pub t: Position,
    /// The last entry: ids come from this counter, never from LSNs.
    pub seq: u64,
    pub records: u64,
    pub bytes: u64,
    /// The counters of the map at `q`: with what was counted before the queue began, if that is known.
    pub counters: Counters,
    /// What was counted before, and is not in the counters that its entries carry. None: only the destination knows, and
    /// it could not be asked yet (I5).
    pub base: Option<Counters>,
    /// What was counted since the queue began, at the last record that was trimmed.
    pub trimmed: Counters,
    /// Commit time of the oldest record, in microseconds, as far as it is known.
    pub oldest: Option<i64>,
}

/// The fields, in the order in which the scripts answer.
pub const FIELDS: &[&str] = &[
    "v",
    "q",
    "last",
    "t",
    "seq",
    "records",
    "bytes",
    "received",
    "filtered",
    "oldest",
    "unbased",
    "baseReceived",
    "baseFiltered",
    "trimmedReceived",
    "trimmedFiltered",
];

impl Account {
    /// Reads the fields.
    ///
    /// # Errors
    /// One is missing or has another form.
    pub fn read(fields: &[Option<String>]) -> Result<Self, QueueError> {
        let fields = Fields(fields);
        let counters = |received: &'static str, filtered: &'static str| -> Result<Counters, MetaError> {
            Ok(Counters {
                received: fields.optional(received)?.unwrap_or_default(),
                filtered: fields.optional(filtered)?.unwrap_or_default(),
            })
        };
        let base = match fields.text("unbased") {
            Some(_) => None,
            None => Some(counters("baseReceived", "baseFiltered")?),
        };
        let since = Counters {
            received: fields.field("received")?,
            filtered: fields.field("filtered")?,
        };
        Ok(Self {
            version: fields.field("v")?,
            q: fields.field("q")?,
            last: fields.field("last")?,
            t: fields.field("t")?,
            seq: fields.field("seq")?,
            records: fields.field("records")?,
            bytes: fields.field("bytes")?,
            counters: since.after(base.unwrap_or_default()),
            base,
            trimmed: counters("trimmedReceived", "trimmedFiltered")?,
            oldest: fields.text("oldest").and_then(|text| text.parse().ok()),
        })
    }
}

/// What Redis has answered, in the order of `FIELDS`.
struct Fields<'a>(&'a [Option<String>]);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        let index = FIELDS.iter().position(|field| *field == name)?;
        self.0.get(index)?.as_deref()
    }

    fn optional<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, MetaError> {
        let text = self.text(name);
        text.map(|text| text.parse().map_err(|_| MetaError(name)))
            .transpose()
    }

    fn field<T: FromStr>(&self, name: &'static str) -> Result<T, MetaError> {
        self.optional(name)?.ok_or(MetaError(name))
    }
}
