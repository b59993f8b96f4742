//! The demo that the README names, as a newcomer runs it.

use crate::support::timing::timed;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

/// `hack/demo.sh`, with a state folder of its own: a demo that runs on this machine goes on.
fn demo(command: &str, state: &Path) -> Command {
    let mut demo = Command::new("hack/demo.sh");
    demo.arg(command)
        .env("TABLEMAP", env!("CARGO_BIN_EXE_tablemap"))
        .env("XDG_STATE_HOME", state)
        .env_remove("KUBECONFIG")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    demo
}

#[tokio::test]
async fn the_demo_ends_well() {
    let _time = timed("the_demo_ends_well");
    let state = tempfile::tempdir().unwrap();
    let up = demo("up", state.path()).output();
    let up = tokio::time::timeout(Duration::from_secs(300), up).await;
    let down = demo("down", state.path()).output().await.unwrap();
    let up = up.expect("the demo ends within five minutes").unwrap();
    let told = String::from_utf8_lossy(&up.stdout);
    let failed = String::from_utf8_lossy(&up.stderr);
    assert!(up.status.success(), "{told}\n{failed}");
    assert!(told.contains("they balance"), "{told}");
    assert!(down.status.success(), "{down:?}");
}
