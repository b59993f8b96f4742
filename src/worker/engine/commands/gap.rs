//! Accepting a gap, as an operation.

use super::{AGAIN, Engine, Next, Stand, waiting};
use crate::{
    api::reasons::GAP_ACCEPTED,
    record::Lsn,
    worker::{
        engine::{
            Event,
            accept::{AcceptError, Acceptance, Outcome},
            boot::Attempt,
            wanted,
        },
        map::{Blocked, Map, MapId},
        plan::{Plan, StatusBefore},
    },
};
use std::sync::Arc;

impl Engine {
    pub(super) fn next_of_gap(&self, id: &Arc<str>, plan: &Plan, lost_after: Lsn) -> Next {
        let accept = Next::Accept {
            map: plan.id.clone(),
            lost_after,
        };
        let map = self.maps.get(&plan.id);
        let attempt = self.attempt(&plan.id);
        let blocked = map
            .and_then(|map| map.blocked.as_ref())
            .or_else(|| attempt.and_then(|attempt| attempt.blocked.as_ref()));
        let operation = |which: Option<&String>| which.is_some_and(|known| **known == **id);
        let going = |map: &Map| map.side.is_some_and(|side| !side.state.is_there());
        let busy = map.is_some_and(going)
            || self.commands.is_busy(&plan.id)
            || attempt.is_some_and(|attempt| attempt.under_way);
        let is_gap = blocked.and_then(Blocked::gap).is_some();
        match map {
            _ if busy => Next::Say(waiting(
                "Queued",
                "Another operation, or the map's start, comes first.",
            )),
            _ if is_gap => accept,
            Some(map) if operation(map.operations.accepting.as_ref()) => accept,
            Some(map) if operation(map.operations.accepted.as_ref()) => Next::Say(Stand::Complete {
                reason: "GapAccepted",
                message: "The gap was accepted.".into(),
            }),
            Some(map) if map.has_joined() && self.link.is_streaming() => Next::Say(Stand::Failed {
                reason: "NoGap",
                message: AcceptError::NoGap.to_string(),
            }),
            _ => Next::Say(waiting(
                "MapStarting",
                "Whether anything is missing is not known before the map has started.",
            )),
        }
    }

    /// Takes the map out of the engine, puts its custodians beyond the gap, and takes it over anew.
    pub(super) fn accept(&mut self, id: &Arc<str>, map: &MapId, lost_after: Lsn) {
        let Some(plan) = self.plans.get(map).map(|plan| Arc::new(self.remembered(plan))) else {
            return;
        };
        self.commands.accepting = Some(id.clone());
        let message = "The map is put beyond the gap.".to_owned();
        self.commands.say(id, Stand::Running { message });
        let acceptance = Acceptance {
            plan: plan.clone(),
            operation: id.clone(),
            lost_after,
            lease_epoch: self.lease_epoch,
            source: self.source.clone(),
            side: self.side_prefix(map),
            newest: self.newest_era(),
            publication: self.permits.publication(),
        };
        self.plans.insert(map.clone(), plan);
        let blocked = self.maps.get(map).and_then(|map| map.blocked.clone());
        self.feeds.end(map);
        let evicted = self.evict(map);
        if self.take_out(map) {
            self.tell_stands();
            self.bind_again();
        }
        let attempt = self.booting.entry(map.clone()).or_default();
        *attempt = Attempt {
            under_way: true,
            blocked: blocked.or_else(|| attempt.blocked.take()),
            ..Attempt::default()
        };
        let (command, map) = (id.clone(), map.clone());
        self.spawn(async move {
            drop(evicted.await);
            let result = acceptance.run().await;
            Event::Accepted { command, map, result }
        });
    }

    /// A plan that knows what the status says now: it is taken over again.
    fn remembered(&self, plan: &Plan) -> Plan {
        let Some(map) = self.maps.get(&plan.id) else {
            return plan.clone();
        };
        let facts = self.facts(map);
        Plan {
            shown: map.gate.is_shown(),
            said: StatusBefore {
                durable: facts.durable.or(plan.said.durable),
                ledger: facts.ledger,
                queued: facts.queue_records,
                queue_bytes: facts.queue_bytes,
                pauses: wanted::by_rules(map),
                rules: map.ruling.known(),
                memory: plan.said.memory.clone(),
            },
            ..plan.clone()
        }
    }

    pub(in crate::worker::engine) fn accepted(
        &mut self,
        id: &Arc<str>,
        map: &MapId,
        result: Result<Outcome, AcceptError>,
    ) {
        self.commands.accepting = None;
        if let Some(attempt) = self.booting.get_mut(map) {
            attempt.under_way = false;
            if result.is_ok() {
                attempt.blocked = None;
            }
        }
        match result {
            Ok(outcome) => {
                let message = told(&outcome);
                if let Some(plan) = self.plans.get(map) {
                    self.statuses.warn(plan, GAP_ACCEPTED, message.clone());
                }
                let reason = "GapAccepted";
                self.commands.say(id, Stand::Complete { reason, message });
            }
            Err(AcceptError::Later(message)) => {
                tracing::warn!(operation = %id, %message, "the gap could not be accepted yet; trying again");
                self.commands.say(id, waiting("Unreachable", &message));
                self.commands.again_later(id, AGAIN);
            }
            Err(error) => {
                let reason = match error {
                    AcceptError::NoGap => "NoGap",
                    _ => "AnotherGap",
                };
                let message = error.to_string();
                self.commands.say(id, Stand::Failed { reason, message });
            }
        }
        self.boot(map);
    }
}

fn told(outcome: &Outcome) -> String {
    let message = format!(
        "Changes after {} and up to {} were given up: {} of them had been received, and count as discarded. Compare the \
         tables.",
        outcome.after, outcome.from.commit, outcome.discarded
    );
    let Some(slot) = &outcome.new_slot else {
        return message;
    };
    format!(
        "{message} The map goes on with the new slot {slot}. If the source is another server than before, drop the old slot \
         at the old one: it keeps that server's log."
    )
}
