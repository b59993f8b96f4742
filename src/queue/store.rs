//! A map's queue and error store in Redis. Each call has a deadline; none is tried again by itself.

use super::{
    Account, Beginning, Header, Keys, Meta, Packed, QueueError,
    scripts::{
        ADVANCE, APPEND, BASE, BEGIN, DROP_ALL, FENCED, FINISH_JOIN, JOIN, RENAME_DESTINATION, RULES,
        TAKE_EPOCH, TRIM, UNPUBLISHED,
    },
};
use crate::{
    connection::redis::{self as servers, Durability, Link, RedisConnectError, Settings},
    record::{Counters, Origin, Position},
};
use bytes::Bytes;
use redis::{FromRedisValue, Script, ScriptInvocation};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// The handle of one map's queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(super) link: Link,
    pub(super) keys: Arc<Keys>,
    pub(super) name: Arc<str>,
    epoch: i64,
}

/// How a queue that begins counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// It goes on from where it was.
    GoOn,
    /// From these, which hold all that was counted before.
    At(Counters),
    /// From nothing: what was counted before only the destination knows, and it cannot be asked now.
    Unknown,
}

/// One entry of the stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: u64,
    /// So many records were appended before it.
    pub before: u64,
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
        let mut invocation = self.with_keys(script);
        invocation.arg(self.epoch);
        invocation
    }

    fn with_keys<'a>(&'a self, script: &'a Script) -> ScriptInvocation<'a> {
        let keys = &self.keys;
        let mut invocation = script.prepare_invoke();
        let all = [
            &keys.epoch,
            &keys.meta,
            &keys.stream,
            &keys.errors,
            &keys.filters,
            &keys.packs,
        ];
        for key in all {
            invocation.key(key);
        }
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
        let mut join = self.with_keys(&JOIN);
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

    /// Leaving Direct: everything at or below `t` is at the destination; custody begins at `q`, and ended at `previous`.
    ///
    /// # Errors
    /// The queue is not empty or ends elsewhere, another epoch, or Redis fails.
    pub async fn begin(
        &self,
        previous: Position,
        t: Position,
        q: Position,
        counts: Counts,
    ) -> Result<Account, QueueError> {
        let mut begin = self.invoke(&BEGIN);
        begin
            .arg(previous.to_string())
            .arg(t.to_string())
            .arg(q.to_string());
        match counts {
            Counts::GoOn => begin.arg("").arg("").arg(0),
            Counts::At(counters) => begin.arg(counters.received).arg(counters.filtered).arg(0),
            Counts::Unknown => begin.arg(0).arg(0).arg(1),
        };
        self.account(&begin).await
    }

    /// Appends entries that [`super::encode`] made, each of which names the one before it: all of them, or none.
    /// `is_based` says that their counters were told apart from what was counted before the queue began.
    ///
    /// # Errors
    /// Another predecessor, what was counted before is not known any more, or epoch, a full Redis, or Redis fails; then
    /// nothing was written, but for a lost reply.
    pub async fn append(&self, entries: &[Packed], is_based: bool) -> Result<Account, QueueError> {
        let mut append = self.invoke(&APPEND);
        for (index, Packed { entry, filter }) in entries.iter().enumerate() {
            let header = Header::split_from(&mut entry.clone())?;
            if index == 0 {
                append
                    .arg(header.meta.previous.to_string())
                    .arg(u8::from(is_based));
            }
            append
                .arg(header.last.to_string())
                .arg(header.count)
                .arg(header.meta.counters.received)
                .arg(header.meta.counters.filtered)
                .arg(header.oldest)
                .arg(&entry[..])
                .arg(filter);
        }
        self.account(&append).await
    }

    /// Moves custody over a stretch without records for this map. `counters` are those since the queue began, as its
    /// entries carry them; `is_based` as in [`Queue::append`].
    ///
    /// # Errors
    /// Another predecessor or epoch, or Redis fails.
    pub async fn advance(
        &self,
        previous: Position,
        to: Position,
        counters: Counters,
        is_based: bool,
    ) -> Result<Account, QueueError> {
        let mut advance = self.invoke(&ADVANCE);
        advance
            .arg(previous.to_string())
            .arg(u8::from(is_based))
            .arg(to.to_string())
            .arg(counters.received)
            .arg(counters.filtered);
        self.account(&advance).await
    }

    /// Stores what was counted before the queue began, which begins beyond `t`, unless that is known (I5).
    ///
    /// # Errors
    /// It begins elsewhere, another epoch, or Redis fails.
    pub async fn set_base(&self, t: Position, base: Counters) -> Result<Account, QueueError> {
        let mut set = self.invoke(&BASE);
        set.arg(t.to_string()).arg(base.received).arg(base.filtered);
        self.account(&set).await
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
    /// `oldest` is the commit time of the first record that stays, in microseconds, where it is known. `counted` is what the
    /// entry carries: needed as long as it is not known what was counted before the queue began (I5).
    ///
    /// # Errors
    /// The entry ends elsewhere, since Redis went back meanwhile; another epoch; or Redis fails.
    pub async fn trim(
        &self,
        seq: u64,
        t: Position,
        oldest: Option<i64>,
        counted: Option<Counters>,
    ) -> Result<Account, QueueError> {
        let oldest = oldest.map_or_else(String::new, |oldest| oldest.to_string());
        let mut trim = self.invoke(&TRIM);
        trim.arg(seq).arg(t.to_string()).arg(oldest).arg(Header::place(t));
        match counted {
            Some(counted) => trim.arg(counted.received).arg(counted.filtered),
            None => trim.arg("").arg(""),
        };
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

    /// Remembers how the map's rules stand: a pause that one of them has begun acts only then.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn set_rules(&self, rules: &str) -> Result<(), QueueError> {
        self.run(self.invoke(&RULES).arg(rules)).await
    }

    /// Remembers that the source table has left the publication: what changes until the gap is accepted is missing.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn set_unpublished(&self) -> Result<(), QueueError> {
        self.run(&self.invoke(&UNPUBLISHED)).await
    }

    /// The destination is another database than before.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn rename_destination(&self, destination: &Origin) -> Result<(), QueueError> {
        let mut rename = self.invoke(&RENAME_DESTINATION);
        self.run(rename.arg(destination.to_string())).await
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

pub(super) fn entry((id, fields): (String, Vec<Bytes>)) -> Result<Entry, QueueError> {
    let bytes = fields
        .get(1)
        .cloned()
        .ok_or(super::BatchError::Invalid("entry"))?;
    let seq = id.split('-').next().and_then(|seq| seq.parse().ok());
    let seq = seq.ok_or(super::BatchError::Invalid("id"))?;
    let before = fields
        .get(3)
        .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let header = Header::split_from(&mut bytes.clone())?;
    Ok(Entry {
        seq,
        before: before.unwrap_or_default(),
        header,
        bytes,
    })
}
