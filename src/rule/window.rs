//! A sliding window in bounded memory.
//!
//! What happened close together shares a bucket, and leaves the window with the newest of it. So a count has all of
//! the last `length`, and nothing from before the last `length * 61/60`.

use super::Tally;
use std::collections::VecDeque;

/// A bucket spans at most this part of the length. One more bucket than that may be kept: the oldest reaches beyond
/// the window.
const PARTS: i64 = 60;

/// What happened from `first` to `last`.
#[derive(Clone, Debug)]
struct Bucket {
    first: i64,
    last: i64,
    tried: u64,
    matched: Tally,
}

/// What was tried lately, and how much of it failed in the way that a rule is about. Times are microseconds.
///
/// The clock may go back: what then lies ahead of it counts as of now. Nothing is lost by that, and nothing stays for
/// longer than another `length`.
#[derive(Clone, Debug)]
pub struct Window {
    /// At least 1.
    length: i64,
    /// None is empty. Oldest first, and each begins at least a width after the one before.
    buckets: VecDeque<Bucket>,
}

impl Window {
    #[must_use]
    pub fn new(length: i64) -> Self {
        Self {
            length: length.max(1),
            buckets: VecDeque::new(),
        }
    }

    /// Keeps what fits the new length. What was counted before is known to a sixtieth of the former length only: it
    /// leaves rather too late.
    pub fn set_length(&mut self, length: i64) {
        let length = length.max(1);
        if length == self.length {
            return;
        }
        self.length = length;
        for bucket in std::mem::take(&mut self.buckets) {
            self.put(bucket.last, bucket.tried, &bucket.matched);
        }
    }

    /// Counts what was tried, and what of it failed.
    pub fn add(&mut self, now: i64, tried: u64, matched: &Tally) {
        self.expire(now);
        if tried > 0 || !matched.is_empty() {
            self.put(now, tried, matched);
        }
    }

    /// Forgets what is as old as the window is long.
    pub fn expire(&mut self, now: i64) {
        if self.buckets.back().is_some_and(|newest| newest.last > now) {
            self.turn_back(now);
        }
        let is_over = |bucket: &Bucket| now.saturating_sub(bucket.last) >= self.length;
        while self.buckets.front().is_some_and(is_over) {
            self.buckets.pop_front();
        }
    }

    fn turn_back(&mut self, now: i64) {
        let begun = self.buckets.partition_point(|bucket| bucket.first <= now);
        let ahead = self.buckets.split_off(begun);
        if let Some(newest) = self.buckets.back_mut() {
            newest.last = newest.last.min(now);
        }
        for bucket in ahead {
            self.put(now, bucket.tried, &bucket.matched);
        }
    }

    /// Nothing that is kept is later than `at`.
    fn put(&mut self, at: i64, tried: u64, matched: &Tally) {
        let width = (self.length - 1) / PARTS + 1;
        match self.buckets.back_mut() {
            Some(newest) if at.saturating_sub(newest.first) < width => {
                newest.last = at;
                newest.tried = newest.tried.saturating_add(tried);
                newest.matched.merge(matched);
            }
            _ => self.buckets.push_back(Bucket {
                first: at,
                last: at,
                tried,
                matched: matched.clone(),
            }),
        }
    }

    /// What failed, as of the last call that told the time.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.buckets.iter().map(|bucket| bucket.matched.total());
        counts.fold(0, u64::saturating_add)
    }

    /// What was tried: written or refused.
    #[must_use]
    pub fn tried(&self) -> u64 {
        let tried = self.buckets.iter().map(|bucket| bucket.tried);
        tried.fold(0, u64::saturating_add)
    }

    /// What failed, by class and code.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.matched.iter())
            .collect()
    }

    pub fn clear(&mut self) {
        self.buckets.clear();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;

    fn failures(count: u64) -> Tally {
        [(Class::Application, "23514", count)].into_iter().collect()
    }

    fn window(length: i64, at: impl IntoIterator<Item = i64>) -> Window {
        let mut window = Window::new(length);
        at.into_iter().for_each(|at| window.add(at, 1, &failures(1)));
        window
    }

    fn count(window: &mut Window, now: i64) -> u64 {
        window.expire(now);
        window.count()
    }

    #[test]
    fn a_failure_counts_for_the_length_and_not_a_microsecond_more_when_it_is_alone() {
        let mut window = window(600, [1000]);
        assert_eq!(count(&mut window, 1599), 1);
        assert_eq!(count(&mut window, 1600), 0);
        assert!(window.is_empty());
    }

    #[test]
    fn failures_of_one_bucket_leave_with_the_newest_of_them() {
        let mut window = window(600, [1000, 1009, 1010]);
        assert_eq!(window.buckets.len(), 2, "a bucket spans 10");
        assert_eq!(
            count(&mut window, 1608),
            3,
            "the first is older than the length, not by a sixtieth"
        );
        assert_eq!(count(&mut window, 1609), 1);
        assert_eq!(count(&mut window, 1610), 0);
    }

    #[test]
    fn what_was_tried_counts_beside_what_failed() {
        let mut window = Window::new(600);
        window.add(0, 5, &Tally::default());
        window.add(100, 7, &failures(2));
        window.add(100, 0, &Tally::default());
        assert_eq!((window.count(), window.tried()), (2, 12));
        assert_eq!(window.tally(), failures(2));
        window.expire(600);
        assert_eq!((window.count(), window.tried()), (2, 7));
        window.clear();
        assert!(window.is_empty());
        assert_eq!((window.count(), window.tried()), (0, 0));
    }

    #[test]
    fn nothing_tried_takes_no_room() {
        let mut window = Window::new(600);
        window.add(0, 0, &Tally::default());
        assert!(window.is_empty());
    }

    #[test]
    fn sixty_one_buckets_are_enough_at_any_pace() {
        for length in [1, 7, 59, 60, 61, 600, 900_000_001] {
            for pace in [1, length / 1000 + 1, length / 62 + 1, length / 60 + 1] {
                let mut window = Window::new(length);
                for step in 0..2000 {
                    window.add(step * pace, 1, &failures(1));
                    assert!(window.buckets.len() <= 61, "{length} {pace} {step}");
                }
            }
        }
    }

    #[test]
    fn ten_thousand_codes_take_bounded_room() {
        let mut window = Window::new(600);
        for at in 0..10_000 {
            let code = at.to_string();
            window.add(
                at / 20,
                1,
                &[(Class::Schema, code.as_str(), 1)].into_iter().collect(),
            );
        }
        assert_eq!(window.count(), 10_000);
        assert_eq!(window.buckets.len(), 50);
        assert!(
            window
                .buckets
                .iter()
                .all(|bucket| bucket.matched.iter().count() <= 17)
        );
        assert_eq!(window.tally().iter().count(), 17);
    }

    #[test]
    fn a_shorter_window_keeps_the_newest_and_a_longer_one_all_it_had() {
        let mut shorter = window(6000, [0, 3000, 5000, 5090]);
        shorter.set_length(600);
        assert_eq!(count(&mut shorter, 5100), 2);
        assert_eq!(
            count(&mut shorter, 5689),
            2,
            "one bucket before, so they stay together"
        );
        assert_eq!(count(&mut shorter, 5690), 0);

        let mut longer = window(600, (0..600).step_by(10));
        assert_eq!(longer.buckets.len(), 60);
        longer.set_length(6000);
        assert_eq!(longer.buckets.len(), 6);
        assert_eq!(count(&mut longer, 5900), 60);
    }

    #[test]
    fn a_length_that_is_set_again_changes_nothing() {
        let mut window = Window::new(600);
        for at in 1000..1100 {
            window.add(at, 1, &failures(1));
            window.set_length(600);
        }
        assert_eq!(window.buckets.len(), 10);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing_and_holds_nothing_for_ever() {
        let mut window = window(600, [1000, 1100, 1200, 1500]);
        assert_eq!(count(&mut window, 1104), 4);
        assert_eq!(window.buckets.len(), 2, "1000, and what lies ahead with 1100");
        assert_eq!(count(&mut window, 1600), 3, "1000 left on time");
        assert_eq!(count(&mut window, -1_000_000), 3);
        window.add(-1_000_000, 1, &failures(1));
        assert_eq!(count(&mut window, -999_401), 4);
        assert_eq!(count(&mut window, -999_400), 0);
    }

    #[test]
    fn a_bucket_that_lies_partly_ahead_ends_now() {
        let mut window = window(600, [1000, 1009]);
        assert_eq!(count(&mut window, 1005), 2);
        assert_eq!(count(&mut window, 1604), 2);
        assert_eq!(count(&mut window, 1605), 0);
    }

    #[test]
    fn no_time_and_no_length_is_too_large_or_too_small() {
        for length in [i64::MIN, 0, 1, i64::MAX] {
            let mut window = Window::new(length);
            for now in [0, i64::MAX, i64::MIN, -1, i64::MAX, 1] {
                window.add(now, u64::MAX, &failures(u64::MAX));
                assert_eq!(window.count(), u64::MAX);
                assert_eq!(window.tried(), u64::MAX);
                window.set_length(length.saturating_sub(1));
            }
        }
        let mut longest = window(i64::MAX, [-5, 0, i64::MAX - 1]);
        assert_eq!(longest.count(), 3);
        longest.add(i64::MAX - 1, u64::MAX, &failures(u64::MAX));
        assert_eq!((longest.count(), longest.tried()), (u64::MAX, u64::MAX));
    }
}
