//! The time that a test took, and how busy the machine was; and whether another may run beside it.

use std::{
    io::Write,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

/// Prints `<name>: 12.3 s, 41 % busy` when it is dropped, whether the test passed or not.
#[must_use = "the time ends when this is dropped"]
pub struct Timed {
    name: &'static str,
    start: Instant,
    ticks: Option<Ticks>,
    _place: Place,
}

/// Those that run beside others share it.
static PLACE: RwLock<()> = RwLock::new(());

/// What is held for as long as a test runs.
#[expect(dead_code, reason = "they are held, not read")]
enum Place {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
    Within,
}

/// Of a test beside which another may run.
pub fn timed(name: &'static str) -> Timed {
    let shared = PLACE.read().unwrap_or_else(PoisonError::into_inner);
    Timed::new(name, Place::Shared(shared))
}

/// Of a test that measures times, or that needs the whole machine: no other runs beside it.
pub fn alone(name: &'static str) -> Timed {
    let alone = PLACE.write().unwrap_or_else(PoisonError::into_inner);
    Timed::new(name, Place::Alone(alone))
}

/// Of a part of a test.
pub fn part(name: &'static str) -> Timed {
    Timed::new(name, Place::Within)
}

impl Timed {
    fn new(name: &'static str, place: Place) -> Self {
        Self {
            name,
            start: Instant::now(),
            ticks: ticks(),
            _place: place,
        }
    }
}

/// Of all processors together since the machine began.
#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    idle: u64,
}

/// proc(5), `/proc/stat`: user, nice, system, idle, iowait, and so on.
fn ticks() -> Option<Ticks> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    Some(Ticks {
        all: ticks.iter().sum(),
        idle: ticks.get(3..5)?.iter().sum(),
    })
}

fn busy(before: Ticks, after: Ticks) -> u64 {
    let all = (after.all - before.all).max(1);
    100 * (all - (after.idle - before.idle).min(all)) / all
}

impl Drop for Timed {
    fn drop(&mut self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let busy = self.ticks.zip(ticks()).map(|(before, after)| busy(before, after));
        let busy = busy.map_or_else(String::new, |busy| format!(", {busy} % busy"));
        // Not println: the test runner hides what that prints when a test passes.
        let line = format!("{}: {seconds:.1} s{busy}\n", self.name);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
