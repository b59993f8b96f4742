//! What a process says of itself over HTTP.

use crate::support::{
    http::ask,
    ports::free_port,
    rig::{NAMESPACE, Rig, SOON, same_map},
    timing::timed,
    wait::wait_until,
};

async fn is_ready(address: &str) -> bool {
    matches!(ask(address, "GET", "/readyz", "").await, Some((200, _)))
}

/// A second worker of the same source is alive, and lacks the Lease until the first has gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_listed() {
    let _time = timed("what_is_missing_is_listed");
    let mut rig = Rig::start().await;
    let mut start = || {
        let address = format!("127.0.0.1:{}", free_port());
        let bind = format!("--bind-address={address}");
        let connection = ["worker", "--namespace", NAMESPACE, "--connection", "crm", &bind];
        let kubeconfig = rig.api.kubeconfig();
        (rig.run_as(&kubeconfig, &connection), address)
    };
    let (mut first, its) = start();
    wait_until(SOON, "a worker that is ready", async || is_ready(&its).await).await;
    let (_second, address) = start();
    wait_until(SOON, "a worker that is alive", async || {
        ask(&address, "GET", "/healthz", "").await.is_some()
    })
    .await;
    let lacks = ask(&address, "GET", "/readyz", "").await.unwrap();
    let expected = "worker: waiting for its Lease, and for the list of its maps\n";
    assert_eq!(lacks, (503, expected.to_owned()));
    first.kill9();
    wait_until(SOON, "the next worker that is ready", async || {
        is_ready(&address).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_is_changed_while_it_runs() {
    let _time = timed("the_log_level_is_changed_while_it_runs");
    let mut rig = Rig::start().await;
    let address = format!("127.0.0.1:{}", free_port());
    rig.arguments.push(format!("--bind-address={address}"));
    let operator = rig.operator(&[("TABLEMAP_LOG", "error")]);
    rig.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    rig.api.apply(&same_map("t", &["id"], &["id"]));
    rig.condition("t", "CaughtUp", "True").await;
    assert!(!operator.log().contains("map=t step="), "{}", operator.log());

    let (code, why) = ask(&address, "PUT", "/log", "tablemap=loud").await.unwrap();
    assert_eq!(code, 400, "{why}");
    let changed = ask(&address, "PUT", "/log", "tablemap=debug").await.unwrap();
    assert_eq!(changed, (200, "changed\n".to_owned()));
    rig.pause("t");
    operator.line("map=t step=", SOON).await;
}
