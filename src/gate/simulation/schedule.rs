//! One random schedule: anything may happen at any time. Then all is well for a while, and the map must follow.

use super::{
    Flaw,
    judge::{Seen, judge},
    random::Random,
    reporter::Delivery,
    worker::{Trouble, Worker},
    world::{Fate, World},
};

/// Keys are few, so that changes of one key meet.
const KEYS: u64 = 3;
/// A map that has not come to rest after so many rounds in which everything works never will.
const ROUNDS: usize = 200;

/// So many things happen at most before all is well.
const MOST: u64 = 1000;

/// Of a hundred events, so many are troubles at most.
const MOST_UNREST: u64 = 20;

/// Everything that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Produce,
    Read,
    Append,
    Connect,
    Write,
    Land,
    Reply,
    LoseConnection,
    Trim,
    Advance,
    Status,
    Want,
    Time,
    Fire,
    Store,
    Resume,
    Try,
    RetryError,
    Destination,
    Redis,
    Unfit,
    Expel,
    Renew,
    Retry,
    Cutover,
    Impatience,
    Confirm,
    Crash,
    Boot,
}

/// What goes on by itself, and how often.
const WORK: &[(Event, u64)] = &[
    (Event::Produce, 3),
    (Event::Read, 6),
    (Event::Append, 7),
    (Event::Connect, 5),
    (Event::Write, 7),
    (Event::Land, 5),
    (Event::Reply, 8),
    (Event::Trim, 4),
    (Event::Advance, 12),
    (Event::Status, 8),
    (Event::Retry, 6),
    (Event::Cutover, 3),
    (Event::Confirm, 1),
    (Event::Store, 3),
    (Event::RetryError, 2),
];

/// What comes in between.
const TROUBLE: &[(Event, u64)] = &[
    (Event::LoseConnection, 2),
    (Event::Want, 4),
    (Event::Time, 2),
    (Event::Fire, 2),
    (Event::Resume, 2),
    (Event::Try, 4),
    (Event::Destination, 3),
    (Event::Redis, 3),
    (Event::Unfit, 2),
    (Event::Expel, 1),
    (Event::Renew, 1),
    (Event::Impatience, 1),
    (Event::Crash, 1),
];

/// What goes on by itself while all is well, in one round.
const ROUND: &[Event] = &[
    Event::Boot,
    Event::Retry,
    Event::Read,
    Event::Append,
    Event::Advance,
    Event::Connect,
    Event::Write,
    Event::Land,
    Event::Reply,
    Event::Trim,
    Event::Cutover,
    Event::Store,
    Event::Status,
];

pub struct Schedule {
    random: Random,
    flaw: Option<Flaw>,
    world: World,
    worker: Option<Worker>,
    /// Nothing fails, and no answer is lost.
    well: bool,
    /// Write down what happens.
    pub tell: bool,
    pub story: Vec<String>,
    last: String,
}

impl Schedule {
    pub fn new(seed: u64, flaw: Option<Flaw>) -> Self {
        Self {
            random: Random::new(seed),
            flaw,
            world: World::default(),
            worker: None,
            well: false,
            tell: false,
            story: Vec::new(),
            last: String::new(),
        }
    }

    /// Runs to its end; what could be seen.
    pub fn run(&mut self) -> Vec<Seen> {
        // Half of the schedules begin with a map that runs.
        if self.random.chance(50) {
            self.rest(false);
        }
        // Some schedules are calm, so that maps come to run; in others one trouble follows the other.
        let unrest = 1 + self.random.below(MOST_UNREST);
        for _ in 0..self.random.below(MOST) {
            let event = self.choose(unrest);
            self.happen(event);
        }
        if self.random.chance(50) {
            self.rest(true);
        }
        self.rest(false);
        std::mem::take(&mut self.world.seen)
    }

    fn choose(&mut self, unrest: u64) -> Event {
        if self.worker.is_none() && self.random.chance(30) {
            return Event::Boot;
        }
        let events = if self.random.chance(unrest) { TROUBLE } else { WORK };
        let total = events.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.random.below(total);
        for (event, weight) in events {
            if drawn < *weight {
                return *event;
            }
            drawn -= weight;
        }
        Event::Read
    }

    /// All is well, and nobody changes the spec: the map must come to rest.
    fn rest(&mut self, wanted: bool) {
        self.well = true;
        self.world.destination.away = false;
        self.world.redis.away = false;
        self.world.unfit = false;
        if self.world.wanted != wanted {
            self.happen(Event::Want);
        }
        if self.world.timed {
            self.happen(Event::Time);
        }
        for _ in 0..ROUNDS {
            if !wanted {
                self.happen(Event::Resume);
            }
            for event in ROUND {
                self.happen(*event);
            }
            if self.world.is_at_rest() {
                break;
            }
        }
        self.world.seen.push(Seen::Quiet { wanted });
        self.well = false;
    }

    fn happen(&mut self, event: Event) {
        let before = self.world.seen.len();
        self.outside(event);
        if let Some(mut worker) = self.worker.take() {
            self.inside(event, &mut worker);
            match event {
                Event::Crash => worker.reporter.die(&mut self.world, self.random.chance(50)),
                _ => self.worker = Some(worker),
            }
        } else if event == Event::Boot {
            self.worker = Worker::boot(&mut self.world, self.flaw);
        }
        if self.tell && judge(&self.world.seen[..before]).is_none() {
            self.note(event, before);
        }
    }

    fn note(&mut self, event: Event, before: usize) {
        let seen = &self.world.seen[before..];
        let worker = self.worker.as_ref();
        let state = worker.map(|worker| (&worker.gate, &worker.lane, &worker.doing));
        let queue = &self.world.redis.records;
        let state = format!("{seen:?}\n    {state:?}\n    {queue:?}");
        if self.last != state {
            self.story.push(format!("{event:?} {state}"));
            self.last = state;
        }
    }

    /// What happens outside of the worker.
    fn outside(&mut self, event: Event) {
        let seldom = self.random.chance(50);
        let world = &mut self.world;
        match event {
            Event::Produce => world.produce(u8::try_from(self.random.below(KEYS)).unwrap_or(0)),
            Event::Land => self.land(),
            Event::Want => world.wanted = !world.wanted,
            Event::Time => toggle(&mut world.timed, seldom),
            Event::Destination => toggle(&mut world.destination.away, seldom),
            Event::Redis => toggle(&mut world.redis.away, seldom),
            Event::Unfit => toggle(&mut world.unfit, seldom),
            _ => {}
        }
    }

    /// A transaction that is under way ends, whoever sent it; when all is well, each does.
    fn land(&mut self) {
        let open = self.world.destination.sent.iter();
        let open: Vec<u64> = open
            .filter(|sent| sent.fate == Fate::Open)
            .map(|sent| sent.id)
            .collect();
        let blindly = self.flaw == Some(Flaw::RetriesBlindly);
        if self.well {
            for id in open {
                self.world.land(id, blindly);
            }
        } else if !open.is_empty() {
            let drawn = self.random.below(open.len() as u64);
            self.world
                .land(open[usize::try_from(drawn).unwrap_or(0)], blindly);
        }
    }

    fn most(&mut self) -> usize {
        1 + usize::try_from(self.random.below(3)).unwrap_or(0)
    }

    fn answered(&mut self) -> bool {
        self.well || self.random.chance(85)
    }

    /// What happens in the worker.
    fn inside(&mut self, event: Event, worker: &mut Worker) {
        let (most, answered, delivery) = (self.most(), self.answered(), self.delivery());
        let refuses = !self.well && self.random.chance(15);
        let raises = self.flaw != Some(Flaw::KeepsTheToken);
        let world = &mut self.world;
        let notice = match event {
            Event::Connect => worker.lane.connect(world, raises),
            Event::Reply => worker.lane.reply(world),
            _ => None,
        };
        if let Some(notice) = notice {
            worker.noticed(notice);
        }
        match event {
            Event::Read => worker.read(world),
            Event::Append => worker.append(world, most, answered),
            Event::Write => worker.lane.write(world, most, refuses),
            Event::RetryError => worker.lane.retry(world),
            Event::Try => worker.try_records(world, answered),
            Event::LoseConnection => worker.lane.lose(),
            Event::Trim => worker.trim(world),
            Event::Advance => worker.advance(world, answered),
            Event::Want | Event::Time => worker.planned(world),
            Event::Fire => worker.fire(world),
            Event::Store => worker.store(world, answered),
            Event::Resume => worker.resume(world),
            Event::Unfit if world.unfit => worker.block(Trouble::Keys),
            Event::Expel => worker.expel(),
            Event::Renew => {
                worker.gate.renew();
                worker.drive();
            }
            Event::Retry => worker.try_again(world),
            Event::Cutover => worker.look_at_cutover(),
            Event::Impatience => worker.impatient = true,
            Event::Confirm => world.confirmed = world.confirmed.max(worker.durable()),
            Event::Status => {
                if let Some(version) = worker.reporter.advance(world, delivery) {
                    worker.status_written(version);
                }
            }
            _ => {}
        }
    }

    fn delivery(&mut self) -> Delivery {
        match self.random.below(10) {
            _ if self.well => Delivery::Written,
            0 => Delivery::Unanswered,
            1 | 2 => Delivery::Failed,
            _ => Delivery::Written,
        }
    }
}

/// Troubles pass sooner than they come.
fn toggle(trouble: &mut bool, seldom: bool) {
    *trouble = !*trouble && seldom;
}
