//! The tests above can fail: a build that breaks a promise on purpose fails the test of that promise.

use crate::support::{rig::PROGRAM, timing::timed};
use std::{path::Path, process::Command};

/// Runs one test of this program with a broken build, and asserts that it fails.
fn fails(broken: &str, test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .envs([
            ("TABLEMAP_BROKEN", broken),
            ("TABLEMAP_KILLS", "1"),
            ("RUST_BACKTRACE", "0"),
        ])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{test} passes with {broken}");
    assert!(printed.contains(&format!("test {test} ... FAILED")), "{printed}");
}

#[test]
fn a_build_that_confirms_early_is_caught() {
    let _time = timed("a_build_that_confirms_early_is_caught");
    fails(
        "confirm-early",
        "kills::a_worker_killed_at_every_step_loses_nothing",
    );
}

#[test]
fn a_build_that_trims_before_the_flush_is_caught() {
    let _time = timed("a_build_that_trims_before_the_flush_is_caught");
    fails("trim-early", "kills::a_worker_killed_at_every_step_loses_nothing");
}

#[test]
fn a_build_that_opens_before_the_queue_is_empty_is_caught() {
    let _time = timed("a_build_that_opens_before_the_queue_is_empty_is_caught");
    fails("open-early", "siblings::one_map_paused_the_other_two_go_on");
}

#[test]
fn a_build_that_retries_what_was_replaced_is_caught() {
    let _time = timed("a_build_that_retries_what_was_replaced_is_caught");
    fails("retry-replaced", "retry::a_retry_never_overwrites_newer_data");
}

/// `make test` builds the program as it is shipped and puts it aside.
#[test]
fn the_shipped_program_has_no_failpoints() {
    let _time = timed("the_shipped_program_has_no_failpoints");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/shipped/tablemap");
    let shipped = std::fs::read(&shipped).expect("run `make test`: it builds the program as it is shipped");
    let testing = std::fs::read(PROGRAM).unwrap();
    for word in ["TABLEMAP_FAILPOINTS", "TABLEMAP_BROKEN"] {
        let has = |program: &[u8]| program.windows(word.len()).any(|at| at == word.as_bytes());
        assert!(has(&testing) && !has(&shipped), "{word}");
    }
}
