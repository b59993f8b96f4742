//! Failpoints: named places at which tests stop or kill the process. They exist only with the feature `testing`.

/// Marks a place. In a shipped build it is nothing.
#[cfg(not(feature = "testing"))]
#[inline]
pub fn hit(_name: &str) {}

/// Whether a deliberately broken behaviour is switched on. Never in a shipped build.
#[cfg(not(feature = "testing"))]
#[inline]
#[must_use]
pub const fn is_broken(_name: &str) -> bool {
    false
}

#[cfg(feature = "testing")]
pub use testing::{hit, is_broken};

#[cfg(feature = "testing")]
mod testing {
    use nix::sys::signal::{Signal, raise};
    use std::{
        collections::HashMap,
        sync::{LazyLock, Mutex},
    };

    /// `TABLEMAP_FAILPOINTS=name=kill:3,other=stop:1`: at the third hit of `name` the process kills itself with SIGKILL,
    /// at the first of `other` it stops itself with SIGSTOP.
    static PLAN: LazyLock<HashMap<String, (Signal, u64)>> = LazyLock::new(|| {
        let plan = std::env::var("TABLEMAP_FAILPOINTS").unwrap_or_default();
        plan.split(',').filter_map(parse).collect()
    });
    static HITS: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);
    static BROKEN: LazyLock<String> = LazyLock::new(|| std::env::var("TABLEMAP_BROKEN").unwrap_or_default());

    fn parse(part: &str) -> Option<(String, (Signal, u64))> {
        let (name, rest) = part.split_once('=')?;
        let (action, count) = rest.split_once(':').unwrap_or((rest, "1"));
        let signal = match action {
            "kill" => Signal::SIGKILL,
            "stop" => Signal::SIGSTOP,
            _ => return None,
        };
        Some((name.to_owned(), (signal, count.parse().ok()?)))
    }

    /// Marks a place.
    pub fn hit(name: &str) {
        let Some((signal, at)) = PLAN.get(name) else {
            return;
        };
        let mut hits = HITS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = hits.entry(name.to_owned()).or_default();
        *count += 1;
        if count == at {
            // The test counts a fault only if this line is there.
            eprintln!("failpoint {name} {}", signal.as_str());
            let _ = raise(*signal);
        }
    }

    /// Whether a deliberately broken behaviour is switched on.
    #[must_use]
    pub fn is_broken(name: &str) -> bool {
        *BROKEN == name
    }
}
