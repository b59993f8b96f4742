//! How often the operator asks the API server: once for all maps that name the same.

use crate::support::{
    rig::{Rig, SOON, said, same_map},
    timing::alone,
    wait::wait_until,
};
use kube::api::ListParams;
use std::time::Duration;

/// Without a worker, each is looked at every five seconds.
const MAPS: usize = 100;
const WATCHED: Duration = Duration::from_secs(15);

/// Requests for single objects of a kind that were answered so far.
fn reads(rig: &Rig, resource: &str) -> u64 {
    let text = rig.api.kubectl(&["get", "--raw", "/metrics"]);
    let is_meant = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains(&format!("resource=\"{resource}\""))
            && line.contains("verb=\"GET\"")
    };
    let counts = text.lines().filter(is_meant);
    counts
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_maps_are_looked_at_with_few_requests() {
    let _time = alone("a_hundred_maps_are_looked_at_with_few_requests");
    let mut rig = Rig::start().await;
    let maps: String = (0..MAPS)
        .map(|number| same_map(&format!("map_{number}"), &["id"], &["id", "note"]))
        .collect();
    rig.api.apply(&maps);
    let _operator = rig.controllers();
    wait_until(SOON, "a status of each map", async || {
        let maps = rig.maps.list(&ListParams::default()).await.unwrap();
        let statuses = maps
            .items
            .iter()
            .map(|map| serde_json::to_value(&map.status).unwrap());
        statuses
            .filter(|status| said(status, "WorkerAvailable").is_some())
            .count()
            == MAPS
    })
    .await;
    let of = ["leases", "connections", "secrets"];
    let before = of.map(|resource| reads(&rig, resource));
    tokio::time::sleep(WATCHED).await;
    for (resource, before) in of.into_iter().zip(before) {
        let made = reads(&rig, resource) - before;
        println!("{made} reads of {resource}");
        // By three looks at each map it would be 300.
        assert!(
            (1..60).contains(&made),
            "{made} reads of {resource} for {MAPS} maps in {WATCHED:?}"
        );
    }
}
