//! Both custodians of a map that has lost something, and where its gap begins.

use super::{AcceptError, Plan};
use crate::{
    destination::postgres::{Control, Progress},
    queue::{Meta, Queue},
    record::{Era, Lsn, Position},
    worker::{custody::Held, engine::effects::next_epoch},
};

/// Both custodians, as they are found.
pub(super) struct Custodians {
    pub(super) queue: Queue,
    pub(super) control: Control,
    pub(super) epoch: i64,
    pub(super) meta: Option<Meta>,
    pub(super) progress: Option<Progress>,
}

impl Custodians {
    pub(super) async fn take(plan: &Plan, lease_epoch: i64) -> Result<Self, AcceptError> {
        let mut queue = plan.connect_queue().await?;
        let control = Control::connect(&plan.destination_settings).await?;
        let progress = control.peek(&plan.id).await?;
        let seen = queue.seen_epoch().await?;
        let epoch = next_epoch(lease_epoch, seen, progress.as_ref());
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

    pub(super) fn held(&self) -> Held {
        let at = |get: fn(&Meta) -> Position| self.meta.as_ref().map(get);
        let destination = self.progress.as_ref().map(|progress| progress.position);
        Held {
            destination: Some(destination.unwrap_or_default()),
            queue: at(|meta| meta.account.q).unwrap_or_default(),
            trimmed: at(|meta| meta.account.t).unwrap_or_default(),
        }
    }

    pub(super) fn era(&self) -> Option<&Era> {
        let queue = self.meta.as_ref().map(|meta| &meta.era);
        let destination = self.progress.as_ref().map(|progress| &progress.era);
        queue
            .into_iter()
            .chain(destination)
            .max_by_key(|era| era.generation)
    }

    /// Where the gap begins, if there is one. `goes_on` says that the source has everything beyond `confirmed`.
    pub(super) fn gap(&self, confirmed: Position, goes_on: bool) -> Option<Lsn> {
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
