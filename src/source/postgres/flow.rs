//! How dense the stream is. The source sends each message by itself: reading each as it comes costs more than all that is
//! done with it, so a dense stream is left to gather for a moment.

use std::time::Duration;
use tokio::time::Instant;

/// How long it gathers. The shortest time for which the runtime's clock can wait.
pub(super) const GATHER: Duration = Duration::from_millis(1);
/// A stream is dense if so many bytes came within a window: about 30,000 small changes a second.
const DENSE: usize = 16 << 10;
const WINDOW: Duration = Duration::from_millis(2);

/// A read of so many bytes has left others behind: there is nothing to wait for.
const MUCH: usize = 32 << 10;

/// Counts what comes.
#[derive(Debug)]
pub(super) struct Flow {
    since: Instant,
    bytes: usize,
    is_dense: bool,
    /// Bytes that the last read has brought.
    last: usize,
}

impl Flow {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            is_dense: false,
            last: 0,
        }
    }

    /// So many bytes came.
    pub(super) fn came(&mut self, bytes: usize, now: Instant) {
        let elapsed = now.duration_since(self.since);
        self.bytes += bytes;
        self.last = bytes;
        if elapsed >= WINDOW {
            // A window that took long counts for as many.
            let windows = elapsed.as_micros() / WINDOW.as_micros();
            self.is_dense = self.bytes as u128 >= DENSE as u128 * windows;
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// Whether the stream is left to gather now.
    pub(super) fn gathers(&self) -> bool {
        self.is_dense && self.last < MUCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_dense_while_much_comes() {
        let start = Instant::now();
        let after = |micros| start + Duration::from_micros(micros);
        let mut flow = Flow::new(start);
        flow.came(DENSE, after(100));
        assert!(!flow.gathers(), "a single large row");
        flow.came(1, after(2_000));
        assert!(flow.gathers());
        flow.came(MUCH, after(3_000));
        assert!(!flow.gathers(), "more is there");
        flow.came(DENSE, after(22_000));
        assert!(!flow.gathers(), "ten windows");
        for at in 0..100 {
            flow.came(5_000, after(22_000 + 2_000 * at));
        }
        assert!(!flow.gathers(), "a steady flow is read as it comes");
    }
}
