//! A table enters the publication, and its map gets a first position (rule 13).

use super::{
    SourceError,
    admin::{Admin, DEADLINE, quote, within},
};
use crate::record::Lsn;
use std::time::Duration;
use tokio::time::Instant;

/// Waiting for the table's lock holds up its writers: short, and tried again.
const LOCK_TIMEOUT: &str = "500ms";
const BETWEEN: Duration = Duration::from_millis(300);

/// Stores a first position, while the table is locked.
pub type Store<'a> = futures::future::BoxFuture<'a, Result<(), String>>;

/// Why a table could not join.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("the source has no table {0}: create it, or correct `source.table`")]
    NoTable(String),
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
            Self::Key(_) => "KeyUnusable",
            Self::NotOwner { .. } => "NotOwner",
            Self::Locked(_) => "SourceTableLocked",
            Self::Publication(_) => "PublicationUnfit",
            Self::Store(_) => "FirstPositionNotStored",
        }
    }
}

const TABLE: &str = "SELECT c.oid, c.relreplident::text, pg_has_role(c.relowner, 'USAGE'), c.relkind::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";

/// The columns that the source sends of an old row.
const IDENTITY: &str = "SELECT a.attname::text FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
  WHERE i.indrelid = $1 AND CASE WHEN $2 = 'i' THEN i.indisreplident ELSE i.indisprimary END";

const COLUMNS: &str =
    "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

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
        store: impl FnOnce(Lsn) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let owned = self.check(table, &name, key).await?;
        if !owned {
            return Err(JoinError::NotOwner { table: name });
        }
        self.lock(&name).await?;
        let joined = self.enter(table, &name, publication, store).await;
        let end = if joined.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = within(self.client().batch_execute(end)).await;
        joined?;
        Ok(ended?)
    }

    async fn enter<'s>(
        &self,
        table: (&str, &str),
        name: &str,
        publication: &str,
        store: impl FnOnce(Lsn) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let sql =
            "SELECT 1 FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
        if within(self.client().query_opt(sql, &[&publication, &table.0, &table.1]))
            .await?
            .is_none()
        {
            let add = format!("ALTER PUBLICATION {} ADD TABLE ONLY {name}", quote(publication));
            within(self.client().batch_execute(&add)).await?;
        }
        store(self.position().await?).await.map_err(JoinError::Store)
    }

    async fn position(&self) -> Result<Lsn, JoinError> {
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
    async fn lock(&self, name: &str) -> Result<(), JoinError> {
        let started = Instant::now();
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"
        );
        loop {
            match within(self.client().batch_execute(&sql)).await {
                Ok(()) => return Ok(()),
                Err(SourceError::Server(code)) if code == "55P03" => {}
                Err(error) => return Err(error.into()),
            }
            within(self.client().batch_execute("ROLLBACK")).await?;
            if started.elapsed() > DEADLINE {
                return Err(JoinError::Locked(name.to_owned()));
            }
            tokio::time::sleep(BETWEEN).await;
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
        store: impl FnOnce(Lsn) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        self.check(table, &name, key).await?;
        let sql = "SELECT p.pubinsert AND p.pubupdate AND p.pubdelete FROM pg_publication p
            JOIN pg_publication_tables t ON t.pubname = p.pubname
          WHERE p.pubname = $1 AND t.schemaname = $2 AND t.tablename = $3";
        let row = within(self.client().query_opt(sql, &[&publication, &table.0, &table.1])).await?;
        match row.map(|row| row.get::<_, bool>(0)) {
            Some(true) => {}
            Some(false) => {
                return Err(JoinError::Publication(format!(
                    "publication {0} must publish insert, update and delete: ALTER PUBLICATION {0} SET (publish = \
                     'insert, update, delete, truncate')",
                    quote(publication)
                )));
            }
            None => {
                return Err(JoinError::Publication(format!(
                    "publication {0} lacks {name}: ALTER PUBLICATION {0} ADD TABLE {name}",
                    quote(publication)
                )));
            }
        }
        self.older_transactions_end().await?;
        store(self.position().await?).await.map_err(JoinError::Store)
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

    /// The key's source columns lie within the replica identity, else the source could not even update its own rows
    /// once the table is published (rule 12). Returns whether the user owns the table.
    async fn check(&self, table: (&str, &str), name: &str, key: &[String]) -> Result<bool, JoinError> {
        let row = within(self.client().query_opt(TABLE, &[&table.0, &table.1])).await?;
        let Some(row) = row else {
            return Err(JoinError::NoTable(name.to_owned()));
        };
        let (oid, identity): (u32, String) = (row.get(0), row.get(1));
        let columns = names(within(self.client().query(COLUMNS, &[&oid])).await?);
        if let Some(missing) = key.iter().find(|column| !columns.contains(column)) {
            return Err(JoinError::Key(format!(
                "the source table {name} has no column {}",
                quote(missing)
            )));
        }
        if identity != "f" {
            let sent = names(within(self.client().query(IDENTITY, &[&oid, &identity])).await?);
            if sent.is_empty() || identity == "n" {
                return Err(JoinError::Key(format!(
                    "the source table {name} has no replica identity: ALTER TABLE {name} ADD PRIMARY KEY (...), or \
                     ALTER TABLE {name} REPLICA IDENTITY FULL"
                )));
            }
            if let Some(outside) = key.iter().find(|column| !sent.contains(column)) {
                return Err(JoinError::Key(format!(
                    "column {} of the integration key is not in the replica identity of {name}: ALTER TABLE {name} \
                     REPLICA IDENTITY FULL, or use an index that holds it",
                    quote(outside)
                )));
            }
        }
        Ok(row.get(2))
    }
}

fn names(rows: Vec<tokio_postgres::Row>) -> Vec<String> {
    rows.into_iter().map(|row| row.get(0)).collect()
}
