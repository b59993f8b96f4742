//! What the source's catalog says of a table: its identity, its columns, whether it is published.

use super::{
    JoinError,
    admin::{Admin, quote, within},
};
use crate::record::{Column, Lsn};
use std::collections::HashMap;

/// What the catalog says of a table.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) oid: u32,
    /// The user owns it.
    pub(super) owned: bool,
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

const COLUMNS: &str =
    "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

impl Admin {
    /// Which table has this name: its `pg_class.oid`.
    ///
    /// # Errors
    /// None has, or the source cannot be asked.
    pub async fn table(&self, table: (&str, &str)) -> Result<u32, JoinError> {
        let name = format!("{}.{}", quote(table.0), quote(table.1));
        let row = within(self.client().query_opt(TABLE, &[&table.0, &table.1])).await?;
        row.map(|row| row.get(0)).ok_or(JoinError::NoTable(name))
    }

    /// The key's source columns lie within the replica identity, else the source could not even update its own rows
    /// once the table is published (rule 12). Returns whether the user owns the table.
    pub(super) async fn check(
        &self,
        table: (&str, &str),
        name: &str,
        key: &[String],
    ) -> Result<Found, JoinError> {
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
    pub async fn has_columns(&self, table: &(String, String), columns: &[String]) -> Result<(), JoinError> {
        let missing = self.missing_columns(&[(table, columns)]).await?;
        missing
            .into_iter()
            .try_for_each(|lacks| lacks.map_err(JoinError::NoColumn))
    }

    /// Of each table, in their order, whether it has all columns that its map reads; else what it lacks, and what mends it.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn missing_columns(
        &self,
        wanted: &[(&(String, String), &[String])],
    ) -> Result<Vec<Result<(), String>>, JoinError> {
        let sql = "SELECT w.number, w.name FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])
            AS w(number, schema, tablename, name)
          WHERE NOT EXISTS (
            SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = w.schema AND c.relname = w.tablename AND a.attname = w.name
              AND a.attnum > 0 AND NOT a.attisdropped)";
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (mut numbers, mut schemas, mut tables, mut names) = (vec![], vec![], vec![], vec![]);
        for (number, ((schema, table), columns)) in (0_i64..).zip(wanted) {
            for column in *columns {
                numbers.push(number);
                schemas.push(schema.as_str());
                tables.push(table.as_str());
                names.push(column.as_str());
            }
        }
        let rows = within(self.client().query(sql, &[&numbers, &schemas, &tables, &names])).await?;
        let missing: HashMap<i64, &str> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let has = |(number, ((schema, table), _)): (i64, &(&(String, String), &[String]))| match missing
            .get(&number)
        {
            None => Ok(()),
            Some(column) => Err(format!(
                "the source table {}.{} has no column {}: add it, or correct `fields` or `source.filter`",
                quote(schema),
                quote(table),
                quote(column)
            )),
        };
        Ok((0_i64..).zip(wanted).map(has).collect())
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
