//! Publications that others keep: whether they send all that a map needs.

use super::{
    admin::{Admin, quote, within},
    join::JoinError,
};

impl Admin {
    /// Whether a publication sends every change of a table, whole.
    pub(super) async fn publishes(
        &self,
        table: (&str, &str),
        name: &str,
        publication: &str,
    ) -> Result<(), JoinError> {
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
        self.check_whole(table, name, publication).await
    }

    /// A publication may leave rows and columns out, from `PostgreSQL` 15 on.
    async fn check_whole(&self, table: (&str, &str), name: &str, publication: &str) -> Result<(), JoinError> {
        let version = "SELECT current_setting('server_version_num')::int";
        if within(self.client().query_one(version, &[]))
            .await?
            .get::<_, i32>(0)
            < 150_000
        {
            return Ok(());
        }
        let sql = "SELECT rowfilter IS NULL, cardinality(attnames) = (SELECT count(*) FROM pg_attribute
            WHERE attrelid = format('%I.%I', schemaname, tablename)::regclass AND attnum > 0 AND NOT attisdropped
              AND attgenerated = '')
          FROM pg_publication_tables WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
        let row = within(self.client().query_one(sql, &[&publication, &table.0, &table.1])).await?;
        let what = match (row.get(0), row.get(1)) {
            (true, true) => return Ok(()),
            (false, _) => "rows",
            (true, false) => "columns",
        };
        Err(JoinError::Publication(format!(
            "publication {0} leaves {what} of {name} out: ALTER PUBLICATION {0} DROP TABLE {name}; ALTER PUBLICATION {0} \
             ADD TABLE {name}; and filter by `source.filter`",
            quote(publication)
        )))
    }
}
