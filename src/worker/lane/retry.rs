//! Trying parked records again, between two batches.

use super::{order::Retry, task::Task, write::Patience};
use crate::{record::Position, trace};

impl Task {
    pub(super) fn accept_retry(&mut self, retry: Retry) {
        if self.is_writable(retry.seat) {
            self.retries.push_back(retry);
        }
    }

    pub(super) fn forget(&mut self, seat: usize, positions: &[Position], gone: u64) {
        if let Some(target) = self.targets.get_mut(seat) {
            target.forget(positions, gone);
        }
    }

    /// A map leaves: whoever waits for an answer learns that by its absence.
    pub(super) fn drop_retries(&mut self, seat: usize) {
        self.retries.retain(|retry| retry.seat != seat);
    }

    /// Carries out the first retry. False: there is none.
    pub(super) async fn retry(&mut self) -> bool {
        let Self {
            session,
            targets,
            inbox,
            pending,
            timeouts,
            store,
            retries,
            name,
            ..
        } = self;
        let (Some(retry), Some(session)) = (retries.pop_front(), session.as_mut()) else {
            return false;
        };
        let patience = Patience {
            inbox,
            pending,
            evict: timeouts.evict,
        };
        let again = session.retry(
            targets,
            retry.seat,
            &retry.records,
            &retry.operation,
            retry.first,
            &**store,
        );
        let span = trace::span!("destination.retry", connection = %name, records = retry.records.len());
        match patience.wait(trace::within(span, again)).await {
            Some(Ok(tried)) => {
                let was_written = !tried.retried.is_empty();
                let _ = retry.reply.send(tried);
                if was_written {
                    self.flushed();
                }
            }
            Some(Err(error)) => self.fail(error),
            None => self.give_up("a retry"),
        }
        true
    }
}
