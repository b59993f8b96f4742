//! How fast queues are replayed: at most as fast as the lowest cap of the merged maps allows, and slowly at first into a
//! destination that has just come back.

use std::time::Instant;

/// Records a second with which a ramp begins; they double every second,
const FIRST: f64 = 250.0;
/// until it is over.
const FULL: f64 = 100_000.0;

/// A token bucket.
#[derive(Debug)]
pub struct Rate {
    cap: Option<u32>,
    /// When the ramp began.
    ramp: Option<Instant>,
    tokens: f64,
    at: Instant,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            cap: None,
            ramp: None,
            tokens: 1.0,
            at: Instant::now(),
        }
    }
}

impl Rate {
    /// From now on no more than these records a second. None: as fast as it goes.
    pub fn set_cap(&mut self, cap: Option<u32>) {
        self.begin(cap.is_some());
        self.cap = cap;
    }

    /// Begins a ramp, unless one is under way.
    pub fn ramp_up(&mut self) {
        self.begin(true);
        self.ramp.get_or_insert_with(Instant::now);
    }

    /// The ramp is over.
    pub fn end_ramp(&mut self) {
        self.ramp = None;
    }

    /// What was written without a limit is not to be made up for.
    fn begin(&mut self, limited: bool) {
        if limited && !self.is_limited() {
            (self.tokens, self.at) = (1.0, Instant::now());
        }
    }

    /// A cap holds to the record; a ramp lets a transaction go that has begun.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.cap.is_some()
    }

    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.cap.is_some() || self.ramp.is_some()
    }

    /// Records a second, now.
    fn current(&mut self, now: Instant) -> Option<f64> {
        let ramp = self
            .ramp
            .map(|since| FIRST * now.duration_since(since).as_secs_f64().exp2())
            .filter(|rate| *rate < FULL);
        if ramp.is_none() {
            self.ramp = None;
        }
        let cap = self.cap.map(f64::from);
        match (cap, ramp) {
            (Some(cap), Some(ramp)) => Some(cap.min(ramp)),
            (one, other) => one.or(other),
        }
    }

    /// How many records may be written now; None: as many as there are. A quarter of a second may be saved up: enough to be
    /// smooth, too little to be a burst.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded by the rate, never negative"
    )]
    pub fn allowance(&mut self) -> Option<usize> {
        let now = Instant::now();
        let rate = self.current(now)?;
        let gained = now.duration_since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min((rate / 4.0).max(1.0));
        self.at = now;
        Some(self.tokens.max(0.0) as usize)
    }

    /// So many records were written.
    pub fn spend(&mut self, count: usize) {
        if self.is_limited() {
            self.tokens -= f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ramp_doubles_every_second_until_it_is_over_and_a_cap_governs_it() {
        let mut rate = Rate::default();
        assert_eq!(rate.allowance(), None);
        rate.ramp_up();
        let since = rate.ramp.unwrap_or_else(Instant::now);
        let mut after = |seconds, cap| {
            rate.set_cap(cap);
            rate.current(since + Duration::from_secs(seconds))
        };
        assert_eq!(after(0, None), Some(FIRST));
        assert_eq!(after(3, None), Some(8.0 * FIRST));
        assert_eq!(after(3, Some(100)), Some(100.0));
        assert_eq!(after(20, Some(100)), Some(100.0));
        assert_eq!(after(0, None), None, "what is over does not come back");
        assert!(!rate.is_limited());
    }

    #[test]
    fn nothing_is_saved_up_while_there_is_no_limit() {
        let mut rate = Rate::default();
        rate.at -= Duration::from_secs(3600);
        rate.set_cap(Some(1000));
        assert!(rate.allowance() < Some(100));
        rate.spend(200);
        assert_eq!(rate.allowance(), Some(0));
    }
}
