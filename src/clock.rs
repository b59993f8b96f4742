//! The time of day, in microseconds since the Unix epoch. Tests can move it.

use std::time::Duration;

/// Now.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond() + moved()
}

/// So long before now.
#[must_use]
pub fn before(age: Duration) -> i64 {
    now().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}

/// A time as Kubernetes writes it, to the second.
#[must_use]
pub fn text(micros: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(micros).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(not(feature = "testing"))]
const fn moved() -> i64 {
    0
}

/// `TABLEMAP_CLOCK_SECONDS` tells by how much.
#[cfg(feature = "testing")]
fn moved() -> i64 {
    use std::sync::LazyLock;
    static MOVED: LazyLock<i64> = LazyLock::new(|| {
        let seconds = std::env::var("TABLEMAP_CLOCK_SECONDS").ok();
        seconds.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0) * 1_000_000
    });
    *MOVED
}
