//! How much a map may have queued, and what follows when it does. Pure.
//!
//! Age is that of the oldest queued record, by its commit at the source: it survives restarts of the worker, and an outage
//! counts as a pause does.

use std::{fmt, time::Duration};

/// One bound for each measure. None: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    pub records: Option<u64>,
    /// In Redis.
    pub bytes: Option<u64>,
    pub age: Option<Duration>,
}

/// What a map may have queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Here changes stay at the source.
    pub hard: Measures,
    /// Here somebody should look.
    pub soft: Measures,
}

/// What it has queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub records: u64,
    pub bytes: u64,
    pub age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Records,
    Bytes,
    Age,
}

/// A bound, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub measure: Measure,
    pub used: u64,
    pub limit: u64,
}

impl Measures {
    /// What a map has that names nothing: 1 GiB, and 7 days.
    pub const DEFAULT: Self = Self {
        records: None,
        bytes: Some(1 << 30),
        age: Some(Duration::from_secs(7 * 24 * 3600)),
    };

    /// The lower of each.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        Self {
            records: lower(self.records, other.records),
            bytes: lower(self.bytes, other.bytes),
            age: lower(self.age, other.age),
        }
    }

    /// These, and those of `other` where there is none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            records: self.records.or(other.records),
            bytes: self.bytes.or(other.bytes),
            age: self.age.or(other.age),
        }
    }

    /// Four fifths of each.
    #[must_use]
    pub fn soft(self) -> Self {
        Self {
            records: self.records.map(|records| records / 5 * 4 + records % 5 * 4 / 5),
            bytes: self.bytes.map(|bytes| bytes / 5 * 4),
            age: self.age.map(|age| age * 4 / 5),
        }
    }

    fn each(self, usage: Usage) -> impl Iterator<Item = Reached> {
        let of = |measure, used, limit: Option<u64>| limit.map(|limit| Reached { measure, used, limit });
        let age = self.age.map(|age| age.as_secs());
        [
            of(Measure::Records, usage.records, self.records),
            of(Measure::Bytes, usage.bytes, self.bytes),
            of(Measure::Age, usage.age.as_secs(), age),
        ]
        .into_iter()
        .flatten()
    }

    /// The bound that is used most.
    #[must_use]
    pub fn nearest(self, usage: Usage) -> Option<Reached> {
        let part = |one: &Reached, of: &Reached| u128::from(one.used) * u128::from(of.limit);
        self.each(usage)
            .max_by(|one, other| part(one, other).cmp(&part(other, one)))
    }

    /// A bound that is reached.
    #[must_use]
    pub fn reached(self, usage: Usage) -> Option<Reached> {
        self.nearest(usage)
            .filter(|nearest| nearest.used >= nearest.limit)
    }
}

impl Reached {
    /// No more than half of it is used: taking changes begins again.
    #[must_use]
    pub const fn is_half(self) -> bool {
        self.used <= self.limit / 2
    }

    /// The field of `spec.queue.limits.hard` that may be raised.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self.measure {
            Measure::Records => "records",
            Measure::Bytes => "bytes",
            Measure::Age => "ageSeconds",
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, limit, .. } = self;
        match self.measure {
            Measure::Records => write!(f, "The queue holds {used} of {limit} records."),
            Measure::Bytes => write!(f, "The queue holds {used} of {limit} bytes."),
            Measure::Age => write!(
                f,
                "The oldest queued record waits since {used} seconds; the limit is {limit}."
            ),
        }
    }
}

/// How a map stands to its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Level {
    #[default]
    Below,
    Soft(Reached),
    Hard(Reached),
}

/// Watches one map's queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    level: Level,
    /// Closed under these limits: it opens at half of them, or when others leave room.
    closed: Option<(Limits, Reached)>,
}

/// What has changed with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// The soft limit, upwards.
    pub soft: bool,
    pub closed: bool,
    pub opened: bool,
}

impl Meter {
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Changes stay at the source.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Reads what is queued.
    pub fn read(&mut self, limits: Limits, usage: Usage) -> Crossed {
        let was_closed = self.is_closed();
        let was_below = self.level == Level::Below;
        let hard = limits.hard.reached(usage);
        let half = limits.hard.nearest(usage).is_none_or(Reached::is_half);
        self.closed = match (hard, self.closed) {
            (Some(reached), Some((under, _))) => Some((under, reached)),
            (Some(reached), None) => Some((limits, reached)),
            (None, Some((under, reached))) if under == limits && !half => Some((under, reached)),
            (None, _) => None,
        };
        self.level = match (self.closed, limits.soft.reached(usage)) {
            (Some((_, reached)), _) => Level::Hard(limits.hard.nearest(usage).unwrap_or(reached)),
            (None, Some(reached)) => Level::Soft(reached),
            (None, None) => Level::Below,
        };
        Crossed {
            soft: was_below && self.level != Level::Below,
            closed: !was_closed && self.is_closed(),
            opened: was_closed && !self.is_closed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(records: u64) -> Limits {
        let hard = Measures {
            records: Some(records),
            ..Measures::default()
        };
        Limits {
            hard,
            soft: hard.soft(),
        }
    }

    fn records(records: u64) -> Usage {
        Usage {
            records,
            ..Usage::default()
        }
    }

    const NOTHING: Crossed = Crossed {
        soft: false,
        closed: false,
        opened: false,
    };

    #[test]
    fn a_map_is_warned_then_closed_and_opens_at_half() {
        let mut meter = Meter::default();
        let mut read = |used| meter.read(limits(100), records(used));
        assert_eq!(read(79), NOTHING);
        assert_eq!(
            read(80),
            Crossed {
                soft: true,
                ..NOTHING
            }
        );
        assert_eq!(read(90), NOTHING, "once for each crossing");
        assert_eq!(
            read(100),
            Crossed {
                closed: true,
                ..NOTHING
            }
        );
        assert_eq!(read(51), NOTHING, "it stays closed");
        assert_eq!(
            read(50),
            Crossed {
                opened: true,
                ..NOTHING
            }
        );
        assert_eq!(
            read(85),
            Crossed {
                soft: true,
                ..NOTHING
            }
        );
    }

    #[test]
    fn a_raised_limit_opens_at_once_if_it_leaves_room() {
        let mut meter = Meter::default();
        meter.read(limits(100), records(120));
        assert!(meter.is_closed());
        assert_eq!(meter.read(limits(110), records(120)), NOTHING);
        assert_eq!(
            meter.read(limits(121), records(120)),
            Crossed {
                opened: true,
                ..NOTHING
            }
        );
        assert!(matches!(meter.level(), Level::Soft(_)));
    }

    #[test]
    fn whichever_comes_first_closes() {
        let both = Measures::DEFAULT.within(Measures {
            age: Some(Duration::from_secs(10)),
            ..Measures::default()
        });
        let usage = Usage {
            age: Duration::from_secs(10),
            ..Usage::default()
        };
        assert_eq!(both.reached(usage).map(Reached::field), Some("ageSeconds"));
        assert_eq!(both.bytes, Some(1 << 30));
        assert_eq!(limits(3).soft.records, Some(2));
    }
}
