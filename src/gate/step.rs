//! What the worker must do next for a map, and in which order.

use super::{Fence, Gate, Route};

/// One thing to do. Carried out by the worker, one at a time for each map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Take the map out of its lane, fence it if a pause is wanted, and begin the queue at the last flushed position.
    Leave,
    /// Stop replaying, and fence if a pause is wanted.
    Halt,
    /// Raise the token at the destination (rule 5).
    Fence,
    /// Remember in Redis that the destination is fenced.
    Record,
    /// Write the status that says Paused=True.
    Show,
    /// Delete the mark of the fence from Redis.
    Forget,
    /// Write the status that no longer says Paused=True, and see it written (rule 6).
    Open,
    /// Check the destination's schema again.
    Check,
    /// Replay the queue's head.
    Drain,
    /// Hold new changes in memory while the rest is drained.
    Cut,
    /// Give the held changes to the lane, and go on directly.
    Direct,
    /// Give the held changes to the queue: the cutover did not come about.
    Back,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Done, and the destination is fenced.
    Fenced,
    /// Done but for the fence: the destination could not be reached in time.
    NotFenced,
    /// Not done, though the destination is fenced.
    FencedOnly,
    /// Not done: to be tried again when facts change or the retry timer fires.
    Failed,
}

impl Gate {
    /// The next thing to do, which is then under way until [`Gate::done`]. None: nothing is to be done, or a step is
    /// under way.
    pub fn step(&mut self) -> Option<Step> {
        if self.busy.is_some() {
            return None;
        }
        let step = self.due()?;
        match step {
            Step::Leave => self.route = Route::Leaving,
            Step::Show => self.shown = true,
            // The lane gives the map up at once: a halt that has begun must end, whatever is wanted by then.
            Step::Halt => self.renewed = true,
            // Set beforehand: whatever asks for a look from now on asks for another one.
            Step::Check => (self.checked, self.renewed) = (true, false),
            Step::Drain => self.draining = true,
            Step::Cut => self.route = Route::Cutover,
            _ => {}
        }
        self.busy = Some(step);
        Some(step)
    }

    fn due(&self) -> Option<Step> {
        if self.must_close() {
            self.closing()
        } else {
            self.opening()
        }
    }

    fn must_close(&self) -> bool {
        self.wanted || !self.usable
    }

    /// Closing: gate, fence, status (rule 6).
    fn closing(&self) -> Option<Step> {
        match (self.route, self.fence) {
            (Route::Lane, _) => Some(Step::Leave),
            (Route::Leaving, _) if !self.blocked => Some(Step::Leave),
            (Route::Cutover, _) => Some(Step::Back),
            _ if self.draining => Some(Step::Halt),
            _ if !self.wanted => None,
            (_, Fence::Open) => Some(Step::Fence),
            _ if !self.shown => Some(Step::Show),
            (_, Fence::Raised) => Some(Step::Record),
            (_, Fence::Recorded) => None,
        }
    }

    /// Opening: status, then gate (rule 6).
    fn opening(&self) -> Option<Step> {
        match self.route {
            Route::Lane if self.renewed || self.shown || self.fence != Fence::Open => Some(Step::Leave),
            _ if (self.renewed || self.idle) && self.draining => Some(self.stop()),
            Route::Leaving if !self.blocked => Some(Step::Leave),
            Route::Lane | Route::Leaving | Route::Nowhere => None,
            _ if self.fence != Fence::Open => Some(Step::Forget),
            _ if self.shown => Some(Step::Open),
            _ if self.blocked && self.route == Route::Cutover => Some(Step::Back),
            _ if self.lost || self.idle => None,
            Route::Queue if !self.checked => Some(Step::Check),
            Route::Queue if !self.draining => Some(Step::Drain),
            Route::Queue if self.near && !self.blocked => Some(Step::Cut),
            Route::Cutover if self.drained => Some(Step::Direct),
            Route::Cutover if !self.near => Some(Step::Back),
            Route::Queue | Route::Cutover => None,
        }
    }

    fn stop(&self) -> Step {
        if self.route == Route::Cutover {
            Step::Back
        } else {
            Step::Halt
        }
    }

    /// Reports how the step that was under way ended. Reports of other steps are stale and change nothing.
    pub fn done(&mut self, step: Step, outcome: Outcome) {
        if self.busy != Some(step) {
            return;
        }
        self.busy = None;
        let ended = !matches!(outcome, Outcome::Failed | Outcome::FencedOnly);
        if matches!(outcome, Outcome::Fenced | Outcome::FencedOnly) {
            self.fence = Fence::Raised;
        }
        match step {
            Step::Leave if ended => self.route = Route::Queue,
            Step::Halt if ended => (self.draining, self.near) = (false, false),
            Step::Record if ended => self.fence = Fence::Recorded,
            Step::Forget if ended => self.fence = Fence::Open,
            Step::Open if ended => self.shown = false,
            Step::Check if !ended => self.checked = false,
            Step::Drain if !ended => self.draining = false,
            Step::Direct if ended => {
                self.route = Route::Lane;
                self.draining = false;
                self.near = false;
                self.drained = false;
            }
            Step::Back if ended => {
                self.route = Route::Queue;
                self.near = false;
                self.drained = false;
            }
            _ => {}
        }
    }
}
