//! What is counted for dashboards and alerts. Labels are bounded: namespace and map.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::LazyLock;

/// Names a map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapLabels {
    pub namespace: String,
    pub tablemap: String,
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
    pub lag_seconds: Family<MapLabels, Gauge>,
    pub lag_bytes: Family<MapLabels, Gauge>,
    pub paused: Family<MapLabels, Gauge>,
    pub blocked: Family<MapLabels, Gauge>,
}

/// The process's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("tablemap");
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
            lag_seconds: family("lag_seconds", "From the source's commit to durable"),
            lag_bytes: family("lag_bytes", "The same in bytes of the source's log"),
            paused: family("paused", "1 while no write can reach the destination"),
            blocked: family("blocked", "1 while changes are not taken"),
            registry,
        }
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
