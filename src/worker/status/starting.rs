//! The status of a map that its worker has not taken over yet: what was said before holds, or is not known.

use super::{Facts, PauseFacts, Said};
use crate::{gate::Phase, queue::ErrorSummary, worker::plan::StatusBefore};

/// What is known of its object.
#[derive(Clone, Debug)]
pub struct Starting<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub generation: i64,
    pub wished: i64,
    /// Its status says Paused=True.
    pub shown: bool,
    pub pauses: Vec<PauseFacts>,
    pub said: &'a StatusBefore,
    pub queue_connection: &'a str,
    pub queue_id: &'a str,
}

impl Starting<'_> {
    #[must_use]
    pub fn facts(self, phase: Phase, reason: &str, message: &str) -> Facts {
        let said = self.said;
        let condition = |type_, status| Said {
            type_,
            status,
            reason: reason.into(),
            message: message.into(),
        };
        let conditions = [
            ("SchemaValid", None),
            ("SourceConnected", None),
            ("DestinationConnected", None),
            ("QueueDurable", None),
            ("WithinLimits", None),
            ("Paused", Some(self.shown)),
            ("CaughtUp", Some(false)),
        ];
        Facts {
            namespace: self.namespace.into(),
            name: self.name.into(),
            uid: self.uid.into(),
            generation: self.generation,
            wished: self.wished,
            before: said.memory.clone(),
            phase,
            pauses: self.pauses,
            rules: Vec::new(),
            blocked: None,
            gap: None,
            kept: None,
            received: None,
            durable: said.durable,
            commit_time: None,
            lag: None,
            truncates: 0,
            queue_connection: self.queue_connection.into(),
            queue_id: self.queue_id.into(),
            queue_records: said.queued,
            queue_bytes: said.queue_bytes,
            queue_oldest: None,
            catch_up: None,
            errors: ErrorSummary::default(),
            ledger: said.ledger,
            next_purge: None,
            conditions: conditions.map(|(type_, status)| condition(type_, status)).into(),
        }
    }
}
