//! The messages of `pgoutput`, protocol version 1: bytes in, messages out (`PostgreSQL` manual, "Logical Replication
//! Message Formats"). Hostile bytes make errors, never panics, and nothing is allocated on the word of a length.

mod cursor;
mod decode;
#[cfg(test)]
mod tests;

pub use cursor::DecodeError;
pub use decode::decode;

use crate::record::{Lsn, OldRow, Relation, Row};
use bytes::Bytes;

/// From the Unix epoch to 2000-01-01, in microseconds: Postgres counts from there.
pub const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The start of a transaction: those of one stream come in the order of their commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts.
    pub final_lsn: Lsn,
    /// Microseconds since the Unix epoch.
    pub commit_time: i64,
    pub xid: u32,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// Microseconds since the Unix epoch.
    pub commit_time: i64,
}

/// One message. Rows are slices of the bytes that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Begin(Begin),
    Commit(Commit),
    Relation(Relation),
    Insert {
        relation: u32,
        new: Row,
    },
    Update {
        relation: u32,
        old: Option<OldRow>,
        new: Row,
    },
    Delete {
        relation: u32,
        old: OldRow,
    },
    Truncate {
        relations: Vec<u32>,
    },
    Origin {
        lsn: Lsn,
        name: String,
    },
    Type {
        id: u32,
        schema: String,
        name: String,
    },
    /// Made by `pg_logical_emit_message`.
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: String,
        content: Bytes,
    },
}
