//! What Redis did not do, and why.

use super::{BatchError, meta::MetaError};

/// A queue operation that did not happen, or whose reply was lost.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueueError {
    #[error("Redis cannot be reached or is not ready ({0}). Changes stay at the source until it is back.")]
    Unavailable(String),
    #[error("Redis is full. Raise its maxmemory, or resume maps so that their queues drain.")]
    OutOfMemory,
    #[error("Redis refuses this user ({0}). Correct the credentials or the ACL of the queue's Connection.")]
    Refused(String),
    #[error("another worker has taken this map over with epoch {found}")]
    EpochMismatch { found: i64 },
    #[error("the queue's epoch is missing from Redis: it was emptied, or another Redis is being used.")]
    EpochMissing,
    #[error("the queue's position is missing from Redis: it was emptied, or another Redis is being used.")]
    MetaMissing,
    #[error("the queue ends at another position than expected; its tail is being read again")]
    WrongPredecessor,
    #[error(
        "the queue waits for a look at the source: neither the destination nor the source was reached yet"
    )]
    NoBeginning,
    #[error("{0}")]
    Batch(#[from] BatchError),
    #[error("{0}")]
    Meta(#[from] MetaError),
    #[error("a parked record in Redis cannot be read: {0}")]
    Blob(String),
    #[error("Redis went back to an older copy of the parked records; they are being read again")]
    AsleepAgain,
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        let code = error.code().unwrap_or_default().to_owned();
        let detail = error.detail().unwrap_or_default().to_owned();
        let says = |word: &str| code == word || detail.contains(word);
        if says("TMEPOCHMISSING") {
            Self::EpochMissing
        } else if says("TMEPOCH") {
            let found = detail
                .split_whitespace()
                .find_map(|word| word.parse().ok())
                .unwrap_or(i64::MAX);
            Self::EpochMismatch { found }
        } else if says("TMMETA") {
            Self::MetaMissing
        } else if says("TMASLEEP") {
            Self::AsleepAgain
        } else if says("TMPREVIOUS") {
            Self::WrongPredecessor
        } else if says("OOM") {
            Self::OutOfMemory
        } else if error.kind() == redis::ErrorKind::AuthenticationFailed {
            Self::Refused("wrong user or password".into())
        } else if says("NOPERM") {
            Self::Refused(lacking(&detail))
        } else if says("NOAUTH") || says("WRONGPASS") {
            Self::Refused(code)
        } else {
            Self::Unavailable(describe(&error, &code))
        }
    }
}

/// What an ACL does not allow: the server names the command, and else speaks of keys (Redis manual, "ACL").
fn lacking(detail: &str) -> String {
    let named = detail.split('\'').nth(1);
    let is_command = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '|');
    match named.filter(is_command) {
        Some(command) => format!("NOPERM: +{}", command.to_ascii_lowercase()),
        None => "NOPERM: its keys are ~{tm:*".to_owned(),
    }
}

fn describe(error: &redis::RedisError, code: &str) -> String {
    match code {
        "" => error.category().to_owned(),
        "MOVED" => "MOVED: this is a Redis Cluster, so name its nodes under topology.cluster".to_owned(),
        code => code.to_owned(),
    }
}

impl QueueError {
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
