//! The simulated worker: everything that a crash forgets. It carries out the gate's steps as the engine does.

use super::{
    Flaw,
    judge::Seen,
    lane::{Lane, Notice, Seat},
    reporter::Reporter,
    steps::Doing,
    world::{Position, Status, World},
};
use crate::gate::{Gate, Outcome, Phase, Recovered, Route, Step, phase};
use std::collections::VecDeque;

/// Why no changes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Redis did not do what it was told.
    Queue,
    /// The key columns are gone at the source.
    Keys,
}

/// What the worker knows of its queue without asking.
#[derive(Debug, Default)]
pub struct Stock {
    pub custody: Position,
    pub last: Position,
    pub records: usize,
}

#[derive(Debug)]
pub struct Worker {
    pub gate: Gate,
    pub lane: Lane,
    pub reporter: Reporter,
    pub flaw: Option<Flaw>,
    /// The step that takes a while.
    pub doing: Option<Doing>,
    /// The token and D that the last check has read.
    pub target: Option<(u64, Position)>,
    /// What is known to be flushed at the destination.
    pub known: Option<Position>,
    pub stock: Stock,
    pub received: Position,
    pub held: Vec<Position>,
    pub appender: VecDeque<Position>,
    pub blocked: Option<Trouble>,
    /// A step failed: none is taken until the retry timer fires.
    pub retry: bool,
    /// A pause by rule is in force.
    pub holds: bool,
    /// Records are being written to see whether it must be.
    pub tries: bool,
    /// One is to begin once Redis knows of it.
    pub coming: bool,
    /// Redis is to be told.
    pub unstored: bool,
    /// A cutover was given up: what was held has lasted too long.
    pub impatient: bool,
}

impl Worker {
    /// A worker starts, once Redis can be read. It takes the destination over with a higher token, if it is there.
    pub fn boot(world: &mut World, flaw: Option<Flaw>) -> Option<Self> {
        if world.redis.away {
            return None;
        }
        let usable = !world.destination.away;
        let known = usable.then_some(world.destination.position);
        if usable && flaw != Some(Flaw::KeepsTheToken) {
            world.destination.raise();
        }
        if let Some(has) = known {
            world.redis.settle(has);
        }
        let gate = Gate::recover(Recovered {
            wanted: world.wanted || world.timed || world.redis.fired,
            usable,
            queued: !world.redis.records.is_empty(),
            fenced: world.redis.fenced,
            shown: world.status.paused,
        });
        let mut worker = Self {
            gate,
            lane: Lane::default(),
            reporter: Reporter::new(flaw),
            flaw,
            doing: None,
            target: None,
            known,
            stock: Stock::default(),
            received: 0,
            held: Vec::new(),
            appender: VecDeque::new(),
            blocked: None,
            retry: false,
            holds: world.redis.fired,
            tries: false,
            coming: false,
            unstored: false,
            impatient: false,
        };
        // Whoever comes after a trial that nobody has judged is paused again.
        if std::mem::take(&mut world.trying) && worker.holds {
            world.seen.push(Seen::Held);
        }
        worker.restock(world);
        worker.fall_back();
        worker.drive();
        Some(worker)
    }

    pub fn restock(&mut self, world: &World) {
        let redis = &world.redis;
        self.stock.custody = redis.custody;
        self.stock.records = redis.records.len();
        self.stock.last = redis.records.back().copied().unwrap_or(self.stock.last);
    }

    pub fn learn(&mut self, has: Position) {
        self.known = Some(self.known.map_or(has, |known| known.max(has)));
    }

    pub fn durable(&self) -> Position {
        self.known.unwrap_or(0).max(self.stock.custody)
    }

    /// Forgets what is on its way to the queue: the source sends it again.
    pub fn fall_back(&mut self) {
        self.appender.clear();
        self.held.clear();
        self.received = self.durable();
        if let Some(doing) = &mut self.doing {
            doing.fell_back = true;
        }
    }

    /// Takes every step that is due, and reports what has changed.
    pub fn drive(&mut self) {
        while !self.retry {
            let Some(step) = self.gate.step() else { break };
            self.carry_out(step);
        }
        self.report();
    }

    pub fn report(&mut self) {
        let paused = match self.flaw {
            Some(Flaw::ShowsBeforeTheFence) => self.gate.wanted(),
            _ => self.gate.paused(),
        };
        let running = phase(&self.gate) == Phase::Running;
        self.reporter.tell(Status { paused, running });
    }

    pub fn done(&mut self, step: Step, outcome: Outcome) {
        self.gate.done(step, outcome);
        self.retry = outcome == Outcome::Failed || (step == Step::Fence && outcome == Outcome::NotFenced);
    }

    pub fn block(&mut self, trouble: Trouble) {
        if self.blocked == Some(Trouble::Keys) {
            return;
        }
        self.blocked = Some(trouble);
        // What the lane was given is still being written.
        if !self.gate.is_direct() {
            self.fall_back();
        }
        self.gate.set_blocked(true);
        self.retry = true;
        self.report();
    }

    /// The source sends what is neither in the queue nor in the lane.
    fn unblock(&mut self, world: &World) {
        if !self.gate.is_direct() {
            self.restock(world);
            self.fall_back();
        }
        self.blocked = None;
        self.gate.set_blocked(false);
        self.drive();
    }

    pub fn unusable(&mut self) {
        self.gate.set_usable(false);
        self.drive();
        self.retry = true;
    }

    /// What may have passed by now is looked at again, and failed steps are tried again.
    pub fn try_again(&mut self, world: &World) {
        self.retry = false;
        let passed = match self.blocked {
            Some(Trouble::Queue) => !world.redis.away,
            Some(Trouble::Keys) => !world.unfit && (self.gate.is_direct() || !world.redis.away),
            None => false,
        };
        if passed {
            self.unblock(world);
        }
        if !self.gate.usable() && !world.destination.away && self.gate.busy().is_none() {
            self.gate.set_usable(true);
            self.gate.recheck();
        }
        self.drive();
    }

    /// Who wants a pause may have changed.
    pub fn planned(&mut self, world: &World) {
        let by_spec = world.wanted || world.timed;
        self.gate.set_wanted(match self.flaw {
            Some(Flaw::TriesAgainstTheSpec) if self.tries => false,
            _ => by_spec || self.holds && !self.tries,
        });
        self.retry = false;
        self.drive();
    }

    /// A rule fires.
    pub fn fire(&mut self, world: &mut World) {
        if self.holds || self.coming {
            return;
        }
        (self.coming, self.unstored) = (true, true);
        if self.flaw == Some(Flaw::ActsBeforeItIsStored) {
            self.hold(world);
        }
    }

    /// A trial begins, if nothing else asks for a pause; or one that is under way meets a refusal, or none.
    pub fn try_records(&mut self, world: &mut World, is_refused: bool) {
        let may_begin = self.gate.paused() && !world.wanted && !world.timed && !self.coming;
        match (self.holds, self.tries) {
            (true, false) if may_begin => {
                (self.tries, world.trying) = (true, true);
                world.seen.push(Seen::Tried);
            }
            (true, true) if is_refused => {
                (self.tries, world.trying) = (false, false);
                world.seen.push(Seen::Held);
            }
            (true, true) => return self.resume(world),
            _ => return,
        }
        self.planned(world);
    }

    fn hold(&mut self, world: &mut World) {
        (self.coming, self.holds) = (false, true);
        world.seen.push(Seen::Held);
        self.planned(world);
    }

    /// Redis is told how the rules stand. `answered` is false when its reply is lost.
    pub fn store(&mut self, world: &mut World, answered: bool) {
        if !self.unstored || world.redis.away {
            return;
        }
        world.redis.fired = self.holds || self.coming;
        if answered {
            self.unstored = false;
            if self.coming {
                self.hold(world);
            }
        }
    }

    /// A person ends the pauses of rules.
    pub fn resume(&mut self, world: &mut World) {
        if self.holds || self.coming {
            (self.holds, self.coming, self.unstored) = (false, false, true);
            (self.tries, world.trying) = (false, false);
            world.seen.push(Seen::Released);
            self.planned(world);
        }
    }

    /// The reader hands out the next change.
    pub fn read(&mut self, world: &World) {
        let next = self.received.max(world.confirmed) + 1;
        let route = self.gate.route();
        if next > world.produced || route == Route::Nowhere {
            return;
        }
        self.received = next;
        match route {
            Route::Lane => self.lane.accept([next]),
            Route::Queue => self.appender.push_back(next),
            Route::Leaving | Route::Cutover => self.held.push(next),
            Route::Nowhere => {}
        }
    }

    /// One append to the queue. `answered` is false when its reply is lost.
    pub fn append(&mut self, world: &mut World, most: usize, answered: bool) {
        if self.appender.is_empty() || !matches!(self.gate.route(), Route::Queue | Route::Cutover) {
            return;
        }
        let redis = &mut world.redis;
        if redis.away || redis.custody != self.stock.custody {
            return self.block(Trouble::Queue);
        }
        for position in self.appender.drain(..most.min(self.appender.len())) {
            redis.records.push_back(position);
            redis.custody = position;
        }
        if answered {
            self.restock(world);
        } else {
            self.block(Trouble::Queue);
        }
    }

    /// What the lane has to tell.
    pub fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Has(has) => {
                self.learn(has);
                self.look_at_cutover();
            }
            Notice::Down => self.unusable(),
            Notice::Fenced => {
                self.gate.recheck();
                self.unusable();
            }
        }
    }

    /// The lane cannot park a record: the map is taken out of it, and takes no changes for now.
    pub fn expel(&mut self) {
        if !matches!(self.lane.seat, Seat::Direct | Seat::Replaying) {
            return;
        }
        drop(self.lane.evict());
        self.gate.expel();
        self.gate.recheck();
        self.block(Trouble::Queue);
    }

    /// The status writer's answer.
    pub fn status_written(&mut self, version: u64) {
        let stale = version < self.reporter.awaited && self.flaw != Some(Flaw::TrustsAnyReply);
        if self.gate.busy() == Some(Step::Open) && !stale {
            self.done(Step::Open, Outcome::Done);
            self.drive();
        }
    }
}
