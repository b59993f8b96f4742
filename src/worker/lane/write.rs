//! Writing batches: adaptive, so that an idle system writes at once and a backlog goes in thousands.

use super::{
    order::Order,
    parents::Standing,
    task::{FLUSH_EVERY, Seat, Seating, Task},
    whole::{self, Limits, Rest},
};
use crate::{
    destination::postgres::{Around, Item, LaneError, Upto, Written, last_of},
    failpoint,
    record::Position,
    trace,
    worker::lane::order::Notice,
};
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Records and bytes of a batch, at most.
pub(super) const RECORDS: usize = 8192;
const BYTES: usize = 4 << 20;
/// Bytes that are committed and not flushed, about: they are kept until then.
const UNFLUSHED: usize = 8 << 20;

/// Which of the two streams a batch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Direct,
    Replay,
}

impl Task {
    /// Stores how far idle maps are, writes a batch, or flushes. False: there is nothing to do now.
    pub(super) async fn work(&mut self) -> bool {
        if let Some((seat, message)) = self.merge.fill(RECORDS, BYTES) {
            self.set_aside(seat);
            self.tell(Notice::Corrupt { seat, message });
        }
        let unflushed = self.window.is_unflushed() || self.merge.is_unflushed();
        // Idle maps do not wait for busy ones: the source keeps its log for them.
        if self.advance {
            self.store_through().await;
            true
        } else if !std::mem::take(&mut self.has_retried) && self.retry().await {
            self.has_retried = true;
            true
        } else if let Some((from, count)) = self.choose() {
            self.write(from, count).await;
            true
        } else if unflushed && self.until_quiet().is_zero() {
            self.flush().await;
            true
        } else {
            false
        }
    }

    /// What goes next, and how many of it: direct changes and replay take turns.
    fn choose(&mut self) -> Option<(From, usize)> {
        let limits = |through, rest: &Rest| Limits {
            records: self.reach,
            bytes: BYTES,
            through,
            overdue: rest.is_over(),
        };
        let direct = whole::next(self.window.pending(), limits(self.through, &self.direct_rest));
        // With a cap, transactions are written as it allows.
        let replay = if self.merge.is_capped() {
            self.merge.waiting().min(self.reach)
        } else {
            whole::next(
                self.merge.pending(),
                limits(self.merge.through(), &self.replay_rest),
            )
        };
        self.direct_rest.set(direct == 0 && self.window.waiting() > 0);
        self.replay_rest.set(replay == 0 && self.merge.waiting() > 0);
        if self.growth.waits(direct.max(replay)) {
            return None;
        }
        let (from, count) = match (direct, replay) {
            (0, 0) => return None,
            (0, count) => (From::Replay, count),
            (_, count) if count > 0 && self.replay_next => (From::Replay, count),
            (count, _) => (From::Direct, count),
        };
        self.replay_next = from == From::Direct;
        Some((from, count))
    }

    async fn write(&mut self, from: From, count: usize) {
        let durable = self.flushed_at.elapsed() >= FLUSH_EVERY || self.unflushed >= UNFLUSHED;
        let Self {
            session,
            targets,
            window,
            merge,
            inbox,
            pending,
            store,
            seats,
            timeouts,
            name,
            stands,
            ..
        } = self;
        let Some(live) = session.as_mut() else { return };
        let items: Vec<&Item> = match from {
            From::Direct => window.pending().take(count).collect(),
            From::Replay => merge.pending().take(count).collect(),
        };
        let upto = match from {
            From::Direct => direct_upto(&items, seats, window.waiting() == count),
            From::Replay => last_of(&items),
        };
        let standing = Standing::of(name, stands, seats, targets, |seat| window.waits(seat));
        let patience = Patience {
            inbox,
            pending,
            evict: timeouts.evict,
        };
        let around = Around {
            store: &**store,
            parents: &standing,
        };
        let last = upto.iter().map(|upto| upto.position).max().unwrap_or_default();
        let (records, is_replay) = (items.len(), from == From::Replay);
        let span = trace::span!("destination.write", connection = %name, records, is_replay, durable, position = %last);
        let write = live.write(targets, &items, &upto, durable, around);
        match patience.wait(trace::within(span, write)).await {
            Some(Ok(written)) => {
                let committed = items.iter().filter(|item| !written.is_aside(item.map)).count();
                self.unflushed += items.iter().map(|item| item.change.size()).sum::<usize>();
                self.wrote(from, committed, &written);
            }
            Some(Err(error)) => self.fail(error),
            None => self.give_up("a write"),
        }
    }

    /// A map is to leave, and what is under way may take for ever.
    pub(super) fn give_up(&mut self, what: &str) {
        tracing::warn!("{what} outlasted the pause that waits for it; its connection is given up");
        self.session = None;
    }

    /// `committed` items of the batch are committed, beside those of maps that were set aside: of these none stays
    /// in the window, committed or not.
    fn wrote(&mut self, from: From, committed: usize, written: &Written) {
        self.losses = 0;
        self.wrote_at = std::time::Instant::now();
        self.growth.wrote(committed);
        self.reach = (self.reach * 2).min(RECORDS);
        for (index, aside) in &written.aside {
            self.set_aside(*index);
            self.tell(Notice::Aside {
                seat: *index,
                aside: aside.clone(),
            });
        }
        match from {
            From::Direct => {
                failpoint::hit("running");
                self.window.commit(committed);
            }
            From::Replay => {
                failpoint::hit("catching-up");
                self.merge.commit(committed);
            }
        }
        if written.durable {
            self.flushed();
        }
    }

    async fn flush(&mut self) {
        let maps: Vec<usize> = (0..self.seats.len())
            .filter(|index| self.is_writable(*index))
            .collect();
        let Self {
            session,
            targets,
            inbox,
            pending,
            timeouts,
            ..
        } = self;
        let Some(session) = session.as_mut() else { return };
        let patience = Patience {
            inbox,
            pending,
            evict: timeouts.evict,
        };
        match patience.wait(session.flush(targets, &maps)).await {
            Some(Ok(())) => self.flushed(),
            Some(Err(error)) => self.fail(error),
            None => self.give_up("a flush"),
        }
    }

    /// Stores the marks of the maps that have nothing waiting (rule 1).
    async fn store_through(&mut self) {
        self.advance = false;
        let window = &self.window;
        let behind = |map: usize, seat: &Seat, position: Position| {
            seat.seating == Seating::Direct && position < seat.mark.through && !window.waits(map)
        };
        let upto: Vec<Upto> = self
            .seats
            .iter()
            .zip(&self.targets)
            .enumerate()
            .filter(|(map, (seat, target))| behind(*map, seat, target.progress.position))
            .map(|(map, (seat, _))| Upto {
                map,
                position: seat.mark.through,
                counters: seat.mark.counters,
            })
            .collect();
        if upto.is_empty() {
            return;
        }
        let Self {
            session,
            targets,
            inbox,
            pending,
            timeouts,
            ..
        } = self;
        let Some(session) = session.as_mut() else { return };
        let patience = Patience {
            inbox,
            pending,
            evict: timeouts.evict,
        };
        match patience.wait(session.advance(targets, &upto)).await {
            Some(Ok(())) => self.flushed(),
            Some(Err(error)) => self.fail(error),
            None => self.give_up("a flush"),
        }
    }
}

/// When nothing more waits, the maps of the batch are at their marks.
fn direct_upto(items: &[&Item], seats: &[Seat], drained: bool) -> Vec<Upto> {
    let mut upto = last_of(items);
    for known in upto.iter_mut().filter(|_| drained) {
        if let Some(seat) = seats
            .get(known.map)
            .filter(|seat| seat.mark.through > known.position)
        {
            known.position = seat.mark.through;
            known.counters = seat.mark.counters;
        }
    }
    upto
}

/// Waits for the destination, but not for ever when a map is to leave.
pub(super) struct Patience<'a> {
    pub inbox: &'a mut mpsc::UnboundedReceiver<Order>,
    pub pending: &'a mut VecDeque<Order>,
    pub evict: Duration,
}

impl Patience<'_> {
    /// None: a map that is to leave has waited long enough.
    pub async fn wait<T>(
        self,
        write: impl Future<Output = Result<T, LaneError>>,
    ) -> Option<Result<T, LaneError>> {
        tokio::pin!(write);
        let mut until: Option<Instant> = None;
        loop {
            let patience = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = &mut write => return Some(result),
                Some(order) = self.inbox.recv() => {
                    if matches!(order, Order::Evict { .. }) {
                        until.get_or_insert(Instant::now() + self.evict);
                    }
                    self.pending.push_back(order);
                }
                () = patience => return None,
            }
        }
    }
}
