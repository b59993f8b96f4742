//! The progress row: what the destination has of each map, written in the transaction that writes the records (I4).

use super::error::LaneError;
use crate::record::{Counters, Era, Parks, Position};
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
);";

pub const COLUMNS: &str = "map_id, epoch, token, era, position, received, filtered, written, missed, parks, superseded, last_park, discarded";

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
    /// The last one of them.
    pub last_park: Option<Position>,
    /// Records that a person has given up.
    pub discarded: u64,
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
            last_park: text(11)?.parse().ok(),
            discarded: count(12)?,
        })
    }

    /// What it says of the records that were refused.
    #[must_use]
    pub fn parks(&self) -> Parks {
        Parks {
            parked: self.parks,
            superseded: self.superseded,
            last: self.last_park,
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

/// Makes schema and table, once; several workers may try at the same time.
pub async fn ensure(client: &Client) -> Result<(), tokio_postgres::Error> {
    let there = client
        .query_one("SELECT to_regclass('tablemap.progress') IS NOT NULL", &[])
        .await?;
    if there.get::<_, bool>(0) {
        return Ok(());
    }
    client
        .batch_execute(&format!(
            "BEGIN; SELECT pg_advisory_xact_lock(7281936); {SCHEMA} COMMIT;"
        ))
        .await
}
