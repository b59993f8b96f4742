//! Ending the pauses that rules have begun, as an operation.

use super::{Engine, Next, Stand, failed, waiting};
use crate::{
    api::reasons::PAUSE_ENDED,
    clock,
    worker::{map::MapId, plan::Plan},
};
use std::sync::Arc;

impl Engine {
    pub(super) fn next_of_resume(&self, id: &Arc<str>, plan: &Plan) -> Next {
        let Some(map) = self.maps.get(&plan.id).filter(|map| map.has_joined()) else {
            let message = "Who wants a pause is not known before the map has started.";
            return Next::Say(waiting("MapStarting", message));
        };
        let map_id = plan.id.clone();
        match (map.ruling.was_resumed_by(id), map.ruling.is_stored()) {
            (true, true) => return Next::Resumed { map: map_id },
            (true, false) => return Next::Nothing,
            (false, _) => {}
        }
        if map.plan.wish.paused {
            let message = "spec.state is Paused, and no operation ends that: set it to Running.";
            return Next::Say(failed("PausedBySpec", message.into()));
        }
        if map.ruling.wants() {
            Next::Resume { map: map_id }
        } else {
            Next::Say(failed("NothingToResume", "No rule has paused this map.".into()))
        }
    }

    /// The pauses have ended, and that is stored.
    pub(super) fn resumed(&mut self, id: &Arc<str>, map: &MapId) {
        let timed = self.maps.get(map).and_then(|map| map.timed);
        let rest = match timed {
            Some(until) => format!(
                "The map stays paused until {}, as spec.pauseUntilTime asks.",
                clock::text(until)
            ),
            None => "The queue is written.".to_owned(),
        };
        let message = format!("The pauses that rules had begun have ended. {rest}");
        if let Some(open) = self.commands.open.get(id) {
            self.account_for(&open.command, PAUSE_ENDED, &message);
        }
        let reason = "Resumed";
        self.commands.say(id, Stand::Complete { reason, message });
    }
}
