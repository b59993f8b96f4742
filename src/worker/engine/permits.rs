//! How many maps may have connections of their own to one destination at a time, beside its lane: a worker with many maps
//! must not use up what the server has.

use super::Engine;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maps that are taken over, join or are checked at the same time. Each has up to three connections. A pause's fence does
/// not wait for them.
const AT_ONCE: usize = 6;

/// By destination, so that one that does not answer holds up only its own maps (I7).
#[derive(Debug, Default)]
pub struct Permits {
    by_destination: HashMap<String, Arc<Semaphore>>,
    publication: Publication,
}

/// Tables enter the publication one after the other: whoever adds one locks it until its join is stored.
#[derive(Debug)]
struct Publication(Arc<Semaphore>);

impl Default for Publication {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Permits {
    /// Whose turn it is to change the publication.
    #[must_use]
    pub fn publication(&self) -> Arc<Semaphore> {
        self.publication.0.clone()
    }
}

impl Engine {
    /// Waits for a map's turn. Joins have turns of their own: they may wait long for a table's lock.
    pub(super) fn turn(
        &mut self,
        destination: &str,
    ) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let known = self.permits.by_destination.entry(destination.to_owned());
        let permits = known.or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        // It is never closed.
        let turn = permits.clone().acquire_owned();
        async move { turn.await.ok() }
    }
}
