//! The tests above can fail: a build that breaks a promise on purpose fails the test of that promise.

use crate::support::{rig::PROGRAM, timing::timed};
use std::{path::Path, process::Command, sync::Mutex};

/// What a build breaks, the test that must fail with it, and what that test must print, so that it fails for this.
const BUILDS: &[(&str, &str, &str)] = &[
    (
        "confirm-early",
        "kills::a_worker_killed_at_every_step_loses_nothing",
        "are held by nobody",
    ),
    (
        "trim-early",
        "kills::a_worker_killed_at_every_step_loses_nothing",
        "are held by nobody",
    ),
    (
        "open-early",
        "siblings::one_map_paused_the_other_two_go_on",
        "at the destination",
    ),
    (
        "retry-replaced",
        "retry::a_retry_never_overwrites_newer_data",
        "2new two,4newer",
    ),
    (
        "leave-asleep",
        "packs::what_sleeps_is_never_written_over_what_is_newer",
        "at the destination",
    ),
];

/// Two at once: each of them has servers and a load of its own, and waits in vain for something until its deadline.
const AT_ONCE: usize = 2;

#[test]
fn a_build_that_breaks_a_promise_is_caught() {
    let _time = timed("a_build_that_breaks_a_promise_is_caught");
    let builds = Mutex::new(BUILDS.iter());
    let next = || builds.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((broken, test, says)) = next() {
                    fails(broken, test, says);
                }
            });
        }
    });
}

/// Runs one test of this program with a broken build, and asserts that it fails.
fn fails(broken: &str, test: &str, says: &str) {
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
    assert!(
        printed.contains(says),
        "{test} with {broken} fails otherwise: {printed}"
    );
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
