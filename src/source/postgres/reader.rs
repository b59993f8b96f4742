//! The task that reads the stream and sends feedback, whether or not anybody takes the chunks.

use super::{
    Chunk, SourceError,
    assembler::{Assembler, Wish},
    flow::{Flow, GATHER},
    frame::split_frame,
    pgoutput::POSTGRES_EPOCH,
    session::Session,
};
use bytes::{BufMut, Bytes};
use postgres_protocol::message::frontend;
use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::AsyncWriteExt,
    sync::Notify,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// A source cuts the connection after `wal_sender_timeout` without feedback: 60 s unless set lower.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(500);
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// A source that says nothing for so long, though it was asked, is gone.
const SILENCE: Duration = Duration::from_secs(60);
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// What the task and the stream share. At most one chunk waits here: memory is bounded by bytes.
#[derive(Debug, Default)]
pub(super) struct Shared {
    assembler: Mutex<Assembler>,
    /// Something can be taken, or the task has ended.
    ready: Notify,
    /// Something was taken.
    room: Notify,
    /// What the source may forget.
    confirmed: AtomicU64,
    ended: Mutex<Option<SourceError>>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            assembler: Mutex::new(Assembler::new(generation)),
            ..Self::default()
        }
    }

    pub(super) fn confirm(&self, lsn: u64) {
        self.confirmed.fetch_max(lsn, Ordering::Relaxed);
    }

    /// The next chunk, as soon as there is one. Cancel safe: a chunk is taken only when it is returned.
    pub(super) async fn next(&self) -> Result<Chunk, SourceError> {
        loop {
            let ready = self.ready.notified();
            // Read before the chunk: what was assembled before the end must be handed out first.
            let ended = lock(&self.ended).clone();
            if let Some(chunk) = lock(&self.assembler).take() {
                self.room.notify_one();
                return Ok(chunk);
            }
            if let Some(error) = ended {
                return Err(error);
            }
            ready.await;
        }
    }
}

/// A poisoned lock only means that a test's assertion failed elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads until the session ends or `shared.stop` says so.
pub(super) async fn run(session: Session, shared: std::sync::Arc<Shared>) {
    let mut ticks = interval(FEEDBACK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reader = Reader {
        session,
        shared: &shared,
        waiting: None,
        ticks,
        heard: Instant::now(),
        flow: Flow::new(Instant::now()),
    };
    let outcome = reader.read_until_stopped().await;
    if outcome.is_ok() {
        let _ = timeout(GOODBYE_LIMIT, reader.say_goodbye()).await;
    }
    let error = outcome
        .err()
        .unwrap_or_else(|| SourceError::Unreachable("the stream was closed".to_owned()));
    *lock(&shared.ended) = Some(error);
    shared.ready.notify_one();
}

struct Reader<'a> {
    session: Session,
    shared: &'a Shared,
    /// A message that the chunk had no room for.
    waiting: Option<Bytes>,
    ticks: Interval,
    /// When the source was heard last, or could not be since nobody takes its chunks.
    heard: Instant,
    flow: Flow,
}

impl Reader<'_> {
    async fn read_until_stopped(&mut self) -> Result<(), SourceError> {
        loop {
            let has_room = self.assemble().await?;
            if has_room && self.flow.gathers() {
                sleep(GATHER).await;
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                _ = self.ticks.tick() => self.tick(has_room).await?,
                () = self.shared.room.notified(), if !has_room => self.heard = Instant::now(),
                read = self.session.read(), if has_room => {
                    self.heard = Instant::now();
                    self.flow.came(read?, self.heard);
                }
            }
        }
    }

    /// Feedback; and a source that has not been heard of for long is asked, since our feedback keeps it from asking us.
    async fn tick(&mut self, listening: bool) -> Result<(), SourceError> {
        let silence = self.heard.elapsed();
        if listening && silence > SILENCE {
            return Err(SourceError::Timeout(SILENCE.as_secs()));
        }
        self.send_feedback(listening && silence > SILENCE / 6).await
    }

    /// Moves what was received into the chunk. False: the chunk is full.
    async fn assemble(&mut self) -> Result<bool, SourceError> {
        let mut wish = Wish::Nothing;
        let mut has_room = true;
        while let Some(body) = self.next_body()? {
            let mut assembler = lock(&self.shared.assembler);
            if !assembler.has_room(&body) {
                self.waiting = Some(body);
                has_room = false;
                break;
            }
            if assembler.push(body)? == Wish::Feedback {
                wish = Wish::Feedback;
            }
        }
        self.shared.ready.notify_one();
        if wish == Wish::Feedback {
            self.send_feedback(false).await?;
        }
        Ok(has_room)
    }

    /// The next `CopyData` that was received whole.
    fn next_body(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.waiting.is_some() {
            return Ok(self.waiting.take());
        }
        while let Some(frame) = split_frame(&mut self.session.inbox)? {
            match frame.tag {
                b'd' => return Ok(Some(frame.body)),
                b'E' => return Err(self.session.judge(&frame.body)),
                b'c' | b'C' => {
                    return Err(SourceError::Unreachable("the source ended the stream".to_owned()));
                }
                _ => {} // notices and parameters
            }
        }
        Ok(None)
    }

    /// Tells the source what it may forget; write, flush and apply are one. Zero says nothing to it. It answers at once
    /// if `asks`.
    async fn send_feedback(&mut self, asks: bool) -> Result<(), SourceError> {
        let confirmed = self.shared.confirmed.load(Ordering::Relaxed);
        let mut status = Vec::with_capacity(34);
        status.put_u8(b'r');
        (0..3).for_each(|_| status.put_u64(confirmed));
        status.put_i64(postgres_now());
        status.put_u8(u8::from(asks));
        let send = self.session.send(|out| {
            frontend::CopyData::new(&status[..])?.write(out);
            Ok(())
        });
        timeout(WRITE_LIMIT, send)
            .await
            .map_err(|_| SourceError::Timeout(WRITE_LIMIT.as_secs()))??;
        Ok(())
    }

    /// Reports the last confirmed position, ends the stream, and waits until the source has let the slot go.
    async fn say_goodbye(&mut self) -> Result<(), SourceError> {
        self.send_feedback(false).await?;
        let ending = |out: &mut bytes::BytesMut| -> io::Result<()> {
            frontend::copy_done(out);
            frontend::terminate(out);
            Ok(())
        };
        self.session.send(ending).await?;
        self.session.transport.shutdown().await?;
        loop {
            self.session.inbox.clear();
            self.session.read().await?;
        }
    }
}

/// Microseconds since 2000-01-01.
fn postgres_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX) - POSTGRES_EPOCH
}
