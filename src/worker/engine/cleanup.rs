//! Deleting a map: what it has outside Kubernetes goes; a queue that is not empty only with `deletionPolicy: Discard`.

use super::{Engine, Event};
use crate::{
    api::DeletionPolicy,
    connection::{postgres::Settings, redis},
    destination::postgres::Control,
    gate::Route,
    queue::Queue,
    source::postgres::Admin,
    worker::{
        map::{MapId, Stage},
        plan::Plan,
    },
};
use std::{sync::Arc, time::Instant};

impl Engine {
    /// Begins or goes on with a deletion.
    pub(super) fn delete(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(policy) = map.plan.deletion else { return };
        if map.stage == Stage::Gone || map.cleaning || map.joining {
            return;
        }
        let joined = map.has_joined();
        if joined && policy == DeletionPolicy::Drain && !map.is_drained() {
            return self.report(id);
        }
        let evicted = self.evict(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.cleaning = true;
        map.gate.set_blocked(true);
        map.current = false;
        let queue = map.queue.clone();
        let cleaning = self.cleaning(id);
        let map = id.clone();
        self.spawn(async move {
            drop(evicted.await);
            let result = match cleaning {
                Some(cleaning) => cleaning.run(queue).await,
                None => Ok(()),
            };
            Event::CleanedUp { map, result }
        });
    }

    /// A map that could not be taken over is deleted all the same: that is the way out of a lost position.
    pub(super) fn delete_unbooted(&mut self, id: &MapId) {
        let Some(plan) = self.plans.get(id).filter(|plan| plan.deletion.is_some()).cloned() else {
            return;
        };
        let cleaning = self.cleaning(id);
        let Some(attempt) = self.booting.get_mut(id) else {
            return;
        };
        if attempt.under_way {
            return;
        }
        attempt.under_way = true;
        let map = id.clone();
        self.spawn(async move {
            let result = match cleaning {
                Some(cleaning) => cleaning.run_unbooted(&plan).await,
                None => Ok(()),
            };
            Event::CleanedUp { map, result }
        });
    }

    /// What the clean-up of a map needs. The last map's takes the source's stream down.
    fn cleaning(&mut self, id: &MapId) -> Option<Cleaning> {
        let plan = self.plans.get(id)?.clone();
        let last = self.plans.len() == 1;
        let shared = self
            .plans
            .values()
            .any(|other| other.id != *id && other.source_table == plan.source_table);
        if last {
            self.stop_source();
        }
        Some(Cleaning {
            settings: self.source.settings.clone(),
            managed: self.source.external.is_none().then(|| self.publication()),
            last,
            shared,
            plan,
        })
    }

    fn attempt_cleaned_up(&mut self, id: &MapId, result: Result<(), String>) {
        let retry = self.pace.retry;
        let Some(attempt) = self.booting.get_mut(id) else {
            return;
        };
        attempt.under_way = false;
        if result.is_err() {
            attempt.retry_at = Some(Instant::now() + retry);
        }
        attempt.cleaned = Some(result);
        self.report_starting(id);
    }

    pub(super) fn cleaned_up(&mut self, id: &MapId, result: Result<(), String>) {
        if self.booting.contains_key(id) {
            return self.attempt_cleaned_up(id, result);
        }
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

/// What is removed, and where.
struct Cleaning {
    plan: Arc<Plan>,
    settings: Settings,
    /// Slot and publication, if the worker made them.
    managed: Option<String>,
    /// No other map is left.
    last: bool,
    /// Another map takes the same table.
    shared: bool,
}

impl Cleaning {
    /// The destination's row first: without it nothing of the map can be written any more.
    async fn run(self, queue: Queue) -> Result<(), String> {
        let control = Control::connect(&self.plan.destination_settings)
            .await
            .map_err(text)?;
        control.drop_progress(&self.plan.id).await.map_err(text)?;
        queue.drop_all().await.map_err(text)?;
        self.leave_source().await
    }

    async fn run_unbooted(self, plan: &Plan) -> Result<(), String> {
        let link = redis::connect(&plan.queue_settings).await.map_err(text)?;
        let mut queue = Queue::new(link, &plan.namespace, &plan.id, &plan.name);
        if let Some(epoch) = queue.seen_epoch().await.map_err(text)? {
            queue.use_epoch(epoch);
            let records = queue
                .meta()
                .await
                .ok()
                .flatten()
                .map_or(0, |meta| meta.account.records);
            if records > 0 && plan.deletion == Some(DeletionPolicy::Drain) {
                return Err(format!(
                    "{records} queued records are not written, and the map cannot be taken over. Set \
                     spec.deletionPolicy to Discard to drop them."
                ));
            }
        }
        self.run(queue).await
    }

    async fn leave_source(&self) -> Result<(), String> {
        let Some(name) = &self.managed else { return Ok(()) };
        let admin = Admin::connect(&self.settings).await.map_err(text)?;
        if self.last {
            admin.terminate_walsender(name).await.map_err(text)?;
            admin.drop_slot(name).await.map_err(text)?;
            admin.drop_publication(name).await.map_err(text)?;
        } else if !self.shared {
            let table = (
                self.plan.source_table.0.as_str(),
                self.plan.source_table.1.as_str(),
            );
            admin.leave(table, name).await.map_err(text)?;
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl crate::worker::map::Map {
    /// Nothing waits, in the queue or before it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.gate.route() == Route::Lane
            || (self.waiting() == 0 && self.appender.is_idle() && self.held.is_empty())
    }
}
