//! What is missing, and between which positions.

use crate::{
    destination::postgres::Progress,
    queue::Meta,
    record::{Lsn, Position},
    worker::{
        custody::Gap,
        map::{Blocked, Lost},
    },
};

/// Up to where the destination has everything.
pub(super) fn reached(progress: Option<&Progress>) -> Lsn {
    progress.map_or(Lsn(0), |progress| progress.position.commit)
}

pub fn queue_gone(after: Option<Lsn>) -> Blocked {
    let what = "Its queue in Redis is gone: changes and parked records that only Redis held are lost.";
    Blocked::PositionLost(Lost::new(what, after, None))
}

pub(super) fn progress_gone(meta: &Meta) -> Blocked {
    let what = "Its progress row at the destination is gone: was the destination restored?";
    Blocked::PositionLost(Lost::new(what, Some(Lsn(0)), Some(meta.account.t.commit)))
}

/// Parked records that the destination remembers are not in Redis.
pub fn errors_gone(meta: &Meta, last_park: Option<Position>) -> Blocked {
    let what = "Parked records are missing from Redis: was it restored from an older copy?";
    let lsn = |position: Option<Position>| position.unwrap_or_default().commit;
    Blocked::ErrorsLost(Lost::new(what, Some(lsn(meta.last_park)), Some(lsn(last_park))))
}

/// Changes that neither the source will send again nor anyone holds.
pub fn held_by_nobody(gap: Gap) -> Blocked {
    let (from, to) = (gap.from.commit, gap.to.commit);
    let what = format!("Changes between {from} and {to} of the source's log are held by nobody.");
    Blocked::PositionLost(Lost::new(&what, Some(from), Some(to)))
}
