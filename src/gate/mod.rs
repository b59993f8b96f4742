//! The gate of one map: where its changes go, and what must happen before they may go elsewhere. Pure, no I/O.
//!
//! The worker tells the gate facts (a pause is wanted, the destination is away, the queue is nearly empty), asks for
//! the next [`Step`], carries it out, and reports the [`Outcome`]. One step is under way at a time. What the gate
//! promises is simulated with random schedules and crashes in `simulation`.

mod phase;
mod route;
#[cfg(test)]
mod simulation;
mod step;

pub use phase::{Phase, phase};
pub use route::Route;
pub use step::{Outcome, Step};

/// Whether the destination is closed to this map's writes (rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Writes of this map may still land.
    Open,
    /// The token was raised at the destination: nothing that was sent before can land.
    Raised,
    /// Raised, and Redis remembers it over restarts.
    Recorded,
}

/// What a restarted worker found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub wanted: bool,
    pub usable: bool,
    /// Records lie in the queue beyond what the destination has.
    pub queued: bool,
    /// Redis holds "fenced": the destination was closed and has not been opened since.
    pub fenced: bool,
    /// The object's status says Paused=True.
    pub shown: bool,
}

/// One map's gate.
#[derive(Clone, Debug)]
pub struct Gate {
    wanted: bool,
    usable: bool,
    blocked: bool,
    /// Something is missing: not even the queue is drained.
    lost: bool,
    /// Nothing can be replayed now, and others must not wait for it.
    idle: bool,
    /// The destination's schema was checked since the last pause or outage, or is being checked.
    checked: bool,
    /// The map must leave its lane, or its replay, although nothing else asks for it.
    renewed: bool,
    /// Little remains to be drained: the cutover may begin.
    near: bool,
    /// Everything queued is flushed at the destination.
    drained: bool,
    route: Route,
    /// Replay writes the queue's head to the destination.
    draining: bool,
    fence: Fence,
    /// A status write said Paused=True, and none since is known to have said otherwise.
    shown: bool,
    busy: Option<Step>,
}

impl Gate {
    /// A gate as a worker finds it: closed. Whatever was written before, it opens by way of the queue, which may be
    /// empty, so that there is one way to open.
    #[must_use]
    pub fn recover(found: Recovered) -> Self {
        Self {
            wanted: found.wanted,
            usable: found.usable,
            blocked: false,
            lost: false,
            idle: false,
            checked: false,
            renewed: false,
            near: false,
            drained: false,
            route: if found.queued {
                Route::Queue
            } else {
                Route::Leaving
            },
            draining: false,
            fence: if found.fenced {
                Fence::Recorded
            } else {
                Fence::Open
            },
            shown: found.shown,
            busy: None,
        }
    }

    /// Where a change goes now.
    #[must_use]
    pub fn route(&self) -> Route {
        if self.blocked { Route::Nowhere } else { self.route }
    }

    /// The map sits in its lane, whether or not it takes new changes.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.route == Route::Lane
    }

    /// The queue has still to begin.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.route == Route::Leaving
    }

    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    #[must_use]
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    #[must_use]
    pub fn usable(&self) -> bool {
        self.usable
    }

    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining
    }

    /// The step that is under way.
    #[must_use]
    pub fn busy(&self) -> Option<Step> {
        self.busy
    }

    /// True while no write of this map can reach the destination (I6), so that the status says so. Not before
    /// [`Step::Show`]: from then on the gate knows that it may open only after a status that takes it back.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.wanted && self.closed() && self.fence != Fence::Open && self.shown
    }

    /// A status write said Paused=True, and none since is known to have said otherwise.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.shown
    }

    fn closed(&self) -> bool {
        self.route.is_closed() && !self.draining
    }

    pub fn set_wanted(&mut self, wanted: bool) {
        if self.wanted && !wanted {
            // Maintenance is when schemas change: look again before the first replayed write.
            self.checked = false;
        }
        self.wanted = wanted;
    }

    /// The destination can be reached and its schema fits, or not. When it does not, the lane has given the map up:
    /// it must leave, even if all is well again before a step could be taken.
    pub fn set_usable(&mut self, usable: bool) {
        if self.usable && !usable {
            self.renew();
        }
        self.usable = usable;
    }

    pub fn set_blocked(&mut self, blocked: bool) {
        self.blocked = blocked;
    }

    /// Changes are missing that nobody holds: nothing is written until that is mended.
    pub fn set_lost(&mut self, lost: bool) {
        self.lost = lost;
    }

    /// The map takes no changes, and nothing of its queue can be read: in a replay, others would wait for it.
    /// Tells whether that is new.
    pub fn set_idle(&mut self, idle: bool) -> bool {
        std::mem::replace(&mut self.idle, idle) != idle
    }

    #[must_use]
    pub fn is_stepping(&self) -> bool {
        self.busy.is_some()
    }

    /// The destination was looked at, and nothing has asked for another look since.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.checked
    }

    /// The destination must be looked at again before anything is written.
    pub fn recheck(&mut self) {
        self.checked = false;
    }

    /// The lane has given the map up: nothing goes there before the map has left and come back. A replay has ended
    /// too, and must be stopped so that it can begin again.
    pub fn expel(&mut self) {
        if self.route == Route::Lane {
            self.route = Route::Leaving;
        }
        self.renewed |= self.draining;
    }

    /// The queue holds other entries than a replay has read: it must be stopped, and begin again at the head.
    pub fn reread(&mut self) {
        if self.draining {
            self.renew();
        }
    }

    /// The mapping changed: the map leaves its lane, or its replay, and comes back after a look at the destination.
    pub fn renew(&mut self) {
        self.checked = false;
        self.renewed = true;
    }

    /// Little remains in the queue.
    pub fn set_near(&mut self, near: bool) {
        self.near = near;
    }

    /// Every queued record is flushed at the destination.
    pub fn set_drained(&mut self, drained: bool) {
        self.drained = drained;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Recovered {
        Recovered {
            wanted: false,
            usable: true,
            queued: false,
            fenced: false,
            shown: false,
        }
    }

    fn take(gate: &mut Gate, step: Step, outcome: Outcome) {
        assert_eq!(gate.step(), Some(step));
        gate.done(step, outcome);
    }

    fn open(gate: &mut Gate) {
        take(gate, Step::Check, Outcome::Done);
        take(gate, Step::Drain, Outcome::Done);
        gate.set_near(true);
        take(gate, Step::Cut, Outcome::Done);
        gate.set_drained(true);
        take(gate, Step::Direct, Outcome::Done);
    }

    fn running() -> Gate {
        let mut gate = Gate::recover(found());
        take(&mut gate, Step::Leave, Outcome::Done);
        open(&mut gate);
        assert_eq!(gate.route(), Route::Lane);
        gate
    }

    #[test]
    fn a_pause_closes_and_fences_and_only_then_is_shown() {
        let mut gate = running();
        gate.set_wanted(true);
        assert_eq!(gate.step(), Some(Step::Leave));
        assert_eq!(gate.route(), Route::Leaving, "closed before anything is awaited");
        assert!(!gate.paused());
        gate.done(Step::Leave, Outcome::Fenced);
        assert_eq!(gate.route(), Route::Queue);
        assert!(!gate.paused(), "nothing is shown that the gate does not know of");
        take(&mut gate, Step::Show, Outcome::Done);
        assert!(gate.paused());
        take(&mut gate, Step::Record, Outcome::Done);
        assert_eq!(gate.step(), None);
    }

    #[test]
    fn opening_clears_the_mark_then_the_status_then_checks_then_drains() {
        let mut gate = Gate::recover(Recovered {
            wanted: true,
            queued: true,
            fenced: true,
            shown: true,
            ..found()
        });
        assert_eq!(gate.step(), None, "a recovered pause needs nothing");
        gate.set_wanted(false);
        take(&mut gate, Step::Forget, Outcome::Done);
        take(&mut gate, Step::Open, Outcome::Done);
        open(&mut gate);
        assert_eq!(gate.route(), Route::Lane);
    }

    #[test]
    fn a_pause_during_cutover_goes_back_to_the_queue_and_halts_first() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.set_near(true);
        take(&mut gate, Step::Cut, Outcome::Done);
        gate.set_wanted(true);
        take(&mut gate, Step::Back, Outcome::Done);
        assert_eq!(gate.route(), Route::Queue);
        take(&mut gate, Step::Halt, Outcome::Fenced);
        take(&mut gate, Step::Show, Outcome::Done);
        assert!(gate.paused());
    }

    #[test]
    fn a_pause_taken_back_before_redis_remembers_it_still_waits_for_the_status() {
        let mut gate = running();
        gate.set_wanted(true);
        take(&mut gate, Step::Leave, Outcome::Fenced);
        take(&mut gate, Step::Show, Outcome::Done);
        assert_eq!(gate.step(), Some(Step::Record));
        gate.set_wanted(false);
        gate.done(Step::Record, Outcome::Done);
        take(&mut gate, Step::Forget, Outcome::Done);
        take(&mut gate, Step::Open, Outcome::Done);
        open(&mut gate);
    }

    #[test]
    fn a_replay_that_the_lane_gave_up_is_stopped_and_begun_again() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.expel();
        gate.recheck();
        take(&mut gate, Step::Halt, Outcome::Done);
        open(&mut gate);
    }

    #[test]
    fn a_replay_whose_queue_went_back_begins_again_and_a_direct_map_goes_on() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.reread();
        take(&mut gate, Step::Halt, Outcome::Done);
        open(&mut gate);
        gate.reread();
        assert_eq!(gate.step(), None);
    }

    #[test]
    fn a_halt_that_failed_is_tried_again_even_when_nothing_asks_for_it_any_more() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.set_wanted(true);
        take(&mut gate, Step::Halt, Outcome::Failed);
        gate.set_wanted(false);
        take(&mut gate, Step::Halt, Outcome::Done);
        open(&mut gate);
    }

    #[test]
    fn an_outage_that_is_over_before_a_step_could_be_taken_still_stops_the_replay() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.set_usable(false);
        gate.set_usable(true);
        take(&mut gate, Step::Halt, Outcome::Done);
        open(&mut gate);
    }

    #[test]
    fn a_check_that_was_overtaken_is_done_again() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        assert_eq!(gate.step(), Some(Step::Check));
        gate.renew();
        gate.done(Step::Check, Outcome::Done);
        open(&mut gate);
    }

    #[test]
    fn a_map_that_has_nothing_to_replay_and_takes_nothing_holds_up_no_other() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.set_blocked(true);
        assert_eq!(gate.step(), None, "what is queued goes on");
        assert!(gate.set_idle(true));
        take(&mut gate, Step::Halt, Outcome::Done);
        assert_eq!(gate.step(), None);
        gate.set_blocked(false);
        assert!(gate.set_idle(false));
        take(&mut gate, Step::Drain, Outcome::Done);
    }

    #[test]
    fn nothing_is_drained_over_a_hole() {
        let mut gate = Gate::recover(Recovered {
            queued: true,
            ..found()
        });
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
        gate.set_blocked(true);
        gate.set_lost(true);
        gate.expel();
        gate.recheck();
        take(&mut gate, Step::Halt, Outcome::Done);
        assert_eq!(gate.step(), None);
        gate.set_blocked(false);
        gate.set_lost(false);
        open(&mut gate);
    }

    #[test]
    fn an_unreachable_destination_is_never_called_paused() {
        let mut gate = running();
        gate.set_usable(false);
        gate.set_wanted(true);
        take(&mut gate, Step::Leave, Outcome::NotFenced);
        assert!(!gate.paused());
        assert_eq!(gate.step(), Some(Step::Fence), "tried again until it holds");
    }

    #[test]
    fn a_status_that_said_paused_keeps_the_gate_shut_after_a_restart() {
        let mut gate = Gate::recover(Recovered {
            shown: true,
            ..found()
        });
        take(&mut gate, Step::Leave, Outcome::NotFenced);
        take(&mut gate, Step::Open, Outcome::Done);
        take(&mut gate, Step::Check, Outcome::Done);
        take(&mut gate, Step::Drain, Outcome::Done);
    }
}
