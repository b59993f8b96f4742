//! What of the error store may be shown without row data, and what a lane must know of it.

use crate::{
    failure::Class,
    record::{Has, ParkedRecord},
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
    /// Pending, `InProgress` or Failed.
    pub retry_status: &'static str,
    /// Microseconds since the Unix epoch.
    pub last_time: i64,
}

/// The errors that wait, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorSummary {
    pub count: u64,
    pub by_class: BTreeMap<Class, u64>,
    /// Newest first.
    pub recent: Vec<RecentError>,
    /// When the oldest record was first refused of those that wait; or settled, of the others. Microseconds since the Unix
    /// epoch.
    pub oldest: Option<i64>,
    /// Of those that wait alone.
    pub oldest_waiting: Option<i64>,
}

impl ErrorSummary {
    /// Counts a record, if it waits at a destination that is so far.
    pub fn count(&mut self, record: &ParkedRecord, has: Has) {
        let least =
            |known: &mut Option<i64>, time| *known = Some(known.map_or(time, |known| known.min(time)));
        least(&mut self.oldest, record.kept_since(has));
        if !record.waits(has) {
            return;
        }
        least(&mut self.oldest_waiting, record.first_time);
        self.count += 1;
        *self.by_class.entry(record.refusal.class).or_default() += 1;
        // Of one time, the later record comes first.
        let newer = |known: &RecentError| known.last_time > record.last_time;
        let place = self.recent.iter().take_while(|known| newer(known)).count();
        if place < RECENT {
            self.recent.insert(place, recent(record));
            self.recent.truncate(RECENT);
        }
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
        retry_status: match (&record.operation, record.attempts) {
            (Some(_), _) => "InProgress",
            (None, 2..) => "Failed",
            (None, _) => "Pending",
        },
        last_time: record.last_time,
    }
}
