//! Rules: how many failures of which kind are too many, within how long, and what follows. Pure, no I/O.
//!
//! After each batch the worker tells a map's [`Rules`] what was written and what the destination refused, and hears
//! which rules fire. All times are microseconds, those of the clock since the Unix epoch.

#[cfg(test)]
mod fixture;
mod matching;
mod rules;
#[cfg(test)]
mod simulation;
mod tally;
mod watched;
mod window;

pub use matching::{Matching, Pattern};
pub use rules::Rules;
pub use tally::{OTHER, Tally};
pub use window::Window;

/// A rule that fires again and again is quiet for at most 2 to the power of this times its cooldown; so its trials.
const MOST_DOUBLINGS: u32 = 6;

/// How many failures are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    Count(u64),
    /// Of the tried records, once `least` were tried: one failure of one record is no sign of anything.
    Percent {
        percent: u32,
        least: u64,
    },
}

impl Threshold {
    #[must_use]
    pub fn is_reached(self, count: u64, tried: u64) -> bool {
        match self {
            Self::Count(most) => count >= most,
            Self::Percent { percent, least } => {
                let wanted = u128::from(tried) * u128::from(percent);
                tried >= least && u128::from(count) * 100 >= wanted
            }
        }
    }
}

/// What follows when a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Notify,
    Pause,
}

/// What a map's owner asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique within the map: a rule is known by it when it is edited.
    pub name: String,
    pub matching: Matching,
    pub threshold: Threshold,
    /// In microseconds.
    pub window: i64,
    pub action: Action,
    /// Else it is a dry run: it fires, and nothing but a notice follows.
    pub enforced: bool,
    /// In microseconds.
    pub cooldown: i64,
    /// How its pause may end by itself.
    pub trial: Option<Trial>,
}

/// Some records of the queue are written, to see whether they are refused still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub records: u64,
    /// How long after the rule has fired, in microseconds.
    pub after: i64,
}

impl Trial {
    /// When the next one is due, once so many have failed, the last one now.
    #[must_use]
    pub fn next(self, now: i64, failed: u32) -> i64 {
        now.saturating_add(doubled(self.after, failed))
    }
}

impl Rule {
    /// A pause follows when it fires.
    #[must_use]
    pub fn pauses(&self) -> bool {
        self.enforced && self.action == Action::Pause
    }

    /// For how long it is quiet when it has fired so many times in a row, in microseconds.
    #[must_use]
    pub fn quiet(&self, flaps: u32) -> i64 {
        doubled(self.cooldown, flaps)
    }
}

/// A time that doubles so often.
fn doubled(time: i64, times: u32) -> i64 {
    time.max(0).saturating_mul(1 << times.min(MOST_DOUBLINGS))
}

/// What must outlive a restart, beside whether the pause is in effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub last_fired: Option<i64>,
    /// How many times in a row it fired again soon after it had been quiet.
    pub flaps: u32,
    /// Of no meaning while the pause is in effect.
    pub quiet_until: i64,
}

/// Why a rule fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub rule: String,
    pub at: i64,
    /// Failures that it counts, within its window.
    pub count: u64,
    /// Records written or refused, within its window.
    pub tried: u64,
    pub tally: Tally,
}

/// How near a rule is to firing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub rule: String,
    pub count: u64,
    pub tried: u64,
    pub last_fired: Option<i64>,
    /// None: it is not quiet.
    pub quiet_until: Option<i64>,
    pub flaps: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_reached_when_so_many_failed() {
        assert!(!Threshold::Count(10).is_reached(9, 1000));
        assert!(Threshold::Count(10).is_reached(10, 1000));
    }

    #[test]
    fn a_percentage_is_reached_once_enough_was_tried() {
        let threshold = Threshold::Percent {
            percent: 5,
            least: 100,
        };
        assert!(!threshold.is_reached(99, 99));
        assert!(threshold.is_reached(5, 100));
        assert!(!threshold.is_reached(5, 101));
        assert!(threshold.is_reached(u64::MAX, u64::MAX));
    }

    #[test]
    fn the_quiet_time_doubles_up_to_sixty_four_times_the_cooldown() {
        let rule = fixture::rule("a");
        let factors = [0, 1, 5, 6, 7, 31, 32, u32::MAX].map(|flaps| rule.quiet(flaps) / rule.cooldown);
        assert_eq!(factors, [1, 2, 32, 64, 64, 64, 64, 64]);
    }

    #[test]
    fn no_cooldown_is_too_large_or_too_small() {
        let with = |cooldown| Rule {
            cooldown,
            ..fixture::rule("a")
        };
        assert_eq!(with(i64::MAX).quiet(6), i64::MAX);
        assert_eq!(with(-1).quiet(6), 0);
    }

    #[test]
    fn only_an_enforced_pause_pauses() {
        let pauses = |action, enforced| {
            Rule {
                action,
                enforced,
                ..fixture::rule("a")
            }
            .pauses()
        };
        assert!(pauses(Action::Pause, true));
        assert!(!pauses(Action::Pause, false));
        assert!(!pauses(Action::Notify, true));
    }
}
