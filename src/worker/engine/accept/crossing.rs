//! Puts both custodians beyond a gap: what they still hold stays, and what is missing is counted as discarded.

use super::{AcceptError, Acceptance, Offer, Outcome, custodians::Custodians};
use crate::{
    destination::postgres::{Progress, Regained},
    failpoint,
    queue::{Accepted, Left, Meta},
    record::{Counters, Era, Has, Lsn, Origin, Position},
    source::postgres::{Admin, First},
    worker::{
        engine::{
            effects::{Settled, settle},
            join::{STORE_DEADLINE, enter},
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
            // What it lacks of what was trimmed is given up.
            let known = Progress {
                position: has,
                ..custodians.progress.clone().unwrap_or_default()
            };
            let Settled { account, partial } = settle(&custodians.queue, &known).await?;
            waiting = account.records.saturating_sub(partial);
            // A destination that went back has not what retries have written since.
            let settled = custodians
                .progress
                .as_ref()
                .map_or(u64::MAX, |known| known.settled);
            let position = if waiting > 0 { has } else { Position::MAX };
            let provisional = Has { position, settled };
            custodians.queue.drop_provisional(provisional).await?;
            custodians.meta = custodians.queue.meta().await?;
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
        let (left, set_aside) = parks_left(meta.as_ref(), &known);
        let accepted = Accepted {
            operation: &self.operation,
            era: &self.era,
            from,
            table,
            source: &self.source,
            destination: control.database(),
            serves: &self.plan.serves(),
            counters,
            left,
            ids: known.parks,
            set_aside,
        };
        let account = queue.accept(&accepted).await?;
        failpoint::hit("accepting");
        let last_park = queue.meta().await?.and_then(|meta| meta.last_park);
        let gone = meta.as_ref().map_or(0, Meta::gone);
        let regained = Regained {
            era: self.era.clone(),
            position: if self.waiting > 0 { self.has } else { from },
            counters: (self.waiting == 0).then_some(account.counters),
            parks: left.parks,
            superseded: left.superseded,
            moved: left.moved,
            settled: left.settled,
            gone,
            last_park,
            discarded: missing(account.counters, self.waiting, left, &known),
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

/// The parked records that go on, and whether those that wait must be set aside: if the destination knows of more replaced
/// or settled ones than Redis does, any of them may be such a one (I3).
fn parks_left(meta: Option<&Meta>, known: &Progress) -> (Left, bool) {
    let found = meta.map_or_else(Left::default, |meta| Left {
        parks: meta.parks,
        superseded: meta.superseded,
        moved: meta.moved,
        settled: meta.settled,
    });
    let given_up = meta.map_or(0, Meta::gone);
    let forgotten = found.superseded < known.superseded
        || found.moved < known.moved
        || found.settled < known.settled
        || given_up < known.gone;
    if !forgotten {
        return (found, false);
    }
    let left = Left {
        superseded: known.superseded.max(found.superseded),
        moved: known.moved.max(found.moved),
        settled: known.settled.max(found.settled),
        parks: 0,
    };
    let parks = left.superseded + left.settled + given_up;
    (Left { parks, ..left }, true)
}

/// What was received and is neither written, queued, parked nor filtered (I5): it is given up. A parked record that a retry
/// has settled is written, or filtered.
fn missing(counters: Counters, waiting: u64, left: Left, known: &Progress) -> u64 {
    let parked = left.parks.saturating_sub(left.settled);
    let found = known.written + waiting + parked + counters.filtered + known.missed;
    counters.received.saturating_sub(found).max(known.discarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(parks: u64, superseded: u64, settled: u64) -> Progress {
        Progress {
            parks,
            superseded,
            settled,
            ..Progress::default()
        }
    }

    fn meta(parks: u64, superseded: u64, settled: u64) -> Meta {
        Meta {
            parks,
            superseded,
            settled,
            ..Meta::default()
        }
    }

    fn left(parks: u64, superseded: u64, settled: u64) -> Left {
        Left {
            parks,
            superseded,
            settled,
            moved: 0,
        }
    }

    #[test]
    fn a_parked_record_goes_on_unless_it_may_have_been_replaced_or_written() {
        let of = |meta: Option<Meta>, known| parks_left(meta.as_ref(), &known);
        let found = Some(meta(5, 2, 1));
        assert_eq!(of(found.clone(), progress(5, 2, 1)), (left(5, 2, 1), false));
        let two_are_gone = of(Some(meta(3, 2, 0)), progress(5, 2, 0));
        assert_eq!(two_are_gone, (left(3, 2, 0), false));
        let the_destination_is_older = of(Some(meta(6, 3, 0)), progress(4, 1, 0));
        assert_eq!(the_destination_is_older, (left(6, 3, 0), false));
        let any_may_be_the_replaced_one = of(Some(meta(3, 1, 0)), progress(5, 2, 0));
        assert_eq!(any_may_be_the_replaced_one, (left(2, 2, 0), true));
        let any_may_be_the_written_one = of(found, progress(5, 2, 2));
        assert_eq!(any_may_be_the_written_one, (left(4, 2, 2), true));
        assert_eq!(of(None, progress(5, 2, 0)), (left(2, 2, 0), true));
        assert_eq!(of(None, progress(5, 0, 0)), (left(0, 0, 0), false));
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
        assert_eq!(missing(counters, 20, left(4, 0, 0), &known), 15);
        assert_eq!(missing(counters, 20, left(4, 0, 3), &known), 18);
        assert_eq!(missing(Counters::default(), 0, left(0, 0, 0), &known), 3);
    }
}
