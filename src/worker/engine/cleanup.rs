//! Deleting a map: what it has outside Kubernetes goes; a queue that is not empty only with `deletionPolicy: Discard`.

use super::{Engine, Event};
use crate::{
    api::{DeletionPolicy, reasons::LEFT_BEHIND},
    connection::postgres::Settings,
    destination::postgres::Control,
    gate::{Route, Step},
    queue::Queue,
    record::Position,
    source::postgres::Admin,
    worker::{
        map::{Left, MapId, Stage},
        plan::{Plan, TableName},
    },
};
use std::time::Instant;

impl Engine {
    /// A clean-up has been tried for so long that what cannot be reached is left behind.
    fn is_late(&mut self, id: &MapId) -> bool {
        let since = self.cleaning_since.entry(id.clone()).or_insert_with(Instant::now);
        since.elapsed() >= self.pace.clean_up
    }

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
        let late = self.is_late(id);
        let evicted = self.evict(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.cleaning = true;
        map.gate.set_blocked(true);
        map.current = false;
        let (plan, queue) = (map.plan.clone(), map.queue.clone());
        let map = id.clone();
        self.spawn(async move {
            drop(evicted.await);
            let result = empty(&plan, Some(&queue), late).await;
            Event::Emptied { map, result }
        });
    }

    /// A map that could not be taken over is deleted all the same: that is the way out of a lost position.
    pub(super) fn delete_unbooted(&mut self, id: &MapId) {
        let Some(plan) = self.plans.get(id).filter(|plan| plan.deletion.is_some()).cloned() else {
            return;
        };
        if self.booting.get(id).is_none_or(|attempt| attempt.under_way) {
            return;
        }
        if plan.adopts && !plan.joined() {
            // It has made nothing, and what it names is another's.
            return self.cleaned_up(id, Ok(Left::default()));
        }
        let late = self.is_late(id);
        let Some(attempt) = self.booting.get_mut(id) else {
            return;
        };
        attempt.under_way = true;
        let map = id.clone();
        self.spawn(async move {
            let result = empty_unbooted(&plan, late).await;
            Event::Emptied { map, result }
        });
    }

    /// Destination and queue have nothing of the map any more. What is left is at the source; the last map of the worker
    /// takes slot and publication along.
    pub(super) fn emptied(&mut self, id: &MapId, result: Result<Left, String>) {
        let Some(plan) = self.plans.get(id).cloned() else {
            return;
        };
        let left = match result {
            Ok(left) if self.source.external.is_none() => left,
            result => return self.cleaned_up(id, result),
        };
        self.emptied.insert(id.clone());
        let mut others = self
            .plans
            .values()
            .filter(|other| !self.emptied.contains(&other.id));
        let leaving = match others.clone().next() {
            None if !self.knows_all() || self.is_awaited() => Leaving::Unknown,
            None => Leaving::Last,
            Some(_) if others.any(|other| other.source_table == plan.source_table) => Leaving::Shared,
            Some(_) if self.unread.values().any(|table| *table == plan.source_table) => Leaving::Shared,
            Some(_) => Leaving::Table(plan.source_table.clone()),
        };
        if leaving == Leaving::Last {
            self.closing = Some(id.clone());
            self.stop_source();
        }
        let (settings, name) = (self.source.settings.clone(), self.publication());
        let side = self.side_prefix(id);
        self.feeds.end(id);
        let late = self.is_late(id);
        let map = id.clone();
        self.spawn(async move {
            let result = leave(&settings, &name, &side, leaving, left, late).await;
            Event::CleanedUp { map, result }
        });
    }

    /// The slot is kept for a map whose object went.
    fn is_awaited(&self) -> bool {
        let now = Instant::now();
        let mut torn = self.torn.values();
        torn.any(|torn| torn.may_forget.is_some() && torn.may_be_adopted(now))
    }

    fn attempt_cleaned_up(&mut self, id: &MapId, result: Result<Left, String>) {
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

    pub(super) fn cleaned_up(&mut self, id: &MapId, result: Result<Left, String>) {
        self.closing.take_if(|closing| *closing == *id);
        if let (Ok(left), Some(plan)) = (&result, self.plans.get(id))
            && *left != Left::default()
        {
            self.statuses.warn(plan, LEFT_BEHIND, left.message());
        }
        if self.booting.contains_key(id) {
            self.attempt_cleaned_up(id, result);
        } else if let Some(map) = self.maps.get_mut(id) {
            map.cleaning = false;
            match &result {
                Ok(_) => {
                    map.stage = Stage::Gone;
                    tracing::info!(map = %map.plan.name, "cleaned up");
                }
                Err(message) => {
                    tracing::warn!(map = %map.plan.name, %message, "the clean-up failed; trying again");
                }
            }
            map.cleaned = Some(result);
            self.report(id);
        }
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

/// What a map leaves at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Leaving {
    /// No other map is left: slot and publication go.
    Last,
    /// None is left that can be read.
    Unknown,
    /// Another map takes the same table.
    Shared,
    Table(TableName),
}

/// The destination's row first: without it nothing of the map can be written any more.
async fn empty(plan: &Plan, queue: Option<&Queue>, late: bool) -> Result<Left, String> {
    let mut left = Left::default();
    let row = async {
        let control = Control::connect(&plan.destination_settings).await.map_err(text)?;
        control.drop_progress(&plan.id).await.map_err(text)
    };
    let part = || {
        format!(
            "the row of {} in tablemap.progress at Connection {}",
            plan.id, plan.destination
        )
    };
    left.note(part, row.await, late)?;
    let keys = match queue {
        Some(queue) => queue.drop_all().await.map_err(text),
        None => Err("not reached".to_owned()),
    };
    let part = || {
        format!(
            "the keys {{tm:{}:{}}}:* in Redis at Connection {}",
            plan.namespace, plan.id, plan.queue_connection
        )
    };
    left.note(part, keys, late)?;
    Ok(left)
}

async fn empty_unbooted(plan: &Plan, late: bool) -> Result<Left, String> {
    match reach_queue(plan).await {
        Ok(queue) => empty(plan, Some(&queue), late).await,
        Err(Unreached::Away(message))
            if plan.deletion == Some(DeletionPolicy::Drain) && plan.said.queued > 0 =>
        {
            Err(format!(
                "{message} {} records were queued when it was last reached. Set spec.deletionPolicy to Discard to give \
                 them up.",
                plan.said.queued
            ))
        }
        Err(Unreached::Away(_)) if late => empty(plan, None, late).await,
        Err(Unreached::Away(message) | Unreached::NotEmpty(message)) => Err(message),
    }
}

/// Why the queue of a map that was not taken over cannot be dropped.
enum Unreached {
    Away(String),
    NotEmpty(String),
}

async fn reach_queue(plan: &Plan) -> Result<Queue, Unreached> {
    let mut queue = plan
        .connect_queue()
        .await
        .map_err(|error| Unreached::Away(text(error)))?;
    if let Some(epoch) = queue
        .seen_epoch()
        .await
        .map_err(|error| Unreached::Away(text(error)))?
    {
        queue.use_epoch(epoch);
        if plan.deletion == Some(DeletionPolicy::Drain) {
            is_empty(&queue).await.map_err(Unreached::NotEmpty)?;
        }
    }
    Ok(queue)
}

/// What cannot be read may be anything: it is kept.
async fn is_empty(queue: &Queue) -> Result<(), String> {
    let what = match queue.meta().await {
        Ok(meta) => match meta.map_or(0, |meta| meta.account.records) {
            0 => return Ok(()),
            records => format!("{records} queued records are not written, and the map cannot be taken over."),
        },
        Err(error) => format!("Whether records are queued cannot be read: {error}"),
    };
    Err(format!("{what} Set spec.deletionPolicy to Discard to drop them."))
}

async fn leave(
    settings: &Settings,
    name: &str,
    side: &str,
    leaving: Leaving,
    mut left: Left,
    late: bool,
) -> Result<Left, String> {
    let part = match &leaving {
        Leaving::Shared => format!("slots {side}… at the source, if there are any"),
        Leaving::Last | Leaving::Unknown => format!("slot and publication {name} at the source"),
        Leaving::Table((schema, table)) => {
            format!("table {schema}.{table} in publication {name} at the source")
        }
    };
    let done = leave_source(settings, name, side, &leaving).await;
    left.note(|| part, done, late)?;
    Ok(left)
}

async fn drop_sides(admin: &Admin, main: &str, prefix: &str) -> Result<(), String> {
    for (slot, _) in admin.slots(main).await.map_err(text)? {
        if slot.starts_with(prefix) {
            admin.drop_slot(&slot).await.map_err(text)?;
        }
    }
    Ok(())
}

async fn leave_source(settings: &Settings, name: &str, side: &str, leaving: &Leaving) -> Result<(), String> {
    let admin = Admin::connect(settings).await.map_err(text)?;
    match leaving {
        Leaving::Unknown => Err(
            "The slot is kept for another map of this worker: mend or delete the map that cannot be read; that of which only the \
             queue is left is waited for five minutes, since another may adopt it."
                .into(),
        ),
        Leaving::Shared => drop_sides(&admin, name, side).await,
        Leaving::Last => {
            admin.drop_slots(name).await.map_err(text)?;
            admin.drop_publication(name).await.map_err(text)
        }
        Leaving::Table((schema, table)) => {
            drop_sides(&admin, name, side).await?;
            admin.leave((schema, table), name).await.map_err(text)
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl crate::worker::map::Map {
    /// Nothing waits, in the queue or before it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        match self.gate.route() {
            // What waited for the cutover was not queued only since it came late.
            Route::Lane => self.waited == Position::ZERO || self.in_flight() == 0,
            // What its lane gives back is on its way to the queue.
            _ if self.gate.busy() == Some(Step::Leave) => false,
            _ => self.waiting() == 0 && self.appender.is_idle() && self.held.is_empty(),
        }
    }
}
