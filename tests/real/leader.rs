//! Several operators: one leads, and another follows it.

use crate::support::{
    process::Process,
    proxy::Proxy,
    rig::{NAMESPACE, Rig, SOON, same_map},
    timing::alone,
    wait::wait_until,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const LEADS: &str = "this operator leads";
/// Whoever is killed, or cut off, is followed by then.
const FOLLOWED: Duration = Duration::from_secs(15);

struct Operators {
    rig: Rig,
    maps: usize,
}

impl Operators {
    async fn start() -> Self {
        let mut rig = Rig::start().await;
        let options = ["--leader-election-namespace", NAMESPACE].map(str::to_owned);
        rig.arguments.extend(options);
        Self { rig, maps: 0 }
    }

    /// Waits until an operator works: it guards a new map.
    async fn works(&mut self) {
        self.maps += 1;
        let name = format!("map-{}", self.maps);
        self.rig.api.apply(&same_map(&name, &["id"], &["id", "note"]));
        wait_until(SOON, &format!("a guard of {name}"), async || {
            let map = self.rig.maps.get(&name).await.unwrap();
            map.metadata.finalizers.is_some_and(|names| !names.is_empty())
        })
        .await;
    }

    /// Waits for the first line of a new leader, not longer than it may take.
    async fn follows(&mut self, follower: &Process, begun: Instant) {
        follower
            .line(LEADS, FOLLOWED.saturating_sub(begun.elapsed()))
            .await;
        self.works().await;
    }
}

fn leads(operator: &Process) -> bool {
    operator.log().contains(LEADS)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_leads_soon_after_one_was_killed() {
    let _time = alone("another_operator_leads_soon_after_one_was_killed");
    let mut operators = Operators::start().await;
    let mut first = operators.rig.controllers();
    first.line(LEADS, SOON).await;
    let mut second = operators.rig.controllers();
    operators.works().await;
    assert!(!leads(&second), "two lead");
    let begun = Instant::now();
    first.kill9();
    operators.follows(&second, begun).await;
    // One that ends in order does not keep the next one waiting.
    let third = operators.rig.controllers();
    operators.works().await;
    assert!(!leads(&third), "two lead");
    second.signal(Signal::SIGTERM);
    assert!(second.end(SOON).await.success());
    third.line(LEADS, Duration::from_secs(4)).await;
    operators.works().await;
}

/// It judges by its own clock, and stops before anybody else can lead.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_cut_off_ends_before_another_leads() {
    let _time = alone("an_operator_that_is_cut_off_ends_before_another_leads");
    let mut operators = Operators::start().await;
    let proxy = Proxy::start(operators.rig.api.port);
    let mut first = operators.rig.controllers_by(proxy.port);
    first.line(LEADS, SOON).await;
    let second = operators.rig.controllers();
    operators.works().await;
    let begun = Instant::now();
    proxy.hold_requests();
    wait_until(FOLLOWED, "the end of the one that is cut off", async || {
        let has_ended = first.ended();
        assert!(has_ended.is_some() || !leads(&second), "two lead");
        has_ended.is_some()
    })
    .await;
    assert!(!first.ended().unwrap().success());
    assert!(first.log().contains("was not renewed in time"), "{}", first.log());
    operators.follows(&second, begun).await;
}
