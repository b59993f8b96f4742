//! A table enters the publication, and its map gets a first position (rule 13).

use super::{
    SourceError,
    admin::{Admin, DEADLINE, quote, within},
};
use crate::record::{Column, Lsn};
use std::time::Duration;
use tokio::time::Instant;

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

/// What the catalog says of a table.
#[derive(Clone, Debug)]
struct Found {
    oid: u32,
    /// The user owns it.
    owned: bool,
}

/// A table that a map has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTable {
    pub schema: String,
    pub name: String,
    pub oid: u32,
}

/// Whether changes of a joined table can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableState {
    Published,
    /// There is no such table, or another one has its name.
    Gone,
    NotPublished,
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

const TABLE: &str = "SELECT c.oid, c.relreplident::text, pg_has_role(c.relowner, 'USAGE'), c.relkind::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";

/// The columns that the source sends of an old row. A deferrable or invalid index identifies nothing: the source would
/// refuse its own updates.
const IDENTITY: &str = "SELECT a.attname::text FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
  WHERE i.indrelid = $1 AND CASE WHEN $2 = 'i' THEN i.indisreplident ELSE i.indisprimary END
    AND i.indimmediate AND i.indisvalid";

/// Partitions that send another old row than their root.
const ODD_PARTITIONS: &str = "SELECT c.oid::regclass::text FROM pg_partition_tree($1::oid) t
    JOIN pg_class c ON c.oid = t.relid JOIN pg_class root ON root.oid = $1::oid
  WHERE t.isleaf AND c.relreplident <> root.relreplident LIMIT 1";

/// A table of the publication that is above or below this one: changes of partitions are sent as their root's.
const KINDRED: &str =
    "SELECT r.prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
  WHERE p.pubname = $2 AND r.prrelid <> $1::oid AND (
    r.prrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid))
    OR r.prrelid IN (SELECT relid FROM pg_partition_tree($1::oid))) LIMIT 1";

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
        store: impl FnOnce(First) -> Store<'s> + Send,
    ) -> Result<(), JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let found = self.check(table, &name, key).await?;
        if !found.owned {
            return Err(JoinError::NotOwner { table: name });
        }
        self.lock(&name).await?;
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

    /// Which table has this name: its `pg_class.oid`.
    ///
    /// # Errors
    /// None has, or the source cannot be asked.
    pub async fn table(&self, table: (&str, &str)) -> Result<u32, JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let row = within(self.client().query_opt(TABLE, &[&table.0, &table.1])).await?;
        row.map(|row| row.get(0)).ok_or(JoinError::NoTable(name))
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

    /// The key's source columns lie within the replica identity, else the source could not even update its own rows
    /// once the table is published (rule 12). Returns whether the user owns the table.
    async fn check(&self, table: (&str, &str), name: &str, key: &[String]) -> Result<Found, JoinError> {
        let row = within(self.client().query_opt(TABLE, &[&table.0, &table.1])).await?;
        let Some(row) = row else {
            return Err(JoinError::NoTable(name.to_owned()));
        };
        let (oid, identity, kind): (u32, String, String) = (row.get(0), row.get(1), row.get(3));
        match kind.as_str() {
            "r" => {}
            "p" => self.check_partitions(oid, name).await?,
            _ => {
                return Err(JoinError::NoTable(format!(
                    "{name}, only something else of this name"
                )));
            }
        }
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
                    "the source table {name} has no replica identity, or a deferrable one: ALTER TABLE {name} ADD PRIMARY \
                     KEY (...), not deferrable, or ALTER TABLE {name} REPLICA IDENTITY FULL"
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
        Ok(Found {
            oid,
            owned: row.get(2),
        })
    }

    /// The columns of a key as the stream will describe them, in their order.
    ///
    /// # Errors
    /// The table or a column is missing, or the source cannot be asked.
    pub async fn key_columns(&self, table: (&str, &str), key: &[String]) -> Result<Vec<Column>, JoinError> {
        let sql = "SELECT a.attname::text, a.atttypid, a.atttypmod FROM pg_attribute a
            JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = within(self.client().query(sql, &[&table.0, &table.1])).await?;
        let table = format!("{}.{}", quote(table.0), quote(table.1));
        if rows.is_empty() {
            return Err(JoinError::NoTable(table));
        }
        let column = |name: &String| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
            let row = row.ok_or_else(|| {
                JoinError::Key(format!("the source table {table} has no column {}", quote(name)))
            })?;
            Ok(Column {
                name: name.clone(),
                type_oid: row.get(1),
                type_modifier: row.get(2),
                key: true,
            })
        };
        key.iter().map(column).collect()
    }

    /// Whether a table has all columns that its map reads.
    ///
    /// # Errors
    /// One is missing, or the source cannot be asked.
    pub async fn has_columns(&self, table: (&str, &str), columns: &[String]) -> Result<(), JoinError> {
        let sql = "SELECT wanted FROM unnest($3::text[]) wanted WHERE NOT EXISTS (
            SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = wanted AND a.attnum > 0 AND NOT a.attisdropped)
          LIMIT 1";
        let missing = within(self.client().query_opt(sql, &[&table.0, &table.1, &columns])).await?;
        match missing {
            None => Ok(()),
            Some(row) => Err(JoinError::NoColumn(format!(
                "the source table {}.{} has no column {}: add it, or correct `fields` or `source.filter`",
                quote(table.0),
                quote(table.1),
                quote(row.get(0))
            ))),
        }
    }

    /// A partitioned table is sent as one, but what is sent of an old row is up to each partition.
    async fn check_partitions(&self, oid: u32, name: &str) -> Result<(), JoinError> {
        match within(self.client().query_opt(ODD_PARTITIONS, &[&oid])).await? {
            None => Ok(()),
            Some(row) => {
                let odd: String = row.get(0);
                Err(JoinError::Key(format!(
                    "partition {odd} has another replica identity than {name}: ALTER TABLE {odd} REPLICA IDENTITY as of \
                     {name}"
                )))
            }
        }
    }

    /// Whether changes of these tables can come, in their order; and the end of the log.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn tables(
        &self,
        publication: &str,
        wanted: &[WantedTable],
    ) -> Result<(Vec<TableState>, Lsn), JoinError> {
        let sql = "SELECT c.oid, p.tablename IS NOT NULL
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(schema, name, number)
          LEFT JOIN pg_namespace n ON n.nspname = t.schema
          LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
          LEFT JOIN pg_publication_tables p ON p.pubname = $3 AND p.schemaname = t.schema AND p.tablename = t.name
          ORDER BY t.number";
        let schemas: Vec<&str> = wanted.iter().map(|table| table.schema.as_str()).collect();
        let names: Vec<&str> = wanted.iter().map(|table| table.name.as_str()).collect();
        let rows = within(self.client().query(sql, &[&schemas, &names, &publication])).await?;
        let state = |(row, wanted): (&tokio_postgres::Row, &WantedTable)| match (row.get(0), row.get(1)) {
            (Some(oid), true) if wanted.oid == oid => TableState::Published,
            (Some(oid), false) if wanted.oid == oid => TableState::NotPublished,
            (Some::<u32>(_) | None, _) => TableState::Gone,
        };
        Ok((
            rows.iter().zip(wanted).map(state).collect(),
            self.position().await?,
        ))
    }

    /// Whether a table has the columns of its map's key, within the replica identity, and of its filter. Tells the end
    /// of the log.
    ///
    /// # Errors
    /// Something is missing, or the source cannot be asked.
    pub async fn has_key(
        &self,
        table: (&str, &str),
        key: &[String],
        filter: &[String],
    ) -> Result<Lsn, JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let found = self.check(table, &name, key).await?;
        let columns = names(within(self.client().query(COLUMNS, &[&found.oid])).await?);
        match filter.iter().find(|column| !columns.contains(column)) {
            None => self.position().await,
            Some(missing) => Err(JoinError::Key(format!(
                "the source table {name} has no column {}, which the filter reads",
                quote(missing)
            ))),
        }
    }
}

fn names(rows: Vec<tokio_postgres::Row>) -> Vec<String> {
    rows.into_iter().map(|row| row.get(0)).collect()
}
