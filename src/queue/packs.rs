//! Parked records that lie together, as they were queued. One wakes, and lies alone from then on, when something concerns it
//! alone: a newer row of its key, a retry, a choice. Waking changes nothing of what is known of it.

use super::{
    Queue, QueueError, blob,
    pack::{self, Pack, Sleeper},
    parked::bytes,
    scripts::{BLANK, CHOOSE_PACKS, DISCARD_PACKS, PACK, PURGE_PACKS, WAKE},
};
use crate::record::{KeyHash, PackId, PackKeys, ParkedKey, ParkedRecord, Position, key_hash};
use bytes::Bytes;
use std::collections::HashSet;

/// So many records lie in a pack, at most.
const RECORDS: usize = 4096;
/// So many wake in one call.
const CHUNK: usize = 256;
/// What is known of a pack without its records, see [`Pack::read`]; and then its records, and which of them were woken.
const KNOWN: [&str; 4] = ["m", "l", "o", "s"];
const WHOLE: [&str; 6] = ["m", "l", "o", "s", "p", "w"];

/// A pack with its records.
struct Opened {
    pack: Pack,
    bytes: Bytes,
    woken: Bytes,
}

/// Where a record lies that was looked for in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lies {
    pub position: Position,
    pub pack: PackId,
    /// None: it is not there. What a pack holds never changes.
    pub place: Option<usize>,
}

impl Queue {
    /// Parks records together that were refused for one reason at one time, in order. Tells in which packs.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn pack(&self, records: &[ParkedRecord]) -> Result<Vec<PackKeys>, QueueError> {
        let Some(time) = records.first().map(|record| record.first_time) else {
            return Ok(Vec::new());
        };
        let mut script = self.invoke(&PACK);
        script.arg(&*self.name).arg(time);
        let mut packs = Vec::new();
        let generation = |record: &ParkedRecord| record.change.position.generation;
        for era in records.chunk_by(|one, next| generation(one) == generation(next)) {
            for part in era.chunks(RECORDS) {
                let [first, .., last] = [&part[0], &part[part.len() - 1]];
                let bytes = pack::write(part).map_err(unreadable)?;
                script
                    .arg(first.change.position.to_string())
                    .arg(last.change.position.to_string())
                    .arg(part.len())
                    .arg(bytes);
                let keys = part.iter().flat_map(|record| &record.keys);
                let id = PackId {
                    first: first.change.position,
                    base: 0,
                };
                let hashes = keys.map(|key| key_hash(key)).collect();
                packs.push(PackKeys { id, hashes });
            }
        }
        let bases: Vec<u64> = self.run(&script).await?;
        for (pack, base) in packs.iter_mut().zip(bases) {
            pack.id.base = base;
        }
        Ok(packs)
    }

    /// The packs, in order.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn packs(&self) -> Result<Vec<Pack>, QueueError> {
        let fields: Vec<String> = self.link.query(redis::cmd("HKEYS").arg(&self.keys.packs)).await?;
        let mut firsts: Vec<&str> = fields
            .iter()
            .filter_map(|field| field.strip_prefix("m:"))
            .collect();
        if firsts.is_empty() {
            return Ok(Vec::new());
        }
        firsts.sort_unstable();
        let cells = self.cells(&firsts, &KNOWN).await?;
        let (cells, _) = cells.as_chunks();
        let packs = firsts.iter().zip(cells);
        Ok(packs
            .filter_map(|(first, cells)| Pack::read(first, cells))
            .collect())
    }

    /// These fields of the packs that begin there, pack by pack.
    async fn cells(&self, firsts: &[&str], fields: &[&str]) -> Result<Vec<Option<Bytes>>, QueueError> {
        let mut read = redis::cmd("HMGET");
        read.arg(&self.keys.packs);
        for first in firsts {
            for field in fields {
                read.arg(format!("{field}:{first}"));
            }
        }
        self.link.query(&read).await
    }

    /// A pack with its records. None: it is gone.
    async fn open(&self, id: PackId) -> Result<Option<Opened>, QueueError> {
        let first = id.first.to_string();
        let cells = self.cells(&[&first], &WHOLE).await?;
        let Some(([known @ .., bytes, woken], [])) = cells.split_first_chunk::<6>() else {
            return Ok(None);
        };
        let Some(pack) = Pack::read(&first, known).filter(|pack| pack.id == id) else {
            return Ok(None);
        };
        let bytes = bytes
            .clone()
            .ok_or_else(|| QueueError::Blob("a pack has no records".into()))?;
        let woken = woken.clone().unwrap_or_default();
        Ok(Some(Opened { pack, bytes, woken }))
    }

    /// All records of a pack. None: it is gone.
    pub(super) async fn sleepers(&self, id: PackId) -> Result<Option<Vec<Sleeper>>, QueueError> {
        let opened = self.open(id).await?;
        opened.map(Opened::read).transpose()
    }

    /// The records that sleep in a pack, in order; none if it is gone.
    ///
    /// # Errors
    /// Redis fails, or the pack cannot be read.
    pub async fn asleep(&self, pack: &Pack) -> Result<Vec<ParkedRecord>, QueueError> {
        let sleepers = self.sleepers(pack.id).await?.unwrap_or_default().into_iter();
        let asleep = sleepers.filter(|sleeper| !sleeper.is_awake);
        Ok(asleep.map(|sleeper| sleeper.record).collect())
    }

    /// The keys of a pack.
    ///
    /// # Errors
    /// Redis fails, or the pack cannot be read.
    pub(super) async fn keys_of(&self, pack: &Pack) -> Result<PackKeys, QueueError> {
        let Some(Opened { pack, bytes, .. }) = self.open(pack.id).await? else {
            let hashes = Vec::new();
            return Ok(PackKeys { id: pack.id, hashes });
        };
        pack::hashes(&pack, bytes).map_err(unreadable)
    }

    /// Wakes the records of a pack that have such a key; tells which of them wait, also of those that were awake. None: the
    /// pack is gone.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn wake_keys(
        &self,
        id: PackId,
        hashes: &HashSet<KeyHash>,
    ) -> Result<Option<Vec<ParkedKey>>, QueueError> {
        let Some(mut sleepers) = self.sleepers(id).await? else {
            return Ok(None);
        };
        sleepers.retain(|sleeper| {
            let mut keys = sleeper.record.keys.iter();
            keys.any(|key| hashes.contains(&key_hash(key)))
        });
        self.wake(id, &sleepers).await?;
        let positions: Vec<Position> = sleepers
            .iter()
            .map(|sleeper| sleeper.record.change.position)
            .collect();
        let mut waiting = Vec::new();
        for part in positions.chunks(CHUNK) {
            let records = self.errors_at(part).await?.into_iter();
            waiting.extend(records.filter(ParkedRecord::may_wait).map(ParkedKey::of));
        }
        Ok(Some(waiting))
    }

    /// Wakes those of these records that sleep. `positions` are in order. Tells where they lie, or might.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn wake_at(&self, positions: &[Position]) -> Result<Vec<Lies>, QueueError> {
        let mut lie = Vec::new();
        for pack in self.packs().await? {
            let from = positions.partition_point(|position| *position < pack.id.first);
            let to = positions.partition_point(|position| *position <= pack.last);
            let within = &positions[from..to];
            if within.is_empty() {
                continue;
            }
            let mut sleepers = self.sleepers(pack.id).await?.unwrap_or_default();
            sleepers.retain(|sleeper| within.binary_search(&sleeper.record.change.position).is_ok());
            self.wake(pack.id, &sleepers).await?;
            lie.extend(within.iter().map(|position| {
                let here = |sleeper: &&Sleeper| sleeper.record.change.position == *position;
                Lies {
                    position: *position,
                    pack: pack.id,
                    place: sleepers.iter().find(here).map(|sleeper| sleeper.place),
                }
            }));
        }
        Ok(lie)
    }

    /// Wakes what sleeps at or below a position in a pack that ends beyond it.
    pub(super) async fn wake_up_to(&self, position: Position) -> Result<(), QueueError> {
        for pack in self.packs().await? {
            if pack.id.first > position || pack.last <= position {
                continue;
            }
            let mut sleepers = self.sleepers(pack.id).await?.unwrap_or_default();
            sleepers.retain(|sleeper| sleeper.record.change.position <= position);
            self.wake(pack.id, &sleepers).await?;
        }
        Ok(())
    }

    async fn wake(&self, pack: PackId, sleepers: &[Sleeper]) -> Result<(), QueueError> {
        let asleep: Vec<&Sleeper> = sleepers.iter().filter(|sleeper| !sleeper.is_awake).collect();
        for part in asleep.chunks(CHUNK) {
            let mut wake = self.invoke(&WAKE);
            wake.arg(pack.first.to_string()).arg(pack.base);
            for Sleeper { place, record, .. } in part {
                wake.arg(*place)
                    .arg(record.change.position.to_string())
                    .arg(bytes(record)?);
            }
            let _: u64 = self.run(&wake).await?;
        }
        Ok(())
    }

    /// Takes rows and keys of what was given up out of the packs in which it slept.
    ///
    /// # Errors
    /// Another epoch, Redis fails, or a record cannot be read.
    pub async fn blank(&self) -> Result<(), QueueError> {
        for pack in self.packs().await? {
            while let Some(opened) = self.open(pack.id).await? {
                if !opened.woken.contains(&b'1') || self.blank_one(opened).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// False: another was woken meanwhile.
    async fn blank_one(&self, opened: Opened) -> Result<bool, QueueError> {
        let (pack, woken) = (opened.pack.id, opened.woken.clone());
        let sleepers = opened.read()?;
        let awake: Vec<Position> = sleepers
            .iter()
            .filter(|sleeper| sleeper.is_awake && !sleeper.record.keys.is_empty())
            .map(|sleeper| sleeper.record.change.position)
            .collect();
        let mut gone = HashSet::new();
        for part in awake.chunks(CHUNK) {
            let mut ids = redis::cmd("HMGET");
            ids.arg(&self.keys.errors);
            for position in part {
                ids.arg(format!("id:{position}"));
            }
            let ids: Vec<Option<String>> = self.link.query(&ids).await?;
            let none = part.iter().zip(ids).filter(|(_, id)| id.is_none());
            gone.extend(none.map(|(position, _)| *position));
        }
        if gone.is_empty() {
            return Ok(true);
        }
        let mut blank = self.invoke(&BLANK);
        blank
            .arg(pack.first.to_string())
            .arg(pack.base)
            .arg(&woken[..])
            .arg(pack::without(sleepers, &gone).map_err(unreadable)?);
        Ok(self.run::<u64>(&blank).await? == 1)
    }

    /// Chooses all that sleeps and waits at or below `upto` for an operation, also what another has chosen.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn choose_packs(&self, operation: &str, upto: Position) -> Result<(), QueueError> {
        let mut choose = self.invoke(&CHOOSE_PACKS);
        choose.arg(operation);
        for pack in self.waiting_packs(upto).await? {
            choose.arg(pack.id.first.to_string()).arg(pack.id.base);
        }
        self.run(&choose).await
    }

    /// The packs whose records wait, up to `upto`.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn waiting_packs(&self, upto: Position) -> Result<Vec<Pack>, QueueError> {
        let mut packs = self.packs().await?;
        packs.retain(|pack| pack.waits(upto));
        Ok(packs)
    }

    /// So many records that sleep an operation has chosen.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn chosen_asleep(&self, operation: &str) -> Result<u64, QueueError> {
        let packs = self.packs().await?;
        let ours = packs
            .iter()
            .filter(|pack| pack.operation.as_deref() == Some(operation));
        Ok(ours.map(|pack| pack.left).sum())
    }

    /// Gives up what an operation has chosen of packs. Returns how many the map has given up in all.
    ///
    /// # Errors
    /// Another epoch, or Redis fails.
    pub async fn discard_packs(&self, operation: &str) -> Result<u64, QueueError> {
        self.run(self.invoke(&DISCARD_PACKS).arg(operation)).await
    }

    /// Removes packs. Returns how many the map has purged in all of records that waited, and how many now.
    pub(super) async fn purge_packs(&self, due: &[Pack]) -> Result<(u64, u64), QueueError> {
        let mut purge = self.invoke(&PURGE_PACKS);
        for pack in due {
            purge.arg(pack.id.first.to_string()).arg(pack.id.base);
        }
        self.run(&purge).await
    }
}

impl Opened {
    fn read(self) -> Result<Vec<Sleeper>, QueueError> {
        pack::read(&self.pack, self.bytes, &self.woken).map_err(unreadable)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn unreadable(error: blob::BlobError) -> QueueError {
    QueueError::Blob(error.to_string())
}
