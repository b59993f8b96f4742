//! What Redis remembers of an operation on parked records: which ones it has chosen, and what it has done. So it goes on
//! where it was, whoever carries it out (rule 15).

use super::{
    Queue, QueueError,
    scripts::{CHOOSE, DISCARD, KEEP, LEAVE, RETRIED, SKIP},
};
use crate::record::{Position, Skip};
use std::sync::Arc;

/// So many records are chosen, or given up, in one call.
const CHUNK: usize = 1000;

/// An operation whose choice is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub selected: u64,
    /// Refused again.
    pub failed: u64,
    /// They did not wait any more when they were come to.
    pub skipped: u64,
    /// Given up.
    pub discarded: u64,
}

impl Queue {
    /// What is known of an operation. None: its choice is not made.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn chosen(&self, operation: &str) -> Result<Option<Chosen>, QueueError> {
        let name = |count: &str| format!("op:{operation}{count}");
        let mut read = redis::cmd("HMGET");
        read.arg(&self.keys.errors)
            .arg(&[name(""), name(":failed"), name(":skipped"), name(":completed")]);
        let counts: Vec<Option<u64>> = self.link.query(&read).await?;
        let count = |index: usize| counts.get(index).copied().flatten().unwrap_or_default();
        let selected = counts.first().copied().flatten();
        Ok(selected.map(|selected| Chosen {
            selected,
            failed: count(1),
            skipped: count(2),
            discarded: count(3),
        }))
    }

    /// Chooses these records for an operation; those that do not wait are left out, and, unless it takes them away, those that
    /// another operation has chosen.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn choose(
        &self,
        operation: &str,
        takes_away: bool,
        positions: &[Position],
    ) -> Result<(), QueueError> {
        let mut parts = positions.chunks(CHUNK).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let is_last = parts.peek().is_none();
            let mut choose = self.invoke(&CHOOSE);
            choose
                .arg(operation)
                .arg(u8::from(is_last))
                .arg(u8::from(takes_away));
            for position in part {
                choose.arg(position.to_string());
            }
            let () = self.run(&choose).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// What an operation has chosen and not come to yet, in order.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn chosen_positions(&self, operation: &str) -> Result<Vec<Position>, QueueError> {
        let chosen = self.positions_with("o:").await?;
        let mut positions = Vec::with_capacity(chosen.len());
        for part in chosen.chunks(CHUNK) {
            let mut read = redis::cmd("HMGET");
            read.arg(&self.keys.errors);
            for position in part {
                read.arg(format!("o:{position}"));
            }
            let of: Vec<Option<String>> = self.link.query(&read).await?;
            let ours = part
                .iter()
                .zip(of)
                .filter(|(_, of)| of.as_deref() == Some(operation));
            positions.extend(ours.filter_map(|(position, _)| position.parse::<Position>().ok()));
        }
        Ok(positions)
    }

    /// Those that did not wait any more when the operation came to them.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn skip(&self, operation: &str, positions: &[Position]) -> Result<(), QueueError> {
        let mut skip = self.invoke(&RETRIED);
        skip.arg(operation);
        for position in positions {
            skip.arg("x").arg(position.to_string()).arg("");
        }
        self.run(&skip).await
    }

    /// Gives parked records up. Returns how many the map has given up in all, and which of these.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn discard(
        &self,
        operation: &str,
        positions: &[Position],
    ) -> Result<(u64, Vec<Position>), QueueError> {
        let mut given_up = (0, Vec::new());
        for part in positions.chunks(CHUNK) {
            let mut discard = self.invoke(&DISCARD);
            discard.arg(operation);
            for position in part {
                discard.arg(position.to_string());
            }
            let (all, removed): (u64, Vec<String>) = self.run(&discard).await?;
            given_up.0 = all;
            given_up
                .1
                .extend(removed.iter().filter_map(|at| at.parse::<Position>().ok()));
        }
        Ok(given_up)
    }

    /// From now on what is queued up to some position is not written, or some of it.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn skip_queued(&self, skip: &Skip) -> Result<(), QueueError> {
        self.run(self.invoke(&SKIP).arg(&skip.operation).arg(skip.to_string()))
            .await
    }

    /// Forgets all operations but these, which have not ended, and what they skipped.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn keep_operations(&self, open: &[Arc<str>]) -> Result<(), QueueError> {
        let mut keep = self.invoke(&KEEP);
        for operation in open {
            keep.arg(&**operation);
        }
        self.run(&keep).await
    }

    /// The operation has ended: nothing is chosen by it any more.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn leave(&self, operation: &str) -> Result<(), QueueError> {
        self.run(self.invoke(&LEAVE).arg(operation)).await
    }
}
