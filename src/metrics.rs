//! What is counted for dashboards and alerts. Labels are bounded: namespace and map.

use crate::worker::status::{Facts, SlotFacts};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// Names a map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapLabels {
    pub namespace: String,
    pub tablemap: String,
}

/// Names a map, and why it is stalled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StalledLabels {
    pub namespace: String,
    pub tablemap: String,
    pub reason: String,
}

/// Names a replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SlotLabels {
    pub slot: String,
}

/// All families of the process.
pub struct Metrics {
    registry: Registry,
    pub received: Family<MapLabels, Gauge>,
    pub written: Family<MapLabels, Gauge>,
    pub queued: Family<MapLabels, Gauge>,
    pub queue_bytes: Family<MapLabels, Gauge>,
    pub errored: Family<MapLabels, Gauge>,
    pub filtered: Family<MapLabels, Gauge>,
    pub truncates: Family<MapLabels, Gauge>,
    pub lag_seconds: Family<MapLabels, Gauge>,
    pub lag_bytes: Family<MapLabels, Gauge>,
    pub paused: Family<MapLabels, Gauge>,
    pub destination_connected: Family<MapLabels, Gauge>,
    pub blocked: Family<MapLabels, Gauge>,
    pub rule_pauses: Family<MapLabels, Gauge>,
    pub over_soft_limit: Family<MapLabels, Gauge>,
    pub oldest_queued: Family<MapLabels, Gauge>,
    pub next_purge: Family<MapLabels, Gauge>,
    pub worker_available: Family<MapLabels, Gauge>,
    pub stalled: Family<StalledLabels, Gauge>,
    pub slot_retained_bytes: Family<SlotLabels, Gauge>,
    pub slot_safe_bytes: Family<SlotLabels, Gauge>,
}

/// The process's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("tablemap");
        let mut of_slots = |name: &str, help: &str| {
            let family = Family::<SlotLabels, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        let slot_retained_bytes = of_slots(
            "slot_retained_bytes",
            "Bytes of the source's log that a slot keeps",
        );
        let slot_safe_bytes = of_slots(
            "slot_safe_bytes",
            "Bytes that the source may still write before the slot is lost; absent without a limit",
        );
        let stalled = Family::<StalledLabels, Gauge>::default();
        let help = "1 while the map cannot go on without somebody; the operator says it, as of its last look";
        registry.register("stalled", help, stalled.clone());
        let mut family = |name: &str, help: &str| {
            let family = Family::<MapLabels, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        Self {
            received: family("received_records", "Changes that arrived since the map was made"),
            written: family(
                "written_records",
                "Records written at the destination since the map was made",
            ),
            queued: family("queued_records", "Records that wait in the queue"),
            queue_bytes: family("queue_size_bytes", "Bytes of the queue in Redis"),
            errored: family(
                "errored_records",
                "Records that the destination has refused and that wait for a retry",
            ),
            filtered: family(
                "filtered_records",
                "Changes that the filter left out since the map was made",
            ),
            truncates: family(
                "truncates",
                "TRUNCATEs of the source table, not replicated, seen since the worker began",
            ),
            lag_seconds: family("lag_seconds", "From the source's commit to durable"),
            lag_bytes: family("lag_bytes", "The same in bytes of the source's log"),
            paused: family("paused", "1 while no write can reach the destination"),
            destination_connected: family(
                "destination_connected",
                "1 while the destination can be written, 0 while it is away or refuses the worker; absent while nobody has looked",
            ),
            blocked: family("blocked", "1 while changes are not taken"),
            rule_pauses: family("rule_pauses", "Pauses that rules have begun and nobody has ended"),
            over_soft_limit: family("over_soft_limit", "1 while the queue has reached its soft limit"),
            oldest_queued: family(
                "oldest_queued_timestamp_seconds",
                "When the oldest record of the queue was committed at the source; absent while none waits",
            ),
            next_purge: family(
                "next_purge_timestamp_seconds",
                "When the oldest error is purged; absent while none waits",
            ),
            worker_available: family(
                "worker_available",
                "1 while a worker holds its Lease; the operator says it, as of its last look",
            ),
            stalled,
            slot_retained_bytes,
            slot_safe_bytes,
            registry,
        }
    }

    fn families(&self) -> [&Family<MapLabels, Gauge>; 16] {
        [
            &self.received,
            &self.written,
            &self.queued,
            &self.queue_bytes,
            &self.errored,
            &self.filtered,
            &self.truncates,
            &self.lag_seconds,
            &self.lag_bytes,
            &self.paused,
            &self.destination_connected,
            &self.blocked,
            &self.rule_pauses,
            &self.over_soft_limit,
            &self.oldest_queued,
            &self.next_purge,
        ]
    }
}

/// Takes over what is known of a map.
pub fn set(facts: &Facts) {
    let labels = labels(facts);
    let by_rules = facts.pauses.iter().filter(|pause| pause.cause == "Rule").count();
    let known = |type_: &str| {
        let mut conditions = facts.conditions.iter();
        conditions
            .find(|said| said.type_ == type_)
            .and_then(|said| said.status)
    };
    for (family, value) in [
        (&METRICS.received, facts.ledger.received),
        (&METRICS.written, facts.ledger.written),
        (&METRICS.queued, facts.queue_records),
        (&METRICS.queue_bytes, facts.queue_bytes),
        (&METRICS.errored, facts.ledger.errored),
        (&METRICS.filtered, facts.ledger.filtered),
        (&METRICS.truncates, facts.truncates),
        (&METRICS.paused, u64::from(known("Paused") == Some(true))),
        (&METRICS.blocked, u64::from(facts.blocked.is_some())),
        (&METRICS.rule_pauses, by_rules as u64),
        (
            &METRICS.over_soft_limit,
            u64::from(known("WithinLimits") == Some(false)),
        ),
    ] {
        family.get_or_create(&labels).set(value.cast_signed());
    }
    let seconds = |at: i64| at / 1_000_000;
    for (family, value) in [
        (
            &METRICS.destination_connected,
            known("DestinationConnected").map(i64::from),
        ),
        (&METRICS.oldest_queued, facts.queue_oldest.map(seconds)),
        (&METRICS.next_purge, facts.next_purge.map(seconds)),
        (&METRICS.lag_seconds, facts.lag.map(|lag| lag.seconds)),
        (&METRICS.lag_bytes, facts.lag.map(|lag| lag.bytes.cast_signed())),
    ] {
        match value {
            Some(value) => drop(family.get_or_create(&labels).set(value)),
            None => drop(family.remove(&labels)),
        }
    }
}

/// Takes over what the operator says of a map: why it is stalled, if it is, and whether somebody works for it.
pub fn summed_up(namespace: &str, name: &str, stalled: Option<&str>, available: bool) {
    forget_sum(namespace, name);
    let labels = MapLabels {
        namespace: namespace.to_owned(),
        tablemap: name.to_owned(),
    };
    METRICS
        .worker_available
        .get_or_create(&labels)
        .set(i64::from(available));
    if let Some(reason) = stalled {
        let labels = StalledLabels {
            namespace: labels.namespace,
            tablemap: labels.tablemap,
            reason: reason.to_owned(),
        };
        METRICS.stalled.get_or_create(&labels).set(1);
        let mut said = lock();
        said.insert((namespace.to_owned(), name.to_owned()), labels);
    }
}

/// The map is gone, or is summed up anew.
pub fn forget_sum(namespace: &str, name: &str) {
    METRICS.worker_available.remove(&MapLabels {
        namespace: namespace.to_owned(),
        tablemap: name.to_owned(),
    });
    if let Some(labels) = lock().remove(&(namespace.to_owned(), name.to_owned())) {
        METRICS.stalled.remove(&labels);
    }
}

/// Of each map that is stalled the labels under which that was said.
static STALLED: Mutex<BTreeMap<(String, String), StalledLabels>> = Mutex::new(BTreeMap::new());

fn lock() -> MutexGuard<'static, BTreeMap<(String, String), StalledLabels>> {
    STALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over what is known of a worker's slots; those that it had before and has no more go.
pub fn set_slots(before: &[SlotFacts], now: &[SlotFacts]) {
    let labels = |slot: &SlotFacts| SlotLabels {
        slot: slot.name.clone(),
    };
    for slot in before {
        METRICS.slot_retained_bytes.remove(&labels(slot));
        METRICS.slot_safe_bytes.remove(&labels(slot));
    }
    for slot in now {
        let labels = labels(slot);
        METRICS
            .slot_retained_bytes
            .get_or_create(&labels)
            .set(slot.retained);
        if let Some(safe) = slot.safe {
            METRICS.slot_safe_bytes.get_or_create(&labels).set(safe);
        }
    }
}

/// The map is gone.
pub fn forget(facts: &Facts) {
    let labels = labels(facts);
    for family in METRICS.families() {
        family.remove(&labels);
    }
}

fn labels(facts: &Facts) -> MapLabels {
    MapLabels {
        namespace: facts.namespace.clone(),
        tablemap: facts.name.clone(),
    }
}

/// In the `OpenMetrics` text format.
#[must_use]
pub fn text() -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut out, &METRICS.registry);
    out
}
