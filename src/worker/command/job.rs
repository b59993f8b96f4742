//! Carries out an operation on parked records: chooses them, durably, and then does one part after another. Whoever does it
//! again goes on where it was (rule 15).

use super::{Act, Counts, OnErrors, Selection, Work};
use crate::{
    failpoint,
    mapping::MatchError,
    queue::{Chosen, Listed, Queue, QueueError},
    record::{Has, ParkedRecord, Position, Retried},
    worker::lane,
};
use std::{
    collections::HashSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// So many records are given to the lane at once; it takes as many as a moment allows.
const RETRIES: usize = 200;
/// So many records are given up in one call.
const DISCARDS: usize = 1000;
/// So many skipped records may be chosen alone: each is woken from its pack, and costs more memory then.
const WOKEN: u64 = 100_000;
/// How far it is is told this often.
const TELL: Duration = Duration::from_secs(1);

/// The lane in which a map's records are tried again.
#[derive(Clone, Debug)]
pub struct Lent {
    pub orders: lane::Orders,
    pub seat: usize,
}

/// See the module.
pub struct Job<T> {
    pub operation: Arc<str>,
    pub order: OnErrors,
    pub queue: Queue,
    /// What is parked beyond is not known to hold.
    pub has: Has,
    /// None: nothing is to be written.
    pub lane: Option<Lent>,
    /// It may not write yet, and takes only what waits by now.
    pub only_chooses: bool,
    /// What was done before.
    pub work: Work,
    /// So many may be tried again at once, as far as that is known.
    pub first: Option<usize>,
    pub cancelled: CancellationToken,
    pub teller: T,
}

/// Who is told how far a job is.
pub trait Teller: Send {
    fn worked(&self, work: &Work);
    /// These were given up; so many the map has given up in all.
    fn given_up(&self, positions: Vec<Position>, all: u64);
}

/// How a job ended.
#[derive(Debug)]
pub enum Ended {
    Complete(Work),
    /// What it takes is chosen; the rest is for later.
    Chosen(Work),
    /// The map can write nothing now: it goes on later.
    Interrupted(Work),
    Cancelled,
}

/// Why a job could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// To be tried again.
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// Nothing was done.
    #[error("`spec.selection.match.expression` {0}.")]
    Match(#[from] MatchError),
    /// Nothing was done.
    #[error(
        "More than {WOKEN} skipped records are selected, and not more are taken at once. {0} with `{1}` are at most so many."
    )]
    TooMany(&'static str, String),
}

/// What is selected.
#[derive(Debug, Default)]
struct Selected {
    /// Of those that are chosen one by one.
    positions: Vec<Position>,
    /// So many sleep, and must be woken.
    woken: u64,
    /// Those of them that may be taken at once.
    part: Part,
    /// So many in all, with those that are taken as they lie.
    count: u64,
}

/// Skipped records whose ids begin alike and rise: the first ones that are selected.
#[derive(Debug, Default)]
struct Part {
    last: String,
    /// Others follow whose ids begin with another name: the queue was adopted.
    is_named: bool,
}

impl Part {
    /// One more is selected, and may be taken too, or not.
    fn add(&mut self, id: &str, fits: bool) {
        self.is_named |= !self.last.is_empty() && name(&self.last) != name(id);
        if fits && !self.is_named {
            id.clone_into(&mut self.last);
        }
    }
}

/// As a selection says it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_named {
            write!(f, "error.id.startsWith('{}') && ", name(&self.last))?;
        }
        write!(f, "error.id <= '{}'", self.last)
    }
}

/// What an id begins with, before its number.
fn name(id: &str) -> &str {
    id.rfind('-').map_or(id, |end| &id[..=end])
}

impl<T: Teller> Job<T> {
    /// Carries it out.
    ///
    /// # Errors
    /// Redis fails; or the selection cannot be made, and nothing was done.
    pub async fn run(mut self) -> Result<Ended, JobError> {
        if self.order.dry_run {
            let selected = self.select().await?.count;
            self.work.counts = Counts {
                selected,
                remaining: selected,
                ..Counts::default()
            };
            return Ok(Ended::Complete(self.work));
        }
        self.choose().await?;
        if self.only_chooses {
            // What wakes in between counts twice, rather than not at all.
            let asleep = self.queue.chosen_asleep(&self.operation).await?;
            let left = self.queue.chosen_positions(&self.operation).await?.len();
            self.count(left as u64 + asleep).await?;
            return Ok(Ended::Chosen(self.work));
        }
        let mut told = Instant::now();
        loop {
            // Whatever the lane has left open is settled once it answers.
            if !self.is_ready().await {
                return Ok(Ended::Interrupted(self.work));
            }
            if self.takes_packs() {
                let all = self.queue.discard_packs(&self.operation).await?;
                failpoint::hit("discarded");
                self.teller.given_up(Vec::new(), all);
            }
            let left = self.queue.chosen_positions(&self.operation).await?;
            self.count(left.len() as u64).await?;
            self.teller.worked(&self.work);
            if left.is_empty() {
                self.erase().await?;
                return Ok(Ended::Complete(self.work));
            }
            let mut done = 0;
            while done < left.len() {
                let part = &left[done..left.len().min(done + self.part())];
                if self.cancelled.is_cancelled() {
                    return Ok(Ended::Cancelled);
                }
                let begun = Instant::now();
                let came = match self.order.act {
                    Act::Retry => self.retry(part).await?,
                    Act::Discard => self.discard(part).await?,
                };
                // In order: what a part has left comes before the next (rule 15).
                let Some(records) = came.filter(|records| *records > 0) else {
                    return Ok(Ended::Interrupted(self.work));
                };
                done += records;
                if told.elapsed() >= TELL {
                    told = Instant::now();
                    self.count((left.len() - done) as u64).await?;
                    self.teller.worked(&self.work);
                }
                self.pace(records, begun).await;
            }
        }
    }

    fn part(&self) -> usize {
        let cap = self.order.cap.map_or(usize::MAX, |cap| cap as usize);
        match self.order.act {
            Act::Retry => RETRIES.min(cap).max(1),
            Act::Discard => DISCARDS,
        }
    }

    async fn pace(&self, records: usize, begun: Instant) {
        if let Some(cap) = self.order.cap {
            let records = u32::try_from(records).unwrap_or(u32::MAX);
            let wanted = Duration::from_secs(1) * records / cap.max(1);
            let wait = tokio::time::sleep(wanted.saturating_sub(begun.elapsed()));
            tokio::select! {
                () = wait => {}
                () = self.cancelled.cancelled() => {}
            }
        }
    }

    async fn count(&mut self, remaining: u64) -> Result<(), QueueError> {
        let chosen = self.queue.chosen(&self.operation).await?.unwrap_or_default();
        self.work.counts = Counts::of(chosen, remaining);
        Ok(())
    }

    /// Chooses the records, unless that was done.
    async fn choose(&mut self) -> Result<(), JobError> {
        let known: Option<Chosen> = self.queue.chosen(&self.operation).await?;
        if known.is_some() {
            return Ok(());
        }
        // A choice that was not finished is made anew.
        self.queue.leave(&self.operation).await?;
        if self.takes_packs() {
            // Before what lies alone is looked for: what wakes meanwhile stays chosen.
            let has = self.has.position;
            self.queue.choose_packs(&self.operation, has).await?;
        }
        let Selected {
            positions,
            woken,
            part: taken,
            ..
        } = self.select().await?;
        if woken > WOKEN {
            let part = match self.order.selection {
                Selection::Match(_) => "Those that the expression takes",
                _ => "Those",
            };
            return Err(JobError::TooMany(part, taken.to_string()));
        }
        if woken > 0 {
            self.queue.wake_at(&positions).await?;
        }
        // What waits for a retry may be given up meanwhile; another retry has no claim on it.
        let takes_away = self.order.act == Act::Discard;
        self.queue.choose(&self.operation, takes_away, &positions).await?;
        failpoint::hit("chosen");
        Ok(())
    }

    /// What sleeps is given up as it lies.
    fn takes_packs(&self) -> bool {
        self.order.act == Act::Discard && self.order.selection == Selection::All
    }

    /// What waits now and is asked for. A retry of a record is also one of those that wait behind it.
    async fn select(&mut self) -> Result<Selected, JobError> {
        let (order, has) = (&self.order, self.has);
        let mut selected = Selected::default();
        let mut keys: HashSet<Vec<u8>> = HashSet::new();
        let mut last = None;
        let mut failed = None;
        let mut visit = |Listed { record, sleeps }: Listed| {
            if failed.is_some() || !record.waits(has) {
                return;
            }
            last = Some(record.id.clone()).max(last.take());
            let behind = order.act == Act::Retry
                && record.refusal.code == "ParkedBehind"
                && record.keys.iter().any(|key| keys.contains(key));
            match order.selection.takes(&record) {
                Ok(taken) if taken || behind => {
                    selected.woken += u64::from(sleeps);
                    selected.count += 1;
                    // Of too many none is taken.
                    let fits = selected.woken <= WOKEN;
                    if sleeps {
                        selected.part.add(&record.id, fits);
                    }
                    if !fits {
                        return;
                    }
                    selected.positions.push(record.change.position);
                    if order.act == Act::Retry {
                        keys.extend(record.keys);
                    }
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        };
        if self.takes_packs() {
            let alone = |record| {
                visit(Listed {
                    record,
                    sleeps: false,
                });
            };
            // What wakes in between counts twice, rather than not at all.
            let packs = self.queue.waiting_packs(has.position).await?;
            self.queue.each_awake(alone).await?;
            for pack in packs {
                selected.count += pack.left;
                last = last.max(Some(pack.last_id()));
            }
        } else {
            self.queue.each_error(visit).await?;
        }
        self.work.last_error = last;
        failed.map_or(Ok(selected), |error| Err(error.into()))
    }

    /// Whether the map may write now, if that is wanted.
    async fn is_ready(&self) -> bool {
        !self.order.writes() || self.order_retry(Vec::new()).await.is_some()
    }

    async fn order_retry(&self, records: Vec<ParkedRecord>) -> Option<crate::destination::postgres::Tried> {
        let lent = self.lane.as_ref()?;
        let (reply, answer) = oneshot::channel();
        lent.orders.give(lane::Order::Retry(lane::Retry {
            seat: lent.seat,
            operation: self.operation.clone(),
            records,
            first: self.first,
            reply,
        }));
        answer.await.ok()
    }

    /// How many, from the first on, are done. None: the map can write nothing now.
    async fn retry(&mut self, part: &[Position]) -> Result<Option<usize>, JobError> {
        let records = self.queue.errors_at(part).await?;
        let is_there =
            |position: &&Position| records.iter().any(|record| record.change.position == **position);
        let gone: Vec<Position> = part.iter().filter(|at| !is_there(at)).copied().collect();
        let Some(tried) = self.order_retry(records).await else {
            return Ok(None);
        };
        failpoint::hit("retried");
        let skipped: Vec<Position> = gone.into_iter().chain(tried.skipped).collect();
        if !skipped.is_empty() {
            self.queue.skip(&self.operation, &skipped).await?;
        }
        let is_failed = |retried: &&Retried| matches!(retried, Retried::Failed(_));
        let failed: Vec<Retried> = tried.retried.iter().filter(is_failed).cloned().collect();
        if !failed.is_empty() {
            self.queue.keep_retried(&self.operation, &failed).await?;
        }
        for retried in &failed {
            if let Retried::Failed(record) = retried {
                self.work.failed(record);
            }
        }
        self.first = Some(tried.reach);
        let done: HashSet<Position> = tried
            .retried
            .iter()
            .map(Retried::position)
            .chain(skipped)
            .collect();
        Ok(Some(part.iter().take_while(|at| done.contains(at)).count()))
    }

    /// What was given up leaves its pack too. Who gives a key up wants nothing of it kept: what was written or replaced goes,
    /// before its time.
    async fn erase(&self) -> Result<(), JobError> {
        let OnErrors { act, selection, .. } = &self.order;
        if *act != Act::Discard || self.takes_packs() {
            return Ok(());
        }
        if matches!(selection, Selection::Keys(_)) {
            let (mut settled, mut asleep) = (Vec::new(), Vec::new());
            let visit = |Listed { record, sleeps }: Listed| {
                let position = record.change.position;
                let is_settled = position <= self.has.position && !record.waits(self.has);
                if is_settled && selection.takes(&record).unwrap_or(false) {
                    settled.push(position);
                    asleep.extend(sleeps.then_some(position));
                }
            };
            self.queue.each_error(visit).await?;
            self.queue.wake_at(&asleep).await?;
            self.queue.forget(&settled).await?;
        }
        Ok(self.queue.blank().await?)
    }

    async fn discard(&mut self, part: &[Position]) -> Result<Option<usize>, JobError> {
        let (all, given_up) = self.queue.discard(&self.operation, part).await?;
        failpoint::hit("discarded");
        self.teller.given_up(given_up, all);
        Ok(Some(part.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(ids: &[(&str, bool)]) -> String {
        let mut part = Part::default();
        for (id, fits) in ids {
            part.add(id, *fits);
        }
        part.to_string()
    }

    #[test]
    fn a_part_of_a_selection_is_named_where_ids_do_not_rise() {
        let alike = [
            ("items-e-00000001", true),
            ("items-e-00000002", true),
            ("items-e-00000003", false),
        ];
        assert_eq!(part(&alike), "error.id <= 'items-e-00000002'");
        // An adopted queue: older records have ids of another map.
        let adopted = [
            ("old-e-00000001", true),
            ("items-e-00000002", true),
            ("items-e-00000003", false),
        ];
        let named = "error.id.startsWith('old-e-') && error.id <= 'old-e-00000001'";
        assert_eq!(part(&adopted), named);
        let late = [
            ("old-e-00000001", true),
            ("old-e-00000002", false),
            ("items-e-00000003", false),
        ];
        assert_eq!(part(&late), named);
    }
}
