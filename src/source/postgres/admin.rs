//! Slot and publication, over an ordinary connection.

use super::SourceError;
use crate::{
    connection::postgres::{Connected, Settings, connect},
    record::{Lsn, Origin},
};
use std::time::Duration;

/// For each question; a new slot waits for the transactions that run.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
const WALSENDER: Duration = Duration::from_secs(5);

/// An ordinary connection to the source.
#[derive(Debug)]
pub struct Admin {
    pub(super) connected: Connected,
}

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    pub system: String,
    pub timeline: u32,
    /// `server_version_num`.
    pub version: i32,
}

/// The server's replication slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsLeft {
    pub most: i64,
    pub used: i64,
    /// Those of them that workers have made.
    pub ours: i64,
}

/// A slot as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub confirmed: Lsn,
    pub active_pid: Option<i32>,
    pub wal_status: Option<String>,
    /// WAL that it keeps, in bytes.
    pub retained: i64,
    /// WAL that may still be written before it is lost, in bytes, if there is a limit.
    pub safe: Option<i64>,
}

impl SlotState {
    /// WAL that it needed is gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }
}

/// An identifier as SQL writes it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A deadline on a question.
pub(super) async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SourceError::Timeout(DEADLINE.as_secs())),
    }
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// The source cannot be reached, or refuses.
    pub async fn connect(settings: &Settings) -> Result<Self, SourceError> {
        Ok(Self {
            connected: connect(settings, "tablemap").await?,
        })
    }

    pub(super) fn client(&self) -> &tokio_postgres::Client {
        &self.connected.client
    }

    /// Asks the server who it is, and whether it can be a source. The timeline is that of its log now, not of its last
    /// checkpoint, which may lie before a promotion.
    ///
    /// # Errors
    /// It keeps too little in its log, or cannot be asked.
    pub async fn inspect_server(&self) -> Result<ServerFacts, SourceError> {
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()),
            ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int, current_setting('wal_level'),
            current_setting('server_version_num')::int";
        let row = within(self.client().query_one(sql, &[])).await?;
        let wal_level: String = row.get(2);
        if wal_level != "logical" {
            return Err(SourceError::NotLogical(wal_level));
        }
        let timeline: i32 = row.get(1);
        Ok(ServerFacts {
            system: row.get(0),
            timeline: timeline.unsigned_abs(),
            version: row.get(3),
        })
    }

    /// Whether the user may read a slot, and make slot and publication if that is the worker's to do; and how many slots
    /// there are.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_replicate(&self, makes: bool) -> Result<SlotsLeft, SourceError> {
        let sql = "SELECT NOT $1 OR has_database_privilege(current_database(), 'CREATE'),
            (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
            current_setting('max_replication_slots')::bigint, (SELECT count(*) FROM pg_replication_slots),
            (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'tablemap\\_%')";
        let row = within(self.client().query_one(sql, &[&makes])).await?;
        if !(row.get::<_, bool>(0) && row.get::<_, bool>(1)) {
            return Err(SourceError::Permission("42501".into()));
        }
        Ok(SlotsLeft {
            most: row.get(2),
            used: row.get(3),
            ours: row.get(4),
        })
    }

    /// Which database this is.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn origin(&self) -> Result<Origin, SourceError> {
        let sql = "SELECT system_identifier::text, current_database()::text FROM pg_control_system()";
        let row = within(self.client().query_one(sql, &[])).await?;
        Ok(Origin::new(row.get(0), row.get(1)))
    }

    /// A slot, if it exists.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotState>, SourceError> {
        let slots = self.slots(name).await?;
        let found = slots.into_iter().find(|(slot, _)| slot == name);
        Ok(found.map(|(_, state)| state))
    }

    /// A main slot, if it exists, and the side slots that were made of it.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn slots(&self, main: &str) -> Result<Vec<(String, SlotState)>, SourceError> {
        let sql = "SELECT slot_name::text, confirmed_flush_lsn::text, active_pid, wal_status,
            coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size
          FROM pg_replication_slots WHERE slot_name = $1 OR starts_with(slot_name, $1 || '_s')";
        let rows = within(self.client().query(sql, &[&main])).await?;
        let state = |row: &tokio_postgres::Row| SlotState {
            confirmed: row
                .get::<_, Option<String>>(1)
                .and_then(|lsn| lsn.parse().ok())
                .unwrap_or_default(),
            active_pid: row.get(2),
            wal_status: row.get(3),
            retained: row.get(4),
            safe: row.get(5),
        };
        Ok(rows.iter().map(|row| (row.get(0), state(row))).collect())
    }

    /// Copies a slot, which may be in use, unless the copy is there. Tells what the copy has forgotten.
    ///
    /// # Errors
    /// No slot is left, the user may not, or the source cannot be asked.
    pub async fn copy_slot(&self, from: &str, to: &str) -> Result<Lsn, SourceError> {
        if self.slot(to).await?.is_none() {
            let sql = "SELECT pg_copy_logical_replication_slot($1, $2)";
            within(self.client().query_one(sql, &[&from, &to])).await?;
        }
        let made = self.slot(to).await?;
        made.map(|slot| slot.confirmed)
            .ok_or_else(|| SourceError::SlotMissing(to.to_owned()))
    }

    /// Makes a publication without tables, unless it is there (rule 13).
    ///
    /// # Errors
    /// The user may not, or the source cannot be asked.
    pub async fn create_publication_empty(&self, name: &str) -> Result<(), SourceError> {
        let there = within(
            self.client()
                .query_opt("SELECT 1 FROM pg_publication WHERE pubname = $1", &[&name]),
        )
        .await?;
        if there.is_some() {
            return Ok(());
        }
        let sql = format!(
            "CREATE PUBLICATION {} WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
            quote(name)
        );
        within(self.client().batch_execute(&sql)).await
    }

    /// Makes a slot. Only while no map of the worker has a position (rule 14): that is the caller's to know.
    ///
    /// # Errors
    /// No slot is left, the user may not, or the source cannot be asked.
    pub async fn create_slot(&self, name: &str) -> Result<(), SourceError> {
        if self.slot(name).await?.is_some() {
            return Ok(());
        }
        let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        within(self.client().query_one(sql, &[&name])).await.map(|_| ())
    }

    /// Ends whoever streams from the slot, and waits until it is free (rule 4).
    ///
    /// # Errors
    /// It stays in use.
    pub async fn terminate_walsender(&self, slot: &str) -> Result<(), SourceError> {
        let started = tokio::time::Instant::now();
        loop {
            let Some(pid) = self.slot(slot).await?.and_then(|slot| slot.active_pid) else {
                return Ok(());
            };
            if started.elapsed() > WALSENDER {
                return Err(SourceError::SlotActive {
                    slot: slot.to_owned(),
                    pid: Some(pid),
                });
            }
            within(
                self.client()
                    .query_one("SELECT pg_terminate_backend($1)", &[&pid]),
            )
            .await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes a slot, if it is there, ending whoever reads from it.
    ///
    /// # Errors
    /// It stays in use, or the source cannot be asked.
    pub async fn drop_slot(&self, name: &str) -> Result<(), SourceError> {
        self.terminate_walsender(name).await?;
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        within(self.client().query(sql, &[&name])).await.map(|_| ())
    }

    /// Removes a main slot and its side slots, ending whoever reads from them.
    ///
    /// # Errors
    /// One stays in use, or the source cannot be asked.
    pub async fn drop_slots(&self, main: &str) -> Result<(), SourceError> {
        for (slot, _) in self.slots(main).await? {
            self.drop_slot(&slot).await?;
        }
        Ok(())
    }

    /// Removes a publication, if it is there.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub async fn drop_publication(&self, name: &str) -> Result<(), SourceError> {
        within(
            self.client()
                .batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote(name))),
        )
        .await
    }
}
