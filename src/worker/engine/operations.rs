//! What the engine has done beside itself: each an async function that ends as one event.

use super::event::{BootError, CheckFailure};
use crate::{
    connection::redis,
    destination::postgres::{Control, LaneError, Progress, Target},
    queue::{Account, Counts, Meta, Queue, QueueError},
    record::{Counters, Era, Lsn, Parks, Position},
    source::postgres::{Admin, SlotState, SourceError},
    worker::{
        custody::{Gap, Held},
        map::{Blocked, Counting, Lost, Map, MapId},
        plan::Plan,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The fence must hold within this long, or the destination counts as unreachable (rule 5).
const FENCE_DEADLINE: Duration = Duration::from_secs(4);

/// Reading a queue's position: one Redis that does not answer must not hold up the maps of others.
const READ_DEADLINE: Duration = Duration::from_secs(3);
/// Beginning a queue, while the map's changes are held in memory.
const BEGIN_DEADLINE: Duration = Duration::from_secs(5);

/// A map taken over.
#[derive(Debug)]
pub struct Booted {
    pub queue: Queue,
    pub epoch: i64,
    /// None: the map has no position yet.
    pub meta: Option<Meta>,
    pub destination: Result<Option<Target>, CheckFailure>,
    pub partial: u64,
    pub durability: Option<redis::Durability>,
}

/// A queue is adopted only by a map of the same tables and key, and only where both custodians know it, or neither.
async fn may_adopt(
    plan: &Plan,
    queue: &Queue,
    destination_knows: Result<bool, &CheckFailure>,
) -> Result<(), BootError> {
    let refuse = |text: &str| {
        Err(BootError::NotAdopted(format!(
            "queue {} is not adopted: {text}",
            plan.id
        )))
    };
    let Ok(destination_knows) = destination_knows else {
        return refuse("the destination cannot be asked whether it knows it. Trying again.");
    };
    let meta = match queue.meta().await {
        Ok(meta) => meta.filter(|meta| meta.joined),
        Err(QueueError::EpochMissing) => None,
        Err(error) => return Err(error.into()),
    };
    match (meta, destination_knows) {
        (Some(meta), _) if meta.serves != Some(plan.serves()) => {
            let serves = meta.serves.unwrap_or_default();
            refuse(&format!(
                "it was made for {serves}, and this map is of {}. Correct tables and key, or name another queue.",
                plan.serves()
            ))
        }
        (None, true) => refuse(
            "the destination knows it, and Redis has nothing of it in this namespace. Name the Connection to the Redis \
             where it is.",
        ),
        _ => Ok(()),
    }
}

/// The version of a queue's account that has only just joined.
const JOINED: u64 = 1;

/// Takes a map over: its queue first, then its destination, each with a higher epoch than any seen (rule 4).
/// `turn` is waited for before the destination is asked.
pub async fn boot<T>(
    plan: Arc<Plan>,
    lease_epoch: i64,
    turn: impl Future<Output = T>,
) -> Result<Booted, BootError> {
    let mut queue = plan.connect_queue().await?;
    let durability = queue.durability().await.ok();
    let seen = queue.seen_epoch().await?;
    let _turn = turn.await;
    let control = Control::connect(&plan.destination_settings).await;
    let known = match &control {
        Ok(control) => control.peek(&plan.id).await.map_err(CheckFailure::from),
        Err(error) => Err(CheckFailure::Away(error.clone())),
    };
    let progress = known.as_ref().ok().and_then(Option::as_ref);
    if plan.adopts && !plan.joined() {
        may_adopt(&plan, &queue, known.as_ref().map(Option::is_some)).await?;
    }
    let epoch = next_epoch(lease_epoch, seen, progress);
    queue.use_epoch(epoch);
    let joined = plan.joined() || matches!(known, Ok(Some(_)));
    let after = known.as_ref().ok().map(|known| reached(known.as_ref()));
    let Some(_) = seen else {
        return if joined {
            Err(BootError::Lost(queue_gone(after)))
        } else {
            Ok(Booted {
                queue,
                epoch,
                meta: None,
                destination: Ok(None),
                partial: 0,
                durability,
            })
        };
    };
    queue.take_epoch(epoch, seen).await?;
    let meta = queue
        .meta()
        .await?
        .ok_or_else(|| BootError::Lost(queue_gone(after)))?;
    // A join whose end nobody has seen, and after which nothing has come, is done once more.
    let unseen = meta.account.version == JOINED && !plan.joined();
    if !meta.joined || unseen {
        return Ok(Booted {
            queue,
            epoch,
            meta: None,
            destination: Ok(None),
            partial: 0,
            durability,
        });
    }
    if matches!(known, Ok(None)) {
        return Err(BootError::Lost(progress_gone(&meta)));
    }
    let destination = match control {
        Ok(control) => take(&control, &plan, epoch, &queue, &meta).await,
        Err(error) => Err(CheckFailure::Away(error)),
    };
    let partial = match &destination {
        Ok(target) => settle(&queue, &target.progress).await?.partial,
        Err(_) => 0,
    };
    let meta = queue
        .meta()
        .await?
        .ok_or_else(|| BootError::Lost(queue_gone(after)))?;
    Ok(Booted {
        queue,
        epoch,
        meta: Some(meta),
        destination: destination.map(Some),
        partial,
        durability,
    })
}

/// Higher than any that was seen (rule 4).
pub fn next_epoch(lease: i64, queue: Option<i64>, destination: Option<&Progress>) -> i64 {
    let at_destination = destination.map_or(0, |progress| progress.epoch);
    lease.max(queue.unwrap_or(0)).max(at_destination) + 1
}

/// Up to where the destination has everything.
fn reached(progress: Option<&Progress>) -> Lsn {
    progress.map_or(Lsn(0), |progress| progress.position.commit)
}

pub fn queue_gone(after: Option<Lsn>) -> Blocked {
    let what = "Its queue in Redis is gone: changes and parked records that only Redis held are lost.";
    Blocked::PositionLost(Lost::new(what, after, None))
}

fn progress_gone(meta: &Meta) -> Blocked {
    let what = "Its progress row at the destination is gone: was the destination restored?";
    Blocked::PositionLost(Lost::new(what, Some(Lsn(0)), Some(meta.account.t.commit)))
}

/// Parked records that the destination remembers are not in Redis.
pub fn errors_gone(meta: &Meta, last_park: Option<Position>) -> Blocked {
    let what = "Parked records are missing from Redis: was it restored from an older copy?";
    let lsn = |position: Option<Position>| position.unwrap_or_default().commit;
    Blocked::ErrorsLost(Lost::new(what, Some(lsn(meta.last_park)), Some(lsn(last_park))))
}

/// What the check of a destination has found.
#[derive(Debug)]
pub struct Checked {
    pub target: Target,
    pub partial: u64,
    pub meta: Meta,
}

/// Checks the destination's schema, raises the map's token, and compares what its custodians say.
/// `confirmed` is what the source has forgotten: what is missing then is missing for good, and nothing is dropped over it.
pub async fn check(
    plan: Arc<Plan>,
    epoch: i64,
    queue: Queue,
    confirmed: Position,
) -> Result<Checked, CheckFailure> {
    let control = Control::connect(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    let (meta, _) = custodians(&control, &plan, &queue).await?;
    let mut target = take(&control, &plan, epoch, &queue, &meta).await?;
    let has = target.progress.position;
    let held = Held {
        destination: Some(has),
        queue: meta.account.q,
        trimmed: meta.account.t,
    };
    if let Err(gap) = held.check(confirmed) {
        return Err(CheckFailure::Lost(held_by_nobody(gap)));
    }
    // What was parked beyond all that is held comes again, unless the source has forgotten it.
    let unknown = confirmed == Position::ZERO;
    if unknown && queue.has_errors_beyond(held.durable()).await? {
        return Err(CheckFailure::SourceNotSeen);
    }
    let Settled { account, partial } = settle(&queue, &target.progress).await?;
    // What it has beyond the queue comes again first, so that it is known how much of it the queue has counted.
    if account.base.is_none() {
        return Err(CheckFailure::NotCounted(Box::new(target.progress)));
    }
    target.remember(queue.settle_errors(target.progress.has(), &[]).await?);
    let (meta, _) = custodians(&control, &plan, &queue).await?;
    Ok(Checked {
        target,
        partial,
        meta,
    })
}

/// What both custodians hold: neither may be missing.
async fn custodians(control: &Control, plan: &Plan, queue: &Queue) -> Result<(Meta, Progress), CheckFailure> {
    let progress = control.peek(&plan.id).await?;
    let meta = queue.meta().await?;
    let after = Some(reached(progress.as_ref()));
    let meta = meta.ok_or_else(|| CheckFailure::Lost(queue_gone(after)))?;
    let progress = progress.ok_or_else(|| CheckFailure::Lost(progress_gone(&meta)))?;
    Ok((meta, progress))
}

/// Changes that neither the source will send again nor anyone holds.
pub fn held_by_nobody(gap: Gap) -> Blocked {
    let (from, to) = (gap.from.commit, gap.to.commit);
    let what = format!("Changes between {from} and {to} of the source's log are held by nobody.");
    Blocked::PositionLost(Lost::new(&what, Some(from), Some(to)))
}

/// What both custodians hold, after something was missing there.
pub async fn look_at_custodians(
    plan: &Plan,
    mut queue: Queue,
    epoch: i64,
) -> Result<(Meta, Progress), CheckFailure> {
    queue.take_epoch(epoch, None).await?;
    let control = Control::connect(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    custodians(&control, plan, &queue).await
}

/// Whether the destination can be reached and its schema fits; changes nothing there.
pub async fn probe(plan: &Plan) -> Result<(), CheckFailure> {
    let control = Control::look(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    control.inspect(&plan.destination_table, &plan.mapping).await?;
    Ok(())
}

async fn take(
    control: &Control,
    plan: &Plan,
    epoch: i64,
    queue: &Queue,
    meta: &Meta,
) -> Result<Target, CheckFailure> {
    let shape = control.inspect(&plan.destination_table, &plan.mapping).await?;
    if meta.destination != *control.database() {
        queue.rename_destination(control.database()).await?;
    }
    // A worker that stopped in the middle of a write may still hold the row: it is ended (rule 5).
    let progress = fence(plan, epoch).await?;
    if meta.missing_parks(&progress.parks()) > 0 {
        return Err(CheckFailure::Lost(errors_gone(meta, progress.last_park)));
    }
    let mut target = Target::new(
        plan.id.to_string(),
        plan.name.clone(),
        plan.destination_table.clone(),
        meta.source.clone(),
        plan.mapping.clone(),
        shape,
        epoch,
        progress,
    );
    target.most_parked = plan.most_errors;
    Ok(target)
}

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
    pub failure: Option<String>,
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
    let (t, q, counts) = match base {
        Some(base) if base.position > known.q => (base.position, base.position, Counts::At(base.counters)),
        Some(base) => (base.position, known.q, Counts::GoOn),
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

/// Raises the map's token at the destination, ending whoever stands in the way (rule 5).
pub async fn fence(plan: &Plan, epoch: i64) -> Result<Progress, LaneError> {
    let raise = Control::raise(&plan.destination_settings, &plan.id, epoch);
    match tokio::time::timeout(FENCE_DEADLINE, raise).await {
        Ok(raised) => raised,
        Err(_) => Err(LaneError::Lost {
            message: "the destination did not answer in time".into(),
        }),
    }
}

/// What a look at the source has found.
#[derive(Debug)]
pub struct SourceState {
    pub era: Era,
    pub slot: Option<SlotState>,
    /// The same, and the side slots.
    pub slots: Vec<(String, SlotState)>,
    pub queues: Vec<ReadBack>,
}

/// A map's side slots: those of all workers, and this one's.
#[derive(Clone, Debug)]
pub struct SideNames {
    pub prefix: String,
    pub own: String,
}

/// One map's Redis is asked what it holds.
#[derive(Debug)]
pub struct Asked {
    pub map: MapId,
    pub queue: Queue,
    /// What was known by then: Redis must not hold less.
    pub known: Account,
    pub progress: Option<Progress>,
}

impl Asked {
    #[must_use]
    pub fn of(map: &Map) -> Self {
        Self {
            map: map.id.clone(),
            queue: map.queue.clone(),
            known: map.stock.account,
            progress: map.progress.clone(),
        }
    }

    #[must_use]
    pub fn parks(&self) -> Parks {
        self.progress.as_ref().map(Progress::parks).unwrap_or_default()
    }

    /// Reads the queue; of one that does not know what was counted before it, that is found out once it can be (I5).
    async fn read(&self) -> Result<(Option<Meta>, Option<Instant>), QueueError> {
        let found = self.queue.read_back().await?;
        let is_unknown = found.0.as_ref().is_some_and(|meta| meta.account.base.is_none());
        let Some(known) = self.progress.as_ref().filter(|_| is_unknown) else {
            return Ok(found);
        };
        // One that was known is lost: the map must hear of that first.
        if self.known.base.is_some() || settle(&self.queue, known).await.is_err() {
            return Ok(found);
        }
        self.queue.read_back().await
    }
}

/// The answer.
#[derive(Debug)]
pub struct ReadBack {
    pub asked: Asked,
    pub result: Result<Option<Meta>, QueueError>,
    /// Up to when what was written would outlive a failover of Redis; None: that is not known.
    pub kept: Option<Instant>,
}

/// Looks at the slot, ends an old walsender, and reads every map's meta: what the rules want at each connect.
pub async fn look(
    settings: crate::connection::postgres::Settings,
    slot: String,
    generation: u32,
    asked: Vec<Asked>,
    sides: &[SideNames],
) -> Result<SourceState, SourceError> {
    let admin = Admin::connect(&settings).await?;
    let server = admin.inspect_server().await?;
    let era = Era {
        system: server.system,
        generation,
        timeline: server.timeline,
    };
    admin.terminate_walsender(&slot).await?;
    let slots = adopt_sides(&admin, &slot, sides).await?;
    let main = slots.iter().find(|(name, _)| *name == slot);
    let slot = main.map(|(_, state)| state.clone());
    let queues = read_back(asked).await;
    Ok(SourceState {
        era,
        slot,
        slots,
        queues,
    })
}

/// A side slot that an earlier worker has made is copied, and then dropped: that worker may still be about to drop it.
async fn adopt_sides(
    admin: &Admin,
    main: &str,
    sides: &[SideNames],
) -> Result<Vec<(String, SlotState)>, SourceError> {
    let found = admin.slots(main).await?;
    let mut others = 0;
    for SideNames { prefix, own } in sides {
        let theirs = found
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && name != own);
        for (name, state) in theirs {
            others += 1;
            if !state.is_lost() {
                admin.copy_slot(name, own).await?;
            }
            admin.drop_slot(name).await?;
        }
    }
    if others == 0 {
        Ok(found)
    } else {
        admin.slots(main).await
    }
}

/// Reads meta and epoch of every map.
pub async fn read_back(asked: Vec<Asked>) -> Vec<ReadBack> {
    let reads = asked.into_iter().map(|asked| async move {
        let late = |_| Err(QueueError::Unavailable("no answer in time".into()));
        let read = tokio::time::timeout(READ_DEADLINE, asked.read());
        let read = read.await.unwrap_or_else(late);
        let (result, kept) = match read {
            Ok((meta, kept)) => (Ok(meta), kept),
            Err(error) => (Err(error), None),
        };
        ReadBack { asked, result, kept }
    });
    futures::future::join_all(reads).await
}
