//! Whether somebody else's Lease has expired, judged by our own clock.

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use std::time::{Duration, Instant};

/// A Lease as it was last seen to change. Clocks of two machines are never compared.
#[derive(Clone, Debug)]
pub struct Observed {
    version: Option<String>,
    since: Instant,
}

impl Observed {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            version: None,
            since: now,
        }
    }

    /// Takes note of a version of the Lease; true once it has not changed for `duration`.
    pub fn is_expired(&mut self, version: Option<&str>, duration: Duration, now: Instant) -> bool {
        if self.version.as_deref() != version {
            self.version = version.map(ToOwned::to_owned);
            self.since = now;
        }
        now.duration_since(self.since) >= duration
    }
}

/// Whether somebody has ever held a Lease: it is made before its first holder begins.
#[must_use]
pub fn has_begun(lease: &Lease) -> bool {
    lease
        .spec
        .as_ref()
        .is_some_and(|spec| spec.acquire_time.is_some())
}

/// Whether somebody holds a Lease now, as far as the clocks of two machines agree. For showing only: nothing that
/// must not happen twice may rest on it.
#[must_use]
pub fn is_current(lease: &Lease) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let (Some(_), Some(renewed)) = (&spec.holder_identity, &spec.renew_time) else {
        return false;
    };
    let age = Timestamp::now().duration_since(renewed.0).as_secs();
    age <= i64::from(spec.lease_duration_seconds.unwrap_or(4)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_expires_when_it_has_not_changed_for_its_duration() {
        let start = Instant::now();
        let mut seen = Observed::new(start);
        let four = Duration::from_secs(4);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!seen.is_expired(Some("1"), four, at(1)));
        assert!(!seen.is_expired(Some("2"), four, at(4)), "it was renewed");
        assert!(!seen.is_expired(Some("2"), four, at(7)));
        assert!(seen.is_expired(Some("2"), four, at(8)));
    }
}
