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
        time::Duration,
    };

    #[derive(Clone)]
    enum Action {
        Raise(Signal),
        /// Holds up whoever comes by until somebody comes by at another place.
        Await(String),
    }

    /// `TABLEMAP_FAILPOINTS=name=kill:3,other=stop:1,third=until-fourth`: at the third hit of `name` the process kills itself
    /// with SIGKILL, at the first of `other` it stops itself with SIGSTOP, and whoever comes by `third` first waits there
    /// for the next hit of `fourth`.
    static PLAN: LazyLock<HashMap<String, (Action, u64)>> = LazyLock::new(|| {
        let plan = std::env::var("TABLEMAP_FAILPOINTS").unwrap_or_default();
        plan.split(',').filter_map(parse).collect()
    });
    static HITS: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);
    static BROKEN: LazyLock<String> = LazyLock::new(|| std::env::var("TABLEMAP_BROKEN").unwrap_or_default());

    fn parse(part: &str) -> Option<(String, (Action, u64))> {
        let (name, rest) = part.split_once('=')?;
        let (action, count) = rest.split_once(':').unwrap_or((rest, "1"));
        let action = match (action, action.strip_prefix("until-")) {
            ("kill", _) => Action::Raise(Signal::SIGKILL),
            ("stop", _) => Action::Raise(Signal::SIGSTOP),
            (_, Some(place)) => Action::Await(place.to_owned()),
            _ => return None,
        };
        Some((name.to_owned(), (action, count.parse().ok()?)))
    }

    /// Marks a place.
    pub fn hit(name: &str) {
        if PLAN.is_empty() {
            return;
        }
        let count = count(name, 1);
        let Some((action, _)) = PLAN.get(name).filter(|(_, at)| *at == count) else {
            return;
        };
        // The test counts a fault only if this line is there.
        match action {
            Action::Raise(signal) => {
                eprintln!("failpoint {name} {}", signal.as_str());
                let _ = raise(*signal);
            }
            Action::Await(place) => {
                eprintln!("failpoint {name} waits for {place}");
                let before = self::count(place, 0);
                // All others go on.
                tokio::task::block_in_place(|| {
                    while self::count(place, 0) == before {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
        }
    }

    /// So many hits a place has had, with these.
    fn count(name: &str, more: u64) -> u64 {
        let mut hits = HITS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = hits.entry(name.to_owned()).or_default();
        *count += more;
        *count
    }

    /// Whether a deliberately broken behaviour is switched on.
    #[must_use]
    pub fn is_broken(name: &str) -> bool {
        *BROKEN == name
    }
}
