//! Accepting a gap: a map goes on without the changes that nobody holds, where the source still has everything.
//!
//! What the queue holds stays queued, what is parked stays parked, and what is missing is counted as discarded. Where the
//! source has nothing to go on with (its slot is gone, or it is another system), a new slot is made, and with it a new
//! era; the table joins it as a new map's does. Done twice it comes to the same, so a worker that dies in the middle is
//! followed by one that does it again.

use super::{
    event::JoinFailure,
    join::{STORE_DEADLINE, enter, fit},
    operations::{Settled, settle},
};
use crate::{
    connection::{postgres::Settings, redis},
    destination::postgres::{Control, LaneError, Progress, Regained},
    failpoint,
    queue::{Accepted, Meta, Queue, QueueError},
    record::{Counters, Era, Lsn, Origin, Position},
    source::postgres::{Admin, First, JoinError, SourceError, TableState, WantedTable},
    worker::{custody::Held, plan::Plan},
};
use std::sync::Arc;

/// What is to be accepted, and where.
#[derive(Debug)]
pub struct Acceptance {
    pub plan: Arc<Plan>,
    /// Names the operation.
    pub operation: Arc<str>,
    /// What the person has seen: everything beyond it may be lost.
    pub lost_after: Lsn,
    pub lease_epoch: i64,
    pub source: Settings,
    /// Slots and publications are named `<base>_<generation>`, unless they are given.
    pub base: String,
    pub external: Option<(String, String)>,
    /// How the name of the map's side slot begins, if it has one.
    pub side: String,
    /// The newest era that a map of this worker has a position in.
    pub newest: Option<Era>,
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

/// Both custodians, as they are found.
struct Custodians {
    queue: Queue,
    control: Control,
    epoch: i64,
    meta: Option<Meta>,
    progress: Option<Progress>,
}

impl Custodians {
    async fn take(plan: &Plan, lease_epoch: i64) -> Result<Self, AcceptError> {
        let link = redis::connect(&plan.queue_settings).await?;
        let mut queue = Queue::new(link, &plan.namespace, &plan.id, &plan.name);
        let control = Control::connect(&plan.destination_settings).await?;
        let progress = control.peek(&plan.id).await?;
        let seen = queue.seen_epoch().await?;
        let at_destination = progress.as_ref().map_or(0, |progress| progress.epoch);
        let epoch = lease_epoch.max(seen.unwrap_or(0)).max(at_destination) + 1;
        queue.use_epoch(epoch);
        let meta = match seen {
            Some(_) => {
                queue.take_epoch(epoch, seen).await?;
                queue.meta().await?
            }
            None => None,
        };
        Ok(Self {
            queue,
            control,
            epoch,
            meta,
            progress,
        })
    }

    fn held(&self) -> Held {
        let at = |get: fn(&Meta) -> Position| self.meta.as_ref().map(get);
        let destination = self.progress.as_ref().map(|progress| progress.position);
        Held {
            destination: Some(destination.unwrap_or_default()),
            queue: at(|meta| meta.account.q).unwrap_or_default(),
            trimmed: at(|meta| meta.account.t).unwrap_or_default(),
        }
    }

    fn era(&self) -> Option<&Era> {
        let queue = self.meta.as_ref().map(|meta| &meta.era);
        let destination = self.progress.as_ref().map(|progress| &progress.era);
        queue
            .into_iter()
            .chain(destination)
            .max_by_key(|era| era.generation)
    }

    /// Where the gap begins, if there is one. `goes_on` says that the source has everything beyond `confirmed`.
    fn gap(&self, confirmed: Position, goes_on: bool) -> Option<Lsn> {
        let held = self.held();
        match (&self.meta, &self.progress) {
            (None, progress) => return Some(progress.as_ref().map_or(Lsn(0), |known| known.position.commit)),
            (Some(_), None) => return Some(Lsn(0)),
            (Some(_), Some(_)) if !goes_on => return Some(held.durable().commit),
            (Some(_), Some(_)) => {}
        }
        if let Err(gap) = held.check(confirmed) {
            return Some(gap.from.commit);
        }
        let (meta, progress) = (self.meta.as_ref()?, self.progress.as_ref()?);
        let lost = meta.missing_parks(&progress.parks()) > 0;
        lost.then(|| meta.last_park.unwrap_or_default().commit)
    }
}

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
        let admin = Admin::connect(&self.source).await?;
        let offer = self.offer(&admin, custodians.era()).await?;
        let table = self.published_table(&admin, &offer).await?;
        let joined = custodians.meta.as_ref().and_then(|meta| meta.table);
        let same = table.is_some() && (joined.is_none() || joined == table);
        let goes_on = !offer.new && custodians.era() == Some(&offer.era) && same;
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
        let (slot, publication) = self.names(generation);
        let same_server = newest.is_none_or(|newest| newest.is_of_server(&era(generation)));
        let slots = admin.slots(&slot).await?;
        let of = |is_meant: &dyn Fn(&str) -> bool| {
            let found = slots.iter().find(|(slot, _)| is_meant(slot));
            found.map(|(_, state)| state.clone())
        };
        let state = of(&|name| name == slot);
        let side = of(&|name| name.starts_with(&self.side)).filter(|side| !side.is_lost());
        let lost = state
            .as_ref()
            .is_none_or(crate::source::postgres::SlotState::is_lost);
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
        if self.external.is_some() && lost {
            let again = format!(
                "the replication slot {slot} does not exist, or has lost WAL: SELECT pg_drop_replication_slot('{slot}') if it \
                 is there, then SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
            );
            return Err(AcceptError::Later(again));
        }
        let (next, publication) = self.names(generation + 1);
        Ok(Offer {
            era: era(generation + 1),
            slot: next,
            publication,
            confirmed: Position::ZERO,
            new: true,
            old: self.external.is_none().then_some(slot),
        })
    }

    fn names(&self, generation: u32) -> (String, String) {
        self.external.clone().unwrap_or_else(|| {
            let name = format!("{}_{generation}", self.base);
            (name.clone(), name)
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
        if !offer.new || self.external.is_some() {
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

/// Both custodians, ready to be put beyond the gap.
struct Crossing {
    plan: Arc<Plan>,
    operation: Arc<str>,
    custodians: Custodians,
    era: Era,
    source: Origin,
    after: Lsn,
    /// Up to where the destination is taken to have everything, if records wait in the queue.
    has: Position,
    /// Records in the queue that the destination does not have.
    waiting: u64,
}

impl Crossing {
    async fn prepare(
        acceptance: &Acceptance,
        mut custodians: Custodians,
        era: &Era,
        source: Origin,
        after: Lsn,
    ) -> Result<Self, AcceptError> {
        let held = custodians.held();
        let has = held.destination.unwrap_or_default().max(held.trimmed);
        let mut waiting = 0;
        if custodians.meta.is_some() {
            let Settled { partial, .. } = settle(&custodians.queue, has).await?;
            custodians.meta = custodians.queue.meta().await?;
            let records = custodians.meta.as_ref().map_or(0, |meta| meta.account.records);
            waiting = records.saturating_sub(partial);
            if waiting > 0 {
                custodians.queue.settle_errors(has).await?;
                custodians.meta = custodians.queue.meta().await?;
            }
        }
        Ok(Self {
            plan: acceptance.plan.clone(),
            operation: acceptance.operation.clone(),
            custodians,
            era: era.clone(),
            source,
            after,
            has,
            waiting,
        })
    }

    /// The table joins anew, as a new map's does; its writers are kept out meanwhile (rule 13).
    async fn join(
        self,
        acceptance: &Acceptance,
        admin: &Admin,
        offer: &Offer,
    ) -> Result<Outcome, AcceptError> {
        let plan = self.plan.clone();
        let generation = offer.era.generation;
        let mut crossed = None;
        let kept = &mut crossed;
        let store = |First { position, table }: First| -> crate::source::postgres::Store<'_> {
            Box::pin(async move {
                let from = Position::through(generation, position);
                let crossing = tokio::time::timeout(STORE_DEADLINE, self.cross(from, table));
                let outcome = crossing
                    .await
                    .map_err(|_| "the new position could not be stored in time".to_owned())?;
                *kept = Some(outcome.map_err(|error| error.to_string())?);
                Ok(())
            })
        };
        let external = acceptance.external.is_some();
        enter(&plan, admin, &offer.publication, external, store).await?;
        crossed.ok_or_else(|| AcceptError::Later("the table did not join".into()))
    }

    /// The source has everything beyond `from`: custody goes on there.
    async fn cross(self, from: Position, table: u32) -> Result<Outcome, AcceptError> {
        let Custodians {
            queue,
            mut control,
            epoch,
            meta,
            progress,
        } = self.custodians;
        let known = progress.clone().unwrap_or_default();
        let from = from
            .max(self.has)
            .max(meta.as_ref().map_or(from, |meta| meta.account.q));
        let ahead = meta.as_ref().is_none_or(|meta| known.position > meta.account.q);
        let counters = ahead.then_some(known.counters);
        let (parks, superseded, set_aside) = parks_left(meta.as_ref(), &known);
        let accepted = Accepted {
            operation: &self.operation,
            era: &self.era,
            from,
            table,
            source: &self.source,
            destination: control.database(),
            counters,
            parks,
            superseded,
            ids: known.parks,
            set_aside: set_aside.then_some(self.has),
        };
        let account = queue.accept(&accepted).await?;
        failpoint::hit("accepting");
        let last_park = queue.meta().await?.and_then(|meta| meta.last_park);
        let unbased = meta.is_some_and(|meta| meta.unbased);
        let regained = Regained {
            era: self.era.clone(),
            position: if self.waiting > 0 { self.has } else { from },
            counters: (self.waiting == 0).then_some(account.counters),
            parks,
            superseded,
            last_park,
            discarded: if unbased {
                known.discarded
            } else {
                missing(account.counters, self.waiting, parks, &known)
            },
        };
        control.regain(&self.plan.id, epoch, &regained).await?;
        Ok(Outcome {
            after: self.after,
            from,
            discarded: regained.discarded.saturating_sub(known.discarded),
            new_slot: None,
        })
    }
}

/// The parked records that go on, how many of them are superseded, and whether those that are left must be set aside: if
/// the destination knows of more replaced ones than Redis does, any of them may be a replaced one (I3).
fn parks_left(meta: Option<&Meta>, known: &Progress) -> (u64, u64, bool) {
    let (parks, superseded) = meta.map_or((0, 0), |meta| (meta.parks, meta.superseded));
    if superseded < known.superseded {
        (known.superseded, known.superseded, true)
    } else {
        (parks, superseded, false)
    }
}

/// What was received and is neither written, queued, parked nor filtered (I5): it is given up.
fn missing(counters: Counters, waiting: u64, parks: u64, known: &Progress) -> u64 {
    let found = known.written + waiting + parks + counters.filtered + known.missed;
    counters.received.saturating_sub(found).max(known.discarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(parks: u64, superseded: u64) -> Progress {
        Progress {
            parks,
            superseded,
            ..Progress::default()
        }
    }

    fn meta(parks: u64, superseded: u64) -> Meta {
        Meta {
            parks,
            superseded,
            ..Meta::default()
        }
    }

    #[test]
    fn a_parked_record_goes_on_unless_it_may_have_been_replaced() {
        assert_eq!(parks_left(Some(&meta(5, 2)), &progress(5, 2)), (5, 2, false));
        assert_eq!(
            parks_left(Some(&meta(3, 2)), &progress(5, 2)),
            (3, 2, false),
            "two are gone"
        );
        assert_eq!(
            parks_left(Some(&meta(6, 3)), &progress(4, 1)),
            (6, 3, false),
            "the destination is older"
        );
        assert_eq!(
            parks_left(Some(&meta(3, 1)), &progress(5, 2)),
            (2, 2, true),
            "any may be the replaced one"
        );
        assert_eq!(parks_left(None, &progress(5, 2)), (2, 2, true));
        assert_eq!(parks_left(None, &progress(5, 0)), (0, 0, false));
    }

    #[test]
    fn what_is_nowhere_is_given_up() {
        let counters = Counters {
            received: 100,
            filtered: 10,
        };
        let known = Progress {
            written: 50,
            missed: 1,
            discarded: 3,
            ..Progress::default()
        };
        assert_eq!(missing(counters, 20, 4, &known), 15);
        assert_eq!(missing(Counters::default(), 0, 0, &known), 3);
    }
}
