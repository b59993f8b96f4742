//! What of the error store may be shown without row data, and what a lane must know of it.

use super::pack::Pack;
use crate::{
    failure::Class,
    record::{Has, ParkedRecord},
};
use std::collections::BTreeMap;

/// So many errors are listed in status.
pub(super) const RECENT: usize = 5;

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
        least(&mut self.oldest, record.kept_since(has));
        if !record.waits(has) {
            return;
        }
        self.add(record.refusal.class, record.first_time, 1);
        self.show(record, has);
    }

    /// Counts what sleeps in a pack, if it waits. All of it was skipped.
    pub(super) fn count_pack(&mut self, pack: &Pack) {
        least(&mut self.oldest, pack.time);
        if pack.superseded.is_some() {
            return;
        }
        self.add(Class::Application, pack.time, pack.left);
    }

    fn add(&mut self, class: Class, time: i64, count: u64) {
        least(&mut self.oldest_waiting, time);
        self.count += count;
        *self.by_class.entry(class).or_default() += count;
    }

    /// Lists a record that waits, if it is one of the newest. Of one time, the later record comes first.
    pub(super) fn show(&mut self, record: &ParkedRecord, has: Has) {
        let newer = |known: &RecentError| known.last_time > record.last_time;
        let place = self.recent.iter().take_while(|known| newer(known)).count();
        if place < RECENT {
            self.recent.insert(place, recent(record, has));
            self.recent.truncate(RECENT);
        }
    }
}

fn least(known: &mut Option<i64>, time: i64) {
    *known = Some(known.map_or(time, |known| known.min(time)));
}

fn recent(record: &ParkedRecord, has: Has) -> RecentError {
    RecentError {
        id: record.id.clone(),
        operation: format!("{:?}", record.change.operation),
        class: record.refusal.class,
        code: record.refusal.code.clone(),
        object: record.refusal.object.clone(),
        remedy: record.refusal.remedy.clone(),
        attempts: record.attempts,
        retry_status: record.retry_status(has).as_str(),
        last_time: record.last_time,
    }
}
