//! Accepting a gap: a map goes on without the changes that nobody holds, where the source still has everything.
//!
//! What the queue holds stays queued, what is parked stays parked, and what is missing is counted as discarded. Where the
//! source has nothing to go on with (its slot is gone, or it is another system), a new slot is made, and with it a new
//! era; the table joins it as a new map's does. Done twice it comes to the same, so a worker that dies in the middle is
//! followed by one that does it again.

mod crossing;
mod custodians;

use super::{Source, event::JoinFailure, join::fit};
use crate::{
    connection::redis,
    destination::postgres::LaneError,
    failpoint,
    queue::QueueError,
    record::{Era, Lsn, Position},
    source::postgres::{Admin, JoinError, SlotState, SourceError, TableState, WantedTable},
    worker::plan::Plan,
};
use crossing::Crossing;
use custodians::Custodians;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What is to be accepted, and where.
#[derive(Debug)]
pub struct Acceptance {
    pub plan: Arc<Plan>,
    /// Names the operation.
    pub operation: Arc<str>,
    /// What the person has seen: everything beyond it may be lost.
    pub lost_after: Lsn,
    pub lease_epoch: i64,
    pub source: Source,
    /// How the name of the map's side slot begins, if it has one.
    pub side: String,
    /// The newest era that a map of this worker has a position in.
    pub newest: Option<Era>,
    /// Whose turn it is to change the publication.
    pub publication: Arc<Semaphore>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub after: Lsn,
    /// From here on everything is held again.
    pub from: Position,
    pub discarded: u64,
    /// A slot was made, since the one of before is gone or of another system.
    pub new_slot: Option<String>,
}

/// Why a gap was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Something is away or refuses: to be tried again.
    #[error("{0}")]
    Later(String),
    #[error(
        "the gap begins after {0}, and the operation names another position: look at status.blocked.gap again"
    )]
    AnotherGap(Lsn),
    #[error("nothing is missing: the map needs no such operation")]
    NoGap,
}

macro_rules! later {
    ($($error:ty),+) => { $(impl From<$error> for AcceptError {
        fn from(error: $error) -> Self { Self::Later(error.to_string()) }
    })+ };
}
later!(
    QueueError,
    LaneError,
    SourceError,
    JoinError,
    JoinFailure,
    redis::RedisConnectError
);

/// What the source offers.
struct Offer {
    era: Era,
    slot: String,
    publication: String,
    /// What it has forgotten; zero in a new era.
    confirmed: Position,
    /// The slot is to be made.
    new: bool,
    /// The slot and publication that were used before.
    old: Option<String>,
}

impl Acceptance {
    /// Looks for the gap that the operation names, and lets the map go on beyond it.
    ///
    /// # Errors
    /// There is none, or another one; or something is away.
    pub async fn run(self) -> Result<Outcome, AcceptError> {
        let custodians = Custodians::take(&self.plan, self.lease_epoch).await?;
        let admin = Admin::connect(&self.source.settings).await?;
        let offer = self.offer(&admin, custodians.era()).await?;
        let table = self.published_table(&admin, &offer).await?;
        let joined = custodians.meta.as_ref().and_then(|meta| meta.table);
        let same = table.is_some() && (joined.is_none() || joined == table);
        // A table that left the publication and is back lacks what changed meanwhile, though no position is missing.
        let unpublished = custodians.meta.as_ref().is_some_and(|meta| meta.unpublished);
        let goes_on = !offer.new && !unpublished && custodians.era() == Some(&offer.era) && same;
        let begun = custodians
            .meta
            .as_ref()
            .and_then(|meta| meta.accepting.as_deref());
        let again = begun == Some(&*self.operation);
        let after = match custodians.gap(offer.confirmed, goes_on) {
            Some(after) if after == self.lost_after || again => after,
            Some(after) => return Err(AcceptError::AnotherGap(after)),
            None if again => self.lost_after,
            None => return Err(AcceptError::NoGap),
        };
        let source = fit(&self.plan, &custodians.control, &admin).await?;
        let queue = custodians.queue.clone();
        let crossing = Crossing::prepare(&self, custodians, &offer.era, source, after).await?;
        let new_slot = offer.new.then(|| offer.slot.clone());
        let outcome = if let Some(table) = table.filter(|_| goes_on) {
            crossing.cross(offer.confirmed, table).await?
        } else {
            self.make_slot(&admin, &offer).await?;
            crossing.join(&self, &admin, &offer).await?
        };
        if let Some(old) = &offer.old {
            drop_old(&admin, old).await;
        }
        failpoint::hit("accepted");
        queue.finish_accept().await?;
        Ok(Outcome { new_slot, ..outcome })
    }

    /// The slot that the worker's maps go on with: the present one if it still serves, else the next.
    async fn offer(&self, admin: &Admin, known: Option<&Era>) -> Result<Offer, AcceptError> {
        let server = admin.inspect_server().await?;
        let newest = self.newest.iter().chain(known).max_by_key(|era| era.generation);
        let generation = newest.map_or(1, |era| era.generation);
        let era = |generation| Era {
            system: server.system.clone(),
            generation,
            timeline: server.timeline,
        };
        let (slot, publication) = self.source.names(generation);
        let same_server = newest.is_none_or(|newest| newest.is_of_server(&era(generation)));
        let slots = admin.slots(&slot).await?;
        let of = |is_meant: &dyn Fn(&str) -> bool| {
            let found = slots.iter().find(|(slot, _)| is_meant(slot));
            found.map(|(_, state)| state.clone())
        };
        let state = of(&|name| name == slot);
        let side = of(&|name| name.starts_with(&self.side)).filter(|side| !side.is_lost());
        let lost = state.as_ref().is_none_or(SlotState::is_lost);
        if let Some(state) = state.filter(|_| same_server && !lost) {
            return Ok(Offer {
                era: era(generation),
                // What its side slot keeps is not lost.
                confirmed: Position::through(generation, side.map_or(state.confirmed, |side| side.confirmed)),
                slot,
                publication,
                new: false,
                old: None,
            });
        }
        if self.source.external.is_some() && lost {
            let again = format!(
                "the replication slot {slot} does not exist, or has lost WAL: SELECT pg_drop_replication_slot('{slot}') if it \
                 is there, then SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            );
            return Err(AcceptError::Later(again));
        }
        let (next, publication) = self.source.names(generation + 1);
        Ok(Offer {
            era: era(generation + 1),
            slot: next,
            publication,
            confirmed: Position::ZERO,
            new: true,
            old: self.source.external.is_none().then_some(slot),
        })
    }

    /// The map's table, if its changes come.
    async fn published_table(&self, admin: &Admin, offer: &Offer) -> Result<Option<u32>, AcceptError> {
        let (schema, name) = self.plan.source_table.clone();
        let oid = admin.table((&schema, &name)).await?;
        let wanted = WantedTable { schema, name, oid };
        let (states, _) = admin.tables(&offer.publication, &[wanted]).await?;
        Ok((states == [TableState::Published]).then_some(oid))
    }

    async fn make_slot(&self, admin: &Admin, offer: &Offer) -> Result<(), AcceptError> {
        if !offer.new || self.source.external.is_some() {
            return Ok(());
        }
        admin.create_publication_empty(&offer.publication).await?;
        // One that an earlier life of these maps has left, and that has lost its log.
        if admin.slot(&offer.slot).await?.is_some_and(|slot| slot.is_lost()) {
            admin.drop_slot(&offer.slot).await?;
        }
        Ok(admin.create_slot(&offer.slot).await?)
    }
}

/// The old slot would keep the source's log for ever. That it stays is no reason to stop.
async fn drop_old(admin: &Admin, old: &str) {
    let dropped = async {
        admin.drop_slots(old).await?;
        admin.drop_publication(old).await
    };
    if let Err(error) = dropped.await {
        tracing::warn!(slot = old, %error, "the old slot or publication was not dropped");
    }
}
