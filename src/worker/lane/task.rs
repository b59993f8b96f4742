//! The lane's loop: orders first, then a batch, then a flush when nothing more comes.

use super::{
    feed::Feed,
    growth::Growth,
    merge::Merge,
    order::{Durable, Evicted, Mark, Notice, Order, Parcel, Retry},
    parents::Stands,
    whole::Rest,
    window::Window,
    write::RECORDS,
};
use crate::{
    connection::postgres::Settings,
    destination::postgres::{ErrorStore, Item, Progress, Session, Target},
    record::Position,
    worker::budget::Share,
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

/// Durability is shown at least this often (rule 2).
pub(super) const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// What is committed and not flushed is, when so long nothing more has come: a steady flow waits for no disk.
const QUIET: Duration = Duration::from_millis(10);
/// A connection that failed in a way which the next one may explain is tried again after this.
const RECONNECT: Duration = Duration::from_millis(300);
/// With a cap, how often the lane looks whether more may be written.
const CAP_TICK: Duration = Duration::from_millis(20);

/// Gives orders to a lane, as long as that runs.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::UnboundedSender<Order>);

impl Orders {
    /// Gives an order. A lane that ended takes none.
    pub fn give(&self, order: Order) {
        let _ = self.0.send(order);
    }
}

/// A running lane; dropping it ends it.
#[derive(Debug)]
pub struct Lane {
    orders: Orders,
    task: JoinHandle<()>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lane {
    /// Starts a lane. `notices` is told what becomes durable and what goes wrong.
    #[must_use]
    pub fn start(
        name: String,
        settings: Settings,
        stands: Stands,
        store: Arc<dyn ErrorStore>,
        timeouts: Timeouts,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            Task::new(name, settings, stands, store, timeouts, inbox, notices)
                .run()
                .await;
        });
        Self {
            orders: Orders(orders),
            task,
        }
    }

    /// Gives an order. A lane that ended takes none: its end is seen by the engine.
    pub fn order(&self, order: Order) {
        self.orders.give(order);
    }

    /// A hand that gives it orders.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }
}

/// How long the destination may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// A locked table moves its map aside after this long (rule 10).
    pub lock: Duration,
    pub statement: Duration,
    /// A map that is to leave waits this long for a write that is under way.
    pub evict: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(2),
            statement: Duration::from_secs(30),
            evict: Duration::from_millis(1500),
        }
    }
}

/// What a seat's map may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seating {
    /// Its changes are written as they come.
    Direct,
    /// Its queue is replayed.
    Replaying,
    /// Nothing is written: the engine will evict it.
    Aside,
    Gone,
}

impl Seating {
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::Direct | Self::Replaying)
    }
}

/// One map's place in the lane. Its `Target` stands at the same index.
pub(super) struct Seat {
    pub seating: Seating,
    /// What is known to be flushed.
    pub flushed: Progress,
    pub mark: Mark,
    /// What was not written when the seat was set aside, and what came since.
    pub stash: Vec<(Item, Option<Share>)>,
}

pub(super) struct Task {
    pub name: String,
    pub stands: Stands,
    pub settings: Settings,
    pub store: Arc<dyn ErrorStore>,
    pub timeouts: Timeouts,
    pub inbox: mpsc::UnboundedReceiver<Order>,
    /// Orders read while a write was under way.
    pub pending: VecDeque<Order>,
    pub notices: mpsc::UnboundedSender<Notice>,
    pub session: Option<Session>,
    pub targets: Vec<Target>,
    pub seats: Vec<Seat>,
    pub window: Window,
    pub merge: Merge,
    pub advance: bool,
    pub flushed_at: Instant,
    pub wrote_at: Instant,
    /// Bytes that were written since.
    pub unflushed: usize,
    /// A large batch may grow for a moment.
    pub growth: Growth,
    pub replay_next: bool,
    pub retries: VecDeque<Retry>,
    /// A retry was the last thing that was done: what is new comes next.
    pub has_retried: bool,
    pub wake: Arc<Notify>,
    /// How many records a batch may hold: fewer after a connection was lost, since that may have been too much at once.
    pub reach: usize,
    /// Connections that were lost since the last write.
    pub losses: u32,
    /// Every direct change of a transaction that ended at or below it was given to the lane.
    pub through: Position,
    /// The waits for the rest of a transaction, of direct changes and of the replay: neither may prolong the other's.
    pub direct_rest: Rest,
    pub replay_rest: Rest,
}

impl Task {
    fn new(
        name: String,
        settings: Settings,
        stands: Stands,
        store: Arc<dyn ErrorStore>,
        timeouts: Timeouts,
        inbox: mpsc::UnboundedReceiver<Order>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        Self {
            name,
            settings,
            stands,
            store,
            timeouts,
            inbox,
            pending: VecDeque::new(),
            notices,
            session: None,
            targets: Vec::new(),
            seats: Vec::new(),
            window: Window::default(),
            merge: Merge::default(),
            advance: false,
            flushed_at: Instant::now(),
            wrote_at: Instant::now(),
            unflushed: 0,
            growth: Growth::default(),
            replay_next: false,
            retries: VecDeque::new(),
            has_retried: false,
            wake: Arc::new(Notify::new()),
            reach: RECORDS,
            losses: 0,
            through: Position::ZERO,
            direct_rest: Rest::default(),
            replay_rest: Rest::default(),
        }
    }

    /// Runs until the engine drops the lane.
    async fn run(mut self) {
        loop {
            if !self.take_orders() {
                return;
            }
            if self.is_seated() && self.session.is_none() && !self.connect().await {
                self.rest().await;
                continue;
            }
            let wrote = match self.session {
                Some(_) => self.work().await,
                None => false,
            };
            if !wrote && !self.rest().await {
                return;
            }
        }
    }

    /// Carries out every order that has come. False: the engine is gone.
    pub(super) fn take_orders(&mut self) -> bool {
        while let Some(order) = self.pending.pop_front() {
            self.carry_out(order);
        }
        loop {
            match self.inbox.try_recv() {
                Ok(order) => self.carry_out(order),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits until there may be something to do. False: the engine is gone.
    async fn rest(&mut self) -> bool {
        let retries = self.session.is_some() && !self.retries.is_empty();
        if !self.pending.is_empty() || retries {
            return true;
        }
        let unflushed = self.window.is_unflushed() || self.merge.is_unflushed();
        let lost = self.is_seated() && self.session.is_none();
        let rest = [
            self.direct_rest.left(),
            self.replay_rest.left(),
            self.growth.left(),
            unflushed.then(|| self.until_quiet()),
        ]
        .into_iter()
        .flatten()
        .filter(|_| self.session.is_some())
        .min();
        let pause = match (lost, self.merge.is_limited()) {
            (true, _) => RECONNECT,
            (_, true) => CAP_TICK,
            (_, false) => rest.unwrap_or(Duration::from_secs(3600)),
        };
        let closed = async {
            match &mut self.session {
                Some(session) => session.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A destination that goes away, or is put back to an older copy, ends its sessions: that is found though nothing
            // is to be written (I7).
            () = closed => {
                tracing::info!(connection = %self.name, "the destination closed the connection; connecting again");
                self.session = None;
                Box::pin(self.rest()).await
            }
            order = self.inbox.recv() => match order {
                Some(order) => { self.pending.push_back(order); true }
                None => false,
            },
            () = self.wake.notified() => true,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// How long until what is committed is flushed, if nothing more comes.
    pub(super) fn until_quiet(&self) -> Duration {
        let quiet = QUIET.saturating_sub(self.wrote_at.elapsed());
        quiet.min(FLUSH_EVERY.saturating_sub(self.flushed_at.elapsed()))
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Replay {
                seat,
                target,
                queue,
                tail,
                base,
                cap,
                ramps,
                most,
            } => {
                let has = target.progress.position;
                let feed = Feed::start(queue, base, has, tail, self.wake.clone());
                self.seat(seat, *target);
                self.merge.start(seat, feed, cap, ramps, most);
            }
            Order::Begin { seats } => self.merge.begin(&seats),
            Order::Direct { seats, parcel } => {
                for (seat, mark) in seats {
                    self.go_direct(seat, mark);
                }
                self.accept(parcel);
            }
            Order::Items(parcel) => self.accept(parcel),
            Order::Retry(retry) => self.accept_retry(retry),
            Order::Forget {
                seat,
                positions,
                gone,
            } => self.forget(seat, &positions, gone),
            Order::Reach(settings) => self.reach(*settings),
            Order::Evict { seat, reply } => {
                let _ = reply.send(self.evict(seat));
            }
        }
    }

    fn reach(&mut self, settings: Settings) {
        if self.settings.leads_elsewhere(&settings) {
            self.session = None;
        }
        self.settings = settings;
    }

    fn seat(&mut self, index: usize, target: Target) {
        let seat = Seat {
            seating: Seating::Replaying,
            flushed: target.progress.clone(),
            mark: Mark::default(),
            stash: Vec::new(),
        };
        // Seats are given out by the engine in order; a map keeps its own for good.
        if index < self.seats.len() {
            self.seats[index] = seat;
            self.targets[index] = target;
        } else {
            self.seats.push(seat);
            self.targets.push(target);
        }
    }

    fn go_direct(&mut self, index: usize, mark: Mark) {
        self.merge.stop(index);
        if let Some(seat) = self
            .seats
            .get_mut(index)
            .filter(|seat| seat.seating == Seating::Replaying)
        {
            seat.seating = Seating::Direct;
            seat.mark = mark;
        }
    }

    fn accept(&mut self, parcel: Parcel) {
        for item in parcel.items {
            match self.seats.get_mut(item.map) {
                Some(seat) if seat.seating == Seating::Aside => seat.stash.push((item, parcel.share.clone())),
                _ => self.window.push(item, parcel.share.clone()),
            }
        }
        for (seat, mark) in parcel.marks {
            if let Some(seat) = self.seats.get_mut(seat) {
                seat.mark = mark;
            }
        }
        self.advance |= parcel.advance;
        self.through = self.through.max(parcel.through);
    }

    fn evict(&mut self, index: usize) -> Evicted {
        self.drop_retries(index);
        self.merge.stop(index);
        let waiting = self.window.evict(index);
        let Some(seat) = self.seats.get_mut(index) else {
            return Evicted {
                flushed: None,
                leftover: waiting,
            };
        };
        seat.seating = Seating::Gone;
        let mut leftover = std::mem::take(&mut seat.stash);
        leftover.extend(waiting);
        leftover.retain(|(item, _)| item.change.position > seat.flushed.position);
        Evicted {
            flushed: Some(seat.flushed.clone()),
            leftover,
        }
    }

    pub(super) fn is_seated(&self) -> bool {
        self.seats.iter().any(|seat| seat.seating.is_writable())
    }

    pub(super) fn tell(&self, notice: Notice) {
        let _ = self.notices.send(notice);
    }

    /// Everything committed is flushed: tells the engine, and forgets it.
    pub(super) fn flushed(&mut self) {
        self.flushed_at = Instant::now();
        self.unflushed = 0;
        self.losses = 0;
        self.window.flushed();
        self.merge.flushed();
        let mut durable = Vec::new();
        for (index, (seat, target)) in self.seats.iter_mut().zip(&mut self.targets).enumerate() {
            let is_still = seat.flushed == target.progress && target.refused.is_empty();
            if seat.seating == Seating::Gone || is_still {
                continue;
            }
            seat.flushed = target.progress.clone();
            let passed = self.merge.passed(index, seat.flushed.position);
            durable.push(Durable {
                seat: index,
                progress: seat.flushed.clone(),
                refused: std::mem::take(&mut target.refused),
                spent: self.merge.is_spent(index),
                passed,
            });
        }
        if !durable.is_empty() {
            self.tell(Notice::Durable(durable));
        }
    }
}
