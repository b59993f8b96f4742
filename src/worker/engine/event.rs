//! What the engine is told.

use super::operations::{Booted, Checked, Closed, SourceState};
use crate::{
    connection::{postgres::ConnectError, redis::RedisConnectError},
    destination::postgres::{InspectError, LaneError},
    gate::Step,
    queue::{Meta, QueueError},
    record::Position,
    source::postgres::SourceError,
    worker::{
        lane::{Evicted, Notice},
        map::{Counters, MapId},
        plan::Plan,
        reader::Reader,
    },
};
use tokio::sync::oneshot;

/// One thing that happened. Operations run beside the engine and end as an event.
#[derive(Debug)]
pub enum Event {
    /// A map's object is new or changed.
    Planned(Box<Plan>),
    /// A map's object is gone.
    Removed(MapId),
    Booted {
        map: MapId,
        result: Result<Box<Booted>, BootError>,
    },
    /// The table is locked: the map's first position. Answered once changes beyond it will be taken.
    Activate {
        map: MapId,
        first: Position,
        ready: oneshot::Sender<()>,
    },
    Joined {
        map: MapId,
        result: Result<(), JoinFailure>,
    },
    Lane {
        lane: String,
        notice: Notice,
    },
    /// A lane's task has ended, though nobody dropped it.
    LaneEnded(String),
    Appended {
        map: MapId,
        appended: Box<Appended>,
        result: Result<u64, QueueError>,
    },
    Advanced {
        map: MapId,
        to: Position,
        counters: Counters,
        result: Result<(), QueueError>,
    },
    Trimmed {
        map: MapId,
        to: Position,
        records: u64,
        bytes: u64,
        result: Result<(), QueueError>,
    },
    /// A step that takes a map out of its lane has ended.
    Closed {
        map: MapId,
        step: Step,
        evicted: Box<Evicted>,
        closed: Box<Closed>,
    },
    /// A step that only says done or not has ended.
    Stepped {
        map: MapId,
        step: Step,
        ended: Result<(), String>,
    },
    Checked {
        map: MapId,
        result: Result<Box<Checked>, CheckFailure>,
    },
    /// A destination that could not be written was asked again.
    Probed {
        map: MapId,
        result: Result<(), CheckFailure>,
    },
    /// Redis was read again for every map.
    ReadBack(Vec<(MapId, Result<Option<Meta>, QueueError>)>),
    /// The source was looked at; streaming may begin.
    SourceSeen(Result<Box<SourceState>, SourceError>),
    SourceStarted {
        session: u64,
        result: Result<(Reader, crate::source::postgres::Identity), SourceError>,
    },
    /// The status writer has written this version of a map's status.
    StatusWritten {
        map: MapId,
        version: u64,
    },
    CleanedUp {
        map: MapId,
        result: Result<(), String>,
    },
    /// The Lease had expired and is held again: statuses must be forced once.
    LeaseRegained,
}

/// What an append has put into the queue.
#[derive(Debug)]
pub struct Appended {
    pub last: Position,
    pub counters: Counters,
    pub records: u64,
    pub bytes: u64,
    pub first_commit: i64,
}

/// Why a map could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("{0}")]
    QueueConnection(#[from] RedisConnectError),
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// Something is missing that must be there.
    #[error("{message}")]
    Lost { message: String, errors: bool },
}

/// Why a map's table could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The source refuses, or the table does not fit: a person must act, or time must pass.
    #[error("{message}")]
    Refused { reason: &'static str, message: String },
    #[error("{0}")]
    Source(#[from] ConnectError),
}

impl From<LaneError> for CheckFailure {
    fn from(error: LaneError) -> Self {
        Self::Away(error)
    }
}

impl From<InspectError> for CheckFailure {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Problem(problem) => Self::Unfit(problem.0),
            InspectError::Lane(error) => Self::Away(error),
        }
    }
}

/// Why a map's destination cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    #[error("{0}")]
    Away(LaneError),
    #[error("{0}")]
    Unfit(String),
    #[error("{0}")]
    Queue(#[from] QueueError),
    #[error("{message}")]
    Lost { message: String, errors: bool },
}
