//! What the engine tells a lane, and what a lane tells the engine.

use super::{feed::Tail, merge::Passed};
use crate::{
    connection::postgres::Settings,
    destination::postgres::{Aside, Item, Progress, Target, Tried},
    queue::Queue,
    record::{Counters, ParkedRecord, Position},
    rule::Tally,
    worker::budget::Share,
};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// How far a map's changes have been handed out, and its counters there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Every change of the map at or below it has been handed out.
    pub through: Position,
    pub counters: Counters,
}

/// A chunk's changes for one lane, in source order.
#[derive(Debug, Default)]
pub struct Parcel {
    pub items: Vec<Item>,
    /// Where the seats are that the chunk touched, or all of them when `advance` is set.
    pub marks: Vec<(usize, Mark)>,
    pub share: Option<Share>,
    /// Store the marks of idle maps too (rule 1).
    pub advance: bool,
    /// Every change for this lane of a transaction that ended at or below it is in this parcel or in an earlier one.
    pub through: Position,
}

/// From the engine to a lane, carried out in order.
#[derive(Debug)]
pub enum Order {
    /// A seat for a map whose queue is to be replayed.
    Replay {
        seat: usize,
        target: Box<Target>,
        queue: Queue,
        tail: watch::Receiver<Tail>,
        /// What was counted before the queue began, and its entries do not carry.
        base: Counters,
        cap: Option<u32>,
        /// The destination has just come back: slowly at first.
        ramps: bool,
        /// No more records than these. None: all.
        most: Option<u64>,
    },
    /// These replays begin: until then nothing of them is written, and none waits for them.
    Begin {
        seats: Vec<usize>,
    },
    /// The replayed seats are drained: they go on directly, beginning with the parcel.
    Direct {
        seats: Vec<(usize, Mark)>,
        parcel: Parcel,
    },
    Items(Parcel),
    /// Parked records of a seat are to be tried again.
    Retry(Retry),
    /// Parked records of a seat were given up.
    Forget {
        seat: usize,
        positions: Vec<Position>,
        /// So many of the map's are in all.
        gone: u64,
    },
    /// How the destination is reached from now on.
    Reach(Box<Settings>),
    /// Take a map out: nothing more of it is sent after the reply.
    Evict {
        seat: usize,
        reply: oneshot::Sender<Evicted>,
    },
}

/// Parked records of one map, in the order of their positions, that an operation tries again.
#[derive(Debug)]
pub struct Retry {
    pub seat: usize,
    pub operation: Arc<str>,
    pub records: Vec<ParkedRecord>,
    /// So many at once at first, as the last part has shown.
    pub first: Option<usize>,
    /// What came of it. Without an answer, that must be read from what is durable: the map left its lane, or the
    /// connection was lost.
    pub reply: oneshot::Sender<Tried>,
}

/// A map taken out of its lane.
#[derive(Debug)]
pub struct Evicted {
    /// What is known to be flushed at the destination.
    pub flushed: Option<Progress>,
    /// The direct changes that are not flushed, in order.
    pub leftover: Vec<(Item, Option<Share>)>,
}

/// One seat's durable progress.
#[derive(Debug)]
pub struct Durable {
    pub seat: usize,
    pub progress: Progress,
    /// What the destination has refused of it.
    pub refused: Tally,
    /// All that its replay may hand out is written.
    pub spent: bool,
    /// What its queue may be trimmed of.
    pub passed: Option<Passed>,
}

/// From a lane to the engine.
#[derive(Debug)]
pub enum Notice {
    Durable(Vec<Durable>),
    /// Connected; the progress that the destination holds for the admitted seats.
    Up(Vec<(usize, Progress)>),
    /// The destination cannot be reached or used: every map of the lane.
    Down {
        reason: &'static str,
        message: String,
    },
    /// One map cannot be written, the others go on.
    Aside {
        seat: usize,
        aside: Aside,
    },
    /// The destination refused this map's token: a pause of ours, or another worker.
    Fenced {
        seat: usize,
    },
    /// The destination went back below what it had flushed.
    WentBack {
        seat: usize,
        progress: Progress,
    },
    /// A record could not be parked: Redis is away.
    CannotPark {
        seat: usize,
        message: String,
    },
    /// A queue entry cannot be read.
    Corrupt {
        seat: usize,
        message: String,
    },
}
