//! The parked records of a map, and what is marked on them.

use super::{
    ErrorSummary, Listed, Queue, QueueError,
    accept::SET_ASIDE,
    blob, errors,
    packs::Lies,
    scripts::{DROP_PROVISIONAL, MARK, PARK, PURGE, RETRIED},
};
use crate::record::{Has, Mark, Once, PackId, ParkedKey, ParkedRecord, Position, Retried, Waiting};
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};

/// So many records are read at once.
const CHUNK: usize = 256;
/// The fields of a record, in the order in which they are read.
const FIELDS: [&str; 6] = ["r", "id", "s", "m", "c", "o"];

impl Queue {
    /// Parks records; returns their ids.
    ///
    /// # Errors
    /// Another epoch, a full Redis, or Redis fails.
    pub async fn park(&self, records: &[ParkedRecord]) -> Result<Vec<String>, QueueError> {
        let mut park = self.invoke(&PARK);
        park.arg(&*self.name);
        for record in records {
            park.arg(record.change.position.to_string()).arg(bytes(record)?);
        }
        self.run(&park).await
    }

    /// Marks parked records as replaced; each mark holds once the destination is so far (rule 3). Tells of each whether it
    /// is new: the record may be gone, or marked already.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn mark(&self, marks: &[Mark]) -> Result<Vec<bool>, QueueError> {
        match self.mark_awake(marks, &[]).await {
            Err(QueueError::AsleepAgain) => {
                let mut positions: Vec<Position> = marks.iter().map(Mark::parked).collect();
                positions.sort_unstable();
                let lie = self.wake_at(&positions).await?;
                self.mark_awake(marks, &lie).await
            }
            marked => marked,
        }
    }

    /// Marks what is awake. `lie`: where those that are not were looked for, and woken.
    async fn mark_awake(&self, marks: &[Mark], lie: &[Lies]) -> Result<Vec<bool>, QueueError> {
        let mut script = self.invoke(&MARK);
        script.arg(lie.len());
        for Lies {
            position,
            pack,
            place,
        } in lie
        {
            let place = place.map_or_else(String::new, |place| (place + 1).to_string());
            script
                .arg(position.to_string())
                .arg(pack.first.to_string())
                .arg(pack.base)
                .arg(place);
        }
        for mark in marks {
            let (kind, parked, once) = match mark {
                Mark::Superseded { parked, once } => ("s", parked, once),
                Mark::Moved { parked, once } => ("m", parked, once),
            };
            script.arg(kind).arg(parked.to_string()).arg(once.to_string());
        }
        self.run(&script).await
    }

    /// Keeps what a retry has come to; what is written holds once the destination is so far (rule 15).
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn keep_retried(&self, operation: &str, retried: &[Retried]) -> Result<(), QueueError> {
        let mut script = self.invoke(&RETRIED);
        script.arg(operation);
        for one in retried {
            match one {
                Retried::Completed { parked, once } => {
                    script.arg("c").arg(parked.to_string()).arg(once.to_string());
                }
                Retried::Failed(record) => {
                    let position = record.change.position.to_string();
                    script.arg("f").arg(position).arg(bytes(record)?);
                }
            }
        }
        self.run(&script).await
    }

    /// Removes what was parked or marked beyond what the destination has, since it will come again (rule 3); and reads
    /// the keys of what waits, but of packs that are `known`.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn settle_errors(&self, has: Has, known: &[PackId]) -> Result<Waiting, QueueError> {
        self.drop_provisional(has).await?;
        let mut waiting = Waiting::default();
        let known: HashSet<&PackId> = known.iter().collect();
        // What wakes meanwhile is in both, rather than in neither.
        for pack in self.packs().await? {
            waiting.packs.push(pack.id);
            if !known.contains(&pack.id) && pack.superseded.is_none() {
                waiting.new.push(self.keys_of(&pack).await?);
            }
        }
        self.each_awake(|record| {
            if record.may_wait() {
                waiting.awake.push(ParkedKey::of(record));
            }
        })
        .await?;
        waiting.gone = self.meta().await?.ok_or(QueueError::MetaMissing)?.gone();
        Ok(waiting)
    }

    /// Removes what was parked or marked beyond what the destination has.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn drop_provisional(&self, has: Has) -> Result<(), QueueError> {
        // A destination that was put back may have a part of a pack.
        self.wake_up_to(has.position).await?;
        let mut drop = self.invoke(&DROP_PROVISIONAL);
        drop.arg(has.position.to_string())
            .arg(has.settled)
            .arg(SET_ASIDE.to_string());
        self.run(&drop).await
    }

    /// Whether a record is parked beyond `position`.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn has_errors_beyond(&self, position: Position) -> Result<bool, QueueError> {
        let last = self.positions_with("r:").await?.pop();
        let packs = self.packs().await?;
        let is_packed = packs.iter().any(|pack| pack.last > position);
        Ok(is_packed || last.is_some_and(|last| last > position.to_string()))
    }

    /// Visits every parked record, in the order of their positions.
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn each_error(&self, mut visit: impl FnMut(Listed)) -> Result<(), QueueError> {
        let mut errors = self.errors_after(Position::ZERO, CHUNK).await?;
        while let Some(records) = errors.next().await? {
            records.into_iter().for_each(&mut visit);
        }
        Ok(())
    }

    /// Visits every parked record that lies alone, in the order of their positions.
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn each_awake(&self, mut visit: impl FnMut(ParkedRecord)) -> Result<(), QueueError> {
        for positions in self.positions_with("r:").await?.chunks(CHUNK) {
            self.read_errors(positions)
                .await?
                .into_iter()
                .for_each(&mut visit);
        }
        Ok(())
    }

    /// The parked records of these positions that are still there and lie alone.
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn errors_at(&self, positions: &[Position]) -> Result<Vec<ParkedRecord>, QueueError> {
        let positions: Vec<String> = positions.iter().map(ToString::to_string).collect();
        self.read_errors(&positions).await
    }

    /// Positions that have such a field, as texts, in their order.
    pub(super) async fn positions_with(&self, field: &str) -> Result<Vec<String>, QueueError> {
        let mut fields: Vec<String> = self
            .link
            .query(redis::cmd("HKEYS").arg(&self.keys.errors))
            .await?;
        fields.retain(|known| known.starts_with(field));
        for known in &mut fields {
            known.drain(..field.len());
        }
        fields.sort_unstable();
        Ok(fields)
    }

    async fn read_errors(&self, positions: &[String]) -> Result<Vec<ParkedRecord>, QueueError> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::cmd("HMGET");
        read.arg(&self.keys.errors);
        for position in positions {
            for field in FIELDS {
                read.arg(format!("{field}:{position}"));
            }
        }
        let cells: Vec<Option<Bytes>> = self.link.query(&read).await?;
        cells.chunks(FIELDS.len()).filter_map(record).collect()
    }

    /// The errors that wait, counted. What lies beyond `has`, as marks that do not hold yet, is provisional and not shown
    /// (rule 3).
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn error_summary(&self, has: Has) -> Result<ErrorSummary, QueueError> {
        let mut summary = ErrorSummary::default();
        let packs = self.packs().await?;
        self.each_awake(|record| summary.count(&record, has)).await?;
        for pack in packs.iter().filter(|pack| pack.last <= has.position) {
            summary.count_pack(pack);
        }
        let waiting = packs.iter().filter(|pack| pack.waits(has.position));
        let mut newest = VecDeque::new();
        for pack in waiting.rev() {
            let asleep = self.asleep(pack).await?.into_iter().rev();
            asleep
                .take(errors::RECENT - newest.len())
                .for_each(|record| newest.push_front(record));
            if newest.len() == errors::RECENT {
                break;
            }
        }
        for record in &newest {
            summary.show(record, has);
        }
        Ok(summary)
    }
}

/// What a purge has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Records that had waited, in all.
    pub all: u64,
    /// Those of them that went now and lay alone.
    pub positions: Vec<Position>,
    /// So many went with their packs.
    pub asleep: u64,
}

impl Queue {
    /// Removes what is kept since before `before`, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn purge(&self, has: Has, before: i64) -> Result<Purged, QueueError> {
        let mut packs = self.packs().await?;
        packs.retain(|pack| pack.last <= has.position && pack.time <= before);
        let mut due: Vec<(Position, bool)> = Vec::new();
        self.each_awake(|record| {
            let holds = record.change.position <= has.position;
            if holds && record.kept_since(has) <= before {
                due.push((record.change.position, record.waits(has)));
            }
        })
        .await?;
        let mut purged = self.remove(&due).await?;
        if !packs.is_empty() {
            (purged.all, purged.asleep) = self.purge_packs(&packs).await?;
        }
        Ok(purged)
    }

    /// Removes those of these records that do not wait any more, since they were written or replaced.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn forget(&self, settled: &[Position]) -> Result<(), QueueError> {
        let settled: Vec<(Position, bool)> = settled.iter().map(|position| (*position, false)).collect();
        self.remove(&settled).await.map(|_| ())
    }

    /// Removes records that wait, or do not, as is said of each.
    async fn remove(&self, due: &[(Position, bool)]) -> Result<Purged, QueueError> {
        let mut purged = Purged::default();
        for part in due.chunks(CHUNK) {
            let mut purge = self.invoke(&PURGE);
            for (position, waits) in part {
                purge
                    .arg(if *waits { "w" } else { "d" })
                    .arg(position.to_string());
            }
            let (all, removed): (u64, Vec<String>) = self.run(&purge).await?;
            purged.all = all;
            let removed = removed.iter().filter_map(|at| at.parse::<Position>().ok());
            purged.positions.extend(removed);
        }
        Ok(purged)
    }
}

pub(super) fn bytes(record: &ParkedRecord) -> Result<Vec<u8>, QueueError> {
    blob::write(record).map_err(|error| QueueError::Blob(error.to_string()))
}

/// One record of its fields; None: it is gone.
fn record(cells: &[Option<Bytes>]) -> Option<Result<ParkedRecord, QueueError>> {
    let cell = |index: usize| cells.get(index).and_then(Option::as_ref);
    let text = |index: usize| cell(index).map(|cell| String::from_utf8_lossy(cell).into_owned());
    // What follows the time is the operation's name.
    let once = |index: usize| -> Option<Once> { text(index)?.split(' ').next()?.parse().ok() };
    let read = blob::read(text(1).unwrap_or_default(), cell(0)?.clone());
    let broken = |error: blob::BlobError| QueueError::Blob(error.to_string());
    Some(read.map_err(broken).map(|record| ParkedRecord {
        superseded: once(2),
        moved: once(3),
        completed: once(4),
        operation: text(5),
        ..record
    }))
}
