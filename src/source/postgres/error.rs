//! What can be wrong with a source, in words fit for a condition: no server text, which may quote rows.

use super::pgoutput::DecodeError;
use crate::{connection::postgres::ConnectError, failure::Class};
use std::io;

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection to the source broke: {0}")]
    Unreachable(String),
    #[error("the source did not answer within {0} s")]
    Timeout(u64),
    #[error("the source ended the session (SQLSTATE {0}): it is stopping, or the session was terminated")]
    Terminated(String),
    #[error("replication slot {0:?} does not exist at the source: the changes since it was dropped are lost")]
    SlotMissing(String),
    #[error(
        "replication slot {0:?} is lost: the source removed the log that it needs \
         (raise max_slot_wal_keep_size before making a new one)"
    )]
    SlotLost(String),
    #[error("replication slot {slot:?} is in use{}", by(*.pid))]
    SlotActive { slot: String, pid: Option<i32> },
    #[error("publication {0:?} does not exist at the source: make it again, with its tables")]
    PublicationMissing(String),
    #[error(
        "a text at the source cannot be sent as UTF-8 (SQLSTATE {0}): see the source's log for it; until it is out of the \
         log, all tables of this slot wait"
    )]
    Encoding(String),
    #[error("the source's wal_level is {0:?}: ALTER SYSTEM SET wal_level = 'logical', and restart it")]
    NotLogical(String),
    #[error(
        "the source has no replication slot left: drop one that nobody uses (SELECT slot_name FROM \
         pg_replication_slots WHERE NOT active), or raise max_replication_slots and restart it"
    )]
    NoSlotsLeft,
    #[error(
        "the user may not do this at the source (SQLSTATE {0}): ALTER ROLE <user> LOGIN REPLICATION; GRANT CREATE ON \
         DATABASE <database> TO <user>; or use `management: External`"
    )]
    Permission(String),
    #[error("the source sent what the replication protocol does not allow: {0}")]
    Protocol(String),
    #[error("the source refused a command (SQLSTATE {0}): see its log")]
    Server(String),
}

fn by(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by the process {pid} of the source"))
}

impl SourceError {
    /// The condition's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.reason(),
            Self::Unreachable(_) => "Unreachable",
            Self::Timeout(_) => "SourceTimeout",
            Self::Terminated(_) => "SessionTerminated",
            Self::SlotMissing(_) => "SlotMissing",
            Self::SlotLost(_) => "SlotLost",
            Self::SlotActive { .. } => "SlotActive",
            Self::PublicationMissing(_) => "PublicationMissing",
            Self::NotLogical(_) => "NotLogical",
            Self::NoSlotsLeft => "NoSlotsLeft",
            Self::Permission(_) => "PermissionDenied",
            Self::Protocol(_) => "ProtocolError",
            Self::Encoding(_) => "SourceEncoding",
            Self::Server(_) => "SourceRefused",
        }
    }

    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Connect(error) => error.class(),
            Self::Timeout(_) => Class::Timeout,
            Self::Permission(_) => Class::Unauthorized,
            Self::NoSlotsLeft => Class::Throttled,
            Self::SlotMissing(_) | Self::SlotLost(_) | Self::PublicationMissing(_) | Self::NotLogical(_) => {
                Class::Schema
            }
            Self::Protocol(_) | Self::Encoding(_) => Class::Application,
            Self::Unreachable(_) | Self::Terminated(_) | Self::SlotActive { .. } | Self::Server(_) => {
                Class::Unavailable
            }
        }
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.kind().to_string())
    }
}

impl From<DecodeError> for SourceError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<tokio_postgres::Error> for SourceError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) => Self::from_code(code.code()),
            None => Self::Unreachable("connection closed".to_owned()),
        }
    }
}

impl SourceError {
    /// What a SQLSTATE means that does not depend on the command.
    #[must_use]
    pub fn from_code(code: &str) -> Self {
        match code {
            "42501" => Self::Permission(code.to_owned()),
            "57P01" | "57P02" | "57P03" => Self::Terminated(code.to_owned()),
            "53400" => Self::NoSlotsLeft,
            "22021" | "22P05" => Self::Encoding(code.to_owned()),
            _ => Self::Server(code.to_owned()),
        }
    }
}

/// The parts of an `ErrorResponse` that say what to do. Messages are translated; codes and routines are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerError {
    pub(super) code: String,
    routine: String,
    message: String,
}

impl ServerError {
    pub(super) fn parse(fields: &[u8]) -> Self {
        let mut error = Self::default();
        for field in fields.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else {
                continue;
            };
            let text = || String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text(),
                b'R' => error.routine = text(),
                b'M' => error.message = text(),
                _ => {}
            }
        }
        error
    }

    /// What it means to a session that streams from this slot and publication.
    pub(super) fn judge(&self, slot: &str, publication: &str) -> SourceError {
        match (self.code.as_str(), self.routine.as_str()) {
            ("42704", routine) if routine.contains("publication") || routine.contains("Publication") => {
                SourceError::PublicationMissing(publication.to_owned())
            }
            ("42704", _) => SourceError::SlotMissing(slot.to_owned()),
            ("55006", _) => SourceError::SlotActive {
                slot: slot.to_owned(),
                pid: self.pid(),
            },
            // An invalidated slot (55000), or a log segment that is gone (58P01, XX000 by older servers).
            ("55000" | "58P01", _) | ("XX000", "XLogFileReadOpen" | "ReportWalSummaryError") => {
                SourceError::SlotLost(slot.to_owned())
            }
            (code, _) => SourceError::from_code(code),
        }
    }

    /// The number that ends "replication slot … is active for PID …".
    fn pid(&self) -> Option<i32> {
        self.message
            .rsplit(|c: char| !c.is_ascii_digit())
            .find(|digits| !digits.is_empty())?
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_is_judged_by_code_and_routine_in_any_language() {
        let judge = |code: &str, routine: &str, message: &str| {
            let fields = format!("SFEHLER\0C{code}\0M{message}\0R{routine}\0\0");
            ServerError::parse(fields.as_bytes()).judge("s", "p")
        };
        assert_eq!(
            judge("42704", "ReplicationSlotAcquire", ""),
            SourceError::SlotMissing("s".into())
        );
        assert_eq!(
            judge("42704", "get_publication_oid", ""),
            SourceError::PublicationMissing("p".into())
        );
        assert_eq!(judge("58P01", "WALRead", ""), SourceError::SlotLost("s".into()));
        assert_eq!(
            judge(
                "55006",
                "ReplicationSlotAcquire",
                "Slot »s2« ist aktiv für PID 4711"
            ),
            SourceError::SlotActive {
                slot: "s".into(),
                pid: Some(4711)
            }
        );
        assert_eq!(
            judge("57P01", "ProcessInterrupts", ""),
            SourceError::Terminated("57P01".into())
        );
    }
}
