//! The time that a test took.

use std::{io::Write, time::Instant};

/// Prints `<name>: 12.3 s` when it is dropped, whether the test passed or not.
#[must_use = "the time ends when this is dropped"]
pub struct Timed {
    name: &'static str,
    start: Instant,
}

pub fn timed(name: &'static str) -> Timed {
    Timed {
        name,
        start: Instant::now(),
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        // Not println: the test runner hides what that prints when a test passes.
        let line = format!("{}: {:.1} s\n", self.name, self.start.elapsed().as_secs_f64());
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
