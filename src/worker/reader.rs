//! The reader task: one stream of the source for all maps of the worker.

use super::budget::{Budget, Share};
use crate::{
    connection::postgres::Settings,
    record::Lsn,
    source::postgres::{Chunk, Identity, SourceError, Stream},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// A chunk with the memory that it takes.
#[derive(Debug)]
pub struct Read {
    pub chunk: Chunk,
    pub share: Option<Share>,
    /// Which start of the reader it comes from: chunks of an earlier one are stale.
    pub session: u64,
}

/// From the reader to the engine.
#[derive(Debug)]
pub enum Reading {
    Read(Read),
    Ended { session: u64, error: SourceError },
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Start {
    pub settings: Settings,
    pub slot: String,
    pub publication: String,
    /// Of the slot.
    pub generation: u32,
    /// Counts the starts of this worker.
    pub session: u64,
}

/// A running reader; dropping it ends it and its connection.
#[derive(Debug)]
pub struct Reader {
    confirmed: watch::Sender<Lsn>,
    task: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    /// Begins to stream from the slot's confirmed position. The identity was checked by the caller through `check`
    /// before any change is handed out.
    ///
    /// # Errors
    /// The source cannot be reached, or refuses.
    pub async fn start(
        start: Start,
        budget: Budget,
        readings: mpsc::Sender<Reading>,
    ) -> Result<(Self, Identity), SourceError> {
        let started =
            Stream::start(&start.settings, &start.slot, &start.publication, start.generation).await?;
        let identity = started.identity.clone();
        let (confirmed, positions) = watch::channel(Lsn(0));
        let session = start.session;
        let stream = started.stream;
        let task = tokio::spawn(async move {
            if let Err(error) = read(stream, session, budget, &readings, positions).await {
                let _ = readings.send(Reading::Ended { session, error }).await;
            }
        });
        Ok((Self { confirmed, task }, identity))
    }

    /// Tells the source that everything up to `lsn` is durable. It only ever rises.
    pub fn confirm(&self, lsn: Lsn) {
        self.confirmed.send_if_modified(|known| {
            let rises = lsn > *known;
            *known = (*known).max(lsn);
            rises
        });
    }
}

async fn read(
    mut stream: Stream,
    session: u64,
    budget: Budget,
    readings: &mpsc::Sender<Reading>,
    mut confirmed: watch::Receiver<Lsn>,
) -> Result<(), SourceError> {
    loop {
        let chunk = tokio::select! {
            chunk = stream.next() => chunk?,
            Ok(()) = confirmed.changed() => {
                stream.confirm(*confirmed.borrow_and_update());
                continue;
            }
        };
        let share = match chunk.bytes {
            0 => None,
            bytes => wait_for(&budget, bytes, &stream, &mut confirmed).await,
        };
        if !hand(
            Read {
                chunk,
                share,
                session,
            },
            readings,
            &stream,
            &mut confirmed,
        )
        .await
        {
            return Ok(());
        }
    }
}

/// Waits for memory, and goes on telling the source what is durable: else it would cut the connection.
async fn wait_for(
    budget: &Budget,
    bytes: usize,
    stream: &Stream,
    confirmed: &mut watch::Receiver<Lsn>,
) -> Option<Share> {
    let share = budget.take(bytes);
    tokio::pin!(share);
    loop {
        tokio::select! {
            share = &mut share => return share,
            Ok(()) = confirmed.changed() => stream.confirm(*confirmed.borrow_and_update()),
        }
    }
}

/// Hands a chunk to the engine. False: the engine is gone.
async fn hand(
    read: Read,
    readings: &mpsc::Sender<Reading>,
    stream: &Stream,
    confirmed: &mut watch::Receiver<Lsn>,
) -> bool {
    loop {
        tokio::select! {
            permit = readings.reserve() => return permit.map(|permit| permit.send(Reading::Read(read))).is_ok(),
            Ok(()) = confirmed.changed() => stream.confirm(*confirmed.borrow_and_update()),
        }
    }
}
