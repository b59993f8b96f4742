//! The simulated status writer: one write at a time, a newer status replaces one that waits.

use super::{
    Flaw,
    world::{Status, World},
};

/// What becomes of a status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Written,
    /// Written, but the answer is lost.
    Unanswered,
    Failed,
}

#[derive(Debug, Default)]
pub struct Reporter {
    flaw: Option<Flaw>,
    told: Option<Status>,
    version: u64,
    /// An opening goes on once this version is written.
    pub awaited: u64,
    waiting: Option<(Status, u64)>,
    sent: Option<(Status, u64)>,
}

impl Reporter {
    pub fn new(flaw: Option<Flaw>) -> Self {
        Self {
            flaw,
            ..Self::default()
        }
    }

    pub fn tell(&mut self, status: Status) {
        if self.told != Some(status) {
            self.put(status);
        }
    }

    fn put(&mut self, status: Status) {
        self.told = Some(status);
        self.version += 1;
        self.waiting = Some((status, self.version));
    }

    /// The status is written once more, since its being written must be seen.
    pub fn await_written(&mut self) {
        self.put(self.told.unwrap_or_default());
        self.awaited = self.version;
    }

    /// Sends what waits; or ends what was sent, and tells the version that is known to be written.
    pub fn advance(&mut self, world: &mut World, delivery: Delivery) -> Option<u64> {
        let Some((status, version)) = self.sent.take() else {
            self.sent = self.waiting.take();
            return None;
        };
        if delivery != Delivery::Failed {
            world.write_status(status);
        }
        if delivery == Delivery::Written {
            return Some(version);
        }
        self.waiting.get_or_insert((status, version));
        None
    }

    /// The worker dies: what was sent may be written all the same. Its Lease is waited for, so not later than now.
    pub fn die(self, world: &mut World, written: bool) {
        if let (Some((status, _)), true) = (self.sent, written) {
            world.write_status(status);
        }
    }

    /// Whether an opening does not wait for its status.
    pub fn is_impatient(&self) -> bool {
        self.flaw == Some(Flaw::OpensBeforeTheStatus)
    }
}
