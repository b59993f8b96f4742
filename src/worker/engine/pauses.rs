//! Who wants a pause: the spec, whose pauses act at once, one until a time; and rules.

use super::Engine;
use crate::{
    api::{DeletionPolicy, reasons::PAUSE_ENDED},
    clock,
    worker::{map::MapId, plan::Plan, wish::Wish},
};
use std::sync::Arc;

impl Engine {
    /// What a map's object asks for, though what it refers to cannot be read, or not yet.
    pub(super) fn wished(
        &mut self,
        id: &MapId,
        generation: i64,
        wish: Wish,
        deletion: Option<DeletionPolicy>,
    ) {
        let Some(plan) = self.plans.get(id) else { return };
        // Of a generation that asks for nothing else nothing is followed yet.
        let wished = if wish == plan.wish {
            plan.wished
        } else {
            generation
        };
        let plan = Arc::new(Plan {
            wish,
            wished,
            deletion: deletion.or(plan.deletion),
            ..(**plan).clone()
        });
        self.plans.insert(id.clone(), plan.clone());
        let Some(map) = self.maps.get_mut(id) else {
            return self.report_starting(id);
        };
        map.plan = plan;
        map.retry_at = None;
        self.heed(id);
        if deletion.is_some() {
            self.delete(id);
        }
        self.drive(id);
        self.report(id);
    }

    /// Tells the gate whether a pause is wanted now.
    pub(super) fn heed(&mut self, id: &MapId) {
        self.end_joined(id);
        let now = clock::now();
        let Some(map) = self.maps.get_mut(id) else { return };
        let wish = map.plan.wish;
        if wish.wants(now) {
            map.ruling.trial = None;
        }
        // A replay that was to hand out so many records begins anew, if it goes on.
        let tries = map.ruling.trial.is_some();
        if std::mem::replace(&mut map.ruling.tries, tries) && !tries {
            map.gate.reread();
        }
        let wanted = wish.wants(now) || map.ruling.holds();
        map.gate.set_wanted(wanted);
        map.unfenced = map.unfenced.take().filter(|_| wanted);
        let before = std::mem::replace(&mut map.timed, wish.lasts(now));
        if before.is_some_and(|until| until <= now) && !wanted {
            let note = "The time of spec.pauseUntilTime has come: the queue is written.";
            self.statuses.note(&map.plan, PAUSE_ENDED, note.to_owned());
        }
    }

    /// Pauses whose time is over end.
    pub(super) fn look_at_pauses(&mut self) {
        let now = clock::now();
        for id in self.those(|map| map.timed.is_some_and(|until| until <= now)) {
            self.act_on_pauses(&id);
        }
    }

    /// Who wants a pause has changed.
    pub(super) fn act_on_pauses(&mut self, id: &MapId) {
        self.heed(id);
        if let Some(map) = self.maps.get_mut(id) {
            map.retry_at = None;
        }
        self.drive(id);
        self.report(id);
    }
}
