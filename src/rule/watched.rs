//! One rule of a map: what it has counted, when it fires, and for how long it is quiet afterwards.

use super::{Fired, Past, Rule, State, Tally, Window};

/// A rule with all that it remembers.
#[derive(Clone, Debug)]
pub struct Watched {
    pub rule: Rule,
    pub past: Past,
    /// The pause that it asked for has not ended.
    pub in_effect: bool,
    window: Window,
}

impl Watched {
    pub fn new(rule: Rule) -> Self {
        Self {
            window: Window::new(rule.window),
            rule,
            past: Past::default(),
            in_effect: false,
        }
    }

    /// The rule was edited. What was counted under another matching says nothing.
    pub fn change(&mut self, rule: Rule) {
        if rule.matching != self.rule.matching {
            self.window.clear();
        }
        self.window.set_length(rule.window);
        self.rule = rule;
    }

    /// Counts a batch, and tells whether the rule fires. Only a failure that it counts makes it fire.
    pub fn observe(&mut self, now: i64, tried: u64, refused: &Tally) -> Option<Fired> {
        self.limit_quiet(now);
        let matched = self.rule.matching.of(refused);
        self.window.add(now, tried, &matched);
        let fires = !matched.is_empty() && !self.is_silent(now) && self.is_reached();
        fires.then(|| self.fire(now))
    }

    /// A clock that has gone back, and a shorter cooldown, must not leave the rule quiet for longer than it would be
    /// if it were quiet from now.
    fn limit_quiet(&mut self, now: i64) {
        self.past.quiet_until = self.past.quiet_until.min(now.saturating_add(self.quiet()));
    }

    /// For how long the rule is quiet after it has fired, or its pause has ended.
    fn quiet(&self) -> i64 {
        self.rule.quiet(self.past.flaps)
    }

    fn is_silent(&self, now: i64) -> bool {
        self.in_effect || now < self.past.quiet_until
    }

    fn is_reached(&self) -> bool {
        let (count, tried) = (self.window.count(), self.window.tried());
        self.rule.threshold.is_reached(count, tried)
    }

    fn fire(&mut self, now: i64) -> Fired {
        let fired = Fired {
            rule: self.rule.name.clone(),
            at: now,
            count: self.window.count(),
            tried: self.window.tried(),
            tally: self.window.tally(),
        };
        self.window.clear();
        self.past.flaps = if self.is_flapping(now) {
            self.past.flaps.saturating_add(1)
        } else {
            0
        };
        self.past.last_fired = Some(now);
        if self.rule.pauses() {
            self.in_effect = true;
        } else {
            self.past.quiet_until = now.saturating_add(self.quiet());
        }
        fired
    }

    /// It was quiet, and all began again before as much time had passed once more.
    fn is_flapping(&self, now: i64) -> bool {
        self.past.last_fired.is_some() && now < self.past.quiet_until.saturating_add(self.quiet())
    }

    /// The pause that it asked for has ended: it was the answer to all that was counted until now.
    pub fn ended(&mut self, now: i64) {
        if !self.in_effect {
            return;
        }
        self.in_effect = false;
        self.window.clear();
        self.past.quiet_until = now.saturating_add(self.quiet());
    }

    pub fn state(&mut self, now: i64) -> State {
        self.limit_quiet(now);
        self.window.expire(now);
        State {
            rule: self.rule.name.clone(),
            count: self.window.count(),
            tried: self.window.tried(),
            last_fired: self.past.last_fired,
            quiet_until: Some(self.past.quiet_until).filter(|until| *until > now),
            flaps: self.past.flaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failure::Class,
        rule::{
            Action, Threshold,
            fixture::{SECOND, failures, rule},
        },
    };

    /// Whether the rule fires when so many records are refused at that second.
    fn fail(watched: &mut Watched, second: i64, count: u64) -> bool {
        watched
            .observe(second * SECOND, count, &failures(count))
            .is_some()
    }

    fn pausing() -> Watched {
        Watched::new(rule("a"))
    }

    fn notifying() -> Watched {
        Watched::new(Rule {
            action: Action::Notify,
            ..rule("a")
        })
    }

    #[test]
    fn a_rule_fires_when_its_threshold_is_reached_within_its_window() {
        let mut watched = pausing();
        assert!(!fail(&mut watched, 0, 4));
        assert!(!fail(&mut watched, 60, 1), "the first four are a minute old");
        assert!(!fail(&mut watched, 61, 3));
        assert!(fail(&mut watched, 119, 1));
    }

    #[test]
    fn it_says_why_it_fired_and_begins_to_count_anew() {
        let mut watched = pausing();
        watched.observe(0, 100, &Tally::default());
        fail(&mut watched, 1, 2);
        let fired = watched.observe(2 * SECOND, 8, &failures(3));
        assert_eq!(
            fired,
            Some(Fired {
                rule: "a".into(),
                at: 2 * SECOND,
                count: 5,
                tried: 110,
                tally: failures(5),
            })
        );
        let state = watched.state(2 * SECOND);
        assert_eq!((state.count, state.tried), (0, 0));
        assert_eq!(state.last_fired, Some(2 * SECOND));
    }

    #[test]
    fn only_a_failure_that_it_counts_makes_it_fire() {
        let mut watched = Watched::new(Rule {
            threshold: Threshold::Percent {
                percent: 5,
                least: 10,
            },
            ..rule("a")
        });
        assert!(!fail(&mut watched, 0, 2), "too little was tried");
        assert_eq!(watched.observe(SECOND, 8, &Tally::default()), None);
        let timeout = [(Class::Timeout, "57014", 1)].into_iter().collect();
        assert_eq!(watched.observe(SECOND, 1, &timeout), None);
        assert!(fail(&mut watched, 2, 1));
    }

    #[test]
    fn it_is_silent_while_its_pause_is_in_effect_and_quiet_when_that_has_ended() {
        let mut watched = pausing();
        assert!(fail(&mut watched, 0, 5));
        assert!(!fail(&mut watched, 1000, 50));
        watched.ended(1000 * SECOND);
        assert_eq!(watched.state(1000 * SECOND).count, 0, "the pause answered these");
        assert_eq!(watched.state(1000 * SECOND).quiet_until, Some(1010 * SECOND));
        assert!(!fail(&mut watched, 1009, 4));
        watched.ended(1009 * SECOND);
        assert_eq!(watched.state(1010 * SECOND).quiet_until, None, "it ends once");
        assert!(fail(&mut watched, 1010, 1), "it has counted meanwhile");
    }

    #[test]
    fn a_notice_and_a_dry_run_are_followed_by_quiet_at_once() {
        let dry = Watched::new(Rule {
            enforced: false,
            ..rule("a")
        });
        for mut watched in [notifying(), dry] {
            assert!(fail(&mut watched, 0, 5));
            assert!(!fail(&mut watched, 9, 5));
            assert!(fail(&mut watched, 10, 1));
            watched.ended(11 * SECOND);
            assert_eq!(watched.state(11 * SECOND).quiet_until, Some(30 * SECOND));
        }
    }

    #[test]
    fn what_fires_soon_again_is_quiet_twice_as_long_and_what_holds_is_forgiven() {
        let mut watched = notifying();
        let mut flaps = |second| fail(&mut watched, second, 5).then_some(watched.past.flaps);
        assert_eq!(flaps(0), Some(0));
        assert_eq!(flaps(19), Some(1), "quiet until 10, and flapping until 20");
        assert_eq!(flaps(38), None);
        assert_eq!(flaps(58), Some(2), "quiet until 39, and flapping until 59");
        assert_eq!(flaps(58 + 80), Some(0), "quiet until 98, and flapping until 138");
    }

    #[test]
    fn a_destination_that_flaps_for_ten_minutes_is_paused_ever_more_rarely() {
        let mut watched = pausing();
        let mut paused: Vec<i64> = Vec::new();
        for second in 0..600 {
            if paused.last().is_some_and(|at| second == at + 5) {
                watched.ended(second * SECOND);
            }
            if !watched.in_effect && fail(&mut watched, second, 5) {
                paused.push(second);
            }
        }
        // A pause of 5 seconds, and a quiet time of 10, 20, 40, ...
        assert_eq!(paused, [0, 15, 40, 85, 170, 335]);
    }

    #[test]
    fn the_quiet_time_of_a_destination_that_never_recovers_ends_at_sixty_four_cooldowns() {
        let mut watched = notifying();
        let fired: Vec<_> = (0..5000).filter(|at| fail(&mut watched, *at, 5)).collect();
        let gaps: Vec<_> = fired.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, [10, 20, 40, 80, 160, 320, 640, 640, 640, 640, 640, 640]);
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_rule_quiet_for_years() {
        let mut watched = notifying();
        assert!(fail(&mut watched, 1_000_000, 5));
        assert!(!fail(&mut watched, 0, 5));
        assert_eq!(watched.state(0).quiet_until, Some(10 * SECOND));
        assert!(!fail(&mut watched, 9, 5));
        assert!(fail(&mut watched, 10, 5));
    }

    #[test]
    fn a_shorter_cooldown_holds_at_once() {
        let mut watched = notifying();
        assert!(fail(&mut watched, 0, 5));
        watched.change(Rule {
            cooldown: SECOND,
            ..watched.rule.clone()
        });
        assert_eq!(watched.state(SECOND).quiet_until, Some(2 * SECOND));
        assert!(fail(&mut watched, 2, 5));
    }

    #[test]
    fn no_time_is_too_large_or_too_small() {
        let mut watched = Watched::new(Rule {
            cooldown: i64::MAX,
            ..rule("a")
        });
        for now in [i64::MAX, i64::MIN, 0, i64::MAX] {
            watched.observe(now, u64::MAX, &failures(u64::MAX));
            watched.state(now);
            watched.ended(now);
        }
    }
}
