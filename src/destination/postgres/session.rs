//! A lane's connection, and the choice among the three ways to write.

use super::{
    ErrorStore, Parents,
    batch::{Planned, bind, plan},
    error::{Aside, LaneError, Meaning, meaning},
    fast::coalesce,
    progress::{COLUMNS, Progress, Upto, ensure},
    sql::{FENCE, STORE},
    target::{Item, Target},
};
use crate::{
    connection::postgres::{Connected, Settings, connect},
    record::Position,
};
use std::{collections::HashMap, time::Duration};
use tokio_postgres::{Client, Statement};

/// A batch of this many conflicts in a row is a destination that does not get on.
const RETRIES: usize = 5;
/// A part of a batch that holds a refused record is made smaller until it has about so many, and then goes in order.
const SMALL: usize = 32;

/// One connection to a destination.
#[derive(Debug)]
pub struct Session {
    pub(super) connected: Connected,
    /// `synchronous_commit` at which a commit counts as durable (rule 2).
    durable: String,
    pub(super) statements: HashMap<String, Statement>,
    pub(super) deadline: Duration,
    /// Tables of this session, by the SQL that makes them.
    pub(super) staged: Vec<(String, String)>,
    pub(super) stages: usize,
}

/// What a batch has led to.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Maps that were left out, and why: nothing of them is committed beyond their progress.
    pub aside: Vec<(usize, Aside)>,
}

impl Written {
    /// Whether a map was left out.
    #[must_use]
    pub fn is_aside(&self, map: usize) -> bool {
        self.aside.iter().any(|(aside, _)| *aside == map)
    }
}

/// How an attempt at a batch failed.
pub(super) enum Setback {
    /// Not as it is: in source order.
    InOrder,
    Retry,
    Aside(usize, Aside),
    Lane(LaneError),
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
        let deadline = statement_timeout + Duration::from_secs(10);
        let mut session = Self {
            connected,
            durable: "on".into(),
            statements: HashMap::new(),
            deadline,
            staged: vec![],
            stages: 0,
        };
        session.prepare(lock_timeout, statement_timeout).await?;
        Ok(session)
    }

    async fn prepare(&mut self, lock: Duration, statement: Duration) -> Result<(), LaneError> {
        let sql = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}; SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, YMD'; \
             SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET standard_conforming_strings = on; \
             SET idle_in_transaction_session_timeout = 0",
            lock.as_millis(),
            statement.as_millis()
        );
        let client = &self.connected.client;
        let prepared = async {
            client.batch_execute(&sql).await?;
            let level = client
                .query_one("SELECT current_setting('synchronous_commit')", &[])
                .await?;
            client.batch_execute("SET synchronous_commit = off").await?;
            ensure(client).await?;
            Ok::<String, tokio_postgres::Error>(level.get(0))
        };
        let level = within(self.deadline, prepared).await.map_err(refused_setup)?;
        for sql in [FENCE, STORE] {
            self.statement(sql).await.map_err(|error| lane(Some(error)))?;
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

    /// Raises epoch and token of these maps and reads their rows again, durably (rules 4 and 5).
    ///
    /// # Errors
    /// A row is missing or has a higher epoch, or the connection fails.
    pub async fn take(&self, maps: &[(&str, i64)]) -> Result<Vec<Progress>, LaneError> {
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
            client.batch_execute("COMMIT").await
        };
        within(self.deadline, work).await.map_err(lane)?;
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

    /// Writes a batch: fast if it can be, in order if it must be. On success every item but those of maps that were
    /// set aside is committed, and `targets` hold the new progress.
    ///
    /// # Errors
    /// Nothing of the batch is committed; or, with `Lost`, it is not known.
    pub async fn write(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        upto: &[Upto],
        durable: bool,
        store: &dyn ErrorStore,
        parents: &dyn Parents,
    ) -> Result<Written, LaneError> {
        let mut written = Written::default();
        let mut items: Vec<&Item> = items.to_vec();
        // An earlier try may have committed a part before it failed (I4).
        let is_new = |item: &&Item| {
            targets
                .get(item.map)
                .is_none_or(|target| item.change.position > target.progress.position)
        };
        items.retain(is_new);
        let mut retries = 0;
        let mut in_order = false;
        let mut reach = items.len();
        while !items.is_empty() {
            let part = &items[..cut(&items, reach)];
            let is_rest = part.len() == items.len();
            let is_one = part.len() <= SMALL || is_one_transaction(part);
            let own_ends;
            let ends = if is_rest {
                upto
            } else {
                own_ends = last_of(part);
                &own_ends
            };
            let bindings = bind(targets, part);
            let planned = plan(part, &bindings);
            let attempt = if in_order {
                self.write_in_order(targets, part, &planned, ends, store, parents)
                    .await
            } else {
                self.write_fast(targets, &planned, ends, durable && is_rest).await
            };
            match attempt {
                Ok(()) if is_rest => break,
                Ok(()) => {
                    let count = part.len();
                    items.drain(..count);
                    reach = count.saturating_mul(2);
                    in_order = false;
                    continue;
                }
                Err(Setback::InOrder) if is_one => (in_order, reach) = (true, part.len()),
                // Most of a batch has nothing to do with the record that is refused.
                Err(Setback::InOrder) => reach = part.len() / 4,
                Err(Setback::Retry) if retries < RETRIES => retries += 1,
                Err(Setback::Retry) => return Err(LaneError::lost("too many conflicts with other writers")),
                Err(Setback::Lane(error)) => return Err(error),
                Err(Setback::Aside(map, aside)) => written.aside.push((map, aside)),
            }
            let has = |item: &&Item| {
                targets
                    .get(item.map)
                    .map_or(Position::ZERO, |target| target.progress.position)
            };
            items.retain(|item| !written.is_aside(item.map) && item.change.position > has(item));
        }
        Ok(written)
    }

    /// Tries the fast way.
    async fn write_fast(
        &mut self,
        targets: &mut [Target],
        planned: &[Planned<'_>],
        upto: &[Upto],
        durable: bool,
    ) -> Result<(), Setback> {
        let Some(coalesced) = coalesce(planned, targets) else {
            return Err(Setback::InOrder);
        };
        let next = next_progress(targets, planned, upto);
        let deadline = self.deadline;
        let attempt = self.fast_transaction(targets, &coalesced, &next, durable);
        let result = match tokio::time::timeout(deadline, attempt).await {
            Ok(result) => result,
            Err(_) => Err((None, Meaning::Lane(LaneError::lost("no answer in time")))),
        };
        match result {
            Ok(()) => {
                adopt(targets, next);
                Ok(())
            }
            Err((map, meaning)) => {
                self.roll_back().await?;
                Err(setback(map, meaning))
            }
        }
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
        let (received, filtered) = (column(|p| p.counters.received), column(|p| p.counters.filtered));
        let (written, missed) = (column(|p| p.written), column(|p| p.missed));
        let (parks, superseded) = (column(|p| p.parks), column(|p| p.superseded));
        let stored = self
            .client()
            .execute(
                self.prepared(STORE)?,
                &[
                    &ids,
                    &positions,
                    &received,
                    &filtered,
                    &written,
                    &missed,
                    &parks,
                    &superseded,
                ],
            )
            .await;
        stored.map(|_| ()).map_err(|error| meaning(&error))
    }

    /// Commits. A warning of the server, or no answer, is not durable (rule 2).
    pub(super) async fn commit(&mut self) -> Result<(), Meaning> {
        while self.connected.notices.try_recv().is_ok() {}
        let done = self
            .client()
            .batch_execute("COMMIT")
            .await
            .map_err(|error| meaning(&error));
        done?;
        match self.connected.notices.try_recv() {
            Ok(notice) if notice.severity() == "WARNING" => Err(Meaning::Lane(LaneError::lost(
                "the commit was cut short by a warning of the server",
            ))),
            _ => Ok(()),
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
                Err(match meaning {
                    Meaning::Lane(error) => error,
                    _ => LaneError::lost("the progress could not be stored"),
                })
            }
        }
    }
}

/// Where to end a part of about `reach` items: between two source transactions.
fn cut(items: &[&Item], reach: usize) -> usize {
    if reach >= items.len() {
        return items.len();
    }
    let commit = |index: usize| items.get(index).map(|item| item.change.position.commit);
    let is_between = |index: &usize| commit(index - 1) != commit(*index);
    let before = (1..=reach).rev().find(is_between);
    let after = || (reach + 1..items.len()).find(is_between);
    before.or_else(after).unwrap_or(items.len())
}

fn is_one_transaction(items: &[&Item]) -> bool {
    let commit = |item: Option<&&Item>| item.map(|item| item.change.position.commit);
    commit(items.first()) == commit(items.last())
}

/// How far each map is after these items: at its last one.
#[must_use]
pub fn last_of(items: &[&Item]) -> Vec<Upto> {
    let mut ends: Vec<Upto> = Vec::new();
    for item in items {
        let end = Upto {
            map: item.map,
            position: item.change.position,
            counters: item.counters,
        };
        match ends.iter_mut().find(|known| known.map == item.map) {
            Some(known) => *known = end,
            None => ends.push(end),
        }
    }
    ends
}

/// The progress after a batch in which every planned record is written.
pub(super) fn next_progress(
    targets: &[Target],
    planned: &[Planned<'_>],
    upto: &[Upto],
) -> Vec<(usize, Progress)> {
    let next = upto.iter().filter_map(|upto| {
        let target = targets.get(upto.map)?;
        let written = planned.iter().filter(|write| write.map == upto.map).count() as u64;
        let progress = Progress {
            position: upto.position.max(target.progress.position),
            counters: upto.counters,
            written: target.progress.written + written,
            ..target.progress.clone()
        };
        Some((upto.map, progress))
    });
    next.filter(|(map, _)| planned.is_empty() || planned.iter().any(|write| write.map == *map))
        .collect()
}

pub(super) fn adopt(targets: &mut [Target], next: Vec<(usize, Progress)>) {
    for (map, progress) in next {
        if let Some(target) = targets.get_mut(map) {
            target.progress = progress;
        }
    }
}

pub(super) fn setback(map: Option<usize>, meaning: Meaning) -> Setback {
    match (meaning, map) {
        (Meaning::Record(_) | Meaning::Surprise, _) => Setback::InOrder,
        (Meaning::Retry, _) => Setback::Retry,
        (Meaning::Aside(aside), Some(map)) => Setback::Aside(map, aside),
        (Meaning::Aside(aside), None) => Setback::Lane(LaneError::lost(aside.to_string())),
        (Meaning::Lane(error), _) => Setback::Lane(error),
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
    match meaning(&error) {
        Meaning::Lane(error) => error,
        Meaning::Aside(aside) => LaneError::Destination {
            class: crate::failure::Class::Schema,
            reason: aside.reason(),
            message: aside.to_string(),
        },
        Meaning::Record(_) | Meaning::Retry | Meaning::Surprise => LaneError::lost("refused"),
    }
}

fn refused_setup(error: Option<tokio_postgres::Error>) -> LaneError {
    let code = error
        .as_ref()
        .and_then(|error| error.code())
        .map(|code| code.code().to_owned());
    match code.as_deref() {
        Some("42501") => LaneError::Destination {
            class: crate::failure::Class::Unauthorized,
            reason: "ProgressNotAllowed",
            message: format!(
                "The destination user may not make the progress table. Let an administrator run: {} GRANT USAGE ON \
                 SCHEMA tablemap TO <user>; GRANT SELECT, INSERT, UPDATE, DELETE ON tablemap.progress TO <user>;",
                super::progress::SCHEMA.replace('\n', " ")
            ),
        },
        Some("25006") => LaneError::Destination {
            class: crate::failure::Class::Unavailable,
            reason: "ReadOnly",
            message: "The destination is read-only: a standby, or default_transaction_read_only is on."
                .into(),
        },
        _ => lane(error),
    }
}
