//! What the spec says of pauses.

use super::status::PauseFacts;
use crate::api::{State, TableMap};
use jiff::Timestamp;

/// The fields of the spec that ask for a pause.
const STATE: &str = "spec.state";
const UNTIL: &str = "spec.pauseUntilTime";

/// The pauses that the spec of a map asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// `spec.state` is Paused.
    pub paused: bool,
    /// `spec.pauseUntilTime`, in microseconds since the Unix epoch.
    pub until: Option<i64>,
}

impl Wish {
    /// A time that cannot be read asks for nothing: [`is_readable`] tells.
    #[must_use]
    pub fn of(map: &TableMap) -> Self {
        Self {
            paused: map.spec.state == State::Paused,
            until: until(map).and_then(Result::ok).map(Timestamp::as_microsecond),
        }
    }

    /// Whether it wants a pause at a time.
    #[must_use]
    pub fn wants(self, now: i64) -> bool {
        self.paused || self.lasts(now).is_some()
    }

    /// Until when a pause lasts that ends by itself, if it is not over.
    #[must_use]
    pub fn lasts(self, now: i64) -> Option<i64> {
        self.until.filter(|until| now < *until)
    }

    /// The pauses, and who has asked for each; `until` is when the one that ends by itself does.
    #[must_use]
    pub fn pauses(
        self,
        until: Option<i64>,
        state_by: Option<&String>,
        until_by: Option<&String>,
    ) -> Vec<PauseFacts> {
        let spec = |name: &str, until, actor: Option<&String>| PauseFacts {
            cause: "Spec",
            name: name.into(),
            since: None,
            until,
            actor: actor.cloned(),
            message: None,
        };
        let state = self.paused.then(|| spec(STATE, None, state_by));
        let until = until.map(|until| spec(UNTIL, Some(until), until_by));
        state.into_iter().chain(until).collect()
    }
}

fn until(map: &TableMap) -> Option<Result<Timestamp, jiff::Error>> {
    map.spec.pause_until_time.as_ref().map(|text| text.parse())
}

/// Whether the time can be read. The API server takes only such, but an object can be older than its schema.
#[must_use]
pub fn is_readable(map: &TableMap) -> bool {
    until(map).is_none_or(|until| until.is_ok())
}

#[cfg(test)]
mod tests {
    use super::Wish;

    #[test]
    fn a_time_that_is_over_wants_nothing() {
        let both = |paused| Wish {
            paused,
            until: Some(10),
        };
        assert_eq!([9, 10].map(|now| both(false).wants(now)), [true, false]);
        assert_eq!([9, 10].map(|now| both(true).wants(now)), [true, true]);
        assert!(!Wish::default().wants(0));
    }
}
