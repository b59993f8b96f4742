//! The simulated cutover: when little remains, new changes wait in memory until the rest is drained, then go direct.

use super::{Flaw, lane::Seat, worker::Worker, world::World};
use crate::gate::{Outcome, Route, Step};

/// A cutover may begin when so few records remain in the queue.
const NEAR: usize = 3;

impl Worker {
    /// What is flushed leaves the queue.
    pub fn trim(&mut self, world: &mut World) {
        if let (Some(known), false) = (self.known, world.redis.away) {
            world.redis.settle(known);
            self.stock.records = world.redis.records.len();
        }
        self.look_at_cutover();
    }

    fn is_drained(&self) -> bool {
        let flushed = self.known.unwrap_or(0);
        let queued = self.stock.records > 0 && flushed < self.stock.last;
        self.appender.is_empty() && (!queued || self.flaw == Some(Flaw::OpensBeforeDrained))
    }

    /// Begins, finishes or gives up a cutover.
    pub fn look_at_cutover(&mut self) {
        if !self.gate.draining() || self.gate.wanted() {
            return;
        }
        let cutting = self.gate.route() == Route::Cutover;
        if cutting && self.is_drained() {
            return self.go_direct();
        }
        let remaining = self.stock.records + self.appender.len();
        self.gate
            .set_near(!self.impatient && (cutting || remaining <= NEAR));
        self.impatient = false;
        self.drive();
    }

    fn go_direct(&mut self) {
        self.gate.set_drained(true);
        match self.gate.step() {
            Some(Step::Direct) => {
                self.gate.done(Step::Direct, Outcome::Done);
                self.lane.accept(self.held.drain(..));
                if self.lane.seat == Seat::Replaying {
                    self.lane.seat = Seat::Direct;
                }
            }
            Some(step) => self.carry_out(step),
            None => {}
        }
        self.drive();
    }
}
