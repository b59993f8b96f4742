//! What a map's status is made of.

use super::Memory;
use crate::{gate::Phase, record::Lsn};
use std::sync::Arc;

/// One condition before it becomes Kubernetes' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub type_: &'static str,
    /// None: Unknown.
    pub status: Option<bool>,
    pub reason: String,
    pub message: String,
}

impl Said {
    /// A status as Kubernetes writes it.
    #[must_use]
    pub const fn text(status: Option<bool>) -> &'static str {
        match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }

    /// The same, read.
    #[must_use]
    pub fn read(text: &str) -> Option<bool> {
        match text {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }
}

/// I5, as users see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub received: u64,
    pub written: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub errored: u64,
    pub superseded: u64,
    pub discarded: u64,
    pub purged: u64,
    pub filtered: u64,
}

/// A catch-up's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpFacts {
    /// Microseconds since the Unix epoch, as all times here.
    pub start: i64,
    pub replayed: u64,
    pub failed: u64,
    pub remaining: u64,
    pub per_second: u64,
    pub arriving_per_second: u64,
}

/// One pause that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseFacts {
    pub cause: &'static str,
    pub name: String,
    /// Since when, if that is known better than by this being said, in microseconds since the Unix epoch.
    pub since: Option<i64>,
    /// When it ends by itself, in microseconds since the Unix epoch.
    pub until: Option<i64>,
    pub actor: Option<String>,
    pub message: Option<String>,
}

impl PauseFacts {
    /// The cause of a pause that a rule has begun.
    pub const RULE: &str = "Rule";
}

/// How a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFacts {
    pub name: String,
    /// Refusals that match, within the window.
    pub count: u64,
    /// Records that were written or refused within it.
    pub tried: u64,
    pub last_fired: Option<i64>,
    /// It does not fire before.
    pub quiet_until: Option<i64>,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapFacts {
    pub after: Lsn,
    pub until: Option<Lsn>,
}

/// How far a map stands behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub seconds: i64,
    pub bytes: u64,
}

/// A map as its worker sees it: all that the worker's part of the status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// The generation whose `state` is followed: a later one, if the rest of it cannot be.
    pub wished: i64,
    /// What the status said before this worker did.
    pub before: Arc<Memory>,
    pub phase: Phase,
    pub pauses: Vec<PauseFacts>,
    pub rules: Vec<RuleFacts>,
    pub blocked: Option<(String, Phase)>,
    pub gap: Option<GapFacts>,
    /// WAL that the source keeps for it, and may still write before that is lost, in bytes.
    pub kept: Option<(i64, Option<i64>)>,
    pub received: Option<Lsn>,
    pub durable: Option<Lsn>,
    pub commit_time: Option<i64>,
    /// None: nobody reads.
    pub lag: Option<Lag>,
    pub truncates: u64,
    pub queue_connection: String,
    pub queue_id: String,
    pub queue_records: u64,
    pub queue_bytes: u64,
    pub queue_oldest: Option<i64>,
    pub catch_up: Option<CatchUpFacts>,
    /// How many wait is in the ledger; these are the details of the last look.
    pub errors: crate::queue::ErrorSummary,
    pub ledger: Ledger,
    /// When the oldest parked record is purged.
    pub next_purge: Option<i64>,
    pub conditions: Vec<Said>,
}

impl Facts {
    /// Whether the other differs in what must be written at once: phase, pauses, conditions, generation.
    #[must_use]
    pub fn is_transition(&self, other: &Self) -> bool {
        let told = |facts: &Self| {
            let said = |said: &Said| (said.type_, said.status, said.reason.clone());
            facts.conditions.iter().map(said).collect::<Vec<_>>()
        };
        self.phase != other.phase
            || (self.generation, self.wished) != (other.generation, other.wished)
            || self.pauses != other.pauses
            || self.blocked != other.blocked
            || self.gap != other.gap
            || told(self) != told(other)
    }
}
