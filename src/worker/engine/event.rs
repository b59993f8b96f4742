//! What the engine is told.

use super::{
    accept::{AcceptError, Outcome},
    effects::{Booted, Checked, Closed, ReadBack, SourceState},
    tables::{ColumnsSeen, TableSeen},
};
use crate::{
    api::DeletionPolicy,
    connection::redis::RedisConnectError,
    destination::postgres::{InspectError, LaneError, Progress},
    gate::Step,
    queue::{Account, Beginning, ErrorSummary, Meta, Purged, QueueError},
    record::{Lsn, Position, Skip},
    source::postgres::{JoinError, SlotState, SourceError},
    worker::{
        command::{Command, CountError, Counted, Ended, JobError, Work},
        lane::{Evicted, Notice},
        map::{Blocked, Left, MapId, Unusable, UnusableKind},
        plan::{Plan, TableName},
        reader::Reader,
        resolve::Reached,
        status::Facts,
        wish::Wish,
    },
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::oneshot;

/// One thing that happened. Operations run beside the engine and end as an event.
#[derive(Debug)]
pub enum Event {
    /// A map's object is new or changed.
    Planned(Box<Plan>),
    /// All objects that were there at first have been told.
    Listed,
    /// What an object refers to cannot be read yet: its map may have a position.
    Unread {
        uid: String,
        table: TableName,
        map: MapId,
        /// What is to be said of it, if it was taken over before.
        facts: Option<Box<Facts>>,
    },
    /// It is gone, or has none.
    UnreadGone(String),
    /// A map's object is gone.
    Removed(MapId),
    Booted {
        map: MapId,
        result: Result<Box<Booted>, BootError>,
    },
    /// The map's first position, and its table. Answered with the position beyond which changes are held from now on:
    /// the same, or a later one if more was handed out already.
    Activate {
        map: MapId,
        beginning: Box<Beginning>,
        ready: oneshot::Sender<Position>,
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
        /// The last record of the append.
        last: Position,
        result: Result<Account, QueueError>,
    },
    Advanced {
        map: MapId,
        to: Position,
        result: Result<Account, QueueError>,
    },
    Trimmed {
        map: MapId,
        /// Records of the first entry that stays which the destination has already.
        partial: u64,
        result: Result<Account, QueueError>,
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
        /// Of the mapping that was held against the destination table.
        stamp: String,
        result: Result<(), CheckFailure>,
    },
    /// The custodians of a map for which something was missing were asked again.
    Mended {
        map: MapId,
        result: Box<Result<(Meta, Progress), CheckFailure>>,
    },
    /// A destination that was away was asked, for all maps that could not reach it.
    Answered {
        destination: String,
        result: Result<(), LaneError>,
    },
    /// The source was asked whether a table has its key again; if so, the end of its log then.
    KeySeen {
        map: MapId,
        result: Result<Lsn, JoinError>,
    },
    /// The source was asked for the tables of the maps.
    TablesSeen {
        tables: Vec<TableSeen>,
        columns: Vec<ColumnsSeen>,
    },
    /// What a map's object asks for, whether or not what it refers to can be read.
    Wished {
        map: MapId,
        generation: i64,
        wish: Wish,
        deletion: Option<DeletionPolicy>,
    },
    /// Redis was read again for every map.
    ReadBack(Vec<ReadBack>),
    /// The source was looked at; streaming may begin.
    SourceSeen {
        session: u64,
        result: Result<Box<SourceState>, SourceError>,
    },
    SourceStarted {
        session: u64,
        result: Result<(Reader, crate::source::postgres::Identity), SourceError>,
    },
    /// The status writer has written this version of a map's status.
    StatusWritten {
        map: MapId,
        version: u64,
    },
    /// The errors of a map were read.
    ErrorsRead {
        map: MapId,
        result: Result<ErrorSummary, QueueError>,
    },
    /// What a map that is deleted had at destination and queue is removed.
    Emptied {
        map: MapId,
        result: Result<Left, String>,
    },
    CleanedUp {
        map: MapId,
        result: Result<Left, String>,
    },
    /// How a Connection is reached, now that it or a Secret of it was changed.
    Reached {
        connection: String,
        reached: Box<Reached>,
    },
    /// A slot was copied for a map, or not; what it has forgotten.
    SideMade {
        map: MapId,
        result: Result<Lsn, SourceError>,
    },
    /// A side slot is gone, or not.
    SideDropped {
        map: MapId,
        result: Result<(), SourceError>,
    },
    /// The worker's slots; None: the source could not be asked.
    SlotsSeen(Option<Vec<(String, SlotState)>>),
    /// A second reader has started, or not.
    FeedStarted {
        session: u64,
        result: Result<(Reader, crate::source::postgres::Identity), SourceError>,
    },
    /// A person has asked for something.
    Commanded(Command),
    /// An operation was deleted.
    TakenBack(Arc<str>),
    /// An operation has ended, by this worker or by somebody else.
    Finished(Arc<str>),
    /// A gap was accepted, or not.
    Accepted {
        command: Arc<str>,
        map: MapId,
        result: Result<Outcome, AcceptError>,
    },
    /// How far an operation on parked records is.
    Worked {
        command: Arc<str>,
        work: Work,
    },
    /// Parked records were given up; so many of the map's are in all.
    GivenUp {
        map: MapId,
        positions: Vec<Position>,
        all: u64,
    },
    /// Every operation that was there when the worker began is known.
    CommandsListed(BTreeSet<Arc<str>>),
    /// Operations that are not there any more were forgotten, or not.
    Swept {
        map: MapId,
        result: Result<(), QueueError>,
    },
    /// The queued records that an operation means were counted, or not.
    Counted {
        command: Arc<str>,
        map: MapId,
        result: Result<Counted, CountError>,
    },
    /// What is skipped was stored, or not.
    SkipStored {
        map: MapId,
        skip: Skip,
        result: Result<(), QueueError>,
    },
    /// Parked records whose time was over were purged, or not.
    Purged {
        map: MapId,
        result: Result<Purged, QueueError>,
    },
    /// How a map's rules stand was stored, or not.
    RulesStored {
        map: MapId,
        text: String,
        result: Result<(), QueueError>,
    },
    /// An operation on parked records has ended, or cannot go on now.
    JobEnded {
        command: Arc<str>,
        map: MapId,
        result: Result<Ended, JobError>,
    },
    /// The end of an operation is written.
    EndSaid(Command),
    /// The Lease had expired and is held again: statuses must be forced once.
    LeaseRegained,
    /// The status of a map says Unknown, which is the operator's word for one without a worker.
    SaidUnknown(MapId),
}

/// Why a map could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("{0}")]
    QueueConnection(#[from] RedisConnectError),
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// The queue that is to be adopted cannot be.
    #[error("{0}")]
    NotAdopted(String),
    /// Something is missing that must be there.
    #[error("{}", .0.message())]
    Lost(Blocked),
}

/// Why a map's table could not join: a person must act, or time must pass.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct JoinFailure(pub Unusable);

impl From<JoinError> for JoinFailure {
    fn from(error: JoinError) -> Self {
        Self(Unusable {
            reason: error.reason(),
            message: error.to_string(),
            kind: match error {
                JoinError::NoTable(_) | JoinError::NoColumn(_) | JoinError::Key(_) => UnusableKind::Unfit,
                _ => UnusableKind::Unjoined,
            },
        })
    }
}

impl From<SourceError> for JoinFailure {
    fn from(error: SourceError) -> Self {
        JoinError::from(error).into()
    }
}

impl From<LaneError> for JoinFailure {
    fn from(error: LaneError) -> Self {
        Self(Unusable {
            reason: error.reason(),
            message: error.to_string(),
            kind: UnusableKind::Away,
        })
    }
}

impl From<InspectError> for JoinFailure {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Problem(problem) => Self(Unusable {
                reason: "SchemaMismatch",
                message: problem.0,
                kind: UnusableKind::Unfit,
            }),
            InspectError::Lane(error) => error.into(),
        }
    }
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
    #[error("{}", .0.message())]
    Lost(Blocked),
    /// Whether something is missing only the source can tell, and it was not seen yet.
    #[error("the source was not seen yet")]
    SourceNotSeen,
    /// The destination has more than the queue has counted: that comes again first.
    #[error("what was counted before the queue began is not known yet")]
    NotCounted(Box<Progress>),
}

/// What a look has found of the destination; anything else is given back.
impl TryFrom<CheckFailure> for Unusable {
    type Error = CheckFailure;

    fn try_from(failure: CheckFailure) -> Result<Self, CheckFailure> {
        match failure {
            CheckFailure::Away(error) => Ok(Self {
                reason: error.reason(),
                message: error.to_string(),
                kind: UnusableKind::Away,
            }),
            CheckFailure::Unfit(message) => Ok(Self {
                reason: "SchemaMismatch",
                message,
                kind: UnusableKind::Unfit,
            }),
            other => Err(other),
        }
    }
}
