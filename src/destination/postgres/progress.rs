//! The progress row: what the destination has of each map, written in the transaction that writes the records (I4).

use super::{error::LaneError, skipped::Skipped};
use crate::record::{Counters, Era, Has, Parks, Position};
use tokio_postgres::{Client, Row};

/// Made by the worker if it may, else by an administrator.
pub const SCHEMA: &str = "\
CREATE SCHEMA IF NOT EXISTS tablemap;
CREATE TABLE IF NOT EXISTS tablemap.progress (
  map_id text PRIMARY KEY,
  epoch bigint NOT NULL,
  token bigint NOT NULL,
  era text NOT NULL,
  position text NOT NULL COLLATE \"C\",
  received bigint NOT NULL DEFAULT 0,
  filtered bigint NOT NULL DEFAULT 0,
  written bigint NOT NULL DEFAULT 0,
  missed bigint NOT NULL DEFAULT 0,
  parks bigint NOT NULL DEFAULT 0,
  last_park text NOT NULL DEFAULT '' COLLATE \"C\",
  superseded bigint NOT NULL DEFAULT 0,
  discarded bigint NOT NULL DEFAULT 0
);
ALTER TABLE tablemap.progress ADD COLUMN IF NOT EXISTS moved bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS settled bigint NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS gone bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS skipped text NOT NULL DEFAULT '';";

pub const COLUMNS: &str = "map_id, epoch, token, era, position, received, filtered, written, missed, parks, superseded, moved, settled, \
                           gone, last_park, discarded, skipped";

/// One map's progress row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub epoch: i64,
    pub token: i64,
    pub era: Era,
    /// D: everything at or below it is written, parked or filtered.
    pub position: Position,
    /// The map's counters at `position`.
    pub counters: Counters,
    pub written: u64,
    /// Records without a row to update whose filter columns were not sent: they count as filtered.
    pub missed: u64,
    /// Records ever parked.
    pub parks: u64,
    pub superseded: u64,
    /// Parked key changes of which only the new row is still wanted.
    pub moved: u64,
    /// Parked records that retries have settled: `written`, or `missed`, counts them too.
    pub settled: u64,
    /// Parked records that were given up or purged, as far as the writes here rely on that.
    pub gone: u64,
    /// The last record that was parked.
    pub last_park: Option<Position>,
    /// Records that a person has given up.
    pub discarded: u64,
    /// Of those that were discarded or parked, what operations on the queue have skipped.
    pub skipped: Skipped,
}

/// How far a map is after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upto {
    pub map: usize,
    pub position: Position,
    pub counters: Counters,
}

impl Progress {
    pub(super) fn read(row: &Row) -> Result<Self, LaneError> {
        let text = |index: usize| {
            row.try_get::<_, String>(index)
                .map_err(|error| broken(&error.to_string()))
        };
        let number = |index: usize| {
            row.try_get::<_, i64>(index)
                .map_err(|error| broken(&error.to_string()))
        };
        let count = |index: usize| number(index).map(i64::unsigned_abs);
        Ok(Self {
            epoch: number(1)?,
            token: number(2)?,
            era: text(3)?.parse().map_err(|_| broken("era"))?,
            position: text(4)?.parse().map_err(|_| broken("position"))?,
            counters: Counters {
                received: count(5)?,
                filtered: count(6)?,
            },
            written: count(7)?,
            missed: count(8)?,
            parks: count(9)?,
            superseded: count(10)?,
            moved: count(11)?,
            settled: count(12)?,
            gone: count(13)?,
            last_park: text(14)?.parse().ok(),
            discarded: count(15)?,
            skipped: Skipped::read(&text(16)?),
        })
    }

    /// What it says of the records that were refused.
    #[must_use]
    pub fn parks(&self) -> Parks {
        Parks {
            parked: self.parks,
            superseded: self.superseded,
            moved: self.moved,
            settled: self.settled,
            gone: self.gone,
            last: self.last_park,
        }
    }

    /// How far the destination is, for what is parked and marked.
    #[must_use]
    pub fn has(&self) -> Has {
        Has {
            position: self.position,
            settled: self.settled,
        }
    }
}

fn broken(what: &str) -> LaneError {
    LaneError::Destination {
        class: crate::failure::Class::Schema,
        reason: "ProgressUnreadable",
        message: format!(
            "tablemap.progress at the destination cannot be read ({what}): did something else write it?"
        ),
    }
}

/// Whether the table is there, with the columns that came last.
const IS_THERE: &str = "SELECT EXISTS (SELECT FROM pg_attribute
  WHERE attrelid = to_regclass('tablemap.progress') AND attname = 'skipped' AND NOT attisdropped)";

/// Makes schema and table, once; several workers may try at the same time.
pub async fn ensure(client: &Client) -> Result<(), tokio_postgres::Error> {
    let there = client.query_one(IS_THERE, &[]).await?;
    if there.get::<_, bool>(0) {
        return Ok(());
    }
    client
        .batch_execute(&format!(
            "BEGIN; SELECT pg_advisory_xact_lock(7281936); {SCHEMA} COMMIT;"
        ))
        .await
}
