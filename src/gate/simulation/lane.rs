//! The simulated lane: one connection to the destination, as the worker's lane task keeps it.

use super::world::{Fate, Position, World, Write};

/// What the map may do in the lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seat {
    #[default]
    Gone,
    Direct,
    Replaying,
    /// Nothing is written; the worker will evict it.
    Aside,
}

/// What the lane tells the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Connected, or flushed: the destination has everything up to here.
    Has(Position),
    Down,
    Fenced,
}

#[derive(Debug)]
struct Sent {
    id: u64,
    last: Position,
}

#[derive(Debug, Default)]
pub struct Lane {
    pub seat: Seat,
    /// The connection's token; none without a connection.
    token: Option<u64>,
    /// Direct changes that are not known to be flushed.
    window: Vec<Position>,
    /// What the destination has, as this connection knows: nothing at or below it is sent.
    cursor: Position,
    sent: Option<Sent>,
    /// A parked record that is to be written again.
    again: Option<Position>,
}

impl Lane {
    pub fn accept(&mut self, changes: impl IntoIterator<Item = Position>) {
        self.window.extend(changes);
    }

    /// A seat in replay, by the token that the check has taken. The connection may still be there or not.
    pub fn replay(&mut self, token: u64, has: Position, connected: bool) {
        *self = Self {
            seat: Seat::Replaying,
            token: connected.then_some(token),
            cursor: has,
            ..Self::default()
        };
    }

    pub fn is_connected(&self) -> bool {
        self.token.is_some()
    }

    fn is_writable(&self) -> bool {
        matches!(self.seat, Seat::Direct | Seat::Replaying)
    }

    /// Connects: raises the token, reads D, and goes back to it.
    pub fn connect(&mut self, world: &mut World, raises: bool) -> Option<Notice> {
        if !self.is_writable() || self.token.is_some() {
            return None;
        }
        if world.destination.away {
            self.seat = Seat::Aside;
            return Some(Notice::Down);
        }
        self.token = Some(if raises {
            world.destination.raise()
        } else {
            world.destination.token()
        });
        let has = world.destination.position;
        self.window.retain(|position| *position > has);
        self.cursor = has;
        Some(Notice::Has(has))
    }

    /// Sends the next changes in one transaction. The last of them may be one that the destination refuses.
    pub fn write(&mut self, world: &mut World, most: usize, refuses: bool) {
        let Some(token) = self.token else { return };
        if self.sent.is_some() {
            return;
        }
        if world.destination.away {
            return self.lose();
        }
        self.window.retain(|position| *position > self.cursor);
        let batch: Vec<Position> = match self.seat {
            Seat::Direct => self.window.iter().copied().take(most).collect(),
            Seat::Replaying if !world.redis.away => {
                let beyond = world.redis.records.iter().filter(|next| **next > self.cursor);
                beyond.copied().take(most).collect()
            }
            _ => return,
        };
        let Some(last) = batch.last().copied() else { return };
        let write = |position| {
            if refuses && position == last {
                Write::Parked(position)
            } else {
                Write::Done(position)
            }
        };
        let id = world
            .destination
            .send(token, batch.into_iter().map(write).collect());
        self.sent = Some(Sent { id, last });
    }

    /// Reads a record that was parked; and, whatever has come meanwhile, sends it once more.
    pub fn retry(&mut self, world: &mut World) {
        let Some(token) = self
            .token
            .filter(|_| self.sent.is_none() && self.seat == Seat::Direct)
        else {
            return;
        };
        match self.again.take() {
            None => self.again = world.destination.parked.values().next().copied(),
            Some(parked) => {
                let id = world.destination.send(token, vec![Write::Again(parked)]);
                let last = self.cursor;
                self.sent = Some(Sent { id, last });
            }
        }
    }

    /// The answer to what was sent, if it has come.
    pub fn reply(&mut self, world: &World) -> Option<Notice> {
        let sent = self.sent.as_ref()?;
        if world.destination.away {
            self.lose();
            return None;
        }
        let last = sent.last;
        match world.destination.fate(sent.id) {
            Fate::Open => None,
            Fate::Landed => {
                self.window.retain(|position| *position > last);
                self.cursor = self.cursor.max(last);
                self.sent = None;
                Some(Notice::Has(last))
            }
            Fate::Refused => {
                self.sent = None;
                self.is_writable().then(|| {
                    self.seat = Seat::Aside;
                    Notice::Fenced
                })
            }
        }
    }

    /// The connection is gone. What was sent may land all the same.
    pub fn lose(&mut self) {
        self.token = None;
        self.sent = None;
    }

    /// Gives the map up at once: what was sent is not waited for any longer.
    pub fn evict(&mut self) -> Vec<Position> {
        if self.sent.is_some() {
            self.lose();
        }
        self.seat = Seat::Gone;
        std::mem::take(&mut self.window)
    }
}
