//! Records that wait in a map's queue, read from its stream as it is at this moment.

use super::{
    answer::{Known, Origin, Part, Place, SEARCH, Source},
    fault::Fault,
    object::{Key, Object, QueuedRecord},
    request::List,
    store::Opened,
};
use crate::{
    clock,
    mapping::{ChangeKeys, KeyReader},
    queue::{Entry, QueuedName, Sought, decode, queued_name},
    record::Change,
};
use std::time::Instant;

impl Source for QueuedRecord {
    async fn list(
        opened: &Opened,
        known: Known,
        list: &List,
        limit: usize,
        after: Place,
    ) -> Result<Part<Self>, Fault> {
        let until = Instant::now() + SEARCH;
        let key = list.selector.only("key");
        let mut part = Part::after(after);
        let mut seq = first_entry(opened, after).await?;
        let mut keys = KeyReader::new(&opened.plan.mapping);
        loop {
            let entry = match next(opened, key, seq, until).await? {
                Next::Entry(entry) => entry,
                Next::Late(upto) => {
                    part.more = true;
                    // A page goes on by position: the entry tells which it has come to.
                    if let Some(entry) = opened.queue.last_up_to(upto).await? {
                        part.end = Place {
                            position: entry.header.last.max(part.end.position),
                            seq: upto + 1,
                        };
                    }
                    return Ok(part);
                }
                Next::End => return Ok(part),
            };
            seq = entry.seq;
            let reached = entry.header.last;
            let before = entry.before;
            for (index, change) in changes(&entry)?.into_iter().enumerate() {
                let is_past = change.position <= after.position;
                let is_written = known.sure && change.position <= known.has.position;
                if is_past || is_written {
                    continue;
                }
                let of = keys.keys(&change);
                if key.is_some_and(|key| !of.as_ref().is_some_and(|of| is_of(of, key))) {
                    continue;
                }
                let position = change.position;
                let object = object(opened, &entry, &change, of);
                if !list.selector.takes(&object) {
                    continue;
                }
                if part.objects.len() == limit {
                    part.more = true;
                    part.remaining = opened
                        .queue
                        .appended()
                        .await?
                        .saturating_sub(before + index as u64);
                    return Ok(part);
                }
                part.objects.push(object);
                part.end = Place {
                    position,
                    seq: entry.seq,
                };
            }
            if Instant::now() >= until {
                part.more = true;
                part.end = Place {
                    position: reached.max(part.end.position),
                    seq: entry.seq + 1,
                };
                return Ok(part);
            }
        }
    }

    async fn get(opened: &Opened, known: Known, name: &str) -> Result<Option<(Object<Self>, Origin)>, Fault> {
        let Some(named) = QueuedName::read(name) else {
            return Ok(None);
        };
        let found = opened.queue.read(named.seq.saturating_sub(1), 1).await?.pop();
        let Some(entry) = found.filter(|entry| entry.seq == named.seq) else {
            return Ok(None);
        };
        let change = changes(&entry)?
            .into_iter()
            .find(|change| named.is_at(change.position));
        let waits = |change: &Change| !(known.sure && change.position <= known.has.position);
        Ok(change.filter(waits).map(|change| {
            let keys = KeyReader::new(&opened.plan.mapping).keys(&change);
            let object = object(opened, &entry, &change, keys);
            let origin = Origin {
                change,
                server_text: String::new(),
            };
            (object, origin)
        }))
    }
}

/// After which entry to begin: the one in which the last page ended is read again. A Redis that went back may have the
/// records under other numbers now: then it is searched for.
async fn first_entry(opened: &Opened, after: Place) -> Result<u64, Fault> {
    let seq = after.seq.saturating_sub(1);
    let before = opened.queue.last_up_to(seq).await?;
    let moved = before.is_some_and(|entry| entry.header.last > after.position);
    Ok(if moved { 0 } else { seq })
}

/// What a search has come to.
enum Next {
    Entry(Entry),
    /// Nothing was found up to this entry, and the time is over.
    Late(u64),
    End,
}

/// The next entry after `seq`: any, or one that may hold a key.
async fn next(opened: &Opened, key: Option<&str>, seq: u64, until: Instant) -> Result<Next, Fault> {
    let queue = &opened.queue;
    let Some(key) = key else {
        let entry = queue.read(seq, 1).await?.pop();
        return Ok(entry.map_or(Next::End, Next::Entry));
    };
    let mut seq = seq;
    loop {
        match queue.seek(key.as_bytes(), seq, until).await? {
            Sought::End => return Ok(Next::End),
            Sought::UpTo(last) => return Ok(Next::Late(last)),
            Sought::Hit(hit) => seq = hit,
        }
        let entry = queue.read(seq.saturating_sub(1), 1).await?.pop();
        // It may have been written meanwhile.
        if let Some(entry) = entry.filter(|entry| entry.seq == seq) {
            return Ok(Next::Entry(entry));
        }
    }
}

fn changes(entry: &Entry) -> Result<Vec<Change>, Fault> {
    let records = decode(entry.bytes.clone()).map_err(|error| {
        Fault::Internal(format!(
            "entry {} of the queue cannot be read: {error}",
            entry.seq
        ))
    })?;
    Ok(records.into_iter().map(|record| record.change).collect())
}

fn object(opened: &Opened, entry: &Entry, change: &Change, keys: Option<ChangeKeys>) -> Object<QueuedRecord> {
    let plan = &opened.plan;
    let (old_key, key) = keys.map_or((None, Key::default()), |keys| {
        let of = |key: &crate::mapping::Key| Key::of(key.as_bytes());
        (keys.old.as_ref().map(of), of(&keys.key))
    });
    let body = QueuedRecord {
        table_map: plan.name.clone(),
        key,
        old_key,
        operation: format!("{:?}", change.operation),
        position: change.position.commit.to_string(),
        commit_time: clock::text(change.commit_time),
    };
    let name = queued_name(&plan.name, entry.seq, change.position);
    Object::new(&plan.namespace, &plan.uid, name, change.commit_time, body)
}

fn is_of(keys: &ChangeKeys, key: &str) -> bool {
    keys.key.as_str() == key || keys.old.as_ref().is_some_and(|old| old.as_str() == key)
}
