//! The proof that a destination followed its source: triggers log every change of a row on both sides, and the
//! two logs are then compared, key by key.
//!
//! For every key, what was written must be a part of what the source had, in the source's order (some states may
//! be left out, none may come back), and it must end as the source ended.

use futures::{Stream, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    iter::Peekable,
    pin::{Pin, pin},
};
use tokio_postgres::{Client, Row};

/// The log's SQL, the same on both sides but for its name.
///
/// The ids of one key are in the order of its commits: a trigger runs while its transaction has the row locked, and
/// the lock lasts until the commit. Where there is no row to lock, because one transaction deletes a key and another
/// inserts it again, the unique index makes the second wait for the first. So the key's index must be unique, and
/// not deferrable. A TRUNCATE is not logged.
///
/// The triggers fire for whoever writes: as an owner's functions they need no rights of the writer, and they are
/// ALWAYS on, for replication roles too. Their settings make a row look the same whatever the writer's settings are.
macro_rules! log_sql {
    ($schema:literal, $table:literal) => {
        concat!(
            "CREATE SCHEMA IF NOT EXISTS ",
            $schema,
            ";
            CREATE TABLE IF NOT EXISTS ",
            $table,
            " (
                id bigserial PRIMARY KEY,
                tbl text NOT NULL,
                key text NOT NULL,
                op char NOT NULL,
                row jsonb NOT NULL,
                at timestamptz NOT NULL DEFAULT clock_timestamp(),
                txid bigint NOT NULL DEFAULT txid_current()
            );
            -- The values of the key with | between them, so that no two keys look the same.
            CREATE OR REPLACE FUNCTION ",
            $schema,
            r".key_of(record jsonb, columns text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
                SELECT string_agg(coalesce(replace(replace(record->>c, '\', '\\'), '|', '\|'), '\N'), '|' ORDER BY n)
                FROM unnest(columns) WITH ORDINALITY AS u (c, n)
            $f$;
            -- Its arguments: the table's name, the columns to leave out (an array), and the key's columns.
            CREATE OR REPLACE FUNCTION ",
            $schema,
            ".log_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog SET timezone = 'UTC' SET intervalstyle = 'postgres'
            SET bytea_output = 'hex' SET extra_float_digits = 1 AS $f$
            DECLARE
                old_row jsonb;
                new_row jsonb;
                old_key text;
                new_key text;
            BEGIN
                IF TG_OP <> 'INSERT' THEN
                    old_row := to_jsonb(OLD) - TG_ARGV[1]::text[];
                    old_key := ",
            $schema,
            ".key_of(to_jsonb(OLD), TG_ARGV[2:]);
                END IF;
                IF TG_OP <> 'DELETE' THEN
                    new_row := to_jsonb(NEW) - TG_ARGV[1]::text[];
                    new_key := ",
            $schema,
            ".key_of(to_jsonb(NEW), TG_ARGV[2:]);
                END IF;
                IF old_key = new_key THEN
                    INSERT INTO ",
            $table,
            " (tbl, key, op, row) VALUES (TG_ARGV[0], new_key, 'U', new_row);
                    RETURN NULL;
                END IF;
                -- Another key is the end of one row and the beginning of another.
                IF old_key IS NOT NULL THEN
                    INSERT INTO ",
            $table,
            " (tbl, key, op, row) VALUES (TG_ARGV[0], old_key, 'D', old_row);
                END IF;
                IF new_key IS NOT NULL THEN
                    INSERT INTO ",
            $table,
            " (tbl, key, op, row) VALUES (TG_ARGV[0], new_key, 'I', new_row);
                END IF;
                RETURN NULL;
            END $f$;"
        )
    };
}

/// The log of changes at the source.
pub const AUDIT_SQL: &str = log_sql!("audit", "audit.changes");
/// The log of writes at the destination.
pub const WRITELOG_SQL: &str = log_sql!("writelog", "writelog.writes");

/// Logs every change of a source table from now on. The rows that it has already are logged as inserts.
///
/// `table` is the table's name as SQL has it; the same name must be used at the destination.
pub async fn install_audit(client: &Client, table: &str, key: &[&str], ignored: &[&str]) {
    let arguments = arguments(table, key, ignored);
    // Creating the trigger locks the table against writers until all of this is committed.
    let sql = format!(
        "BEGIN;
        {AUDIT_SQL}
        {}
        SET LOCAL timezone = 'UTC'; SET LOCAL intervalstyle = 'postgres';
        SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1;
        INSERT INTO audit.changes (tbl, key, op, row)
        SELECT {}, audit.key_of(to_jsonb(t), {}), 'I', to_jsonb(t) - {}::text[] FROM {table} AS t;
        COMMIT;",
        trigger("audit", table, &arguments),
        literal(table),
        array(key),
        array(ignored),
    );
    client.batch_execute(&sql).await.unwrap();
}

/// Logs every write to a destination table from now on. What it has already is not logged.
pub async fn install_writelog(client: &Client, table: &str, key: &[&str], ignored: &[&str]) {
    let trigger = trigger("writelog", table, &arguments(table, key, ignored));
    client
        .batch_execute(&format!("BEGIN; {WRITELOG_SQL} {trigger} COMMIT;"))
        .await
        .unwrap();
}

fn trigger(schema: &str, table: &str, arguments: &str) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {schema}_log ON {table};
        CREATE TRIGGER {schema}_log AFTER INSERT OR UPDATE OR DELETE ON {table}
        FOR EACH ROW EXECUTE FUNCTION {schema}.log_change({arguments});
        ALTER TABLE {table} ENABLE ALWAYS TRIGGER {schema}_log;"
    )
}

fn arguments(table: &str, key: &[&str], ignored: &[&str]) -> String {
    let quoted: Vec<_> = ignored
        .iter()
        .map(|c| format!("\"{}\"", c.replace('\\', r"\\").replace('"', "\\\"")))
        .collect();
    let ignored = format!("{{{}}}", quoted.join(","));
    [table, &ignored]
        .iter()
        .chain(key)
        .map(|argument| literal(argument))
        .collect::<Vec<_>>()
        .join(", ")
}

fn array(items: &[&str]) -> String {
    format!(
        "ARRAY[{}]::text[]",
        items
            .iter()
            .map(|item| literal(item))
            .collect::<Vec<_>>()
            .join(", ")
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    Delete,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    pub table: String,
    pub key: String,
    pub op: Op,
    /// The row as JSON; for a delete what it was before.
    pub row: String,
}

impl Entry {
    /// What the key's row is after it. An upsert may write an update as an insert, so the two are the same.
    fn state(&self) -> Option<&str> {
        (self.op != Op::Delete).then_some(&self.row)
    }

    fn name(&self) -> (&str, &str) {
        (&self.table, &self.key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// The source has the row, and nothing was ever written of it.
    Lost,
    /// A state was written that the source had only before the one written last.
    SteppedBack,
    /// The state that was written last was written once more, and the source had it once.
    Repeated,
    /// A state was written that the source never had.
    NeverAtSource,
    /// What was written last is not what the source had last.
    MissingEnd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub wrong: Wrong,
    pub table: String,
    pub key: String,
    /// The id of the change that the writes had reached; for a missing end that of the last change.
    pub source: Option<i64>,
    /// The id of the write in question.
    pub written: Option<i64>,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<i64>| id.map_or("none".to_owned(), |id| id.to_string());
        let (source, written) = (id(self.source), id(self.written));
        let Self {
            wrong,
            table,
            key,
            text,
            ..
        } = self;
        write!(
            f,
            "{wrong:?}: {table}, key {key}, change {source}, write {written}: {text}"
        )
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub keys: usize,
    pub changes: usize,
    pub writes: usize,
}

impl Summary {
    /// How many changes were not written one by one.
    pub fn skipped(&self) -> usize {
        self.changes.saturating_sub(self.writes)
    }
}

/// Compares the logs of one key after the other.
#[derive(Default)]
pub struct Comparer {
    summary: Summary,
    findings: Vec<Finding>,
}

impl Comparer {
    /// Compares two whole logs, each in the order of its ids.
    pub fn compare(
        source: impl IntoIterator<Item = Entry>,
        written: impl IntoIterator<Item = Entry>,
    ) -> Result<Summary, Vec<Finding>> {
        let mut keys: BTreeMap<(String, String), [Vec<Entry>; 2]> = BTreeMap::new();
        let all = source
            .into_iter()
            .map(|entry| (0, entry))
            .chain(written.into_iter().map(|entry| (1, entry)));
        for (side, entry) in all {
            keys.entry((entry.table.clone(), entry.key.clone())).or_default()[side].push(entry);
        }
        let mut comparer = Self::default();
        for [source, written] in keys.values() {
            comparer.key(source, written);
        }
        comparer.finish()
    }

    /// Compares what the two logs have of one key of one table.
    pub fn key(&mut self, source: &[Entry], written: &[Entry]) {
        self.summary.keys += 1;
        self.summary.changes += source.len();
        self.summary.writes += written.len();
        self.order(source, written);
        self.end(source, written);
    }

    pub fn finish(self) -> Result<Summary, Vec<Finding>> {
        if self.findings.is_empty() {
            Ok(self.summary)
        } else {
            Err(self.findings)
        }
    }

    /// Matches every write with the first change after the last match. If any match of all writes exists this finds
    /// one, also where states are equal: to take an earlier change never leaves less for the writes that follow.
    fn order(&mut self, source: &[Entry], written: &[Entry]) {
        let mut matched = 0;
        for (n, write) in written.iter().enumerate() {
            let same = |change: &Entry| change.state() == write.state();
            if let Some(found) = source[matched..].iter().position(same) {
                matched += found + 1;
                continue;
            }
            let reached = source[..matched].last();
            let (wrong, text) = match source[..matched]
                .iter()
                .rposition(same)
                .map(|earlier| &source[earlier])
            {
                None => (Wrong::NeverAtSource, format!("wrote {}", shown(write))),
                Some(_) if n > 0 && written[n - 1].state() == write.state() => {
                    (Wrong::Repeated, format!("wrote once more {}", shown(write)))
                }
                Some(earlier) => (
                    Wrong::SteppedBack,
                    format!("went back to change {}: {}", earlier.id, shown(write)),
                ),
            };
            self.find(wrong, reached, Some(write), text);
        }
    }

    fn end(&mut self, source: &[Entry], written: &[Entry]) {
        // Of a key that the source never had, every write is wrong already.
        let Some(last) = source.last() else { return };
        match written.last() {
            Some(write) if write.state() == last.state() => {}
            Some(write) => {
                let text = format!("ended with {} and not with {}", shown(write), shown(last));
                self.find(Wrong::MissingEnd, Some(last), Some(write), text);
            }
            // To delete a row that is not there fires no trigger, and is no write.
            None if last.op == Op::Delete => {}
            None => self.find(
                Wrong::Lost,
                Some(last),
                None,
                format!("never wrote {}", shown(last)),
            ),
        }
    }

    fn find(&mut self, wrong: Wrong, change: Option<&Entry>, write: Option<&Entry>, text: String) {
        let Some((table, key)) = write.or(change).map(Entry::name) else {
            return;
        };
        let (table, key) = (table.to_owned(), key.to_owned());
        let (source, written) = (change.map(|entry| entry.id), write.map(|entry| entry.id));
        self.findings.push(Finding {
            wrong,
            table,
            key,
            source,
            written,
            text,
        });
    }
}

fn shown(entry: &Entry) -> String {
    match entry.state() {
        Some(row) => row.chars().take(200).collect(),
        None => "a delete".to_owned(),
    }
}

/// Compares the logs of both databases, reading them as streams. It fails as well if the source has logged nothing
/// of one of the tables: a comparison of nothing would prove nothing.
pub async fn compare_databases(
    source: &Client,
    destination: &Client,
    tables: &[&str],
) -> Result<Summary, String> {
    let mut source = pin!(entries(source, "audit.changes", tables).await.peekable());
    let mut written = pin!(entries(destination, "writelog.writes", tables).await.peekable());
    let mut comparer = Comparer::default();
    let mut missing: BTreeSet<&str> = tables.iter().copied().collect();
    loop {
        let next = [peek(source.as_mut()).await, peek(written.as_mut()).await];
        let Some(name) = next.into_iter().flatten().min() else {
            break;
        };
        let changes = take(source.as_mut(), &name).await;
        if !changes.is_empty() {
            missing.remove(name.0.as_str());
        }
        comparer.key(&changes, &take(written.as_mut(), &name).await);
    }
    let summary = comparer.finish().map_err(|findings| report(&findings))?;
    if missing.is_empty() {
        Ok(summary)
    } else {
        Err(format!("the source logged no change of {missing:?}"))
    }
}

fn report(findings: &[Finding]) -> String {
    let mut counts: BTreeMap<Wrong, usize> = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.wrong).or_default() += 1;
    }
    let first: Vec<_> = findings.iter().take(20).map(ToString::to_string).collect();
    format!(
        "{} findings {counts:?}, the first of them:\n{}",
        findings.len(),
        first.join("\n")
    )
}

/// A log, key by key. Its order of keys is the one that strings have here.
async fn entries(client: &Client, log: &str, tables: &[&str]) -> impl Stream<Item = Entry> {
    let sql = format!(
        "SELECT id, tbl, key, op::text, row::text FROM {log} WHERE tbl = ANY ($1)
        ORDER BY tbl COLLATE \"C\", key COLLATE \"C\", id"
    );
    client
        .query_raw(&sql, [tables])
        .await
        .unwrap()
        .map(|row| entry(&row.unwrap()))
}

fn entry(row: &Row) -> Entry {
    let op = match row.get(3) {
        "I" => Op::Insert,
        "U" => Op::Update,
        "D" => Op::Delete,
        other => panic!("a log has the kind of change '{other}'"),
    };
    Entry {
        id: row.get(0),
        table: row.get(1),
        key: row.get(2),
        op,
        row: row.get(4),
    }
}

type Entries<'a, S> = Pin<&'a mut futures::stream::Peekable<S>>;

async fn peek<S: Stream<Item = Entry>>(entries: Entries<'_, S>) -> Option<(String, String)> {
    entries
        .peek()
        .await
        .map(|entry| (entry.table.clone(), entry.key.clone()))
}

/// The entries of one key, if the stream has come to it.
async fn take<S: Stream<Item = Entry>>(mut entries: Entries<'_, S>, name: &(String, String)) -> Vec<Entry> {
    let mut taken = Vec::new();
    while let Some(entry) = entries
        .as_mut()
        .next_if(|entry: &Entry| entry.name() == (name.0.as_str(), name.1.as_str()))
        .await
    {
        taken.push(entry);
    }
    taken
}

/// Panics, with the first keys that differ, if a table has not the same rows on both sides.
///
/// `table` may also be a query in brackets. `order_by` is the key: columns with a comma between them.
/// Both clients keep the settings that make rows look the same.
pub async fn assert_equal_tables(source: &Client, destination: &Client, table: &str, order_by: &str) {
    settle(source).await;
    settle(destination).await;
    let (one, two) = (digest(source, table).await, digest(destination, table).await);
    if one != two {
        let differing = differences(source, destination, table, order_by, 10).await;
        let (one, two) = (one.0, two.0);
        panic!(
            "{table}: {one} rows at the source, {two} at the destination:\n{}",
            differing.join("\n")
        );
    }
}

async fn settle(client: &Client) {
    let sql = "SET timezone = 'UTC'; SET intervalstyle = 'postgres';
        SET bytea_output = 'hex'; SET extra_float_digits = 1";
    client.batch_execute(sql).await.unwrap();
}

/// How many rows there are, and the sum of their hashes, which is the same in any order.
async fn digest(client: &Client, table: &str) -> (i64, String) {
    let sql = format!(
        "SELECT count(*), coalesce(sum(('x' || left(md5(to_jsonb(t)::text), 16))::bit(64)::bigint::numeric), 0)::text
        FROM {table} AS t"
    );
    let row = client.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn differences(a: &Client, b: &Client, table: &str, order_by: &str, most: usize) -> Vec<String> {
    let sql = format!("SELECT jsonb_build_array({order_by})::text, to_jsonb(t)::text FROM {table} AS t");
    let [mut one, mut two] = [rows(a, &sql).await, rows(b, &sql).await];
    let mut differing = Vec::new();
    while differing.len() < most {
        let Some(key) = [one.peek(), two.peek()]
            .into_iter()
            .flatten()
            .map(|row| row.0.clone())
            .min()
        else {
            break;
        };
        let [left, right] = [&mut one, &mut two].map(|rows| next_of(rows, &key));
        if left != right {
            differing.push(format!(
                "key {key}:\n  source      {left:?}\n  destination {right:?}"
            ));
        }
    }
    differing
}

type Rows = Peekable<std::vec::IntoIter<(String, String)>>;

async fn rows(client: &Client, sql: &str) -> Rows {
    let rows = client.query(sql, &[]).await.unwrap();
    let mut rows: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    rows.sort();
    rows.into_iter().peekable()
}

fn next_of(rows: &mut Rows, key: &str) -> Option<String> {
    rows.next_if(|row| row.0 == key).map(|row| row.1)
}
