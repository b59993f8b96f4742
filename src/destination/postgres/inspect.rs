//! What only the database can tell: found before the first write, and again before the first one after a pause.

use super::{
    control::InspectError,
    error::SchemaProblem,
    session::{lane, within},
    sql::quote,
    target::{ForeignKey, Shape},
};
use crate::mapping::{ColumnType, KeyType, Mapping};
use std::time::Duration;
use tokio_postgres::{Client, Row};

const TABLE: &str =
    "SELECT c.oid, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1 AND c.relname = $2";

/// What the user lacks to write the table, and whether the server keeps what it says. Rights on single columns are enough,
/// but for DELETE there are none.
const RIGHTS: &str = "SELECT current_user::text, has_schema_privilege(c.relnamespace, 'USAGE'),
    array_remove(ARRAY[
      CASE WHEN NOT has_any_column_privilege(c.oid, 'SELECT') THEN 'SELECT' END,
      CASE WHEN NOT has_any_column_privilege(c.oid, 'INSERT') THEN 'INSERT' END,
      CASE WHEN NOT has_any_column_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END,
      CASE WHEN NOT has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END], NULL),
    current_setting('fsync'), NOT c.relhasrules AND NOT c.relrowsecurity
  FROM pg_class c WHERE c.oid = $1";

/// A domain counts as the type that it is made of, through all domains between.
const COLUMNS: &str = "WITH RECURSIVE made (attnum, oid, modifier) AS (
    SELECT attnum, atttypid, atttypmod FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT m.attnum, t.typbasetype, t.typtypmod FROM made m JOIN pg_type t ON t.oid = m.oid AND t.typtype = 'd')
  SELECT a.attname, m.oid, m.modifier, format_type(a.atttypid, -1), a.attnotnull, a.atthasdef,
    a.attidentity::text, a.attgenerated::text, coalesce(co.collisdeterministic, true), t.typtype = 'e'
  FROM pg_attribute a JOIN made m ON m.attnum = a.attnum JOIN pg_type t ON t.oid = m.oid AND t.typtype <> 'd'
    LEFT JOIN pg_collation co ON co.oid = a.attcollation
  WHERE a.attrelid = $1";

/// Unique indexes that ON CONFLICT looks at: whole, valid, of plain columns; and which of them it refuses, since they
/// check late.
const INDEXES: &str = "SELECT array_agg(a.attname::text ORDER BY a.attname::text), i.indimmediate, c.relname::text, i.indisprimary
  FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
    JOIN pg_class c ON c.oid = i.indexrelid
  WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  GROUP BY i.indexrelid, i.indimmediate, c.relname, i.indisprimary";

/// What a delete does to the rows that refer to the one deleted: `pg_constraint.confdeltype`, where `c` is CASCADE, `n` SET NULL
/// and `d` SET DEFAULT.
const FOREIGN_KEYS: &str = "SELECT k.conname, n.nspname, c.relname, k.conrelid = $1, k.confdeltype IN ('c', 'n', 'd'),
    (SELECT array_agg(a.attname::text ORDER BY u.number) FROM unnest(k.conkey) WITH ORDINALITY u (attnum, number)
      JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
    (SELECT array_agg(a.attname::text ORDER BY u.number) FROM unnest(k.confkey) WITH ORDINALITY u (attnum, number)
      JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum)
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = CASE WHEN k.conrelid = $1 THEN k.confrelid ELSE k.conrelid END
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE k.contype = 'f' AND $1 IN (k.conrelid, k.confrelid)";

struct Column {
    name: String,
    oid: u32,
    modifier: i32,
    type_name: String,
    required: bool,
    identity_always: bool,
    generated: bool,
    deterministic: bool,
    is_enum: bool,
}

impl Column {
    fn kind(&self) -> ColumnType {
        ColumnType {
            oid: self.oid,
            modifier: self.modifier,
            deterministic: self.deterministic,
            is_enum: self.is_enum,
        }
    }
}

/// Looks at a destination table.
pub(super) async fn inspect(
    client: &Client,
    table: &(String, String),
    mapping: &Mapping,
    deadline: Duration,
) -> Result<Shape, InspectError> {
    let work = async {
        let found = client.query_opt(TABLE, &[&table.0, &table.1]).await?;
        let Some(oid) = found.as_ref().map(|row| row.get::<_, u32>(0)) else {
            return Ok(None);
        };
        let kind: String = found.map_or_else(String::new, |row| row.get(1));
        let columns = client.query(COLUMNS, &[&oid]).await?;
        let indexes = client.query(INDEXES, &[&oid]).await?;
        let keys = client.query(FOREIGN_KEYS, &[&oid]).await?;
        let rights = client.query_one(RIGHTS, &[&oid]).await?;
        Ok(Some((kind, columns, indexes, keys, rights)))
    };
    let found = within(deadline, work).await.map_err(lane)?;
    let name = format!("{}.{}", quote(&table.0), quote(&table.1));
    let Some((kind, columns, indexes, keys, rights)) = found else {
        return Err(problem(format!(
            "The destination has no table {name}: create it, or correct `destination.table`."
        )));
    };
    if !matches!(kind.as_str(), "r" | "p") {
        return Err(problem(format!(
            "The destination's {name} is not a table: name a table in `destination.table`."
        )));
    }
    check_rights(&name, &table.0, &rights)?;
    let columns: Vec<Column> = columns.iter().map(column).collect();
    let mapped = mapped(&name, &columns, mapping)?;
    check_required(&name, &columns, mapping)?;
    let key: Vec<&Column> = mapping
        .key()
        .iter()
        .filter_map(|index| mapped.get(*index).copied())
        .collect();
    for column in &key {
        let usable = KeyType::check(column.kind());
        usable.map_err(|why| problem(format!("{} of {name}: {why}.", quote(&column.name))))?;
    }
    check_index(&name, &indexes, &key)?;
    Ok(Shape {
        types: mapped.iter().map(|column| column.type_name.clone()).collect(),
        key: key.iter().map(|column| column.kind()).collect(),
        foreign_keys: keys
            .iter()
            .map(|row| ForeignKey {
                name: row.get(0),
                other: (row.get(1), row.get(2)),
                refers: row.get(3),
                reaches: row.get(4),
                own: row.get(if row.get(3) { 5 } else { 6 }),
                others: row.get(if row.get(3) { 6 } else { 5 }),
            })
            .collect(),
        fixed_key: key.iter().any(|column| column.identity_always),
        unsafe_log: rights.get::<_, &str>(3) != "on",
        copies: rights.get(4),
    })
}

fn check_rights(table: &str, schema: &str, rights: &Row) -> Result<(), InspectError> {
    let (user, enters): (String, bool) = (quote(rights.get(0)), rights.get(1));
    let lacks: Vec<String> = rights.get(2);
    if !enters {
        return Err(problem(format!(
            "The user {user} may not use the destination's schema: GRANT USAGE ON SCHEMA {} TO {user}.",
            quote(schema)
        )));
    }
    if lacks.is_empty() {
        return Ok(());
    }
    Err(problem(format!(
        "The user {user} may not write the destination table: GRANT {} ON {table} TO {user}.",
        lacks.join(", ")
    )))
}

fn problem(message: String) -> InspectError {
    InspectError::Problem(SchemaProblem(message))
}

fn column(row: &Row) -> Column {
    Column {
        name: row.get(0),
        oid: row.get(1),
        modifier: row.get(2),
        type_name: row.get(3),
        required: row.get::<_, bool>(4) && !row.get::<_, bool>(5) && row.get::<_, String>(6).is_empty(),
        identity_always: row.get::<_, String>(6) == "a",
        generated: !row.get::<_, String>(7).is_empty(),
        deterministic: row.get(8),
        is_enum: row.get(9),
    }
}

fn mapped<'c>(
    table: &str,
    columns: &'c [Column],
    mapping: &Mapping,
) -> Result<Vec<&'c Column>, InspectError> {
    let is_key = |name: &str| {
        let at = mapping.destinations().position(|known| known == name);
        at.is_some_and(|at| mapping.key().contains(&at))
    };
    let find = |name: &str| {
        let found = columns.iter().find(|column| column.name == name);
        match found {
            None => Err(problem(format!(
                "The destination table {table} has no column {}: ALTER TABLE {table} ADD COLUMN {} <type>, or remove \
                 the field.",
                quote(name),
                quote(name)
            ))),
            Some(column) if column.generated => Err(problem(format!(
                "The destination column {} of {table} is generated, and cannot be written: remove the field.",
                quote(name)
            ))),
            Some(column) if column.identity_always && !is_key(name) => Err(problem(format!(
                "The destination column {} of {table} is GENERATED ALWAYS AS IDENTITY, and cannot be updated: ALTER TABLE \
                 {table} ALTER COLUMN {} SET GENERATED BY DEFAULT, or remove the field.",
                quote(name),
                quote(name)
            ))),
            Some(column) => Ok(column),
        }
    };
    mapping.destinations().map(find).collect()
}

fn check_required(table: &str, columns: &[Column], mapping: &Mapping) -> Result<(), InspectError> {
    let missing = columns.iter().find(|column| {
        column.required && !column.generated && !mapping.destinations().any(|name| name == column.name)
    });
    match missing {
        None => Ok(()),
        Some(column) => Err(problem(format!(
            "The destination column {} of {table} is NOT NULL without a default, and no field fills it: add a field, \
             or ALTER TABLE {table} ALTER COLUMN {} SET DEFAULT <value>.",
            quote(&column.name),
            quote(&column.name)
        ))),
    }
}

fn check_index(table: &str, indexes: &[Row], key: &[&Column]) -> Result<(), InspectError> {
    let mut wanted: Vec<&str> = key.iter().map(|column| column.name.as_str()).collect();
    wanted.sort_unstable();
    let mut fitting = indexes
        .iter()
        .filter(|row| row.get::<_, Vec<String>>(0) == wanted)
        .peekable();
    let columns: Vec<String> = key.iter().map(|column| quote(&column.name)).collect();
    let columns = columns.join(", ");
    if fitting.peek().is_none() {
        return Err(problem(format!(
            "The destination table {table} has no unique index on exactly the integration key (neither partial nor \
             deferrable): CREATE UNIQUE INDEX ON {table} ({columns}).",
        )));
    }
    // One of them is enough to make every ON CONFLICT of these columns fail.
    match fitting.find(|row| !row.get::<_, bool>(1)) {
        None => Ok(()),
        Some(late) => {
            let name = quote(late.get(2));
            let kind = if late.get(3) { "PRIMARY KEY" } else { "UNIQUE" };
            Err(problem(format!(
                "The constraint {name} of the destination table {table} is deferrable, and cannot carry the integration \
                 key: ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} ({columns})."
            )))
        }
    }
}
