//! What goes wrong on a lane, and whom it concerns.

use crate::{
    connection::postgres::ConnectError,
    failure::{Class, Fault, judge},
    record::Position,
};
use tokio_postgres::error::DbError;

/// The error store could not take a record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Why a lane could not write. Nothing of the batch is committed, or it is not known whether it is.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaneError {
    #[error("the destination refused a token or an epoch")]
    Fenced { maps: Vec<String> },
    #[error("{message}")]
    Store { map: String, message: String },
    #[error("{message}")]
    Destination {
        class: Class,
        reason: &'static str,
        message: String,
    },
    #[error("the connection to the destination was lost: {message}")]
    Lost { message: String },
}

impl LaneError {
    /// The reason in conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "Fenced",
            Self::Store { .. } => "QueueUnavailable",
            Self::Destination { reason, .. } => reason,
            Self::Lost { .. } => "Unreachable",
        }
    }

    pub(super) fn lost(message: impl Into<String>) -> Self {
        Self::Lost {
            message: message.into(),
        }
    }
}

impl From<ConnectError> for LaneError {
    fn from(error: ConnectError) -> Self {
        Self::Destination {
            class: error.class(),
            reason: error.reason(),
            message: error.to_string(),
        }
    }
}

/// Why one map cannot be written while the others go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Aside {
    #[error("a record refers to a row of map {name}, which stands behind it; waiting for that map")]
    /// `since`: everything before it is written.
    WaitsForParent {
        name: String,
        position: Position,
        since: Position,
    },
    /// `since`: everything before it is written, or parked.
    #[error(
        "{most} records are parked, as many as spec.errors.maxRecords allows, and the next one is refused too: mend the cause, \
         then retry or discard them, or raise the limit"
    )]
    TooManyErrors { most: usize, since: Position },
    #[error("The destination table could not be written in time ({code}): {remedy}")]
    Stuck { code: String, remedy: String },
    #[error("The destination table does not fit the mapping any more ({code}): {remedy}")]
    Unfit { code: String, remedy: String },
    #[error("writing the destination table fails ({code}): {remedy}")]
    Failing { code: String, remedy: String },
}

/// `lock_not_available`.
const LOCKED: &str = "55P03";

impl Aside {
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::WaitsForParent { .. } => "WaitsForParent",
            Self::TooManyErrors { .. } => "TooManyErrors",
            Self::Stuck { code, .. } if code == LOCKED => "TableLocked",
            Self::Stuck { .. } => "TableSlow",
            Self::Unfit { .. } => "SchemaMismatch",
            Self::Failing { .. } => "TableFailing",
        }
    }
}

/// The destination's schema does not fit: said in the condition `SchemaValid`, with the SQL that mends it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SchemaProblem(pub String);

/// What one statement's failure means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// The record is refused.
    Record(Box<DbError>),
    Retry,
    /// Something that only the ordered way can tell apart.
    Surprise,
    /// It took too long in the server: less at once may pass.
    Slow(Aside),
    /// One table's: the others go on.
    Aside(Aside),
    Lane(LaneError),
}

impl Meaning {
    /// What it means where no map's records are concerned.
    pub(super) fn of_the_lane(self) -> LaneError {
        match self {
            Self::Lane(error) => error,
            Self::Slow(aside) | Self::Aside(aside) => LaneError::Destination {
                class: Class::Schema,
                reason: aside.reason(),
                message: aside.to_string(),
            },
            Self::Record(error) => LaneError::lost(error.code().code()),
            Self::Retry | Self::Surprise => LaneError::lost("refused"),
        }
    }
}

/// Beginnings of SQLSTATEs that tell of the server or the session, whatever table was written.
const WHOLE: [&str; 8] = ["25", "26", "28", "3D", "53", "57P", "58", "F0"];

/// Tells whose fault a failed statement is (rule 10).
pub(super) fn meaning(error: &tokio_postgres::Error) -> Meaning {
    let Some(db) = error.as_db_error() else {
        return Meaning::Lane(LaneError::lost(io_text(error)));
    };
    let code = db.code().code().to_owned();
    let verdict = judge(&code);
    let remedy = verdict.remedy.to_owned();
    match verdict.fault {
        Fault::Record => Meaning::Record(Box::new(db.clone())),
        Fault::Retry => Meaning::Retry,
        Fault::Fenced => Meaning::Lane(LaneError::Fenced { maps: Vec::new() }),
        Fault::Destination if code == "57014" => Meaning::Slow(Aside::Stuck { code, remedy }),
        Fault::Destination if code == "55P03" => Meaning::Aside(Aside::Stuck { code, remedy }),
        Fault::Destination if code.starts_with("57P") => Meaning::Lane(LaneError::lost(code)),
        Fault::Destination if WHOLE.iter().any(|whole| code.starts_with(whole)) => {
            Meaning::Lane(LaneError::Destination {
                class: verdict.class,
                reason: "DestinationRefuses",
                message: format!("The destination refuses to write ({code}). {remedy}"),
            })
        }
        Fault::Destination if verdict.class == Class::Schema || code == "42501" => {
            Meaning::Aside(Aside::Unfit { code, remedy })
        }
        // Also what a trigger has met elsewhere, such as a lost connection to a third server.
        Fault::Destination => Meaning::Aside(Aside::Failing { code, remedy }),
    }
}

fn io_text(error: &tokio_postgres::Error) -> String {
    if error.is_closed() {
        "closed".into()
    } else {
        "I/O".into()
    }
}
