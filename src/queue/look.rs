//! Reading a queue beside its worker: nothing is written, and no epoch is needed.

use super::{Entry, Queue, QueueError, scripts::SEEK, store::entry};
use crate::record::{ParkedRecord, Position};
use bytes::Bytes;
use std::time::Instant;

/// A search looks at about so many bytes of filters in one call, so that nobody else waits long for Redis.
const BYTES: u64 = 2 << 20;

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// This entry may hold the key.
    Hit(u64),
    /// None up to this one does; there may be more.
    UpTo(u64),
    /// No entry is left.
    End,
}

impl Queue {
    /// The first entry after `seq` that may hold a record of a key: the filters are asked within Redis, and none is sent.
    /// The search ends soon after `until`.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn seek(&self, key: &[u8], seq: u64, until: Instant) -> Result<Sought, QueueError> {
        let (low, high) = super::batch::probe(key);
        let mut after = seq;
        loop {
            let mut seek = SEEK.prepare_invoke();
            seek.key(&self.keys.filters)
                .arg(after + 1)
                .arg(BYTES)
                .arg(low)
                .arg(high);
            let (last, hit): (Option<u64>, Option<u64>) = self.link.run(&seek).await?;
            match (hit, last) {
                (Some(hit), _) => return Ok(Sought::Hit(hit)),
                (None, Some(last)) if Instant::now() < until => after = last,
                (None, Some(last)) => return Ok(Sought::UpTo(last)),
                (None, None) => return Ok(Sought::End),
            }
        }
    }

    /// The last entry up to `seq`.
    ///
    /// # Errors
    /// Redis fails, or the entry cannot be read.
    pub async fn last_up_to(&self, seq: u64) -> Result<Option<Entry>, QueueError> {
        let mut range = redis::cmd("XREVRANGE");
        range
            .arg(&self.keys.stream)
            .arg(format!("{seq}-0"))
            .arg("-")
            .arg("COUNT")
            .arg(1);
        let found: Vec<(String, Vec<Bytes>)> = self.link.query(&range).await?;
        found.into_iter().next().map(entry).transpose()
    }

    /// So many records were ever appended: of those before an entry, the entry tells.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn appended(&self) -> Result<u64, QueueError> {
        let mut get = redis::cmd("HGET");
        get.arg(&self.keys.meta).arg("appended");
        let appended: Option<u64> = self.link.query(&get).await?;
        Ok(appended.unwrap_or_default())
    }

    /// Where records are parked that lie alone, in order.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn error_positions(&self) -> Result<Vec<Position>, QueueError> {
        let positions = self.positions_with("r:").await?;
        Ok(positions.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// The parked record of this id.
    ///
    /// # Errors
    /// Redis fails, or the record cannot be read.
    pub async fn error_named(&self, id: &str) -> Result<Option<ParkedRecord>, QueueError> {
        if let Some(pack) = self.packs().await?.into_iter().find(|pack| pack.has(id)) {
            let asleep = self.asleep(&pack).await?.into_iter();
            if let Some(record) = asleep.into_iter().find(|record| record.id == id) {
                return Ok(Some(record));
            }
        }
        let positions = self.positions_with("id:").await?;
        for chunk in positions.chunks(1000) {
            let mut ids = redis::cmd("HMGET");
            ids.arg(&self.keys.errors);
            for position in chunk {
                ids.arg(format!("id:{position}"));
            }
            let ids: Vec<Option<String>> = self.link.query(&ids).await?;
            let found = ids.iter().position(|known| known.as_deref() == Some(id));
            if let Some(position) = found.and_then(|at| chunk.get(at)?.parse().ok()) {
                return Ok(self.errors_at(&[position]).await?.pop());
            }
        }
        Ok(None)
    }
}
