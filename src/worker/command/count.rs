//! Counts the queued records that an operation means, and tries its expression on each, before anything is skipped.

use super::QueueSelection;
use crate::{
    mapping::{Choice, FilterError, KeyReader, Mapping, MatchError},
    queue::{BatchError, Entry, Queue, QueueError, QueuedName, decode},
    record::{Only, Position},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio_util::sync::CancellationToken;

/// See the module.
pub struct Count {
    /// The name of the map.
    pub map: String,
    pub queue: Queue,
    pub mapping: Arc<Mapping>,
    pub selection: QueueSelection,
    /// Records after this wait,
    pub after: Position,
    /// and those up to this are looked at.
    pub upto: Position,
    pub cancelled: CancellationToken,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    pub selected: u64,
    /// What is meant, by what stays as it is. None: all.
    pub only: Option<Only>,
    pub after: Position,
    pub upto: Position,
}

/// Why it could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// To be tried again.
    #[error("{0}")]
    Queue(#[from] QueueError),
    #[error("`spec.selection.match.expression` {0}.")]
    Match(#[from] MatchError),
    #[error("`spec.selection.match.expression` {0}.")]
    Filter(#[from] FilterError),
    #[error("The operation was deleted.")]
    Cancelled,
}

impl Count {
    /// Counts.
    ///
    /// # Errors
    /// Redis fails, or the expression fails on a record: then nothing is to be skipped.
    pub async fn run(self) -> Result<Counted, CountError> {
        let counted = |selected, only| Counted {
            selected,
            only,
            after: self.after,
            upto: self.upto,
        };
        match &self.selection {
            QueueSelection::All => Ok(counted(self.each(None).await?, None)),
            QueueSelection::Ids(ids) => {
                let mut places = self.places(ids).await?;
                places.retain(|place| *place > self.after && *place <= self.upto);
                Ok(counted(places.len() as u64, Some(Only::Positions(places))))
            }
            QueueSelection::Only(only) => {
                let choice = Choice::of(only)?;
                Ok(counted(self.each(Some(choice)).await?, Some(only.clone())))
            }
        }
    }

    /// So many of all that waits are chosen.
    async fn each(&self, choice: Option<Choice>) -> Result<u64, CountError> {
        let (mut selected, mut seq) = (0, 0);
        loop {
            if self.cancelled.is_cancelled() {
                return Err(CountError::Cancelled);
            }
            let Some(entry) = self.queue.read(seq, 1).await?.pop() else {
                break;
            };
            if entry.header.first > self.upto {
                break;
            }
            seq = entry.seq;
            selected += self.of_entry(entry, choice.clone()).await?;
        }
        Ok(selected)
    }

    /// Beside the runtime: it may take many milliseconds.
    async fn of_entry(&self, entry: Entry, choice: Option<Choice>) -> Result<u64, CountError> {
        let (mapping, after, upto) = (self.mapping.clone(), self.after, self.upto);
        let count = tokio::task::spawn_blocking(move || {
            let mut keys = KeyReader::new(&mapping);
            let mut selected = 0;
            for record in decode(entry.bytes).map_err(QueueError::from)? {
                let change = &record.change;
                let waits = change.position > after && change.position <= upto;
                let takes = |choice: &Choice| choice.takes(change, &mut keys);
                if waits && choice.as_ref().map_or(Ok(true), takes)? {
                    selected += 1;
                }
            }
            Ok(selected)
        });
        count.await.unwrap_or(Err(CountError::Cancelled))
    }

    /// Where the records of these names lie; what does not wait any more, or lies elsewhere since Redis went back, is left out.
    async fn places(&self, ids: &BTreeSet<String>) -> Result<BTreeSet<Position>, CountError> {
        let named = ids.iter().filter_map(|id| QueuedName::read(id));
        let mut named: Vec<QueuedName<'_>> = named.filter(|name| name.map == self.map).collect();
        named.sort_unstable_by_key(|name| name.seq);
        let mut places = BTreeSet::new();
        for of_entry in named.chunk_by(|one, next| one.seq == next.seq) {
            let Some(QueuedName { seq, .. }) = of_entry.first() else {
                continue;
            };
            let found = self.queue.read(seq.saturating_sub(1), 1).await?.pop();
            let Some(entry) = found.filter(|entry| entry.seq == *seq) else {
                continue;
            };
            let records = decode(entry.bytes).map_err(|error: BatchError| QueueError::from(error))?;
            let positions = records.iter().map(|record| record.change.position);
            places.extend(positions.filter(|at| of_entry.iter().any(|name| name.is_at(*at))));
        }
        Ok(places)
    }
}
