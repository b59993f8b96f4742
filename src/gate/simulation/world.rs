//! What outlives a worker: the source, Redis, the destination, the API server. And what an observer sees of them.

use super::judge::Seen;
use std::collections::{BTreeMap, VecDeque};

/// A place in the source's stream; the first change has 1.
pub type Position = usize;

/// Redis or Valkey: one map's queue.
#[derive(Debug, Default)]
pub struct Redis {
    pub away: bool,
    pub records: VecDeque<Position>,
    /// Q: the last position that the queue holds or has held.
    pub custody: Position,
    pub fenced: bool,
    /// A rule has fired, and nobody has ended its pause.
    pub fired: bool,
}

impl Redis {
    /// Removes what the destination has.
    pub fn settle(&mut self, has: Position) {
        while self.records.front().is_some_and(|head| *head <= has) {
            self.records.pop_front();
        }
    }
}

/// How a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent: it lands at any later time, unless its token is no longer the destination's.
    Open,
    Landed,
    Refused,
}

/// What a transaction does with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Done(Position),
    /// The destination refuses it: it is parked, and the rest goes on.
    Parked(Position),
    /// What was parked is written, unless a newer change of its key has come.
    Again(Position),
}

/// A transaction that was sent to the destination.
#[derive(Debug)]
pub struct Transaction {
    pub id: u64,
    token: u64,
    writes: Vec<Write>,
    pub fate: Fate,
}

/// A destination whose progress row holds the position D and the token.
#[derive(Debug, Default)]
pub struct Destination {
    /// The worker cannot reach it. What was sent to it may land all the same.
    pub away: bool,
    pub position: Position,
    token: u64,
    pub sent: Vec<Transaction>,
    /// By key.
    pub parked: BTreeMap<u8, Position>,
    count: u64,
}

impl Destination {
    /// Raises the token: nothing that was sent before lands any more.
    pub fn raise(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    pub fn token(&self) -> u64 {
        self.token
    }

    pub fn send(&mut self, token: u64, writes: Vec<Write>) -> u64 {
        self.count += 1;
        self.sent.push(Transaction {
            id: self.count,
            token,
            writes,
            fate: Fate::Open,
        });
        self.count
    }

    pub fn fate(&self, id: u64) -> Fate {
        let sent = self.sent.iter().find(|sent| sent.id == id);
        sent.map_or(Fate::Refused, |sent| sent.fate)
    }
}

/// What a status says, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub paused: bool,
    pub running: bool,
}

/// Everything durable, and the log of what could be seen.
#[derive(Debug, Default)]
pub struct World {
    /// How many changes the source has.
    pub produced: Position,
    /// What the source was told that it may forget.
    pub confirmed: Position,
    pub redis: Redis,
    pub destination: Destination,
    /// `spec.state` asks for a pause,
    pub wanted: bool,
    /// or a time in the spec that is to come.
    pub timed: bool,
    pub status: Status,
    pub seen: Vec<Seen>,
    /// The key columns are gone at the source: no change may be taken.
    pub unfit: bool,
    /// A trial of a pause by rule is under way, and its worker may be gone.
    pub trying: bool,
    /// Of each change.
    keys: Vec<u8>,
}

impl World {
    pub fn produce(&mut self, key: u8) {
        self.produced += 1;
        let position = self.produced;
        self.keys.push(key);
        self.seen.push(Seen::Produced { position, key });
    }

    /// One transaction that is under way commits, or fails at its token.
    pub fn land(&mut self, id: u64, retries_blindly: bool) {
        let destination = &mut self.destination;
        let Some(sent) = destination
            .sent
            .iter_mut()
            .find(|sent| sent.id == id && sent.fate == Fate::Open)
        else {
            return;
        };
        if sent.token != destination.token {
            sent.fate = Fate::Refused;
            return;
        }
        sent.fate = Fate::Landed;
        for write in std::mem::take(&mut sent.writes) {
            self.write(write, retries_blindly);
        }
    }

    fn write(&mut self, write: Write, retries_blindly: bool) {
        let (Write::Done(position) | Write::Parked(position) | Write::Again(position)) = write;
        let key = self.keys[position - 1];
        let parked = &mut self.destination.parked;
        let before = match write {
            Write::Done(_) => parked.remove(&key),
            Write::Parked(_) => parked.insert(key, position),
            Write::Again(_) if retries_blindly || parked.get(&key) == Some(&position) => {
                parked.remove(&key);
                return self.seen.push(Seen::Landed { position });
            }
            Write::Again(_) => return,
        };
        self.destination.position = position;
        if let Some(position) = before {
            self.seen.push(Seen::Superseded { position });
        }
        self.seen.push(match write {
            Write::Parked(_) => Seen::Parked { position },
            _ => Seen::Landed { position },
        });
    }

    pub fn write_status(&mut self, status: Status) {
        self.status = status;
        let Status { paused, running } = status;
        self.seen.push(Seen::Status { paused, running });
    }

    /// All has come about that can come about, when nobody but `spec.state` asks for a pause.
    pub fn is_at_rest(&self) -> bool {
        let open = self.destination.sent.iter().any(|sent| sent.fate == Fate::Open);
        let all = self.destination.position == self.produced;
        let shown = if self.wanted {
            self.status.paused
        } else {
            self.status.running && all && !self.redis.fired
        };
        shown && !open
    }
}
