//! Simulates one map's gate: random schedules, with a crash possible at every point, judged by what others can see.

mod cutover;
mod judge;
mod lane;
mod random;
mod reporter;
mod schedule;
mod steps;
mod worker;
mod world;

use judge::{Broken, judge};
use schedule::Schedule;

/// Ways to carry out the gate's steps wrongly. Each must be caught, or the simulation proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// Goes direct while records lie in the queue.
    OpensBeforeDrained,
    /// Shows Paused=True as soon as a pause is wanted.
    ShowsBeforeTheFence,
    /// Says that the token was raised, and has not raised it.
    SkipsTheFence,
    /// Does not wait until the status is written.
    OpensBeforeTheStatus,
    /// Takes the answer to an older status for the one it waits for.
    TrustsAnyReply,
    /// Raises the token while the lane may still connect, and so raise it once more.
    FencesBesideTheEviction,
    /// A new worker or connection goes on with the token that it finds.
    KeepsTheToken,
    /// A rule's pause acts before Redis knows of it.
    ActsBeforeItIsStored,
    /// A trial opens although the spec asks for a pause by then.
    TriesAgainstTheSpec,
    /// A retry does not look whether a newer change has come.
    RetriesBlindly,
    /// Queues what the lane gives back, although the source has begun to send it again.
    QueuesTwice,
}

const SCHEDULES: u64 = 20_000;

fn schedules() -> u64 {
    let given = std::env::var("TABLEMAP_SCHEDULES").ok();
    given.and_then(|count| count.parse().ok()).unwrap_or(SCHEDULES)
}

fn broken(seed: u64, flaw: Option<Flaw>) -> Option<Broken> {
    judge(&Schedule::new(seed, flaw).run())
}

/// The last events of a schedule, run once more to be told.
fn story(seed: u64) -> String {
    let mut schedule = Schedule::new(seed, None);
    schedule.tell = true;
    schedule.run();
    let first = schedule.story.len().saturating_sub(40);
    schedule.story[first..].join("\n")
}

#[test]
fn no_schedule_breaks_a_promise() {
    for seed in 0..schedules() {
        if let Some(broken) = broken(seed, None) {
            panic!("seed {seed}: {broken:?}\n{}", story(seed));
        }
    }
}

/// How the first schedule that catches a flaw catches it.
fn caught(flaw: Flaw) -> Broken {
    (0..SCHEDULES)
        .find_map(|seed| {
            let broken = broken(seed, Some(flaw))?;
            println!("{flaw:?}: seed {seed}, {broken:?}");
            Some(broken)
        })
        .unwrap_or_else(|| panic!("{flaw:?} was not caught"))
}

fn assert_writes_while_paused(flaw: Flaw) {
    let broken = caught(flaw);
    assert!(matches!(broken, Broken::LandedWhilePaused(_)), "{broken:?}");
}

fn assert_writes_twice(flaw: Flaw) {
    let broken = caught(flaw);
    let is_twice = matches!(broken, Broken::Backward { .. } | Broken::Miscounted(_));
    assert!(is_twice, "{broken:?}");
}

#[test]
fn opening_before_the_queue_is_drained_is_caught() {
    let broken = caught(Flaw::OpensBeforeDrained);
    assert!(matches!(broken, Broken::Lost(_)), "{broken:?}");
}

#[test]
fn showing_paused_before_the_fence_is_caught() {
    assert_writes_while_paused(Flaw::ShowsBeforeTheFence);
}

#[test]
fn skipping_the_fence_is_caught() {
    assert_writes_while_paused(Flaw::SkipsTheFence);
}

#[test]
fn opening_before_the_status_is_written_is_caught() {
    assert_writes_while_paused(Flaw::OpensBeforeTheStatus);
}

#[test]
fn trusting_the_answer_to_an_older_status_is_caught() {
    assert_writes_while_paused(Flaw::TrustsAnyReply);
}

#[test]
fn fencing_while_the_lane_may_still_connect_is_caught() {
    assert_writes_while_paused(Flaw::FencesBesideTheEviction);
}

#[test]
fn connecting_without_a_higher_token_is_caught() {
    assert_writes_twice(Flaw::KeepsTheToken);
}

#[test]
fn a_pause_by_rule_that_acts_before_it_is_stored_is_caught() {
    let broken = caught(Flaw::ActsBeforeItIsStored);
    assert!(matches!(broken, Broken::ForgotThePause(_)), "{broken:?}");
}

#[test]
fn a_trial_against_the_spec_is_caught() {
    assert_eq!(caught(Flaw::TriesAgainstTheSpec), Broken::NeverPaused);
}

#[test]
fn a_retry_that_does_not_look_for_newer_changes_is_caught() {
    assert_writes_twice(Flaw::RetriesBlindly);
}

#[test]
fn queueing_what_the_source_sends_again_is_caught() {
    assert_writes_twice(Flaw::QueuesTwice);
}
