//! How many failures of which kind, in bounded memory.

use crate::failure::Class;
use std::{cmp::Reverse, fmt};

/// So many codes are told apart: what a person can read, and a status can hold.
const MOST: usize = 16;

/// Stands for all further codes of a class.
pub const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    class: Class,
    code: String,
    count: u64,
}

/// How many failures of each class and code. Beyond 16 codes, further ones are counted as [`OTHER`] of their
/// class: the total stays exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By class, then code.
    entries: Vec<Entry>,
}

impl Tally {
    pub fn add(&mut self, class: Class, code: &str, count: u64) {
        if count == 0 {
            return;
        }
        let found = self
            .entries
            .binary_search_by(|entry| (entry.class, entry.code.as_str()).cmp(&(class, code)));
        match found {
            Ok(at) => self.entries[at].count = self.entries[at].count.saturating_add(count),
            Err(_) if code != OTHER && self.is_full() => self.add(class, OTHER, count),
            Err(at) => {
                let code = code.to_owned();
                self.entries.insert(at, Entry { class, code, count });
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.extend(other.iter());
    }

    fn is_full(&self) -> bool {
        self.entries.iter().filter(|entry| entry.code != OTHER).count() >= MOST
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Failures of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.entries
            .iter()
            .fold(0, |total, entry| total.saturating_add(entry.count))
    }

    /// By class, then code.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &str, u64)> {
        self.entries
            .iter()
            .map(|entry| (entry.class, entry.code.as_str(), entry.count))
    }
}

impl<'a> Extend<(Class, &'a str, u64)> for Tally {
    fn extend<I: IntoIterator<Item = (Class, &'a str, u64)>>(&mut self, failures: I) {
        for (class, code, count) in failures {
            self.add(class, code, count);
        }
    }
}

impl<'a> FromIterator<(Class, &'a str, u64)> for Tally {
    fn from_iter<I: IntoIterator<Item = (Class, &'a str, u64)>>(failures: I) -> Self {
        let mut tally = Self::default();
        tally.extend(failures);
        tally
    }
}

/// The most frequent first, so that a text that is cut short keeps what matters.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_by_key(|(_, _, count)| Reverse(*count));
        for (at, (class, code, count)) in entries.into_iter().enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            match count {
                1 => write!(f, "{class} {code} once")?,
                _ => write!(f, "{class} {code} {count} times")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_class_and_code_are_counted_together() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        tally.add(Class::Timeout, "57014", 2);
        tally.add(Class::Application, "23514", 1);
        tally.add(Class::Timeout, "57014", 3);
        tally.add(Class::Schema, "42P01", 0);
        let entries: Vec<_> = tally.iter().collect();
        assert_eq!(
            entries,
            [(Class::Application, "23514", 1), (Class::Timeout, "57014", 5)]
        );
        assert_eq!(tally.total(), 6);
    }

    #[test]
    fn a_tally_is_the_same_in_whichever_order_it_was_counted() {
        let mut failures = [
            (Class::Application, "23514", 1),
            (Class::BadRequest, "22P02", 2),
            (Class::Application, "23505", 3),
        ];
        let tally: Tally = failures.into_iter().collect();
        failures.reverse();
        assert_eq!(failures.into_iter().collect::<Tally>(), tally);
    }

    #[test]
    fn the_most_frequent_is_named_first() {
        let tally: Tally = [
            (Class::Application, "23505", 1),
            (Class::Application, "23514", 3),
            (Class::BadRequest, "22P02", 7),
            (Class::Timeout, "57014", 1),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            tally.to_string(),
            "BadRequest 22P02 7 times, Application 23514 3 times, Application 23505 once, Timeout 57014 once"
        );
        assert_eq!(Tally::default().to_string(), "");
    }

    #[test]
    fn ten_thousand_codes_take_the_room_of_sixteen_and_none_is_lost() {
        let mut tally = Tally::default();
        for code in 0..10_000 {
            let class = [Class::Application, Class::BadRequest][code % 2];
            tally.add(class, &code.to_string(), 1);
        }
        assert_eq!(tally.total(), 10_000);
        assert_eq!(tally.iter().count(), MOST + 2, "one more for each class");
        let others: Vec<_> = tally.iter().filter(|(_, code, _)| *code == OTHER).collect();
        assert_eq!(
            others,
            [
                (Class::Application, OTHER, 4992),
                (Class::BadRequest, OTHER, 4992)
            ]
        );
        tally.add(Class::Application, "0", 1);
        assert!(
            tally.iter().any(|entry| entry == (Class::Application, "0", 2)),
            "a code that is known goes on being told apart"
        );
        assert_eq!(tally.iter().collect::<Tally>(), tally, "a copy is as good");
    }

    #[test]
    fn merged_tallies_are_bounded_too() {
        let of = |codes: std::ops::Range<u64>| {
            let mut tally = Tally::default();
            codes.for_each(|code| tally.add(Class::Schema, &code.to_string(), code));
            tally
        };
        let mut tally = of(100..116);
        tally.merge(&of(110..130));
        assert_eq!(tally.iter().count(), MOST + 1);
        assert_eq!(tally.total(), (100..116).sum::<u64>() + (110..130).sum::<u64>());
        assert!(tally.iter().any(|entry| entry == (Class::Schema, "115", 230)));
    }

    #[test]
    fn counts_end_at_the_largest_number() {
        let mut tally = Tally::default();
        tally.add(Class::Schema, "42P01", u64::MAX);
        tally.add(Class::Schema, "42P01", 1);
        tally.add(Class::Schema, "42703", 1);
        assert_eq!(tally.total(), u64::MAX);
    }
}
