//! What is done to a destination beside its lane: taking over, fencing, cleaning up. A connection for each occasion.

use super::{
    error::{LaneError, SchemaProblem},
    progress::{COLUMNS, Progress},
    session::{Session, lane, within},
    statement::Text,
    target::{Shape, Target},
};
use crate::{
    connection::postgres::{Settings, connect},
    mapping::{Key, Mapping, key_columns},
    record::{Counters, Era, Origin, Position},
};
use std::{sync::Arc, time::Duration};
use tokio_postgres::types::ToSql;

const LOCK: Duration = Duration::from_secs(2);
const STATEMENT: Duration = Duration::from_secs(10);
/// Whoever holds the progress row longer than this is ended (rule 5).
const PATIENCE: Duration = Duration::from_secs(1);

/// How a map goes on that has lost changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regained {
    pub era: Era,
    pub position: Position,
    /// None: as they are.
    pub counters: Option<Counters>,
    pub parks: u64,
    pub superseded: u64,
    pub moved: u64,
    pub settled: u64,
    pub gone: u64,
    pub last_park: Option<Position>,
    pub discarded: u64,
}

/// A connection beside the lane's.
#[derive(Debug)]
pub struct Control {
    session: Session,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// The destination cannot be reached, or refuses.
    pub async fn connect(settings: &Settings) -> Result<Self, LaneError> {
        Ok(Self {
            session: Session::connect_apart(settings, "tablemap-control", LOCK, STATEMENT).await?,
        })
    }

    /// Connects, and makes nothing: for a look at a destination that may never be written.
    ///
    /// # Errors
    /// The destination cannot be reached, refuses, is read-only, or lets the user make no progress table.
    pub async fn look(settings: &Settings) -> Result<Self, LaneError> {
        Ok(Self {
            session: Session::look(settings, STATEMENT).await?,
        })
    }

    /// The database that this is.
    #[must_use]
    pub fn database(&self) -> &Origin {
        &self.session.database
    }

    /// A map's progress, as it is.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn peek(&self, map: &str) -> Result<Option<Progress>, LaneError> {
        let sql = format!("SELECT {COLUMNS} FROM tablemap.progress WHERE map_id = $1");
        let row = within(STATEMENT, self.session.client().query_opt(&sql, &[&map])).await;
        row.map_err(lane)?.as_ref().map(Progress::read).transpose()
    }

    async fn take(&mut self, map: &str, epoch: i64) -> Result<Progress, LaneError> {
        let taken = self.session.take(&[(map, epoch)]).await?.pop();
        taken.ok_or_else(|| LaneError::Fenced {
            maps: vec![map.to_owned()],
        })
    }

    /// Makes the row of a map that joins; what an unfinished join left is replaced.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn join(&mut self, map: &str, epoch: i64, era: &Era, first: Position) -> Result<(), LaneError> {
        let sql = "INSERT INTO tablemap.progress (map_id, epoch, token, era, position) VALUES ($1, $2, 1, $3, $4)
                   ON CONFLICT (map_id) DO UPDATE SET epoch = EXCLUDED.epoch, token = progress.token + 1,
                     era = EXCLUDED.era, position = EXCLUDED.position, received = 0, filtered = 0, written = 0,
                     missed = 0, parks = 0, superseded = 0, moved = 0, settled = 0, gone = 0, last_park = '', discarded = 0, skipped = ''
                   WHERE progress.epoch <= EXCLUDED.epoch";
        let begin = self.session.begin_sql(true);
        let client = self.session.client();
        let work = async {
            client.batch_execute(&begin).await?;
            client
                .execute(sql, &[&map, &epoch, &era.to_string(), &first.to_string()])
                .await
        };
        if within(STATEMENT, work).await.map_err(lane)? == 0 {
            let maps = vec![map.to_owned()];
            return Err(LaneError::Fenced { maps });
        }
        self.session.commit_alone().await
    }

    /// Lets a map go on beyond a gap that a person has accepted; makes its row if that is gone.
    ///
    /// # Errors
    /// The connection fails, or another worker has the map.
    pub async fn regain(&mut self, map: &str, epoch: i64, regained: &Regained) -> Result<(), LaneError> {
        let sql = "INSERT INTO tablemap.progress AS p (map_id, epoch, token, era, position, received, filtered, parks,
                     superseded, last_park, discarded, moved, settled, gone)
                   VALUES ($1, $2, 1, $3, $4, coalesce($5::bigint, 0), coalesce($6::bigint, 0), $7, $8, $9, $10, $11, $12, $13)
                   ON CONFLICT (map_id) DO UPDATE SET epoch = EXCLUDED.epoch, token = p.token + 1, era = EXCLUDED.era,
                     position = EXCLUDED.position, received = coalesce($5::bigint, p.received),
                     filtered = coalesce($6::bigint, p.filtered), parks = EXCLUDED.parks, superseded = EXCLUDED.superseded,
                     last_park = EXCLUDED.last_park, discarded = EXCLUDED.discarded, moved = EXCLUDED.moved,
                     settled = EXCLUDED.settled, gone = EXCLUDED.gone
                   WHERE p.epoch <= EXCLUDED.epoch";
        let received = regained.counters.map(|counters| counters.received.cast_signed());
        let filtered = regained.counters.map(|counters| counters.filtered.cast_signed());
        let last_park = regained.last_park.map_or_else(String::new, |at| at.to_string());
        let begin = self.session.begin_sql(true);
        let client = self.session.client();
        let work = async {
            client.batch_execute(&begin).await?;
            client
                .execute(
                    sql,
                    &[
                        &map,
                        &epoch,
                        &regained.era.to_string(),
                        &regained.position.to_string(),
                        &received,
                        &filtered,
                        &regained.parks.cast_signed(),
                        &regained.superseded.cast_signed(),
                        &last_park,
                        &regained.discarded.cast_signed(),
                        &regained.moved.cast_signed(),
                        &regained.settled.cast_signed(),
                        &regained.gone.cast_signed(),
                    ],
                )
                .await
        };
        if within(STATEMENT, work).await.map_err(lane)? == 0 {
            let maps = vec![map.to_owned()];
            return Err(LaneError::Fenced { maps });
        }
        self.session.commit_alone().await
    }

    /// Removes a map's row.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn drop_progress(&self, map: &str) -> Result<(), LaneError> {
        let client = self.session.client();
        let work = async {
            client
                .execute("DELETE FROM tablemap.progress WHERE map_id = $1", &[&map])
                .await
        };
        within(STATEMENT, work).await.map(|_| ()).map_err(lane)
    }

    /// Looks whether the table fits the mapping.
    ///
    /// # Errors
    /// What does not fit, with the SQL that mends it; or the connection failed.
    pub async fn inspect(&self, table: &(String, String), mapping: &Mapping) -> Result<Shape, InspectError> {
        super::inspect::inspect(self.session.client(), table, mapping, STATEMENT).await
    }

    /// The row of a key as it is now: the mapped columns, in the order of [`Mapping::destinations`]. None: there is none.
    ///
    /// # Errors
    /// The connection fails, or the table does not fit the mapping.
    pub async fn row(
        &self,
        table: &(String, String),
        mapping: &Mapping,
        key: &Key,
    ) -> Result<Option<Vec<Option<String>>>, InspectError> {
        let shape = self.inspect(table, mapping).await?;
        let target = Target::new(
            String::new(),
            String::new(),
            table.clone(),
            self.database().clone(),
            Arc::new(mapping.clone()),
            shape,
            0,
            Progress::default(),
        );
        let columns = key_columns(key.as_bytes());
        let texts: Vec<Text<'_>> = columns.iter().map(|column| Text(Some(column))).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        let sql = target.row_sql();
        let row = within(STATEMENT, self.session.client().query_opt(&sql, &parameters)).await;
        let read = |row: tokio_postgres::Row| (0..row.len()).map(|index| row.get(index)).collect();
        Ok(row.map_err(lane)?.map(read))
    }

    /// Raises a map's token: from then on nothing that was sent before can land. Whoever stands in the way for over a
    /// second is ended (rule 5).
    ///
    /// # Errors
    /// The destination cannot be reached, or another worker has the map.
    pub async fn raise(settings: &Settings, map: &str, epoch: i64) -> Result<Progress, LaneError> {
        let mut control = Self {
            session: Session::connect(settings, "tablemap-fence", Duration::ZERO, STATEMENT).await?,
        };
        let pid = control.session.client().query_one("SELECT pg_backend_pid()", &[]);
        let pid: i32 = within(STATEMENT, pid).await.map_err(lane)?.get(0);
        let ender = async {
            tokio::time::sleep(PATIENCE).await;
            loop {
                if let Err(error) = end_blockers(settings, pid).await {
                    tracing::warn!(%error, "whoever blocks the fence could not be ended; trying again");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            taken = control.take(map, epoch) => taken,
            () = ender => Err(LaneError::lost("ended")),
        }
    }
}

/// Ends the backends that hold what `pid` waits for.
async fn end_blockers(settings: &Settings, pid: i32) -> Result<(), String> {
    let connected = connect(settings, "tablemap-fence")
        .await
        .map_err(|error| error.to_string())?;
    let sql = "SELECT count(pg_terminate_backend(b)) FROM unnest(pg_blocking_pids($1)) AS b";
    let ended = within(STATEMENT, connected.client.query_one(sql, &[&pid])).await;
    ended
        .map(|_| ())
        .map_err(|error| error.map_or_else(|| "no answer in time".into(), |error| error.to_string()))
}

/// Why a table could not be inspected, or what was found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{0}")]
    Problem(#[from] SchemaProblem),
    #[error("{0}")]
    Lane(#[from] LaneError),
}
