//! The time that a test took, and how busy the machine was.

use std::{io::Write, time::Instant};

/// Prints `<name>: 12.3 s, 41 % busy` when it is dropped, whether the test passed or not.
#[must_use = "the time ends when this is dropped"]
pub struct Timed {
    name: &'static str,
    start: Instant,
    ticks: Option<Ticks>,
}

pub fn timed(name: &'static str) -> Timed {
    Timed {
        name,
        start: Instant::now(),
        ticks: ticks(),
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
