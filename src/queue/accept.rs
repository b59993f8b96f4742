//! Going on without changes that are lost: what the queue holds stays, and custody begins again beyond the gap.

use super::{
    Account, Queue, QueueError,
    scripts::{ACCEPT, ACCEPTED},
};
use crate::record::{Counters, Era, Origin, Position};

/// Since when a record that was set aside is taken for replaced: always, wherever the destination is put back to.
pub(super) const SET_ASIDE: Position = Position::ZERO;

/// How many parked records go on, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub parks: u64,
    pub superseded: u64,
    pub moved: u64,
    pub settled: u64,
}

/// Where a map's queue goes on.
#[derive(Clone, Debug)]
pub struct Accepted<'a> {
    /// Names the operation that accepts.
    pub operation: &'a str,
    pub era: &'a Era,
    /// Custody goes on from here: the source has everything beyond.
    pub from: Position,
    /// `pg_class.oid` of the source table.
    pub table: u32,
    pub source: &'a Origin,
    pub destination: &'a Origin,
    /// As in [`super::Beginning`].
    pub serves: &'a str,
    /// What the destination has counted, for a queue that is gone or empty; None keeps the queue's own count.
    pub counters: Option<Counters>,
    /// The parked records from now on.
    pub left: Left,
    /// So many ids were given to parked records before.
    pub ids: u64,
    /// Records are parked here of which it is not known any more whether they were replaced since: they must never be
    /// retried (I3).
    pub set_aside: bool,
}

impl Queue {
    /// Makes custody go on beyond a gap, and makes what is missing for that.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn accept(&self, accepted: &Accepted<'_>) -> Result<Account, QueueError> {
        let mut accept = self.invoke(&ACCEPT);
        let counters = accepted.counters.unwrap_or_default();
        accept
            .arg(accepted.operation)
            .arg(accepted.era.to_string())
            .arg(accepted.from.to_string())
            .arg(accepted.table)
            .arg(accepted.source.to_string())
            .arg(accepted.destination.to_string())
            .arg(u8::from(accepted.counters.is_some()))
            .arg(counters.received)
            .arg(counters.filtered)
            .arg(accepted.left.parks)
            .arg(accepted.left.superseded)
            .arg(accepted.ids)
            .arg(if accepted.set_aside {
                SET_ASIDE.to_string()
            } else {
                String::new()
            })
            .arg(accepted.serves)
            .arg(accepted.left.moved)
            .arg(accepted.left.settled);
        self.account(&accept).await
    }

    /// The destination goes on beyond the gap too: the operation is done.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn finish_accept(&self) -> Result<(), QueueError> {
        self.run(&self.invoke(&ACCEPTED)).await
    }
}
