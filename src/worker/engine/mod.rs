//! The engine of one worker: it owns the maps, and is told of everything that happens as an [`Event`].
//!
//! The way of a change reads from `route` (reader → gate) over `queueing` (gate → queue) and `lanes` (gate → lane) to
//! `custody` (what is confirmed to the source).

mod accept;
mod blocking;
mod boot;
mod cleanup;
mod commands;
mod confirm;
mod cutover;
mod drive;
mod effects;
mod event;
mod join;
mod lanes;
mod limits;
mod outages;
mod pauses;
mod permits;
mod queueing;
mod reach;
mod readback;
mod report;
mod retention;
mod route;
mod rules;
mod side;
mod slots;
mod source;
mod tables;
mod together;
mod trials;
mod wanted;

pub use commands::Commands;
pub use event::{Event, JoinFailure};
pub use join::fit;

use super::{
    budget::Budget,
    lane::{Lane, Stand, Stands, Timeouts},
    limits::Measures,
    map::{Map, MapId},
    plan::{Plan, TableName},
    reader::{Reader, Reading},
    status::Statuses,
};
use crate::{connection::postgres, record::Position};
use permits::Permits;
use route::Routes;
use side::Feeds;
use slots::Slots;
use source::Link;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What one worker needs to know of its source.
#[derive(Clone, Debug)]
pub struct Source {
    pub namespace: String,
    /// The Connection's name.
    pub connection: String,
    pub uid: String,
    pub settings: postgres::Settings,
    /// Slot and publication are named `<base>_<generation>` when we manage them.
    pub base: String,
    /// Given names, with `management: External`.
    pub external: Option<(String, String)>,
}

impl Source {
    /// Slot and publication of a generation.
    fn names(&self, generation: u32) -> (String, String) {
        self.external.clone().unwrap_or_else(|| {
            let name = format!("{}_{generation}", self.base);
            (name.clone(), name)
        })
    }
}

/// Times and bounds of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The source is confirmed so far behind queued positions and parks (rules 3 and 7).
    pub confirm_delay: Duration,
    /// Idle maps store their position, and Redis is read again, this often.
    pub tick: Duration,
    /// What is due by time is looked for this often.
    pub clock: Duration,
    /// Failed operations are tried again after this.
    pub retry: Duration,
    /// Counters in an idle map's status are written this often.
    pub counters: Duration,
    pub timeouts: Timeouts,
    /// A deletion gives up what it cannot reach after this.
    pub clean_up: Duration,
    /// A map that takes no changes for so long gets a slot of its own.
    pub side_slot: Duration,
    /// No map may have more queued than this.
    pub ceiling: Measures,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            confirm_delay: Duration::from_secs(10),
            tick: Duration::from_secs(10),
            clock: Duration::from_millis(100),
            retry: Duration::from_secs(2),
            counters: Duration::from_secs(60),
            timeouts: Timeouts::default(),
            clean_up: Duration::from_secs(300),
            side_slot: Duration::from_secs(60),
            ceiling: Measures::default(),
        }
    }
}

/// One destination's lane and the maps that sit in it.
struct Seating {
    lane: Lane,
    seats: Vec<MapId>,
    /// The last change that the lane was given, if its transaction has not ended yet.
    open: Option<Position>,
}

/// See the module.
pub struct Engine {
    source: Source,
    pace: Pace,
    budget: Budget,
    lease_epoch: i64,
    /// Maps that are not taken over yet, and when to try again.
    plans: BTreeMap<MapId, Arc<Plan>>,
    maps: BTreeMap<MapId, Map>,
    /// Every object that was there when the worker began is known.
    listed: bool,
    /// Objects, by UID, of which no plan is known; and their source tables.
    unread: HashMap<String, TableName>,
    booting: HashMap<MapId, boot::Attempt>,
    lanes: HashMap<String, Seating>,
    routes: Routes,
    link: Link,
    /// Everything at or below it was handed out by the reader in this session.
    through: Position,
    /// The last change that was handed out.
    reached: Position,
    statuses: Statuses,
    /// What the lanes know of maps that do not sit there.
    stands: Stands,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
    readings: mpsc::Receiver<Reading>,
    to_readings: mpsc::Sender<Reading>,
    tasks: JoinSet<()>,
    ticked: Instant,
    tails_told: Instant,
    /// Maps whose objects went without their clean-up.
    torn: HashMap<MapId, boot::Torn>,
    looking_at_tables: bool,
    columns_asked: Instant,
    /// Destinations that are away, and being asked whether they still are.
    knocking: HashSet<String>,
    /// Deleted maps of which nothing is left but, maybe, their part of publication and slot.
    emptied: HashSet<MapId>,
    /// When the clean-up of each deleted map began.
    cleaning_since: HashMap<MapId, Instant>,
    permits: Permits,
    /// So many maps are in a cutover.
    cutovers: usize,
    /// When a map was taken over last, or came into a replay.
    arrived: Option<Instant>,
    feeds: Feeds,
    slots: Slots,
    /// Slot and publication are being removed with this map.
    closing: Option<MapId>,
    commands: Commands,
    /// Why the engine must end.
    over: Option<Over>,
}

/// Why the engine cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// This worker is not the writer any more (rule 4).
    #[error("another worker has taken over: {0}")]
    Taken(String),
    /// What is under way for the object before must not meet the one that has its queue now.
    #[error("queue {0} has gone over to another object: it is read anew")]
    Adopted(MapId),
}

impl Engine {
    /// An engine without maps.
    #[must_use]
    pub fn new(source: Source, pace: Pace, lease_epoch: i64, statuses: Statuses, commands: Commands) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        let (to_readings, readings) = mpsc::channel(4);
        Self {
            source,
            pace,
            budget: Budget::new(48 << 20),
            lease_epoch,
            plans: BTreeMap::new(),
            maps: BTreeMap::new(),
            listed: false,
            unread: HashMap::new(),
            booting: HashMap::new(),
            lanes: HashMap::new(),
            routes: Routes::default(),
            link: Link::default(),
            through: Position::ZERO,
            reached: Position::ZERO,
            statuses,
            stands: Stands::default(),
            events,
            inbox,
            readings,
            to_readings,
            tasks: JoinSet::new(),
            ticked: Instant::now(),
            tails_told: Instant::now(),
            torn: HashMap::new(),
            looking_at_tables: false,
            columns_asked: Instant::now(),
            knocking: HashSet::new(),
            emptied: HashSet::new(),
            cleaning_since: HashMap::new(),
            permits: Permits::default(),
            cutovers: 0,
            arrived: None,
            feeds: Feeds::default(),
            slots: Slots::default(),
            closing: None,
            commands,
            over: None,
        }
    }

    /// Where events are told.
    #[must_use]
    pub fn events(&self) -> mpsc::UnboundedSender<Event> {
        self.events.clone()
    }

    /// Runs until `shutdown`. What is in flight is then finished or rolled back by dropping its connections.
    ///
    /// # Errors
    /// Another worker has taken over.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Over> {
        let mut clock = tokio::time::interval(self.pace.clock);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.over.is_none() {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = self.inbox.recv() => self.take(event),
                _ = clock.tick() => self.look_at_clocks(),
                Some(reading) = self.readings.recv(), if !self.reader_waits() => self.read(reading),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
        let over = self.over.take();
        self.finish().await;
        over.map_or(Ok(()), Err)
    }

    /// Drops the connections: what is in flight is rolled back, or was committed with its progress.
    async fn finish(mut self) {
        self.link = Link::default();
        self.lanes.clear();
        self.tasks.shutdown().await;
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Planned(plan) => self.planned(*plan),
            Event::Listed => {
                self.listed = true;
                self.start_source();
            }
            Event::Unread {
                uid,
                table,
                map,
                facts,
            } => {
                self.unread.insert(uid, table);
                if let Some(facts) = facts {
                    self.statuses.tell(&map, *facts);
                }
            }
            Event::UnreadGone(uid) => drop(self.unread.remove(&uid)),
            Event::Removed(map) => self.removed(&map),
            Event::Booted { map, result } => self.booted(&map, result),
            Event::Activate {
                map,
                beginning,
                ready,
            } => self.activate(&map, *beginning, ready),
            Event::Joined { map, result } => self.joined(&map, result),
            Event::Lane { lane, notice } => self.noticed(&lane, notice),
            // The supervisor starts the worker again, and all is read from what is durable.
            Event::LaneEnded(lane) if self.lanes.contains_key(&lane) => panic!("the lane to {lane} ended"),
            Event::LaneEnded(_) => {}
            Event::Appended { map, last, result } => self.appended(&map, last, result),
            Event::Advanced { map, to, result } => self.advanced(&map, to, result),
            Event::Trimmed { map, partial, result } => self.trimmed(&map, partial, result),
            Event::Closed {
                map,
                step,
                evicted,
                closed,
            } => self.closed(&map, step, *evicted, *closed),
            Event::Stepped { map, step, ended } => self.stepped(&map, step, ended),
            Event::Checked { map, result } => self.checked(&map, result),
            Event::Answered { destination, result } => self.answered(&destination, result),
            Event::Probed { map, stamp, result } => self.probed(&map, &stamp, result),
            Event::Mended { map, result } => self.mended(&map, *result),
            Event::KeySeen { map, result } => self.key_seen(&map, result),
            Event::TablesSeen { tables, columns } => {
                self.tables_seen(tables);
                self.columns_seen(columns);
            }
            Event::Wished {
                map,
                generation,
                wish,
                deletion,
            } => self.wished(&map, generation, wish, deletion),
            Event::ReadBack(metas) => self.read_back(metas),
            Event::SourceSeen { session, result } => self.source_seen(session, result),
            Event::SourceStarted { session, result } => self.source_started(session, result),
            Event::StatusWritten { map, version } => self.status_written(&map, version),
            Event::ErrorsRead { map, result } => self.errors_read(&map, result),
            Event::Emptied { map, result } => self.emptied(&map, result),
            Event::CleanedUp { map, result } => self.cleaned_up(&map, result),
            Event::Reached { connection, reached } => self.reached_as(&connection, *reached),
            Event::SideMade { map, result } => self.side_made(&map, result),
            Event::SideDropped { map, result } => self.side_dropped(&map, result),
            Event::SlotsSeen(slots) => self.slots_seen(slots),
            Event::FeedStarted { session, result } => self.feed_started(session, result),
            Event::Commanded(command) => self.commanded(command),
            Event::TakenBack(command) => self.taken_back(&command),
            Event::Finished(command) => self.finished(&command),
            Event::Accepted { command, map, result } => self.accepted(&command, &map, result),
            Event::CommandsListed(all) => self.commands_listed(&all),
            Event::Swept { map, result } => self.swept(&map, &result),
            Event::Counted { command, map, result } => self.counted(&command, &map, result),
            Event::SkipStored { map, skip, result } => self.skip_stored(&map, skip, result),
            Event::Purged { map, result } => self.purged(&map, result),
            Event::RulesStored { map, text, result } => self.rules_stored(&map, &text, result),
            Event::Worked { command, work } => self.worked(&command, work),
            Event::GivenUp { map, positions, all } => self.given_up(&map, positions, all),
            Event::JobEnded { command, map, result } => self.job_ended(&command, &map, result),
            Event::EndSaid(command) => self.end_said(&command),
            Event::LeaseRegained => self.statuses.force_once(),
            Event::SaidUnknown(map) => self.statuses.overwritten(&map),
        }
    }

    fn read(&mut self, reading: Reading) {
        match reading {
            Reading::Read(read) if Feeds::is_one(read.session) => self.feed(read),
            Reading::Ended { session, error } if Feeds::is_one(session) => self.feed_ended(session, &error),
            Reading::Read(read) => self.route(read),
            Reading::Ended { session, error } => self.source_ended(session, &error),
        }
    }

    fn look_at_clocks(&mut self) {
        let now = Instant::now();
        self.retry_source(now);
        self.retry_boots(now);
        self.retry_steps(now);
        self.look_at_pauses();
        self.look_at_rules();
        self.look_at_trouble(now);
        self.retry_refused(now);
        self.look_at_sides(now);
        self.look_at_idle();
        self.begin_replays();
        // A silent source hands out no chunk that would.
        self.tell_tails();
        self.look_at_cutovers();
        self.look_at_errors(now);
        self.look_at_commands(now);
        self.look_at_columns(now);
        self.look_at_limits();
        self.look_at_outages();
        self.tell_stands();
        if now.duration_since(self.ticked) >= self.pace.tick {
            self.ticked = now;
            self.look_for_left_out();
            self.store_positions();
            self.read_queues_back();
            self.look_at_tables();
            self.look_at_slots();
            self.look_at_retention();
        }
        self.confirm(now);
        self.report_all();
    }

    /// Every map that there is, is known with all that its object refers to: one that is not may need what the source keeps.
    fn knows_all(&self) -> bool {
        self.listed && self.unread.is_empty()
    }

    /// The maps for which this holds: whoever acts on them may change any.
    fn those(&self, which: impl Fn(&Map) -> bool) -> Vec<MapId> {
        let maps = self.maps.values().filter(|map| which(map));
        maps.map(|map| map.id.clone()).collect()
    }

    /// Tells the lanes where every map stands (rule 10).
    fn tell_stands(&self) {
        let stand = |map: &Map| Stand {
            name: map.plan.name.clone(),
            destination: map.plan.destination.clone(),
            table: map.plan.destination_table.clone(),
            position: map.reached(),
        };
        let serving = self.maps.values().filter(|map| map.has_joined());
        self.stands
            .set(serving.map(|map| (map.id.clone(), stand(map))).collect());
    }

    /// Runs an operation beside the engine; it ends as an event.
    fn spawn(&mut self, operation: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let _ = events.send(operation.await);
        });
    }

    fn reader(&self) -> Option<&Reader> {
        self.link.reader()
    }
}
