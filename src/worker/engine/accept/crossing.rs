//! Puts both custodians beyond a gap: what they still hold stays, and what is missing is counted as discarded.

use super::{AcceptError, Acceptance, Offer, Outcome, custodians::Custodians};
use crate::{
    destination::postgres::{Progress, Regained},
    failpoint,
    queue::{Accepted, Meta},
    record::{Counters, Era, Lsn, Origin, Position},
    source::postgres::{Admin, First},
    worker::{
        engine::{
            join::{STORE_DEADLINE, enter},
            operations::{Settled, settle},
        },
        plan::Plan,
    },
};
use std::sync::Arc;

/// Both custodians, ready to be put beyond the gap.
pub(super) struct Crossing {
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
    pub(super) async fn prepare(
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
    pub(super) async fn join(
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
        let external = acceptance.source.external.is_some();
        let turns = &acceptance.publication;
        enter(&plan, admin, &offer.publication, external, turns, store).await?;
        crossed.ok_or_else(|| AcceptError::Later("the table did not join".into()))
    }

    /// The source has everything beyond `from`: custody goes on there.
    pub(super) async fn cross(self, from: Position, table: u32) -> Result<Outcome, AcceptError> {
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
            serves: &self.plan.serves(),
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
