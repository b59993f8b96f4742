//! Between engine and writer: what was said last of each map, and when it is said again.

use super::{
    Facts, SlotFacts, Update,
    stores::{Known, Stores},
};
use crate::{
    connection::redis::Durability,
    destination::postgres::ErrorStore,
    metrics,
    queue::Queue,
    worker::{engine::Source, map::MapId, plan::Plan},
};
use kube::runtime::events::EventType;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Counters are written this often while a map catches up.
const BUSY: Duration = Duration::from_secs(10);
/// A status that was overwritten is not said again sooner than this after it was said last.
const OVERWRITTEN: Duration = Duration::from_secs(5);

/// What was said of a map.
struct Last {
    facts: Facts,
    at: Instant,
    version: u64,
    /// The operator has put Unknown over it.
    overwritten: bool,
}

/// See the module.
pub struct Statuses {
    updates: mpsc::UnboundedSender<Update>,
    notices: mpsc::UnboundedSender<Notice>,
    slots: watch::Sender<Vec<SlotFacts>>,
    last: HashMap<MapId, Last>,
    stores: Arc<Stores>,
    looked_at: Instant,
    /// Counters are written this often while a map does not catch up.
    idle: Duration,
    force: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    TableMap,
    Connection,
}

/// An event.
#[derive(Debug)]
pub struct Notice {
    pub type_: EventType,
    pub about: About,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub reason: &'static str,
    pub note: String,
    /// Name and UID of the operation that it tells of: each has an event of its own.
    pub operation: Option<(String, String)>,
}

impl Statuses {
    #[must_use]
    pub fn new(
        updates: mpsc::UnboundedSender<Update>,
        notices: mpsc::UnboundedSender<Notice>,
        slots: watch::Sender<Vec<SlotFacts>>,
        idle: Duration,
    ) -> Self {
        Self {
            updates,
            notices,
            slots,
            last: HashMap::new(),
            stores: Arc::default(),
            looked_at: Instant::now(),
            idle,
            force: true,
        }
    }

    /// How a map stands now. Written at once if it is a transition; counters when they are due.
    pub fn tell(&mut self, id: &MapId, facts: Facts) {
        let interval = if facts.catch_up.is_some() {
            BUSY.min(self.idle)
        } else {
            self.idle
        };
        let due = self.last.get(id).is_none_or(|last| {
            facts.is_transition(&last.facts) || (facts != last.facts && last.at.elapsed() >= interval)
        });
        metrics::set(&facts);
        if due {
            self.send(id, facts);
        }
    }

    fn send(&mut self, id: &MapId, facts: Facts) {
        let first = !self.last.contains_key(id);
        let version = self.last.get(id).map_or(1, |last| last.version + 1);
        let update = Update {
            map: id.clone(),
            facts: Box::new(facts.clone()),
            version,
            force: first || self.force,
        };
        let _ = self.updates.send(update);
        self.last.insert(
            id.clone(),
            Last {
                facts,
                at: Instant::now(),
                version,
                overwritten: false,
            },
        );
    }

    /// Writes a status whatever was said before. Returns its version, so that its being written can be awaited
    /// (rule 6).
    pub fn say_now(&mut self, id: &MapId, facts: Facts) -> u64 {
        self.send(id, facts);
        self.last.get(id).map_or(0, |last| last.version)
    }

    /// After the Lease had expired, the operator may own our fields.
    pub fn force_once(&mut self) {
        self.say_again(|_| true);
    }

    /// Somebody has put Unknown over what is said of a map.
    pub fn overwritten(&mut self, id: &MapId) {
        if let Some(last) = self.last.get_mut(id) {
            last.overwritten = true;
        }
    }

    /// Says again what was overwritten: an operator that had found the Lease expired may write a moment after us. Not at once,
    /// since one whose clock is wrong goes on doing so.
    pub fn put_right(&mut self) {
        self.say_again(|last| last.overwritten && last.at.elapsed() >= OVERWRITTEN);
    }

    fn say_again(&mut self, which: impl Fn(&Last) -> bool) {
        let all: Vec<(MapId, Facts)> = self
            .last
            .iter()
            .filter(|(_, last)| which(last))
            .map(|(id, last)| (id.clone(), last.facts.clone()))
            .collect();
        self.force = true;
        for (id, facts) in all {
            self.send(&id, facts);
        }
        self.force = false;
    }

    /// Once a second the engine tells the counters of every map; `tell` decides.
    pub fn counters_are_due(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.looked_at) >= Duration::from_secs(1);
        if due {
            self.looked_at = now;
        }
        due
    }

    pub fn forget(&mut self, id: &MapId) {
        if let Some(last) = self.last.remove(id) {
            metrics::forget(&last.facts);
        }
        self.stores.forget(id);
    }

    /// A Warning event.
    pub fn warn(&self, plan: &Plan, reason: &'static str, note: String) {
        self.publish(EventType::Warning, plan, reason, note);
    }

    /// An event that needs nobody.
    pub fn note(&self, plan: &Plan, reason: &'static str, note: String) {
        self.publish(EventType::Normal, plan, reason, note);
    }

    /// What an operation has come to.
    pub fn note_of_operation(
        &self,
        plan: &Plan,
        reason: &'static str,
        note: String,
        operation: (String, String),
    ) {
        self.send_notice(EventType::Normal, plan, reason, note, Some(operation));
    }

    fn publish(&self, type_: EventType, plan: &Plan, reason: &'static str, note: String) {
        self.send_notice(type_, plan, reason, note, None);
    }

    fn send_notice(
        &self,
        type_: EventType,
        plan: &Plan,
        reason: &'static str,
        note: String,
        operation: Option<(String, String)>,
    ) {
        let _ = self.notices.send(Notice {
            type_,
            about: About::TableMap,
            namespace: plan.namespace.clone(),
            name: plan.name.clone(),
            uid: plan.uid.clone(),
            reason,
            note,
            operation,
        });
    }

    /// A Warning event on the source's Connection.
    pub fn warn_of_source(&self, source: &Source, reason: &'static str, note: String) {
        let _ = self.notices.send(Notice {
            type_: EventType::Warning,
            about: About::Connection,
            namespace: source.namespace.clone(),
            name: source.connection.clone(),
            uid: source.uid.clone(),
            reason,
            note,
            operation: None,
        });
    }

    /// The worker's slots, as they are now.
    pub fn tell_slots(&self, slots: Vec<SlotFacts>) {
        let before = self.slots.send_replace(slots.clone());
        metrics::set_slots(&before, &slots);
    }

    /// The error stores of all maps, as the lanes see them.
    #[must_use]
    pub fn stores(&self) -> Arc<dyn ErrorStore> {
        self.stores.clone()
    }

    pub fn add_store(&self, id: &MapId, queue: &Queue) {
        self.stores.add(id, queue.clone());
    }

    /// What was found in Redis when the map was taken over.
    pub fn adopt(&self, id: &MapId, durability: Option<Durability>) {
        if let Some(durability) = durability {
            self.stores.know_durability(id, durability);
        }
    }

    /// Asks Redis again how durable it is, in the background.
    pub fn read_durability(&self, id: &MapId, queue: &Queue) {
        let (stores, id, queue) = (self.stores.clone(), id.clone(), queue.clone());
        tokio::spawn(async move {
            if let Ok(durability) = queue.durability().await {
                stores.know_durability(&id, durability);
            }
        });
    }

    /// The condition `QueueDurable` of a map.
    #[must_use]
    pub fn durability(&self, id: &MapId) -> (Option<bool>, &'static str, String) {
        match self
            .stores
            .known(id)
            .and_then(|Known { durability, .. }| durability)
        {
            Some(durability) => durability.condition(),
            None => (None, "NotChecked", "Redis was not asked yet.".to_owned()),
        }
    }
}
