//! What an operation has done with records.

use crate::{clock, failure::Class, queue::Chosen, record::ParkedRecord};

/// So many failures are told.
const FAILURES: usize = 10;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Microseconds since the Unix epoch.
    pub started: i64,
    /// The last error that it has looked at.
    pub last_error: Option<String>,
    pub counts: Counts,
    pub failures: Vec<Failure>,
}

/// `selected` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub selected: u64,
    /// Written, or given up.
    pub completed: u64,
    pub failed: u64,
    pub superseded: u64,
    pub remaining: u64,
}

/// One record that was refused again, without row data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub id: String,
    pub class: Class,
    pub code: String,
    pub object: Option<String>,
    pub attempts: u32,
}

impl Counts {
    /// From what Redis remembers, when so many have still to be done.
    #[must_use]
    pub fn of(chosen: Chosen, remaining: u64) -> Self {
        let others = chosen.failed + chosen.skipped + remaining;
        Self {
            selected: chosen.selected,
            completed: chosen.selected.saturating_sub(others),
            failed: chosen.failed,
            superseded: chosen.skipped,
            remaining,
        }
    }
}

impl Work {
    #[must_use]
    pub fn begun() -> Self {
        Self {
            started: clock::now(),
            ..Self::default()
        }
    }

    /// A record was refused again.
    pub fn failed(&mut self, record: &ParkedRecord) {
        if self.failures.len() < FAILURES {
            self.failures.push(Failure {
                id: record.id.clone(),
                class: record.refusal.class,
                code: record.refusal.code.clone(),
                object: record.refusal.object.clone(),
                attempts: record.attempts,
            });
        }
    }
}
