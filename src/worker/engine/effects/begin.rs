//! Beginning a queue, and what one still holds.

use crate::{
    destination::postgres::{LaneError, Progress},
    queue::{Account, Counts, Queue, QueueError},
    record::{Counters, Position},
    worker::map::Counting,
};
use std::time::Duration;

/// Beginning a queue, while the map's changes are held in memory.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);
/// What a queue still holds.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    pub account: Account,
    /// Records of the first entry that the destination has.
    pub partial: u64,
}

/// Trims what the destination has, counts the records that it has of the first entry that stays (rule 1), and finds out what
/// was counted before the queue began, if that can be known now (I5).
pub async fn settle(queue: &Queue, known: &Progress) -> Result<Settled, QueueError> {
    let has = known.position;
    let mut seq = 0;
    let (mut partial, mut counted) = (0, None);
    while let Some(entry) = queue.read(seq, 1).await?.into_iter().next() {
        if entry.header.first > has {
            break;
        }
        if entry.header.last > has {
            let records = crate::queue::decode(entry.bytes).map_err(QueueError::from)?;
            let had = records.iter().take_while(|record| record.change.position <= has);
            for record in had {
                partial += 1;
                counted = Some(record.counters);
            }
            break;
        }
        seq = entry.seq;
        let carried = entry.header.meta.counters;
        queue.trim(seq, entry.header.last, None, Some(carried)).await?;
    }
    let meta = queue.meta().await?.ok_or(QueueError::MetaMissing)?;
    let account = meta.account;
    let account = match base(&account, counted, known) {
        Some(base) => queue.set_base(account.t, base).await?,
        None => account,
    };
    Ok(Settled { account, partial })
}

/// What was counted before the queue began, if it was not known and can be: what the destination has counted, less what the
/// queue has counted of that. What the destination has beyond the queue must come again first; and one that lacks what was
/// trimmed is an older copy, and says nothing.
fn base(account: &Account, counted: Option<Counters>, known: &Progress) -> Option<Counters> {
    let is_within = known.position >= account.t && known.position <= account.q;
    let since = counted.unwrap_or(account.trimmed);
    (account.base.is_none() && is_within).then(|| known.counters.beyond(since))
}

/// A map that was taken out of its lane.
#[derive(Debug)]
pub struct Closed {
    /// The fence, if one was wanted and held.
    pub fenced: Option<Progress>,
    /// Why it did not hold.
    pub failure: Option<LaneError>,
    /// What the queue holds now, and how many records of it the destination has; or why it could not begin.
    pub begun: Result<Begun, QueueError>,
    /// How often the map had fallen back when the step began, and from where it counted.
    pub falls: u64,
    pub counting: Counting,
}

/// How a queue has begun, or goes on.
#[derive(Debug)]
pub struct Begun {
    pub account: Account,
    /// Records of the first entry that the destination has.
    pub partial: u64,
    pub counts: Counts,
}

/// Trims what the destination has; and when the map leaves its lane, begins the queue at what is flushed, or, with a
/// destination that was never reached, where the source will begin again: what lies before that is in no queue, and the
/// destination must have it (rules 1 and 2).
pub async fn begin(
    queue: &Queue,
    leaves: bool,
    base: Option<&Progress>,
    floor: Option<Position>,
) -> Result<Begun, QueueError> {
    let begun = tokio::time::timeout(BEGIN_DEADLINE, begin_at(queue, leaves, base, floor));
    let late = |_| Err(QueueError::Unavailable("no answer in time".into()));
    begun.await.unwrap_or_else(late)
}

async fn begin_at(
    queue: &Queue,
    leaves: bool,
    base: Option<&Progress>,
    floor: Option<Position>,
) -> Result<Begun, QueueError> {
    let Settled {
        account: known,
        partial,
    } = match base {
        Some(base) => settle(queue, base).await?,
        None => Settled {
            account: queue.meta().await?.ok_or(QueueError::MetaMissing)?.account,
            partial: 0,
        },
    };
    if !leaves || known.records > 0 {
        return Ok(Begun {
            account: known,
            partial,
            counts: Counts::GoOn,
        });
    }
    // T never sinks: it tells of a destination that was put back below it (rule 1).
    let trimmed = |base: &Progress| base.position.max(known.t);
    let (t, q, counts) = match base {
        Some(base) if base.position > known.q => (trimmed(base), base.position, Counts::At(base.counters)),
        Some(base) => (trimmed(base), known.q, Counts::GoOn),
        None => match floor.ok_or(QueueError::NoBeginning)? {
            floor if floor > known.q => (floor, floor, Counts::Unknown),
            _ => (known.t, known.q, Counts::GoOn),
        },
    };
    let account = queue.begin(known.q, t, q, counts).await?;
    Ok(Begun {
        account,
        partial,
        counts,
    })
}
