//! What of the error store may be shown without row data, and what a lane must know of it.

use crate::{
    failure::Class,
    record::{ParkedRecord, Position},
};
use std::collections::BTreeMap;

/// So many errors are listed in status.
const RECENT: usize = 5;

/// One error as status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentError {
    pub id: String,
    pub operation: String,
    pub class: Class,
    pub code: String,
    pub object: Option<String>,
    pub remedy: String,
    pub attempts: u32,
    /// Microseconds since the Unix epoch.
    pub last_time: i64,
}

/// The errors that wait, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorSummary {
    pub count: u64,
    pub by_class: BTreeMap<Class, u64>,
    pub recent: Vec<RecentError>,
}

impl ErrorSummary {
    /// Sums up what is not superseded, as of a destination that has everything up to `has`; newest first.
    #[must_use]
    pub fn of(records: &[ParkedRecord], has: Position) -> Self {
        let mut summary = Self::default();
        let waits = |record: &&ParkedRecord| {
            record.change.position <= has && record.superseded_by.is_none_or(|by| by > has)
        };
        let mut waiting: Vec<&ParkedRecord> = records.iter().filter(waits).collect();
        waiting.sort_by_key(|record| std::cmp::Reverse((record.last_time, record.change.position)));
        for record in &waiting {
            summary.count += 1;
            *summary.by_class.entry(record.refusal.class).or_default() += 1;
        }
        summary.recent = waiting.into_iter().take(RECENT).map(recent).collect();
        summary
    }
}

fn recent(record: &ParkedRecord) -> RecentError {
    RecentError {
        id: record.id.clone(),
        operation: format!("{:?}", record.change.operation),
        class: record.refusal.class,
        code: record.refusal.code.clone(),
        object: record.refusal.object.clone(),
        remedy: record.refusal.remedy.clone(),
        attempts: record.attempts,
        last_time: record.last_time,
    }
}
