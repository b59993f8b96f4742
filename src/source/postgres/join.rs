//! A table enters the publication, and its map gets a first position (rule 13).

use super::{
    SourceError,
    admin::{Admin, DEADLINE, quote, within},
};
use crate::record::Lsn;
use std::time::Duration;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Waiting for the table's lock holds up its writers: short, and tried again.
const LOCK_TIMEOUT: &str = "500ms";
const BETWEEN: Duration = Duration::from_millis(300);

/// Stores a first position, while the table is locked.
pub type Store<'a> = futures::future::BoxFuture<'a, Result<(), String>>;

/// Where a map begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    pub position: Lsn,
    /// `pg_class.oid` of its table.
    pub table: u32,
}

/// Why a table could not join.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("the source has no table {0}: create it, or correct `source.table`")]
    NoTable(String),
    #[error("{0}")]
    NoColumn(String),
    #[error("{0}")]
    Key(String),
    #[error(
        "the user does not own {table}: ALTER TABLE {table} OWNER TO <user>; or use `management: External`"
    )]
    NotOwner { table: String },
    #[error("{0} stayed locked by running transactions; trying again")]
    Locked(String),
    #[error("{0}")]
    Publication(String),
    #[error("the first position could not be stored: {0}")]
    Store(String),
}

impl JoinError {
    /// The reason in conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::NoTable(_) => "SourceTableMissing",
            Self::NoColumn(_) => "SourceColumnMissing",
            Self::Key(_) => "KeyUnusable",
            Self::NotOwner { .. } => "NotOwner",
            Self::Locked(_) => "SourceTableLocked",
            Self::Publication(_) => "PublicationUnfit",
            Self::Store(_) => "FirstPositionNotStored",
        }
    }
}

/// A table of the publication that is above or below this one: changes of partitions are sent as their root's.
const KINDRED: &str =
    "SELECT r.prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
  WHERE p.pubname = $2 AND r.prrelid <> $1::oid AND (
    r.prrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid))
    OR r.prrelid IN (SELECT relid FROM pg_partition_tree($1::oid))) LIMIT 1";

impl Admin {
    /// Adds a table to the publication, in one transaction with a lock that keeps its writers out. `store` gets the
    /// position read while the lock is held, and must store it before the lock is released.
    ///
    /// # Errors
    /// The table does not fit, stays locked, or `store` failed; then it has not joined.
    pub async fn join<'s>(
        &self,
        table: (&str, &str),
        key: &[String],
        publication: &str,
        turns: &Semaphore,
        store: impl FnOnce(First) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let found = self.check(table, &name, key).await?;
        if !found.owned {
            return Err(JoinError::NotOwner { table: name });
        }
        let _turn = self.lock(&name, turns).await?;
        let joined = self.enter(table, &name, found.oid, publication, store).await;
        let end = if joined.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = within(self.client().batch_execute(end)).await;
        joined?;
        Ok(ended?)
    }

    async fn enter<'s>(
        &self,
        table: (&str, &str),
        name: &str,
        oid: u32,
        publication: &str,
        store: impl FnOnce(First) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        if let Some(row) = within(self.client().query_opt(KINDRED, &[&oid, &publication])).await? {
            let other: String = row.get(0);
            return Err(JoinError::Publication(format!(
                "{name} and {other} are parts of one partitioned table, and another map of this worker has {other}: give \
                 one of the two maps another `workerGroup`"
            )));
        }
        let sql =
            "SELECT 1 FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
        if within(self.client().query_opt(sql, &[&publication, &table.0, &table.1]))
            .await?
            .is_none()
        {
            let add = format!("ALTER PUBLICATION {} ADD TABLE ONLY {name}", quote(publication));
            within(self.client().batch_execute(&add)).await?;
        }
        let position = self.position().await?;
        let first = First { position, table: oid };
        store(first).await.map_err(JoinError::Store)
    }

    pub(super) async fn position(&self) -> Result<Lsn, JoinError> {
        let row = within(
            self.client()
                .query_one("SELECT pg_current_wal_insert_lsn()::text", &[]),
        )
        .await?;
        let text: String = row.get(0);
        text.parse()
            .map_err(|_| JoinError::Source(SourceError::Protocol("a malformed LSN".into())))
    }

    /// Waits for the writers that are under way, without holding up new ones for long.
    /// A turn that it waits for lets no other table wait.
    async fn lock<'t>(&self, name: &str, turns: &'t Semaphore) -> Result<SemaphorePermit<'t>, JoinError> {
        let mut started = None;
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"
        );
        loop {
            // It is never closed.
            let turn = turns
                .acquire()
                .await
                .map_err(|_| JoinError::Locked(name.to_owned()))?;
            let started = *started.get_or_insert_with(Instant::now);
            match within(self.client().batch_execute(&sql)).await {
                Ok(()) => return Ok(turn),
                Err(SourceError::Server(code)) if code == "55P03" => {}
                Err(error) => return Err(error.into()),
            }
            within(self.client().batch_execute("ROLLBACK")).await?;
            drop(turn);
            if started.elapsed() > DEADLINE {
                return Err(JoinError::Locked(name.to_owned()));
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Whether a table could join: into a publication of ours, or by the one that is given. Changes nothing.
    ///
    /// # Errors
    /// What is in the way, with what mends it.
    pub async fn may_join(
        &self,
        table: (&str, &str),
        key: &[String],
        publication: Option<&str>,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let found = self.check(table, &name, key).await?;
        match publication {
            Some(publication) => self.publishes(table, &name, publication).await,
            None if found.owned => Ok(()),
            None => Err(JoinError::NotOwner { table: name }),
        }
    }

    /// Takes a table of a given publication, which others keep: its first position is that of now, after all older
    /// transactions have ended.
    ///
    /// # Errors
    /// The publication lacks the table or an operation, or `store` failed.
    pub async fn join_external<'s>(
        &self,
        table: (&str, &str),
        key: &[String],
        publication: &str,
        store: impl FnOnce(First) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let found = self.check(table, &name, key).await?;
        self.publishes(table, &name, publication).await?;
        self.older_transactions_end().await?;
        let position = self.position().await?;
        let table = found.oid;
        store(First { position, table }).await.map_err(JoinError::Store)
    }

    async fn older_transactions_end(&self) -> Result<(), JoinError> {
        let row = within(
            self.client()
                .query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[]),
        )
        .await?;
        let horizon: String = row.get(0);
        let started = Instant::now();
        loop {
            let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
            if within(self.client().query_one(sql, &[&horizon])).await?.get(0) {
                return Ok(());
            }
            if started.elapsed() > DEADLINE {
                return Err(JoinError::Locked("the source".into()));
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Takes a table out of the publication, if it is there.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn leave(&self, table: (&str, &str), publication: &str) -> Result<(), SourceError> {
        let sql =
            "SELECT 1 FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
        if within(self.client().query_opt(sql, &[&publication, &table.0, &table.1]))
            .await?
            .is_none()
        {
            return Ok(());
        }
        let drop = format!(
            "ALTER PUBLICATION {} DROP TABLE {}.{}",
            quote(publication),
            quote(table.0),
            quote(table.1)
        );
        within(self.client().batch_execute(&drop)).await
    }
}
