//! A lane's connection: its settings, the fence, the progress, and what a commit is worth.

use super::{
    batch::{Act, Planned},
    error::{LaneError, Meaning, meaning},
    progress::{COLUMNS, Progress, Upto, ensure},
    sql::{FENCE, STORE},
    target::Target,
    write::Setback,
};
use crate::{
    connection::postgres::{Connected, Settings, connect, keeps_sessions_apart},
    record::{MARK, Origin},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_postgres::{Client, Statement, error::Severity};

/// How durable its commits are, which database it is, whether its log can be read as a source, and whether it refuses to
/// write.
const FACTS: &str =
    "SELECT current_setting('synchronous_commit'), system_identifier::text, current_database()::text,
    current_setting('wal_level') = 'logical', current_setting('transaction_read_only') = 'on' FROM pg_control_system()";

/// Whether the server refuses to write, and whether the user may use the progress table, or make it.
const RIGHTS: &str = "WITH progress AS (
    SELECT to_regnamespace('tablemap')::oid AS schema, CASE WHEN to_regnamespace('tablemap') IS NULL
      OR has_schema_privilege(to_regnamespace('tablemap'), 'USAGE') THEN to_regclass('tablemap.progress')::oid END AS oid)
  SELECT current_setting('transaction_read_only') = 'on', CASE
    WHEN oid IS NOT NULL THEN has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
      AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')
    WHEN schema IS NOT NULL THEN has_schema_privilege(schema, 'CREATE')
    ELSE has_database_privilege(current_database(), 'CREATE') END FROM progress";

/// So many statements stay prepared.
const STATEMENTS: usize = 400;

/// One connection to a destination.
#[derive(Debug)]
pub struct Session {
    pub(super) connected: Connected,
    /// `synchronous_commit` at which a commit counts as durable (rule 2).
    durable: String,
    /// The database that this is.
    pub(super) database: Origin,
    /// It may be a source too: then a write names where its rows come from (rule 16).
    marks: bool,
    pub(super) statements: HashMap<String, Statement>,
    pub(super) deadline: Duration,
    /// Tables of this session, by the SQL that makes them.
    pub(super) staged: Vec<(String, String)>,
    pub(super) stages: usize,
}

impl Session {
    /// Connects and prepares the session: asynchronous commits, and deadlines in the server.
    ///
    /// # Errors
    /// The destination cannot be reached, or refuses.
    pub async fn connect(
        settings: &Settings,
        application: &str,
        lock_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, LaneError> {
        let connected = connect(settings, application).await?;
        Self::begin(connected, lock_timeout, statement_timeout).await
    }

    /// The same, once it is known that the session has a server process of its own.
    ///
    /// # Errors
    /// The destination cannot be reached, or refuses; or a pooler stands between.
    pub async fn connect_apart(
        settings: &Settings,
        application: &str,
        lock_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, LaneError> {
        let connected = connect(settings, application).await?;
        keeps_sessions_apart(settings, &connected).await?;
        Self::begin(connected, lock_timeout, statement_timeout).await
    }

    async fn begin(
        connected: Connected,
        lock_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, LaneError> {
        let deadline = statement_timeout + Duration::from_secs(10);
        let mut session = Self {
            deadline,
            ..Self::plain(connected)
        };
        session.prepare(lock_timeout, statement_timeout).await?;
        Ok(session)
    }

    /// Connects without making anything, for a look before anything is there.
    pub(super) async fn look(settings: &Settings, statement: Duration) -> Result<Self, LaneError> {
        let connected = connect(settings, "tablemap-check").await?;
        keeps_sessions_apart(settings, &connected).await?;
        let session = Self {
            deadline: statement,
            ..Self::plain(connected)
        };
        let rights = within(statement, session.client().query_one(RIGHTS, &[])).await;
        let row = rights.map_err(lane)?;
        match (row.get(0), row.get(1)) {
            (true, _) => Err(read_only()),
            (false, false) => Err(not_allowed()),
            (false, true) => Ok(session),
        }
    }

    /// Waits until the connection has ended.
    pub async fn closed(&mut self) {
        // However its task ended, nothing more can be sent.
        let _ = (&mut self.connected.driver).await;
    }

    fn plain(connected: Connected) -> Self {
        Self {
            connected,
            durable: "on".into(),
            database: Origin::default(),
            marks: false,
            statements: HashMap::new(),
            deadline: Duration::ZERO,
            staged: vec![],
            stages: 0,
        }
    }

    async fn prepare(&mut self, lock: Duration, statement: Duration) -> Result<(), LaneError> {
        let sql = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}; SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, YMD'; \
             SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET lc_monetary = 'C'; \
             SET standard_conforming_strings = on; \
             SET idle_in_transaction_session_timeout = 0",
            lock.as_millis(),
            statement.as_millis()
        );
        let client = &self.connected.client;
        let prepared = async {
            client.batch_execute(&sql).await?;
            let facts = client.query_one(FACTS, &[]).await?;
            client.batch_execute("SET synchronous_commit = off").await?;
            ensure(client).await?;
            Ok::<_, tokio_postgres::Error>(facts)
        };
        let facts = within(self.deadline, prepared).await.map_err(refused_setup)?;
        if facts.get(4) {
            return Err(read_only());
        }
        let level: String = facts.get(0);
        self.database = Origin::new(facts.get(1), facts.get(2));
        self.marks = facts.get(3);
        let deadline = self.deadline;
        for sql in [FENCE, STORE] {
            within(deadline, self.statement(sql)).await.map_err(lane)?;
        }
        self.durable = if matches!(level.as_str(), "off" | "local") {
            "on".into()
        } else {
            level
        };
        Ok(())
    }

    /// Prepares a statement once: only then can it go out without waiting for an answer.
    pub(super) async fn statement(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        // Updates of every mixture of columns may come: these are only kept to be quick.
        if self.statements.len() >= STATEMENTS {
            self.statements.retain(|sql, _| sql == FENCE || sql == STORE);
        }
        let statement = self.connected.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn prepared(&self, sql: &str) -> Result<&Statement, Meaning> {
        self.statements
            .get(sql)
            .ok_or_else(|| Meaning::Lane(LaneError::lost("not prepared")))
    }

    pub(super) fn client(&self) -> &Client {
        &self.connected.client
    }

    /// Begins a transaction, durable or not.
    pub(super) fn begin_sql(&self, durable: bool) -> String {
        let level = if durable { self.durable.as_str() } else { "off" };
        format!("BEGIN; SET LOCAL synchronous_commit = '{level}'")
    }

    /// Begins a transaction with rows of these targets, of which all have one source.
    pub(super) fn begin_write_sql(&self, targets: &[Target], maps: &[usize], durable: bool) -> String {
        let begin = self.begin_sql(durable);
        match maps.first().and_then(|map| targets.get(*map)) {
            Some(target) if self.marks => {
                let source = target.source.to_string().replace('\'', "''");
                format!("{begin}; SELECT pg_logical_emit_message(true, '{MARK}', '{source}')")
            }
            _ => begin,
        }
    }

    /// Raises epoch and token of these maps and reads their rows again, durably (rules 4 and 5).
    ///
    /// # Errors
    /// A row is missing or has a higher epoch, or the connection fails.
    pub async fn take(&mut self, maps: &[(&str, i64)]) -> Result<Vec<Progress>, LaneError> {
        let client = self.client();
        let sql = format!(
            "UPDATE tablemap.progress SET epoch = $2, token = token + 1 WHERE map_id = $1 AND epoch <= $2 RETURNING {COLUMNS}"
        );
        let mut taken = Vec::with_capacity(maps.len());
        let begin = self.begin_sql(true);
        let work = async {
            client.batch_execute(&begin).await?;
            let statement = client.prepare(&sql).await?;
            for (map, epoch) in maps {
                taken.push(client.query_opt(&statement, &[map, epoch]).await?);
            }
            Ok(())
        };
        within(self.deadline, work).await.map_err(lane)?;
        self.commit_alone().await?;
        let missing: Vec<String> = maps
            .iter()
            .zip(&taken)
            .filter(|(_, row)| row.is_none())
            .map(|((map, _), _)| (*map).to_owned())
            .collect();
        if !missing.is_empty() {
            return Err(LaneError::Fenced { maps: missing });
        }
        taken.iter().flatten().map(Progress::read).collect()
    }

    pub(super) async fn roll_back(&self) -> Result<(), Setback> {
        let rolled = within(self.deadline, self.client().batch_execute("ROLLBACK")).await;
        rolled.map_err(|error| Setback::Lane(lane(error)))
    }

    /// Locks the progress rows of these maps by epoch and token.
    pub(super) async fn fence(&self, targets: &[Target], maps: &[usize]) -> Result<(), Meaning> {
        let seated = || maps.iter().filter_map(|map| targets.get(*map));
        let ids: Vec<&str> = seated().map(|target| target.map_id.as_str()).collect();
        let epochs: Vec<i64> = seated().map(|target| target.epoch).collect();
        let tokens: Vec<i64> = seated().map(|target| target.progress.token).collect();
        let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        match self
            .client()
            .query(self.prepared(FENCE)?, &[&ids, &epochs, &tokens, &count])
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.code().is_some_and(|code| code.code() == "22012") => {
                let maps = ids.into_iter().map(ToOwned::to_owned).collect();
                Err(Meaning::Lane(LaneError::Fenced { maps }))
            }
            Err(error) => Err(meaning(&error)),
        }
    }

    /// Stores progress in the transaction that is open.
    pub(super) async fn store(&self, targets: &[Target], next: &[(usize, Progress)]) -> Result<(), Meaning> {
        let id = |map: &usize| targets.get(*map).map_or("", |target| target.map_id.as_str());
        let column = |get: fn(&Progress) -> u64| -> Vec<i64> {
            next.iter()
                .map(|(_, progress)| get(progress).cast_signed())
                .collect()
        };
        let ids: Vec<&str> = next.iter().map(|(map, _)| id(map)).collect();
        let positions: Vec<String> = next
            .iter()
            .map(|(_, progress)| progress.position.to_string())
            .collect();
        let last_park =
            |progress: &Progress| progress.last_park.map_or_else(String::new, |at| at.to_string());
        let last_parks: Vec<String> = next.iter().map(|(_, progress)| last_park(progress)).collect();
        let skipped: Vec<String> = next
            .iter()
            .map(|(_, progress)| progress.skipped.to_string())
            .collect();
        let stored = self
            .client()
            .execute(
                self.prepared(STORE)?,
                &[
                    &ids,
                    &positions,
                    &last_parks,
                    &column(|p| p.counters.received),
                    &column(|p| p.counters.filtered),
                    &column(|p| p.written),
                    &column(|p| p.missed),
                    &column(|p| p.parks),
                    &column(|p| p.superseded),
                    &column(|p| p.moved),
                    &column(|p| p.settled),
                    &column(|p| p.gone),
                    &column(|p| p.discarded),
                    &skipped,
                ],
            )
            .await;
        stored.map(|_| ()).map_err(|error| meaning(&error))
    }

    /// Commits. A warning of the server, or no answer, is not durable (rule 2): so it tells that the wait for a
    /// standby was cut short.
    pub(super) async fn commit(&mut self) -> Result<(), Meaning> {
        while self.connected.notices.try_recv().is_ok() {}
        let done = self.client().batch_execute("COMMIT").await;
        done.map_err(|error| meaning(&error))?;
        while let Ok(notice) = self.connected.notices.try_recv() {
            if notice.parsed_severity() == Some(Severity::Warning) {
                let what = "the commit was cut short by a warning of the server";
                return Err(Meaning::Lane(LaneError::lost(what)));
            }
        }
        Ok(())
    }

    /// The same, for what has nothing to do with records.
    pub(super) async fn commit_alone(&mut self) -> Result<(), LaneError> {
        match tokio::time::timeout(self.deadline, self.commit()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(meaning)) => Err(meaning.of_the_lane()),
            Err(_) => Err(LaneError::lost("no answer in time")),
        }
    }

    /// Makes earlier commits of this session durable: a small one that is.
    ///
    /// # Errors
    /// The connection fails, or a token was raised.
    pub async fn flush(&mut self, targets: &[Target], maps: &[usize]) -> Result<(), LaneError> {
        let next: Vec<(usize, Progress)> = maps
            .iter()
            .filter_map(|map| Some((*map, targets.get(*map)?.progress.clone())))
            .collect();
        self.store_alone(targets, &next).await
    }

    /// Stores how far idle maps are, durably.
    ///
    /// # Errors
    /// The connection fails, or a token was raised.
    pub async fn advance(&mut self, targets: &mut [Target], upto: &[Upto]) -> Result<(), LaneError> {
        let next = next_progress(targets, &[], upto);
        self.store_alone(targets, &next).await?;
        adopt(targets, next);
        Ok(())
    }

    async fn store_alone(&mut self, targets: &[Target], next: &[(usize, Progress)]) -> Result<(), LaneError> {
        let maps: Vec<usize> = next.iter().map(|(map, _)| *map).collect();
        let begin = self.begin_sql(true);
        let deadline = self.deadline;
        let work = async {
            self.client()
                .batch_execute(&begin)
                .await
                .map_err(|error| meaning(&error))?;
            self.fence(targets, &maps).await?;
            self.store(targets, next).await?;
            self.commit().await
        };
        let result = match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Meaning::Lane(LaneError::lost("no answer in time"))),
        };
        match result {
            Ok(()) => Ok(()),
            Err(meaning) => {
                let _ = self.roll_back().await;
                Err(meaning.of_the_lane())
            }
        }
    }
}

/// The progress after a batch in which every planned record is written, or given up.
pub(super) fn next_progress(
    targets: &[Target],
    planned: &[Planned<'_>],
    upto: &[Upto],
) -> Vec<(usize, Progress)> {
    let mut counts: HashMap<usize, (u64, HashMap<&Arc<str>, u64>)> = HashMap::new();
    for write in planned {
        let (written, skipped) = counts.entry(write.map).or_default();
        match &write.act {
            Act::Discarded { by } => *skipped.entry(by).or_default() += 1,
            _ => *written += 1,
        }
    }
    let next = upto.iter().filter_map(|upto| {
        let target = targets.get(upto.map)?;
        let count = counts.remove(&upto.map);
        if !planned.is_empty() && count.is_none() {
            return None;
        }
        let (written, skipped) = count.unwrap_or_default();
        let mut progress = Progress {
            position: upto.position.max(target.progress.position),
            counters: upto.counters,
            ..target.progress.clone()
        };
        progress.written += written;
        for (operation, count) in skipped {
            progress.discarded += count;
            progress.skipped.add(operation, count);
        }
        Some((upto.map, progress))
    });
    next.collect()
}

pub(super) fn adopt(targets: &mut [Target], next: Vec<(usize, Progress)>) {
    for (map, progress) in next {
        if let Some(target) = targets.get_mut(map) {
            target.progress = progress;
        }
    }
}

/// A deadline on a conversation with the server.
pub(super) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Option<tokio_postgres::Error>> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}

pub(super) fn lane(error: Option<tokio_postgres::Error>) -> LaneError {
    let Some(error) = error else {
        return LaneError::lost("no answer in time");
    };
    meaning(&error).of_the_lane()
}

fn refused_setup(error: Option<tokio_postgres::Error>) -> LaneError {
    let code = error
        .as_ref()
        .and_then(|error| error.code())
        .map(|code| code.code().to_owned());
    match code.as_deref() {
        Some("42501") => not_allowed(),
        Some("25006") => read_only(),
        _ => lane(error),
    }
}

fn not_allowed() -> LaneError {
    LaneError::Destination {
        class: crate::failure::Class::Unauthorized,
        reason: "ProgressNotAllowed",
        message: format!(
            "The destination user may not make the progress table. Let an administrator run: {} GRANT USAGE ON SCHEMA \
             tablemap TO <user>; GRANT SELECT, INSERT, UPDATE, DELETE ON tablemap.progress TO <user>;",
            super::progress::SCHEMA.replace('\n', " ")
        ),
    }
}

fn read_only() -> LaneError {
    LaneError::Destination {
        class: crate::failure::Class::Unavailable,
        reason: "ReadOnly",
        message: "The destination is read-only: name the primary in the Connection's hosts, or ALTER ROLE <user> SET \
                  default_transaction_read_only = off."
            .into(),
    }
}
