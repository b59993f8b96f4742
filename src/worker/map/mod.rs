//! One table map as its worker knows it.

mod appender;
mod left;
mod refused;
mod rules;
mod trouble;

pub use appender::{Appender, Batch};
pub use left::Left;
pub use refused::{Cause, Refused};
pub use rules::{RulePause, Ruling};
pub use trouble::{Blocked, Lost, Unusable, UnusableKind};

use super::{
    budget::Share,
    custody::{Confirmable, Gap, Held},
    lane::{Mark, Tail},
    limits::Meter,
    plan::Plan,
};
use crate::{
    destination::postgres::{Item, Progress, Target},
    gate::{Gate, Route},
    queue::{Account, ErrorSummary, Meta, Queue},
    record::{Counters, Era, Origin, Parks, Position, Skip},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Names a map within its worker: the object's UID.
pub type MapId = Arc<str>;

/// How far a map has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has no position yet: its table joins the publication.
    Joining,
    /// Its changes are held in memory until its first position is stored.
    Holding,
    Serving,
    /// Cleaned up: nothing of it is left outside Kubernetes.
    Gone,
}

/// What is in the queue, as of the newest reply of Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    pub account: Account,
    /// Records of the first entry that the destination has already.
    pub partial: u64,
}

/// From where a map's counters count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Since the queue began: what was counted before is not known.
    SinceBeginning,
    /// From what the queue knew: the destination was not reached yet, and may have counted more.
    FromQueue,
    /// From what both custodians knew.
    FromBoth,
}

impl Stock {
    /// Records that the destination does not have.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.account.records.saturating_sub(self.partial)
    }
}

/// The operations on it that Redis remembered when it was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Begun, and not known to be done.
    pub accepting: Option<String>,
    /// Done last.
    pub accepted: Option<String>,
}

impl Operations {
    #[must_use]
    pub fn of(meta: &Meta) -> Self {
        Self {
            accepting: meta.accepting.clone(),
            accepted: meta.accepted.clone(),
        }
    }
}

/// Redis is told which operations there are: what it remembers of others is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    Due,
    /// Of those that there were when it began.
    UnderWay,
    Done,
}

/// How far a side slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideState {
    /// It is being made: whether it is there is not known.
    Making,
    /// It keeps what the map has still to take: the main slot need not.
    Keeps,
    /// The map goes on with the main slot, and does not hold durably yet what that has forgotten.
    Leaving,
    /// It is not needed any more, and is being dropped: until that is known, it may be there or not.
    Going,
}

impl SideState {
    /// The source keeps what it has not confirmed.
    #[must_use]
    pub const fn is_there(self) -> bool {
        matches!(self, Self::Keeps | Self::Leaving)
    }
}

/// A slot of a map that stands behind the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// What it has forgotten.
    pub confirmed: Position,
    pub state: SideState,
    /// WAL that it keeps, and that may still be written before it is lost, in bytes.
    pub retained: i64,
    pub safe: Option<i64>,
}

/// What a catch-up has done so far.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    pub since: i64,
    pub started: Instant,
    pub written_before: u64,
    pub parks_before: u64,
    pub received_before: u64,
}

/// What is known of the parked records.
#[derive(Debug, Default)]
pub struct Errors {
    pub summary: ErrorSummary,
    /// Records that people have given up, and those whose time was over.
    pub given_up: u64,
    pub purged: u64,
    /// As of these counts.
    pub of: Option<Seen>,
    /// They are being read.
    pub reading: bool,
    /// They could not be read: not again before then.
    pub retry_at: Option<Instant>,
    /// Those whose time is over are being purged.
    pub purging: bool,
    /// Some may be gone of which nobody was told: whoever writes the map must look again.
    pub doubtful: bool,
    /// It was said that one is to be purged that waits since then.
    pub warned: Option<i64>,
}

/// Counts of parked records: where they have changed, others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub parks: Parks,
    pub given_up: u64,
    pub purged: u64,
}

impl Errors {
    /// Whether others wait since the last look.
    #[must_use]
    pub fn is_due(&self, now: Instant, counts: Seen) -> bool {
        let waits = self.reading || self.retry_at.is_some_and(|at| at > now);
        !waits && self.of != Some(counts)
    }

    /// What Redis says is gone: it only rises, but for a Redis that went back.
    pub fn learn(&mut self, meta: &Meta) {
        self.given_up = self.given_up.max(meta.discarded);
        self.purged = self.purged.max(meta.purged);
    }

    /// Something of them has changed that no count tells.
    pub fn look_again(&mut self) {
        self.of = None;
    }
}

/// What is known of a map's tables since its mapping became what it is.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The source table has all columns that are read, or lacks one. None: it was not asked.
    pub source: Option<Result<(), String>>,
    /// The destination table was held against the mapping.
    pub destination: bool,
}

/// What is remembered of outages of its destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    /// It was away: it is written slowly at first.
    pub returns: bool,
    /// When changes were last let go on that were to stay at the source.
    pub released: Option<Instant>,
}

/// One table map as its worker knows it.
#[derive(Debug)]
pub struct Map {
    pub id: MapId,
    pub plan: Arc<Plan>,
    pub stage: Stage,
    /// Its join is under way.
    pub joining: bool,
    pub gate: Gate,
    /// When the pause that is in force ends by itself, in microseconds since the Unix epoch.
    pub timed: Option<i64>,
    /// Its rules, and the pauses that they have begun.
    pub ruling: Ruling,
    pub seat: usize,
    pub queue: Queue,
    pub epoch: i64,
    /// Its clean-up is under way.
    pub cleaning: bool,
    /// How its clean-up ended, or why it has not yet.
    pub cleaned: Option<Result<Left, String>>,
    /// To which its positions belong.
    pub era: Option<Era>,
    /// It took all that the present session of the reader has handed out: false after it was blocked.
    pub current: bool,
    /// For the next admission: with the token that was raised last.
    pub target: Option<Target>,
    /// The destination runs with `fsync = off`.
    pub unsafe_log: bool,
    /// D, as last seen flushed. None: the destination was not reached yet.
    pub progress: Option<Progress>,
    pub stock: Stock,
    /// How it stands to its limits.
    pub meter: Meter,
    pub confirmable: Confirmable,
    pub operations: Operations,
    /// How far what Redis remembers of operations that are not there any more is forgotten.
    pub sweep: Sweep,
    /// The source table that it has joined: `pg_class.oid`, if it is known.
    pub table: Option<u32>,
    /// Its destination: what came from there does not go back (rule 16).
    pub destination: Origin,
    /// Up to here changes are taken although the table had no key, or another name: the source was seen mended since.
    pub unfit_until: Position,
    /// Every change of the map at or below it was taken.
    pub received: Position,
    pub counters: Counters,
    pub counting: Counting,
    /// TRUNCATEs seen since the worker began: they are not replicated.
    pub truncates: u64,
    /// The last change that was given to the queue.
    pub queued: Position,
    /// Changes between gate and queue or lane: while leaving, or in a cutover.
    pub held: Vec<(Item, Option<Share>)>,
    pub held_bytes: usize,
    /// The last that waited for a cutover, or at the source while no changes were taken. Zero: nothing waits any more.
    pub waited: Position,
    pub looked: Looked,
    /// How often it has fallen back.
    pub falls: u64,
    pub appender: Appender,
    pub tail: watch::Sender<Tail>,
    /// The source table has left the publication: what changed since is missing, though it may be back.
    pub unpublished: bool,
    pub blocked: Option<Blocked>,
    pub blocked_since: Option<Instant>,
    /// The session in which it was taken over: looks at the source that began by then do not know of its side slot.
    pub unseen: Option<u64>,
    /// A slot of its own keeps what it has still to take.
    pub side: Option<Side>,
    /// One is not made, read or dropped before then.
    pub side_at: Option<Instant>,
    /// Redis did not take a change.
    pub refused: Option<Refused>,
    /// Its custodians are being asked.
    pub asking: bool,
    /// The version of the status write that the gate waits for (rule 6).
    pub awaited: u64,
    pub unusable: Option<Unusable>,
    /// Why the last try to fence it failed.
    pub unfenced: Option<String>,
    pub outage: Outage,
    /// It waited for another map, and has been on its way into the lane since.
    pub comes: Option<Instant>,
    /// It sits in the lane, and its replay has not begun: others are to come first.
    pub unbegun: bool,
    /// A failed step is tried again then.
    pub retry_at: Option<Instant>,
    /// Trouble, or a deletion that waits, is looked at again then.
    pub look_at: Option<Instant>,
    pub cutover_since: Option<Instant>,
    pub catch_up: Option<CatchUp>,
    pub errors: Errors,
    /// What is queued up to some position is not to be written, or some of it.
    pub skips: Vec<Skip>,
    /// Commit time of the last durable change, and when it arrived.
    pub commit_time: Option<i64>,
}

impl Map {
    /// Where its custodians are.
    #[must_use]
    pub fn held_by(&self) -> Held {
        Held {
            destination: self.progress.as_ref().map(|progress| progress.position),
            queue: self.stock.account.q,
            trimmed: self.stock.account.t,
        }
    }

    /// What the source has forgotten of the map's changes: its side slot keeps what the main one does not. Zero: whether it
    /// has one is not known yet.
    #[must_use]
    pub fn forgotten(&self, confirmed: Position) -> Position {
        match self.side {
            _ if self.unseen.is_some() => Position::ZERO,
            Some(side) if side.state.is_there() => side.confirmed.min(confirmed),
            _ => confirmed,
        }
    }

    /// Finds a hole (rule 1). A map whose destination was not reached yet, and whose queue has still to begin, begins
    /// where the source does: whether the destination has what lies before shows once it is reached.
    ///
    /// # Errors
    /// The gap.
    pub fn check(&self, confirmed: Position) -> Result<(), Gap> {
        let confirmed = self.forgotten(confirmed);
        if self.progress.is_none() && self.gate.is_leaving() && self.stock.account.records == 0 {
            return Ok(());
        }
        self.held_by().check(confirmed)
    }

    /// Queued records that the destination does not have. What it has may not be trimmed yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let has = self.progress.as_ref().map(|progress| progress.position);
        if has >= Some(self.stock.account.last) {
            0
        } else {
            self.stock.waiting()
        }
    }

    /// Everything of the map at or below it is written. A map that waits at a record has written all before it,
    /// or before what came too early within its transaction, even if its last record was long before (rule 10): else two
    /// maps might wait for each other.
    #[must_use]
    pub fn reached(&self) -> Position {
        let has = self
            .progress
            .as_ref()
            .map_or(Position::ZERO, |progress| progress.position);
        match self.unusable.as_ref().map(|unusable| &unusable.kind) {
            Some(UnusableKind::Waits { since, .. }) => has.max(before(*since)),
            _ => has,
        }
    }

    /// All that waited is written, now that the stream has handed out all through `through`: of what waited at the source
    /// nothing may have been the map's.
    #[must_use]
    pub fn has_what_waited(&self, through: Position) -> bool {
        let is_even = self.current && self.taken(through) >= self.waited && self.in_flight() == 0;
        is_even || self.reached() >= self.waited
    }

    /// The destination is away, or refuses us.
    #[must_use]
    pub fn is_away(&self) -> bool {
        let kind = self.unusable.as_ref().map(|unusable| &unusable.kind);
        kind == Some(&UnusableKind::Away)
    }

    /// Records that the destination has taken.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.progress.as_ref().map_or(0, |progress| progress.written)
    }

    /// The changes that arrived and are neither written nor queued, counted.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.counters
            .taken()
            .saturating_sub(self.durable_counters().taken())
    }

    /// What is known of its parked records, counted.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        let progress = self.progress.as_ref()?;
        Some(Seen {
            parks: progress.parks(),
            given_up: self.errors.given_up,
            purged: self.errors.purged,
        })
    }

    /// The counters that the custodian holds.
    #[must_use]
    pub fn durable_counters(&self) -> Counters {
        match &self.progress {
            _ if self.counting == Counting::SinceBeginning => self.stock.account.counters,
            Some(progress) if progress.position > self.stock.account.q => progress.counters,
            _ => self.stock.account.counters,
        }
    }

    /// Every change of the map at or below it was taken, now that the stream has handed out all through `through`: only a
    /// map that follows the stream has that. What was passed by would else be taken for written (I1).
    #[must_use]
    pub fn taken(&self, through: Position) -> Position {
        if self.current {
            self.received.max(through)
        } else {
            self.received
        }
    }

    /// The changes taken so far, for the lane.
    #[must_use]
    pub fn mark(&self, through: Position) -> Mark {
        Mark {
            through: self.taken(through),
            counters: self.counters,
        }
    }

    /// Forgets what was taken but is not durable: the source will send it again.
    pub fn fall_back(&mut self) {
        self.appender.clear();
        self.held.clear();
        self.held_bytes = 0;
        self.counting = match (self.stock.account.base, &self.progress) {
            (None, _) => Counting::SinceBeginning,
            (Some(_), None) => Counting::FromQueue,
            (Some(_), Some(_)) => Counting::FromBoth,
        };
        self.counters = self.durable_counters();
        // A queue that counts from its beginning is to count all that comes, also what the destination has.
        self.received = match self.counting {
            Counting::SinceBeginning => self.stock.account.q,
            Counting::FromQueue | Counting::FromBoth => self.held_by().durable(),
        };
        self.current = false;
        self.falls += 1;
        self.retell_tail(self.received);
    }

    /// What was told beyond `through` is still to be queued, or comes again: a replay that begins now must not take it for
    /// known.
    pub fn retell_tail(&self, through: Position) {
        let seq = self.stock.account.seq;
        self.tail.send_replace(Tail { seq, through });
    }

    /// Forgets everything of a join that did not come about.
    pub fn hold_nothing(&mut self) {
        self.appender.clear();
        self.held.clear();
        self.held_bytes = 0;
        self.counters = Counters::default();
        self.stock = Stock::default();
        self.current = false;
    }

    /// Something keeps it from writing or from taking changes, or it is to go: it must be looked at again and again.
    #[must_use]
    pub fn needs_a_look(&self) -> bool {
        self.unusable.is_some() || self.blocked.is_some() || self.plan.deletion.is_some()
    }

    /// A transaction that has begun to go to the queue goes there whole, also when new changes wait for a cutover: else its
    /// beginning would wait for the rest, and the rest for the beginning.
    #[must_use]
    pub fn goes_on_in_queue(&self, position: Position) -> bool {
        let same =
            |queued: Position| queued.generation == position.generation && queued.commit == position.commit;
        self.held.is_empty() && same(self.queued)
    }

    /// Whether the map has a position that is stored.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether changes of the map are taken now.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.may_take() && self.current
    }

    /// What it has still to take comes from its side slot, not from the main one.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.side.is_some_and(|side| side.state == SideState::Keeps)
    }

    /// It takes what its side slot sends.
    #[must_use]
    pub fn is_fed(&self) -> bool {
        self.is_beside() && self.may_take() && self.blocked.is_none()
    }

    /// Whether changes of the map may be taken, once the reader begins anew.
    #[must_use]
    pub fn may_take(&self) -> bool {
        self.keeps() && self.gate.route() != Route::Nowhere
    }

    /// Whether the source must keep what lies beyond the map's position.
    #[must_use]
    pub fn keeps(&self) -> bool {
        matches!(self.stage, Stage::Serving | Stage::Holding)
    }

    /// A mapped source column was missing when the last change came.
    #[must_use]
    pub fn lacks_a_column(&self) -> bool {
        let kind = self.unusable.as_ref().map(|unusable| &unusable.kind);
        kind == Some(&UnusableKind::SourceUnfit)
    }

    /// Takes no more changes, but keeps what the lane was given: it is still being written.
    pub fn freeze(&mut self, through: Position) {
        self.received = self.taken(through);
        self.current = false;
    }

    /// Takes over what Redis says, unless something newer is known. `partial` goes with it: the records of the first
    /// entry that the destination has, if that was looked at.
    pub fn restock(&mut self, account: &Account, partial: Option<u64>) {
        if account.version >= self.stock.account.version {
            self.stock.account = *account;
            self.stock.partial = partial.unwrap_or(self.stock.partial);
        }
        self.learn_base();
        self.tell_tail(Position::ZERO);
    }

    /// Redis has all up to `last`, and says so in `account`.
    pub fn queued(&mut self, account: &Account, last: Position) {
        self.restock(account, None);
        self.confirmable.queued(last, Instant::now());
        if let Some(refused) = &mut self.refused {
            refused.taken();
        }
    }

    /// What was counted before all that was taken so far may have become known (I5).
    fn learn_base(&mut self) {
        let unknown = self.counting == Counting::SinceBeginning;
        let Some(base) = self.stock.account.base.filter(|_| unknown) else {
            return;
        };
        self.counters = self.counters.after(base);
        self.appender.count_after(base);
        for (item, _) in &mut self.held {
            item.counters = item.counters.after(base);
        }
        self.counting = Counting::FromBoth;
    }

    /// Takes over what Redis says, whatever was known: it has gone back, or was not read before. But what is to be skipped the
    /// worker knows better, and tells it again.
    pub fn restock_anew(&mut self, meta: &Meta) {
        self.era = Some(meta.era.clone());
        self.stock.account = meta.account;
        self.errors.given_up = meta.discarded;
        self.errors.purged = meta.purged;
        self.sweep = Sweep::Due;
        self.tell_tail(Position::ZERO);
    }

    /// Tells a running replay how far the queue reaches: up to the first change that is not in it yet. One that is
    /// held for a cutover may still go there.
    pub fn tell_tail(&self, through: Position) {
        // What its lane gives back is on its way.
        if self.gate.is_leaving() {
            return;
        }
        let taken = self.taken(through);
        let held = self.held.first().map(|(item, _)| item.change.position);
        let oldest = self.appender.oldest().into_iter().chain(held).min();
        let through = oldest.map_or(taken, |oldest| before(oldest).min(taken));
        self.tail.send_if_modified(|tail| {
            let next = Tail {
                seq: self.stock.account.seq,
                through: through.max(tail.through),
            };
            let changed = next != *tail;
            *tail = next;
            changed
        });
    }

    /// When its confirmed position may rise after a change was queued.
    #[must_use]
    pub fn fresh_confirmable(&self, delay: Duration) -> Confirmable {
        let confirmable = Confirmable::new(delay, self.held_by());
        match &self.progress {
            Some(progress) if progress.parks > 0 => confirmable.with_parks(Instant::now()),
            _ => confirmable,
        }
    }
}

/// Just below a change's position: everything that the stream sent before it.
fn before(position: Position) -> Position {
    match position {
        Position { index: 0, change, .. } => Position {
            change: crate::record::Lsn(change.0.saturating_sub(1)),
            index: u32::MAX,
            ..position
        },
        Position { index, .. } => Position {
            index: index - 1,
            ..position
        },
    }
}
