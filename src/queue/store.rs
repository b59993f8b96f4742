//! A map's queue and error store in Redis. Each call has a deadline; none is tried again by itself.

use super::{
    Account, Beginning, ErrorSummary, Header, Keys, Meta, QueueError, blob,
    scripts::{
        ADVANCE, APPEND, BEGIN, DROP_ALL, DROP_PROVISIONAL, FENCED, FINISH_JOIN, JOIN, MARK, PARK,
        RENAME_DESTINATION, TAKE_EPOCH, TRIM,
    },
};
use crate::{
    connection::redis::{self as servers, Durability, Link, RedisConnectError, Settings},
    record::{Counters, Mark, Origin, ParkedKey, ParkedRecord, Position},
};
use bytes::Bytes;
use redis::{FromRedisValue, Script, ScriptInvocation};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

/// The handle of one map's queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    link: Link,
    keys: Arc<Keys>,
    name: Arc<str>,
    epoch: i64,
}

/// One entry of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: u64,
    pub header: Header,
    pub bytes: Bytes,
}

impl Queue {
    /// Connects to the server that has the map's keys. `name` begins the ids of parked records.
    ///
    /// # Errors
    /// A sentence fit for a condition, without secrets.
    pub async fn connect(
        settings: &Settings,
        namespace: &str,
        queue_id: &str,
        name: &str,
    ) -> Result<Self, RedisConnectError> {
        let keys = Keys::new(namespace, queue_id);
        Ok(Self {
            link: servers::connect(settings, &keys.epoch).await?,
            keys: Arc::new(keys),
            name: name.into(),
            epoch: 0,
        })
    }

    /// How durable the queue's Redis is.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn durability(&self) -> Result<Durability, QueueError> {
        self.link.durability().await
    }

    /// How Redis is reached from now on.
    pub fn reach(&self, settings: &Settings) {
        self.link.reach(settings);
    }

    pub(super) fn invoke<'a>(&'a self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut invocation = script.prepare_invoke();
        invocation
            .key(&self.keys.epoch)
            .key(&self.keys.meta)
            .key(&self.keys.stream)
            .key(&self.keys.errors)
            .arg(self.epoch);
        invocation
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, QueueError> {
        self.link.run(invocation).await
    }

    pub(super) async fn account(&self, invocation: &ScriptInvocation<'_>) -> Result<Account, QueueError> {
        let fields: Vec<Option<String>> = self.run(invocation).await?;
        Account::read(&fields)
    }

    /// The epoch in Redis, if the map has ever joined.
    ///
    /// # Errors
    /// Redis cannot be asked.
    pub async fn seen_epoch(&self) -> Result<Option<i64>, QueueError> {
        self.link.query(redis::cmd("GET").arg(&self.keys.epoch)).await
    }

    /// Makes epoch and position of a map that joins; what an unfinished join left is replaced.
    ///
    /// # Errors
    /// The map has joined already, or Redis fails.
    pub async fn join(&self, beginning: &Beginning, epoch: i64) -> Result<(), QueueError> {
        let mut join = JOIN.prepare_invoke();
        join.key(&self.keys.epoch)
            .key(&self.keys.meta)
            .key(&self.keys.stream)
            .key(&self.keys.errors);
        join.arg(epoch)
            .arg(beginning.era.to_string())
            .arg(beginning.first.to_string())
            .arg(beginning.table)
            .arg(beginning.source.to_string())
            .arg(beginning.destination.to_string())
            .arg(&beginning.serves);
        self.run(&join).await
    }

    /// The join is complete: from now on a missing position is a lost one.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn finish_join(&self) -> Result<(), QueueError> {
        self.run(&self.invoke(&FINISH_JOIN)).await
    }

    /// Raises the epoch in Redis to `epoch`, and uses it from now on (rule 4). It must be the one that was seen before,
    /// so that of two workers only one takes the map over; or, to take it again after Redis went back, none higher.
    ///
    /// # Errors
    /// Another one is there, none is there, or Redis fails.
    pub async fn take_epoch(&mut self, epoch: i64, seen: Option<i64>) -> Result<(), QueueError> {
        self.epoch = epoch;
        let seen = seen.map_or_else(String::new, |seen| seen.to_string());
        self.run(self.invoke(&TAKE_EPOCH).arg(seen)).await
    }

    /// Uses an epoch without asking Redis: for a map that is about to join.
    pub fn use_epoch(&mut self, epoch: i64) {
        self.epoch = epoch;
    }

    /// Position and epoch, in one round trip. None: the position is missing.
    ///
    /// # Errors
    /// The epoch is missing, or Redis fails.
    pub async fn meta(&self) -> Result<Option<Meta>, QueueError> {
        let mut both = redis::pipe();
        both.cmd("GET")
            .arg(&self.keys.epoch)
            .cmd("HGETALL")
            .arg(&self.keys.meta);
        let (epoch, fields): (Option<i64>, HashMap<String, String>) = self.link.pipe(&both).await?;
        match (epoch, fields.is_empty()) {
            (_, true) => Ok(None),
            (None, false) => Err(QueueError::EpochMissing),
            (Some(epoch), false) => Ok(Some(Meta::read(epoch, &fields)?)),
        }
    }

    /// Position and epoch, as [`Queue::meta`]; and up to when what was written would outlive a failover of Redis, unless
    /// that is not known now.
    ///
    /// # Errors
    /// As [`Queue::meta`].
    pub async fn read_back(&self) -> Result<(Option<Meta>, Option<Instant>), QueueError> {
        // What was read is older than what the replicas are asked about, and from the same server.
        let opened = self.link.opened().await;
        let meta = self.meta().await?;
        Ok((meta, self.link.kept(opened).await.unwrap_or_default()))
    }

    /// Leaving Direct: everything at or below `t` is at the destination; custody begins at `q`. Without counters those of
    /// before are not known, and it counts from here.
    ///
    /// # Errors
    /// The queue is not empty, another epoch, or Redis fails.
    pub async fn begin(
        &self,
        t: Position,
        q: Position,
        counters: Option<Counters>,
    ) -> Result<Account, QueueError> {
        let unbased = counters.is_none();
        let counters = counters.unwrap_or_default();
        let mut begin = self.invoke(&BEGIN);
        begin
            .arg(t.to_string())
            .arg(q.to_string())
            .arg(counters.received)
            .arg(counters.filtered)
            .arg(u8::from(unbased));
        self.account(&begin).await
    }

    /// Appends an entry that [`super::encode`] made.
    ///
    /// # Errors
    /// Another predecessor or epoch, a full Redis, or Redis fails; then nothing was written, but for a lost reply.
    pub async fn append(&self, entry: Vec<u8>) -> Result<Account, QueueError> {
        let entry = Bytes::from(entry);
        let header = Header::split_from(&mut entry.clone())?;
        let mut append = self.invoke(&APPEND);
        append
            .arg(header.meta.previous.to_string())
            .arg(header.last.to_string())
            .arg(header.count)
            .arg(header.meta.counters.received)
            .arg(header.meta.counters.filtered)
            .arg(header.oldest)
            .arg(&entry[..]);
        drop(entry);
        self.account(&append).await
    }

    /// Moves custody over a stretch without records for this map. `rebased` says that the counters hold what was counted
    /// before the queue began.
    ///
    /// # Errors
    /// Another predecessor or epoch, or Redis fails.
    pub async fn advance(
        &self,
        previous: Position,
        to: Position,
        counters: Counters,
        rebased: bool,
    ) -> Result<Account, QueueError> {
        let mut advance = self.invoke(&ADVANCE);
        advance
            .arg(previous.to_string())
            .arg(to.to_string())
            .arg(counters.received)
            .arg(counters.filtered)
            .arg(u8::from(rebased));
        self.account(&advance).await
    }

    /// Reads entries after `seq`, oldest first.
    ///
    /// # Errors
    /// Redis fails, or an entry cannot be read.
    pub async fn read(&self, seq: u64, most: usize) -> Result<Vec<Entry>, QueueError> {
        let mut range = redis::cmd("XRANGE");
        range
            .arg(&self.keys.stream)
            .arg(format!("{}-0", seq + 1))
            .arg("+")
            .arg("COUNT")
            .arg(most);
        let found: Vec<(String, Vec<Bytes>)> = self.link.query(&range).await?;
        found.into_iter().map(entry).collect()
    }

    /// Removes the entries up to `seq`, whose last record is at `t`, which the destination has flushed (rule 2).
    /// `oldest` is the commit time of the first record that stays, in microseconds, where it is known.
    ///
    /// # Errors
    /// The entry ends elsewhere, since Redis went back meanwhile; another epoch; or Redis fails.
    pub async fn trim(&self, seq: u64, t: Position, oldest: Option<i64>) -> Result<Account, QueueError> {
        let oldest = oldest.map_or_else(String::new, |oldest| oldest.to_string());
        let mut trim = self.invoke(&TRIM);
        trim.arg(seq)
            .arg(t.to_string())
            .arg(oldest)
            .arg(Header::beginning(t));
        self.account(&trim).await
    }

    /// Remembers that the destination is fenced with this token.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn set_fenced(&self, token: i64) -> Result<(), QueueError> {
        self.run(self.invoke(&FENCED).arg(token)).await
    }

    /// Forgets the fence: the gate is about to open.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn clear_fenced(&self) -> Result<(), QueueError> {
        self.run(self.invoke(&FENCED).arg("")).await
    }

    /// The destination is another database than before.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn rename_destination(&self, destination: &Origin) -> Result<(), QueueError> {
        let mut rename = self.invoke(&RENAME_DESTINATION);
        self.run(rename.arg(destination.to_string())).await
    }

    /// Parks records; returns their ids.
    ///
    /// # Errors
    /// Another epoch, a full Redis, or Redis fails.
    pub async fn park(&self, records: &[ParkedRecord]) -> Result<Vec<String>, QueueError> {
        let mut park = self.invoke(&PARK);
        park.arg(&*self.name);
        for record in records {
            let blob = blob::write(record).map_err(|error| QueueError::Blob(error.to_string()))?;
            park.arg(record.change.position.to_string()).arg(blob);
        }
        self.run(&park).await
    }

    /// Marks parked records as replaced; each mark holds once the destination has the replacing record (rule 3).
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn mark(&self, marks: &[Mark]) -> Result<(), QueueError> {
        let mut script = self.invoke(&MARK);
        for mark in marks {
            let (kind, parked, by) = match mark {
                Mark::Superseded { parked, by } => ("s", parked, by),
                Mark::Moved { parked, by } => ("m", parked, by),
            };
            script.arg(kind).arg(parked.to_string()).arg(by.to_string());
        }
        self.run(&script).await
    }

    /// Removes what was parked or marked beyond what the destination has, since it will come again (rule 3); and reads
    /// the keys of what waits.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn settle_errors(&self, has: Position) -> Result<Vec<ParkedKey>, QueueError> {
        let () = self
            .run(self.invoke(&DROP_PROVISIONAL).arg(has.to_string()))
            .await?;
        let waiting = self.errors().await?.into_iter();
        let waiting = waiting.filter(|record| record.superseded_by.is_none());
        Ok(waiting.map(ParkedKey::of).collect())
    }

    /// Whether a record is parked beyond `position`.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn has_errors_beyond(&self, position: Position) -> Result<bool, QueueError> {
        let fields: Vec<String> = self
            .link
            .query(redis::cmd("HKEYS").arg(&self.keys.errors))
            .await?;
        let mut parked = fields.iter().filter_map(|field| field.strip_prefix("r:"));
        Ok(parked.any(|at| at > position.to_string().as_str()))
    }

    /// Every parked record, in the order of their positions.
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn errors(&self) -> Result<Vec<ParkedRecord>, QueueError> {
        let fields: HashMap<String, Bytes> = self
            .link
            .query(redis::cmd("HGETALL").arg(&self.keys.errors))
            .await?;
        let mut ids = BTreeMap::new();
        let (mut marks, mut moves) = (HashMap::new(), HashMap::new());
        let mut blobs = BTreeMap::new();
        for (field, value) in fields {
            let text = || String::from_utf8_lossy(&value).into_owned();
            match field.split_once(':') {
                Some(("id", position)) => drop(ids.insert(position.to_owned(), text())),
                Some(("s", position)) => drop(marks.insert(position.to_owned(), text())),
                Some(("m", position)) => drop(moves.insert(position.to_owned(), text())),
                Some(("r", position)) => drop(blobs.insert(position.to_owned(), value)),
                _ => {}
            }
        }
        let records = blobs.into_iter().map(|(position, blob)| {
            let id = ids.get(&position).cloned().unwrap_or_default();
            let mut record = blob::read(id, &blob).map_err(QueueError::Blob)?;
            record.superseded_by = marks.get(&position).and_then(|by| by.parse().ok());
            record.moved_by = moves.get(&position).and_then(|by| by.parse().ok());
            Ok(record)
        });
        records.collect()
    }

    /// The errors that wait, counted. What lies beyond `has`, as marks that name a position beyond it, is provisional
    /// and not shown (rule 3).
    ///
    /// # Errors
    /// As [`Queue::errors`].
    pub async fn error_summary(&self, has: Position) -> Result<ErrorSummary, QueueError> {
        Ok(ErrorSummary::of(&self.errors().await?, has))
    }

    /// Removes every key of the map.
    ///
    /// # Errors
    /// Another epoch, or Redis fails. A map that has no keys has nothing to remove.
    pub async fn drop_all(&self) -> Result<(), QueueError> {
        match self.run(&self.invoke(&DROP_ALL)).await {
            Err(QueueError::EpochMissing) => Ok(()),
            other => other,
        }
    }
}

fn entry((id, fields): (String, Vec<Bytes>)) -> Result<Entry, QueueError> {
    let bytes = fields
        .get(1)
        .cloned()
        .ok_or(super::BatchError::Invalid("entry"))?;
    let seq = id.split('-').next().and_then(|seq| seq.parse().ok());
    let seq = seq.ok_or(super::BatchError::Invalid("id"))?;
    let header = Header::split_from(&mut bytes.clone())?;
    Ok(Entry { seq, header, bytes })
}
