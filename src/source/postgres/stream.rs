//! The stream of a slot's changes.

use super::{
    Chunk, SourceError,
    reader::{self, Shared},
    session::{AnswerRow, Session},
    timeline::TimelineHistory,
};
use crate::{connection::postgres::Settings, record::Lsn};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// For each command before the stream begins. `START_REPLICATION` reads the slot's log from its restart position.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Which server the stream comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `systemid` of `IDENTIFY_SYSTEM`.
    pub system: String,
    pub timeline: u32,
    /// The end of the server's log when the session began.
    pub xlogpos: Lsn,
}

/// A stream that has begun, and what the server said of itself on the same session.
#[derive(Debug)]
pub struct Started {
    pub stream: Stream,
    pub identity: Identity,
    history: TimelineHistory,
}

impl Started {
    /// Where the server left an earlier timeline: what lies at or below it is common to both, so an era may go on.
    /// None: the server does not descend from that timeline, or keeps no history of it.
    #[must_use]
    pub fn timeline_switch(&self, old_timeline: u32) -> Option<Lsn> {
        self.history.switch(old_timeline)
    }
}

/// The changes of one slot and publication. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    task: AbortOnDropHandle<()>,
}

impl Stream {
    /// Opens a session on a host of `settings` and begins to stream. Postgres sends every transaction whose commit
    /// record starts at or above the slot's confirmed position. `generation` becomes part of every position.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the slot. A missing publication shows at the first change only.
    pub async fn start(
        settings: &Settings,
        slot: &str,
        publication: &str,
        generation: u32,
    ) -> Result<Started, SourceError> {
        let mut session = Session::open(settings, slot, publication).await?;
        let identity = limited(identify(&mut session)).await?;
        let history = limited(history(&mut session, identity.timeline)).await?;
        limited(session.start_replication(Lsn(0))).await?;
        let shared = Arc::new(Shared::new(generation));
        let task = AbortOnDropHandle::new(tokio::spawn(reader::run(session, Arc::clone(&shared))));
        Ok(Started {
            stream: Self { shared, task },
            identity,
            history,
        })
    }

    /// Whether a session could be opened that streams: the login for replication, and a WAL sender.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn probe(settings: &Settings) -> Result<Identity, SourceError> {
        let mut session = Session::open(settings, "check", "check").await?;
        limited(identify(&mut session)).await
    }

    /// The next chunk, as soon as there is anything. Cancel safe.
    ///
    /// # Errors
    /// The stream has ended; every later call says so too.
    pub async fn next(&mut self) -> Result<Chunk, SourceError> {
        self.shared.next().await
    }

    /// Allows the source to forget what ended at or below `lsn`. It is told within half a second; lower values than
    /// before are ignored, and it is never told more.
    pub fn confirm(&self, lsn: Lsn) {
        self.shared.confirm(lsn.0);
    }

    /// Reports the last confirmed position and ends the session; afterwards the slot is free, unless the server
    /// takes more than two seconds.
    pub async fn close(self) {
        self.shared.stop.cancel();
        // The task keeps its own deadline, and has no result.
        let _ = self.task.await;
    }
}

async fn limited<T>(step: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    timeout(COMMAND_LIMIT, step)
        .await
        .unwrap_or(Err(SourceError::Timeout(COMMAND_LIMIT.as_secs())))
}

async fn identify(session: &mut Session) -> Result<Identity, SourceError> {
    let rows = session.command("IDENTIFY_SYSTEM").await?;
    let malformed = || SourceError::Protocol("a malformed answer to IDENTIFY_SYSTEM".to_owned());
    let row = rows.first().ok_or_else(malformed)?;
    Ok(Identity {
        system: text(row, 0).ok_or_else(malformed)?.to_owned(),
        timeline: text(row, 1)
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?,
        xlogpos: text(row, 2)
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?,
    })
}

/// The first timeline has no history, and a server may have lost a later one's: then no era can go on.
async fn history(session: &mut Session, timeline: u32) -> Result<TimelineHistory, SourceError> {
    if timeline == 1 {
        return Ok(TimelineHistory::default());
    }
    match session.command(&format!("TIMELINE_HISTORY {timeline}")).await {
        Ok(rows) => Ok(TimelineHistory::parse(
            rows.first().and_then(|row| text(row, 1)).unwrap_or_default(),
        )),
        Err(SourceError::Unreachable(cause)) => Err(SourceError::Unreachable(cause)),
        Err(_) => Ok(TimelineHistory::default()),
    }
}

fn text(row: &AnswerRow, column: usize) -> Option<&str> {
    row.get(column)?
        .as_deref()
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
}
