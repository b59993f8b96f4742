//! Deleting a map: what it has outside Kubernetes goes; a queue that is not empty only with `deletionPolicy: Discard`.

use super::{Engine, Event};
use crate::{
    api::DeletionPolicy,
    destination::postgres::Control,
    gate::Route,
    source::postgres::Admin,
    worker::map::{MapId, Stage},
};
use std::time::Instant;

impl Engine {
    /// Begins or goes on with a deletion.
    pub(super) fn delete(&mut self, id: &MapId) {
        let retry = self.pace.retry;
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(policy) = map.plan.deletion else { return };
        if map.stage == Stage::Gone || map.cleaning || map.joining {
            return;
        }
        map.retry_at.get_or_insert(Instant::now() + retry);
        let joined = map.has_joined();
        if joined && policy == DeletionPolicy::Drain && !map.is_drained() {
            return self.report(id);
        }
        let map_is_last = self.maps.len() == 1 && self.plans.len() == 1;
        let evicted = self.evict(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.cleaning = true;
        map.gate.set_blocked(true);
        map.current = false;
        let (plan, queue) = (map.plan.clone(), map.queue.clone());
        let settings = self.source.settings.clone();
        let names = self.link.slot().map(ToOwned::to_owned);
        let managed = self.source.external.is_none();
        let shared = self
            .maps
            .values()
            .any(|other| other.id != *id && other.plan.source_table == plan.source_table);
        let map = id.clone();
        if map_is_last {
            self.stop_source();
        }
        self.spawn(async move {
            drop(evicted.await);
            let cleaned = async {
                let control = Control::connect(&plan.destination_settings)
                    .await
                    .map_err(|error| error.to_string())?;
                control
                    .drop_progress(&plan.id)
                    .await
                    .map_err(|error| error.to_string())?;
                queue.drop_all().await.map_err(|error| error.to_string())?;
                if let Some(name) = names.filter(|_| managed) {
                    let admin = Admin::connect(&settings)
                        .await
                        .map_err(|error| error.to_string())?;
                    if map_is_last {
                        admin
                            .terminate_walsender(&name)
                            .await
                            .map_err(|error| error.to_string())?;
                        admin.drop_slot(&name).await.map_err(|error| error.to_string())?;
                        admin
                            .drop_publication(&name)
                            .await
                            .map_err(|error| error.to_string())?;
                    } else if !shared {
                        let table = (plan.source_table.0.as_str(), plan.source_table.1.as_str());
                        admin
                            .leave(table, &name)
                            .await
                            .map_err(|error| error.to_string())?;
                    }
                }
                Ok(())
            };
            Event::CleanedUp {
                map,
                result: cleaned.await,
            }
        });
    }

    pub(super) fn cleaned_up(&mut self, id: &MapId, result: Result<(), String>) {
        let retry = self.pace.retry;
        let Some(map) = self.maps.get_mut(id) else { return };
        map.cleaning = false;
        match result {
            Ok(()) => {
                map.stage = Stage::Gone;
                tracing::info!(map = %map.plan.name, "cleaned up");
            }
            Err(message) => {
                tracing::warn!(map = %map.plan.name, %message, "the clean-up failed; trying again");
                map.clean_up_failure = Some(message);
                map.retry_at = Some(Instant::now() + retry);
            }
        }
        self.report(id);
        if self.maps.values().any(|map| map.stage != Stage::Gone) {
            self.start_source();
        }
    }

    /// Deletions that wait are looked at again.
    pub(super) fn delete_again(&mut self, id: &MapId) {
        if self.maps.get(id).is_some_and(|map| map.plan.deletion.is_some()) {
            self.delete(id);
        }
    }
}

impl crate::worker::map::Map {
    /// Nothing waits, in the queue or before it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.gate.route() == Route::Lane
            || (self.stock.waiting() == 0 && self.appender.is_idle() && self.held.is_empty())
    }
}
