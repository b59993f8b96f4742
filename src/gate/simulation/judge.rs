//! Judges a schedule by what others can see of it: never by the gate.

use super::world::Position;
use std::collections::BTreeMap;

/// Something that an observer of source, destination and API server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The source has a change of this key. Positions rise by one.
    Produced {
        position: Position,
        key: u8,
    },
    /// A write landed at the destination.
    Landed {
        position: Position,
    },
    /// The destination has refused a change, and it is parked.
    Parked {
        position: Position,
    },
    /// A newer change of its key has come in place of a parked one.
    Superseded {
        position: Position,
    },
    /// A status was written.
    Status {
        paused: bool,
        running: bool,
    },
    /// A pause by rule is in force; some records are written to see whether it must be; it has ended.
    Held,
    Tried,
    Released,
    /// All was well for long enough: whatever was wanted must have come about.
    Quiet {
        wanted: bool,
    },
}

/// What a schedule broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A write that the source never had.
    Invented(Position),
    /// An older change of a key landed after a newer one, be it by a late retry, or one landed twice (I2, I3, I4).
    Backward { position: Position, after: Position },
    /// A write landed while the status said Paused=True (I6).
    LandedWhilePaused(Position),
    /// A change never landed, and is not parked (I1).
    Lost(Position),
    /// A change is counted in two places, or in a wrong one (I5).
    Miscounted(Position),
    /// The map did not run, although nothing stood in its way.
    NeverRan,
    /// A pause was wanted, nothing stood in its way, and Paused=True was not shown.
    NeverPaused,
    /// A write landed after a pause by rule was shown, and nobody had ended that.
    ForgotThePause(Position),
}

/// Where the books have a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Written,
    Parked,
    Superseded,
}

#[derive(Debug, Default)]
struct Judge {
    keys: Vec<u8>,
    books: Vec<Place>,
    newest: BTreeMap<u8, Position>,
    paused: bool,
    running: bool,
    held: bool,
    /// Paused=True was said since.
    shown: bool,
}

/// Reads a schedule from its beginning, and tells the first thing that it broke.
pub fn judge(seen: &[Seen]) -> Option<Broken> {
    let mut judge = Judge::default();
    seen.iter().find_map(|event| judge.look(*event))
}

impl Judge {
    fn look(&mut self, event: Seen) -> Option<Broken> {
        match event {
            Seen::Produced { position, key } => {
                assert_eq!(position, self.keys.len() + 1, "positions rise by one");
                self.keys.push(key);
                self.books.push(Place::Nowhere);
                None
            }
            Seen::Landed { position } => self
                .landed(position)
                .or_else(|| self.book(position, &[Place::Nowhere, Place::Parked], Place::Written)),
            Seen::Parked { position } => self.book(position, &[Place::Nowhere], Place::Parked),
            Seen::Superseded { position } => self.book(position, &[Place::Parked], Place::Superseded),
            Seen::Status { paused, running } => {
                (self.paused, self.running) = (paused, running);
                self.shown |= paused;
                None
            }
            Seen::Held | Seen::Tried | Seen::Released => {
                (self.held, self.shown) = (event == Seen::Held, false);
                None
            }
            Seen::Quiet { wanted: true } => (!self.paused).then_some(Broken::NeverPaused),
            Seen::Quiet { wanted: false } => self.at_rest(),
        }
    }

    /// A change comes from one of these places to another.
    fn book(&mut self, position: Position, from: &[Place], to: Place) -> Option<Broken> {
        let Some(place) = self.books.get_mut(position.wrapping_sub(1)) else {
            return Some(Broken::Invented(position));
        };
        let before = std::mem::replace(place, to);
        (!from.contains(&before)).then_some(Broken::Miscounted(position))
    }

    fn landed(&mut self, position: Position) -> Option<Broken> {
        let Some(key) = self.keys.get(position.wrapping_sub(1)) else {
            return Some(Broken::Invented(position));
        };
        if self.paused {
            return Some(Broken::LandedWhilePaused(position));
        }
        if self.held && self.shown {
            return Some(Broken::ForgotThePause(position));
        }
        match self.newest.insert(*key, position) {
            Some(after) if position <= after => Some(Broken::Backward { position, after }),
            _ => None,
        }
    }

    fn at_rest(&self) -> Option<Broken> {
        let lost = self.books.iter().position(|place| *place == Place::Nowhere);
        match lost {
            Some(index) => Some(Broken::Lost(index + 1)),
            None if !self.running || self.paused => Some(Broken::NeverRan),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Seen = Seen::Produced { position: 1, key: 7 };
    const TWO: Seen = Seen::Produced { position: 2, key: 7 };
    const OTHER: Seen = Seen::Produced { position: 2, key: 8 };
    const RUNNING: Seen = Seen::Status {
        paused: false,
        running: true,
    };
    const PAUSED: Seen = Seen::Status {
        paused: true,
        running: false,
    };

    fn landed(position: Position) -> Seen {
        Seen::Landed { position }
    }

    #[test]
    fn a_good_schedule_breaks_nothing() {
        let quiet = [true, false].map(|wanted| Seen::Quiet { wanted });
        let seen = [
            ONE,
            TWO,
            landed(1),
            PAUSED,
            quiet[0],
            RUNNING,
            landed(2),
            quiet[1],
        ];
        assert_eq!(judge(&seen), None);
        assert_eq!(judge(&[ONE, OTHER, landed(2), landed(1)]), None, "other keys");
    }

    #[test]
    fn each_break_is_seen() {
        let backward = |position, after| Some(Broken::Backward { position, after });
        let rest = Seen::Quiet { wanted: false };
        assert_eq!(judge(&[ONE, TWO, landed(2), landed(1)]), backward(1, 2));
        assert_eq!(judge(&[ONE, landed(1), landed(1)]), backward(1, 1));
        assert_eq!(judge(&[ONE, landed(2)]), Some(Broken::Invented(2)));
        assert_eq!(
            judge(&[ONE, PAUSED, landed(1)]),
            Some(Broken::LandedWhilePaused(1))
        );
        assert_eq!(
            judge(&[ONE, TWO, landed(2), RUNNING, rest]),
            Some(Broken::Lost(1))
        );
        assert_eq!(judge(&[PAUSED, rest]), Some(Broken::NeverRan));
        let parked = |position| Seen::Parked { position };
        let superseded = |position| Seen::Superseded { position };
        assert_eq!(
            judge(&[ONE, parked(1), landed(1), RUNNING, rest]),
            None,
            "a retry"
        );
        assert_eq!(
            judge(&[ONE, TWO, parked(1), superseded(1), landed(2), landed(1)]),
            backward(1, 2),
            "a late retry"
        );
        assert_eq!(judge(&[ONE, parked(1), parked(1)]), Some(Broken::Miscounted(1)));
        assert_eq!(judge(&[ONE, superseded(1)]), Some(Broken::Miscounted(1)));
        let tried = [ONE, Seen::Held, PAUSED, Seen::Tried, RUNNING, landed(1)];
        assert_eq!(judge(&tried), None);
        let forgot = [ONE, Seen::Held, PAUSED, RUNNING, landed(1)];
        assert_eq!(judge(&forgot), Some(Broken::ForgotThePause(1)));
        let ended = [ONE, Seen::Held, PAUSED, Seen::Released, RUNNING, landed(1)];
        assert_eq!(judge(&ended), None);
        assert_eq!(
            judge(&[RUNNING, Seen::Quiet { wanted: true }]),
            Some(Broken::NeverPaused)
        );
    }
}
