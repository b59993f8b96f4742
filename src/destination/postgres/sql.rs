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

    fn on_conflict(&self) -> String {
        let keys = self.key_columns();
        let mut set = String::new();
        for (index, column) in self.columns().iter().enumerate() {
            if !self.mapping.key().contains(&index) {
                let comma = if set.is_empty() { "" } else { ", " };
                let _ = write!(set, "{comma}{column} = EXCLUDED.{column}");
            }
        }
        let keys = keys.join(", ");
        if set.is_empty() {
            format!("ON CONFLICT ({keys}) DO NOTHING")
        } else {
            format!("ON CONFLICT ({keys}) DO UPDATE SET {set}")
        }
    }

    fn overriding(&self) -> &'static str {
        if self.shape.overrides_identity {
            " OVERRIDING SYSTEM VALUE"
        } else {
            ""
        }
    }

    /// Parameters: every value, in the mapping's order.
    pub(super) fn upsert_sql(&self) -> String {
        let columns = self.columns();
        let values: Vec<String> = (1..=columns.len()).map(|index| format!("${index}")).collect();
        format!(
            "INSERT INTO {} ({}){} VALUES ({}) {}",
            self.qualified(),
            columns.join(", "),
            self.overriding(),
            values.join(", "),
            self.on_conflict()
        )
    }

    /// Parameters: the sent values, then the key.
    pub(super) fn update_sql(&self, sent: &[usize]) -> String {
        let columns = self.columns();
        let assignments: Vec<String> = sent
            .iter()
            .enumerate()
            .filter_map(|(number, index)| {
                columns
                    .get(*index)
                    .map(|column| format!("{column} = ${}", number + 1))
            })
            .collect();
        format!(
            "UPDATE {} SET {} WHERE {}",
            self.qualified(),
            assignments.join(", "),
            self.where_key(sent.len())
        )
    }

    /// Parameters: the key.
    pub(super) fn delete_sql(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.qualified(), self.where_key(0))
    }

    fn where_key(&self, before: usize) -> String {
        let terms: Vec<String> = self
            .key_columns()
            .iter()
            .enumerate()
            .map(|(number, column)| format!("{column} = ${}", before + number + 1))
            .collect();
        terms.join(" AND ")
    }

    /// A table of the session with the target's column types and none of its constraints.
    pub(super) fn stage_sql(&self, stage: &str) -> String {
        format!(
            "CREATE TEMP TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA",
            self.columns().join(", "),
            self.qualified()
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
            self.on_conflict()
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

/// Parameters: map ids, positions, received, filtered, written, missed, parks, superseded.
pub const STORE: &str = "\
UPDATE tablemap.progress p SET position = u.position, received = u.received, filtered = u.filtered,
  written = u.written, missed = u.missed, parks = u.parks, superseded = u.superseded
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
  $8::bigint[]) AS u(map_id, position, received, filtered, written, missed, parks, superseded)
WHERE p.map_id = u.map_id";
