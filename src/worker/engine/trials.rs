//! Trials: some records of the queue's head are written, to see whether what has paused the map is over. They are written in
//! order, as in a replay; the gate closes again if one is refused.

use super::Engine;
use crate::{
    api::reasons::{PAUSE_ENDED, TRIAL_FAILED},
    clock,
    rule::Tally,
    worker::map::{Blocked, Map, MapId},
};

impl Engine {
    /// Begins the trials that are due, and ends those for which nothing is left to be written.
    pub(super) fn look_at_trials(&mut self) {
        let now = clock::now();
        let is_due = |map: &Map| {
            // Of a full queue too: nothing else would empty it.
            let may_write = match &map.blocked {
                None | Some(Blocked::QueueLimit { .. }) => true,
                Some(_) => false,
            };
            let is_held = map.gate.paused() && !map.plan.wish.wants(now) && may_write;
            is_held && map.ruling.due_trial(now, &map.plan.rules).is_some()
        };
        let is_drained = |map: &Map| map.ruling.trial.is_some() && map.gate.draining() && map.waiting() == 0;
        let (due, drained) = (self.those(is_due), self.those(is_drained));
        for id in due {
            self.begin_trial(&id, now);
        }
        for id in drained {
            self.pass_trial(&id);
        }
    }

    fn begin_trial(&mut self, id: &MapId, now: i64) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.ruling.trial = map.ruling.due_trial(now, &map.plan.rules);
        tracing::info!(map = %map.plan.name, records = ?map.ruling.trial, "a trial begins");
        self.act_on_pauses(id);
    }

    /// What the destination has refused; and whether all records of the trial have been written, or parked.
    pub(super) fn judge_trial(&mut self, id: &MapId, spent: bool, refused: &Tally) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.ruling.is_refused(refused, &map.plan.rules) {
            self.fail_trial(id);
        } else if spent && map.ruling.trial.is_some() {
            self.pass_trial(id);
        }
    }

    pub(super) fn fail_trial(&mut self, id: &MapId) {
        let on_trial = |map: &&mut Map| map.ruling.trial.is_some();
        let Some(map) = self.maps.get_mut(id).filter(on_trial) else {
            return;
        };
        let next = map.ruling.fail_trial(clock::now(), &map.plan.rules);
        let next = next.map_or_else(String::new, |at| {
            format!(" The next trial is at {}.", clock::text(at))
        });
        let note = format!("A trial was refused: the map stays paused.{next}");
        self.statuses.warn(&map.plan, TRIAL_FAILED, note);
        self.act_on_pauses(id);
    }

    fn pass_trial(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.ruling.end(clock::now(), |_| true);
        let note =
            "A trial met no refusal that its rule counts: the pause has ended, and the queue is written.";
        self.statuses.note(&map.plan, PAUSE_ENDED, note.to_owned());
        self.act_on_pauses(id);
    }
}
