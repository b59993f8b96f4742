//! The SQL of one target.

use super::target::Target;
use std::fmt::Write;

/// An identifier as SQL writes it.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Target {
    pub(super) fn qualified(&self) -> String {
        format!("{}.{}", quote(&self.table.0), quote(&self.table.1))
    }

    fn columns(&self) -> Vec<String> {
        self.mapping.destinations().map(quote).collect()
    }

    fn key_columns(&self) -> Vec<String> {
        let columns = self.columns();
        self.mapping
            .key()
            .iter()
            .filter_map(|index| columns.get(*index).cloned())
            .collect()
    }

    /// A parameter that is read as a mapped column's type, so that a column of another type is another statement.
    fn parameter(&self, number: usize, index: usize) -> String {
        match self.shape.types.get(index) {
            Some(kind) => format!("${number}::{kind}"),
            None => format!("${number}"),
        }
    }

    fn on_conflict(&self, set: &[usize]) -> String {
        let keys = self.key_columns();
        let columns = self.columns();
        let rest = set
            .iter()
            .filter(|index| !self.mapping.key().contains(index))
            .filter_map(|index| columns.get(*index));
        let assignments: Vec<String> = rest
            .map(|column| format!("{column} = EXCLUDED.{column}"))
            .collect();
        let keys = keys.join(", ");
        if assignments.is_empty() {
            format!("ON CONFLICT ({keys}) DO NOTHING")
        } else {
            format!("ON CONFLICT ({keys}) DO UPDATE SET {}", assignments.join(", "))
        }
    }

    fn overriding(&self) -> &'static str {
        if self.shape.fixed_key {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.shape.types.len()).collect()
    }

    /// Parameters: the values of the columns of `set`.
    pub(super) fn upsert_sql(&self, set: &[usize]) -> String {
        let columns = self.columns();
        let names: Vec<&str> = set
            .iter()
            .filter_map(|index| columns.get(*index).map(String::as_str))
            .collect();
        let values: Vec<String> = set
            .iter()
            .enumerate()
            .map(|(number, index)| self.parameter(number + 1, *index))
            .collect();
        format!(
            "INSERT INTO {} ({}){} VALUES ({}) {}",
            self.qualified(),
            names.join(", "),
            self.overriding(),
            values.join(", "),
            self.on_conflict(set)
        )
    }

    /// The same for rows that have every value.
    pub(super) fn upsert_all_sql(&self) -> String {
        self.upsert_sql(&self.all())
    }

    /// Parameters: the sent values, then the key.
    pub(super) fn update_sql(&self, sent: &[usize]) -> String {
        format!(
            "UPDATE {} SET {} WHERE {}",
            self.qualified(),
            self.assignments(sent),
            self.where_key("", sent.len())
        )
    }

    /// Sets a row's key too. Parameters: the sent values, the old key, and, unless a row of the new key is an error,
    /// the new key.
    pub(super) fn shift_sql(&self, sent: &[usize], unless_there: bool) -> String {
        let table = self.qualified();
        let mut sql = format!(
            "UPDATE {table} SET {} WHERE {}",
            self.assignments(sent),
            self.where_key("", sent.len())
        );
        if unless_there {
            let key = self.where_key("t.", sent.len() + self.mapping.key().len());
            let _ = write!(sql, " AND NOT EXISTS (SELECT FROM {table} t WHERE {key})");
        }
        sql
    }

    fn assignments(&self, sent: &[usize]) -> String {
        let columns = self.columns();
        let assignments = sent.iter().enumerate().filter_map(|(number, index)| {
            let value = self.parameter(number + 1, *index);
            columns.get(*index).map(|column| format!("{column} = {value}"))
        });
        assignments.collect::<Vec<String>>().join(", ")
    }

    /// Finds a row. Parameters: the key.
    pub(super) fn look_sql(&self) -> String {
        format!("SELECT FROM {} WHERE {}", self.qualified(), self.where_key("", 0))
    }

    /// Reads a row as text, by the types' own output: a cast may write another. Parameters: the key.
    pub(super) fn row_sql(&self) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .map(|column| format!("CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END"))
            .collect();
        format!(
            "SELECT {} FROM {} WHERE {}",
            columns.join(", "),
            self.qualified(),
            self.where_key("", 0)
        )
    }

    /// Parameters: the key.
    pub(super) fn delete_sql(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.qualified(), self.where_key("", 0))
    }

    fn where_key(&self, alias: &str, before: usize) -> String {
        let columns = self.key_columns();
        let terms: Vec<String> = columns
            .iter()
            .zip(self.mapping.key())
            .enumerate()
            .map(|(number, (column, index))| {
                format!(
                    "{alias}{column} = {}",
                    self.parameter(before + number + 1, *index)
                )
            })
            .collect();
        terms.join(" AND ")
    }

    /// A table of the session with the target's column types, without their lengths, and none of its constraints: the
    /// target's own column decides what fits.
    pub(super) fn stage_sql(&self, stage: &str) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .zip(&self.shape.types)
            .map(|(column, kind)| format!("{column} {kind}"))
            .collect();
        format!(
            "CREATE TEMP TABLE IF NOT EXISTS {stage} ({}) ON COMMIT DELETE ROWS",
            columns.join(", ")
        )
    }

    pub(super) fn copy_sql(&self, stage: &str, keys_only: bool) -> String {
        let columns = if keys_only {
            self.key_columns()
        } else {
            self.columns()
        };
        format!("COPY {stage} ({}) FROM STDIN", columns.join(", "))
    }

    pub(super) fn merge_sql(&self, stage: &str) -> String {
        let columns = self.columns().join(", ");
        format!(
            "INSERT INTO {} ({columns}){} SELECT {columns} FROM {stage} {}",
            self.qualified(),
            self.overriding(),
            self.on_conflict(&self.all())
        )
    }

    pub(super) fn sweep_sql(&self, stage: &str) -> String {
        let terms: Vec<String> = self
            .key_columns()
            .iter()
            .map(|column| format!("t.{column} = s.{column}"))
            .collect();
        format!(
            "DELETE FROM {} t USING {stage} s WHERE {}",
            self.qualified(),
            terms.join(" AND ")
        )
    }
}

/// Locks the progress rows of a batch and raises an error in the server unless every epoch and token is ours (rule 4).
/// Parameters: map ids, epochs, tokens, their number.
pub const FENCE: &str = "\
SELECT 1 / (CASE WHEN count(*) = $4::bigint THEN 1 ELSE 0 END) FROM (
  SELECT 1 FROM tablemap.progress p
  JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS f(map_id, epoch, token)
    ON p.map_id = f.map_id AND p.epoch = f.epoch AND p.token = f.token
  ORDER BY p.map_id FOR UPDATE OF p) locked";

/// Parameters: map ids, positions, last parks, and the counts in the order of the names.
pub const STORE: &str = "\
UPDATE tablemap.progress p SET position = u.position, last_park = u.last_park, received = u.received,
  filtered = u.filtered, written = u.written, missed = u.missed, parks = u.parks, superseded = u.superseded,
  moved = u.moved, settled = u.settled, gone = u.gone,
  discarded = u.discarded, skipped = u.skipped
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::text[])
  AS u(map_id, position, last_park, received, filtered, written, missed, parks, superseded, moved, settled, gone, discarded,
    skipped)
WHERE p.map_id = u.map_id";
