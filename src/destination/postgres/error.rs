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
    WaitsForParent { name: String, position: Position },
    #[error("the destination table could not be written in time ({code}): {remedy}")]
    Stuck { code: String, remedy: String },
    #[error("the destination table does not fit the mapping any more ({code}): {remedy}")]
    Unfit { code: String, remedy: String },
}

impl Aside {
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WaitsForParent { .. } => "WaitsForParent",
            Self::Stuck { .. } => "TableLocked",
            Self::Unfit { .. } => "SchemaMismatch",
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
    Aside(Aside),
    Lane(LaneError),
}

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
        Fault::Destination => match code.as_str() {
            "55P03" | "57014" => Meaning::Aside(Aside::Stuck { code, remedy }),
            // One table's: the others go on.
            "42P01" | "42703" | "42501" | "42804" | "42P10" | "42883" | "428C9" => {
                Meaning::Aside(Aside::Unfit { code, remedy })
            }
            _ if code.starts_with("57P") || code.starts_with("08") => Meaning::Lane(LaneError::lost(code)),
            _ => Meaning::Lane(LaneError::Destination {
                class: verdict.class,
                reason: "DestinationRefuses",
                message: format!("The destination refuses to write ({code}). {remedy}"),
            }),
        },
    }
}

fn io_text(error: &tokio_postgres::Error) -> String {
    if error.is_closed() {
        "closed".into()
    } else {
        "I/O".into()
    }
}
