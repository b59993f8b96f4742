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

/// The file that `TABLEMAP_CLOCK` names tells by how many seconds, at each look.
#[cfg(feature = "testing")]
fn moved() -> i64 {
    use std::{ffi::OsString, sync::LazyLock};
    static FILE: LazyLock<Option<OsString>> = LazyLock::new(|| std::env::var_os("TABLEMAP_CLOCK"));
    let Some(file) = &*FILE else { return 0 };
    let seconds = std::fs::read_to_string(file).unwrap_or_default();
    seconds.parse::<i64>().unwrap_or(0) * 1_000_000
}
