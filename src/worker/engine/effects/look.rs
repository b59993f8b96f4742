//! A look at the source, and at what every queue holds.

use super::begin::settle;
use crate::{
    destination::postgres::Progress,
    queue::{Account, Meta, Queue, QueueError},
    record::{Era, Parks},
    source::postgres::{Admin, SlotState, SourceError},
    worker::map::{Map, MapId},
};
use std::time::{Duration, Instant};

/// Reading a queue's position: one Redis that does not answer must not hold up the maps of others.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// What a look at the source has found.
#[derive(Debug)]
pub struct SourceState {
    pub era: Era,
    pub slot: Option<SlotState>,
    /// The same, and the side slots.
    pub slots: Vec<(String, SlotState)>,
    pub queues: Vec<ReadBack>,
}

/// A map's side slots: those of all workers, and this one's.
#[derive(Clone, Debug)]
pub struct SideNames {
    pub prefix: String,
    pub own: String,
}

/// One map's Redis is asked what it holds.
#[derive(Debug)]
pub struct Asked {
    pub map: MapId,
    pub queue: Queue,
    /// What was known by then: Redis must not hold less.
    pub known: Account,
    pub progress: Option<Progress>,
}

impl Asked {
    #[must_use]
    pub fn of(map: &Map) -> Self {
        Self {
            map: map.id.clone(),
            queue: map.queue.clone(),
            known: map.stock.account,
            progress: map.progress.clone(),
        }
    }

    #[must_use]
    pub fn parks(&self) -> Parks {
        self.progress.as_ref().map(Progress::parks).unwrap_or_default()
    }

    /// Reads the queue; of one that does not know what was counted before it, that is found out once it can be (I5).
    async fn read(&self) -> Result<(Option<Meta>, Option<Instant>), QueueError> {
        let found = self.queue.read_back().await?;
        let is_unknown = found.0.as_ref().is_some_and(|meta| meta.account.base.is_none());
        let Some(known) = self.progress.as_ref().filter(|_| is_unknown) else {
            return Ok(found);
        };
        // One that was known is lost: the map must hear of that first.
        if self.known.base.is_some() || settle(&self.queue, known).await.is_err() {
            return Ok(found);
        }
        self.queue.read_back().await
    }
}

/// The answer.
#[derive(Debug)]
pub struct ReadBack {
    pub asked: Asked,
    pub result: Result<Option<Meta>, QueueError>,
    /// Up to when what was written would outlive a failover of Redis; None: that is not known.
    pub kept: Option<Instant>,
}

/// Looks at the slot, ends an old walsender, and reads every map's meta: what the rules want at each connect.
pub async fn look(
    settings: crate::connection::postgres::Settings,
    slot: String,
    generation: u32,
    asked: Vec<Asked>,
    sides: &[SideNames],
) -> Result<SourceState, SourceError> {
    let admin = Admin::connect(&settings).await?;
    let server = admin.inspect_server().await?;
    let era = Era {
        system: server.system,
        generation,
        timeline: server.timeline,
    };
    admin.terminate_walsender(&slot).await?;
    let slots = adopt_sides(&admin, &slot, sides).await?;
    let main = slots.iter().find(|(name, _)| *name == slot);
    let slot = main.map(|(_, state)| state.clone());
    let queues = read_back(asked).await;
    Ok(SourceState {
        era,
        slot,
        slots,
        queues,
    })
}

/// A side slot that an earlier worker has made is copied, and then dropped: that worker may still be about to drop it.
async fn adopt_sides(
    admin: &Admin,
    main: &str,
    sides: &[SideNames],
) -> Result<Vec<(String, SlotState)>, SourceError> {
    let found = admin.slots(main).await?;
    let mut others = 0;
    for SideNames { prefix, own } in sides {
        let theirs = found
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && name != own);
        for (name, state) in theirs {
            others += 1;
            if !state.is_lost() {
                admin.copy_slot(name, own).await?;
            }
            admin.drop_slot(name).await?;
        }
    }
    if others == 0 {
        Ok(found)
    } else {
        admin.slots(main).await
    }
}

/// Reads meta and epoch of every map.
pub async fn read_back(asked: Vec<Asked>) -> Vec<ReadBack> {
    let reads = asked.into_iter().map(|asked| async move {
        let late = |_| Err(QueueError::Unavailable("no answer in time".into()));
        let read = tokio::time::timeout(READ_DEADLINE, asked.read());
        let read = read.await.unwrap_or_else(late);
        let (result, kept) = match read {
            Ok((meta, kept)) => (Ok(meta), kept),
            Err(error) => (Err(error), None),
        };
        ReadBack { asked, result, kept }
    });
    futures::future::join_all(reads).await
}
