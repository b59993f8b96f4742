//! The gate's steps as the engine carries them out, in pieces between which anything may happen.

use super::{
    Flaw,
    worker::{Trouble, Worker},
    world::{Position, World},
};
use crate::gate::{Outcome, Step};

/// A step that takes a while.
#[derive(Debug)]
pub struct Doing {
    step: Step,
    /// A pause was wanted when the step began.
    wanted: bool,
    /// The map has fallen back since the step began: what the lane gives back is sent again by the source.
    pub fell_back: bool,
    /// What the lane gave back, once it has.
    leftover: Option<Vec<Position>>,
    fence: Fencing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fencing {
    Untried,
    Failed,
    /// Raised, and D read.
    Raised(Position),
}

impl Worker {
    pub fn carry_out(&mut self, step: Step) {
        match step {
            Step::Show | Step::Cut => self.done(step, Outcome::Done),
            Step::Drain => self.drain(),
            Step::Back => self.back(),
            Step::Direct => self.done(step, Outcome::Failed),
            Step::Open => self.open(),
            _ => {
                self.doing = Some(Doing {
                    step,
                    wanted: self.gate.wanted(),
                    fell_back: false,
                    leftover: None,
                    fence: Fencing::Untried,
                });
            }
        }
    }

    fn drain(&mut self) {
        let Some((token, has)) = self.target.take() else {
            self.gate.done(Step::Drain, Outcome::Failed);
            self.gate.recheck();
            return;
        };
        let connected = self.lane.is_connected();
        self.lane.replay(token, has, connected);
        self.done(Step::Drain, Outcome::Done);
    }

    fn back(&mut self) {
        self.appender.extend(self.held.drain(..));
        self.done(Step::Back, Outcome::Done);
    }

    fn open(&mut self) {
        self.report();
        self.reporter.await_written();
        if self.reporter.is_impatient() {
            self.done(Step::Open, Outcome::Done);
        }
    }

    /// The next piece of the step that is under way. `coin` decides what is left to chance.
    pub fn advance(&mut self, world: &mut World, coin: bool) {
        let Some(doing) = self.doing.take() else { return };
        match doing.step {
            Step::Leave | Step::Halt | Step::Fence => self.close(doing, world, coin),
            Step::Record | Step::Forget => self.mark(doing.step, world, coin),
            Step::Check => self.check(doing, world, coin),
            _ => {}
        }
    }

    /// Evicts, fences if a pause is wanted, begins the queue: a piece at a time.
    fn close(&mut self, mut doing: Doing, world: &mut World, coin: bool) {
        let beside = self.flaw == Some(Flaw::FencesBesideTheEviction) && coin;
        let fences = doing.wanted && doing.fence == Fencing::Untried;
        if fences && (beside || doing.leftover.is_some()) {
            doing.fence = self.raise(world, coin);
        } else if doing.leftover.is_none() {
            doing.leftover = Some(self.lane.evict());
        } else {
            return self.begin(&doing, world);
        }
        self.doing = Some(doing);
    }

    /// The answer may be lost, though the token is raised.
    fn raise(&self, world: &mut World, answered: bool) -> Fencing {
        let destination = &mut world.destination;
        match self.flaw {
            Some(Flaw::SkipsTheFence) => Fencing::Raised(self.known.unwrap_or(0)),
            _ if destination.away => Fencing::Failed,
            _ => {
                destination.raise();
                if answered {
                    Fencing::Raised(destination.position)
                } else {
                    Fencing::Failed
                }
            }
        }
    }

    /// The queue begins at what is flushed; what the lane gave back comes first, then what was held.
    fn begin(&mut self, doing: &Doing, world: &mut World) {
        if let Fencing::Raised(has) = doing.fence {
            self.learn(has);
        }
        if world.redis.away {
            let outcome = match doing.fence {
                Fencing::Raised(_) => Outcome::FencedOnly,
                _ => Outcome::Failed,
            };
            self.done(doing.step, outcome);
            return self.block(Trouble::Queue);
        }
        let redis = &mut world.redis;
        redis.settle(self.known.unwrap_or(0));
        if doing.step == Step::Leave && redis.records.is_empty() {
            let base = self.known.unwrap_or(world.confirmed);
            redis.custody = redis.custody.max(base);
        }
        self.restock(world);
        if doing.step == Step::Leave {
            self.requeue(doing);
        }
        let outcome = match (doing.fence, self.gate.wanted()) {
            (Fencing::Raised(_), _) => Outcome::Fenced,
            (_, true) => Outcome::NotFenced,
            (_, false) => Outcome::Done,
        };
        self.done(doing.step, outcome);
        self.drive();
    }

    fn requeue(&mut self, doing: &Doing) {
        if self.blocked.is_some() {
            return self.fall_back();
        }
        let flushed = self.known.unwrap_or(0);
        let returned = doing.leftover.iter().flatten();
        let counts = !doing.fell_back || self.flaw == Some(Flaw::QueuesTwice);
        let returned = returned.copied().filter(|_| counts);
        let rest = returned.chain(self.held.drain(..));
        self.appender.extend(rest.filter(|position| *position > flushed));
    }

    /// Remembers or forgets the fence in Redis. The answer may be lost.
    fn mark(&mut self, step: Step, world: &mut World, answered: bool) {
        if !world.redis.away {
            world.redis.fenced = step == Step::Record;
        }
        let outcome = if answered && !world.redis.away {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        self.done(step, outcome);
        self.drive();
    }

    /// Raises the token and reads D; then compares it with the queue.
    fn check(&mut self, mut doing: Doing, world: &mut World, answered: bool) {
        if world.destination.away || !answered {
            self.done(Step::Check, Outcome::Failed);
            return self.unusable();
        }
        if doing.fence == Fencing::Untried {
            let token = world.destination.raise();
            let has = world.destination.position;
            self.target = Some((token, has));
            doing.fence = Fencing::Raised(has);
            self.doing = Some(doing);
            return;
        }
        if world.redis.away {
            self.done(Step::Check, Outcome::Failed);
            return self.block(Trouble::Queue);
        }
        if let Fencing::Raised(has) = doing.fence {
            world.redis.settle(has);
            self.learn(has);
        }
        self.restock(world);
        self.gate.set_usable(true);
        self.done(Step::Check, Outcome::Done);
        self.drive();
    }
}
