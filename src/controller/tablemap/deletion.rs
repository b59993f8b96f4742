//! When a map that is to go needs nobody to clean up after it, or has nobody who could. Pure.

use super::summary::{Found, UNAVAILABLE, Worker, condition, has_begun};
use crate::{
    api::{DeletionPolicy, TableMap},
    worker::ResolveError,
};
use jiff::Timestamp;
use std::time::Duration;

/// A worker that has made something says within this time that it works for the map.
const TOLD: Duration = Duration::from_secs(10);

/// What becomes of a map's finalizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finalizer {
    /// Its worker cleans up, or will.
    Stays,
    /// Nothing is left outside Kubernetes, or never was.
    Goes,
    /// Nobody knows any more where its parts are, for this reason.
    GivesUp(String),
}

/// See the module. `patience` is how long a map waits for what it refers to.
pub fn finalizer(map: &TableMap, found: &Found, patience: Duration, now: Timestamp) -> Finalizer {
    let Some(deleted) = map.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
        return Finalizer::Stays;
    };
    let is_past = |time: Timestamp, long: Duration| now.duration_since(time).unsigned_abs() >= long;
    let is_clean = condition(map, "CleanedUp").is_some_and(|said| said.status == "True");
    if is_clean || (!has_begun(map) && was_nobodys(found, is_past(deleted, TOLD))) {
        return Finalizer::Goes;
    }
    let unresolved = condition(map, "SpecValid")
        .filter(|said| said.status == "False")
        .is_some_and(|said| is_past(said.last_transition_time.0, patience));
    let is_over = unresolved && is_past(deleted, patience);
    match &found.spec {
        Err(ResolveError::Missing(why) | ResolveError::Invalid(why))
            if is_over && !is_in_hand(map, found) && !drains(map) =>
        {
            Finalizer::GivesUp(why.clone())
        }
        _ => Finalizer::Stays,
    }
}

/// A worker goes on with what it knew of the map: it cleans up, and gives up by itself what it cannot reach. One that could
/// not take the map over says that it is starting, or nothing.
fn is_in_hand(map: &TableMap, found: &Found) -> bool {
    let is_taken_over = condition(map, "CaughtUp")
        .is_some_and(|said| said.reason != "Starting" && said.reason != UNAVAILABLE);
    matches!(found.worker, Worker::Holds { .. }) && is_taken_over
}

/// Whether no worker has made anything for a map of which none has told; `waited` for one that would.
fn was_nobodys(found: &Found, waited: bool) -> bool {
    match &found.spec {
        // What it was refused is another's.
        Err(ResolveError::QueueInUse(_)) => true,
        Err(error) => is_certain(error) && waited,
        Ok(()) => waited && matches!(found.worker, Worker::None { .. }),
    }
}

/// The API server has been asked.
fn is_certain(error: &ResolveError) -> bool {
    !matches!(error, ResolveError::Api(_))
}

/// Records that are to be written first are not given up: `deletionPolicy: Discard` does that.
fn drains(map: &TableMap) -> bool {
    let queue = map.status.as_ref().and_then(|status| status.queue.as_ref());
    let queued = queue
        .and_then(|queue| queue.records)
        .is_some_and(|records| records > 0);
    queued && map.spec.deletion_policy == DeletionPolicy::Drain
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::map, *};
    use serde_json::{Value, json};

    const PATIENCE: Duration = Duration::from_secs(300);
    const NOW: &str = "2026-11-24T22:10:00Z";

    /// A map that was deleted at that time.
    fn deleted(at: &str, status: &Value) -> TableMap {
        map(&json!({"deletionTimestamp": at}), status)
    }

    fn said(type_: &str, status: &str, reason: &str, since: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": since})
    }

    fn found(spec: Result<(), ResolveError>, worker: Worker) -> Found {
        Found { spec, worker }
    }

    fn missing() -> ResolveError {
        ResolveError::Missing("there is no Connection c".into())
    }

    fn holds() -> Worker {
        Worker::Holds {
            name: "w".into(),
            why: None,
        }
    }

    fn expired() -> Worker {
        Worker::Expired {
            name: "w".into(),
            why: None,
        }
    }

    fn judged(map: &TableMap, found: &Found) -> Finalizer {
        finalizer(map, found, PATIENCE, NOW.parse().unwrap())
    }

    #[test]
    fn a_map_that_nobody_has_begun_goes_once_a_worker_would_have_told() {
        let none = || Worker::None { why: None };
        let invalid = || ResolveError::Invalid("`fields` is empty".into());
        for (spec, worker, goes) in [
            (Ok(()), none(), true),
            (Ok(()), holds(), false),
            (Err(missing()), holds(), true),
            (Err(invalid()), none(), true),
            (Err(ResolveError::Api("timed out".into())), none(), false),
        ] {
            let found = found(spec, worker);
            let at = |time| judged(&deleted(time, &json!({})), &found);
            assert_eq!(at("2026-11-24T22:09:55Z"), Finalizer::Stays, "{found:?}");
            let wanted = if goes { Finalizer::Goes } else { Finalizer::Stays };
            assert_eq!(at("2026-11-24T22:09:50Z"), wanted, "{found:?}");
        }
        let refused = found(Err(ResolveError::QueueInUse("other".into())), holds());
        assert_eq!(judged(&deleted(NOW, &json!({})), &refused), Finalizer::Goes);
    }

    /// What is told of a map that somebody has worked for; its spec could not be used since then.
    fn begun(since: &str, caught_up: &str, queued: u64) -> Value {
        let conditions = [
            said("SpecValid", "False", "ConnectionMissing", since),
            said("CaughtUp", "False", caught_up, since),
        ];
        let queue = json!({"connection": "q", "id": "u", "records": queued, "bytes": 0});
        json!({"phase": "Deleting", "queue": queue, "conditions": conditions})
    }

    #[test]
    fn a_map_that_was_begun_is_given_up_only_after_a_while_without_what_it_refers_to() {
        let (long, short) = ("2026-11-24T22:05:00Z", "2026-11-24T22:05:01Z");
        let given_up = Finalizer::GivesUp("there is no Connection c".into());
        for (deletion, since, caught_up, queued, wanted) in [
            (long, long, "Starting", 0, &given_up),
            (long, long, UNAVAILABLE, 0, &given_up),
            (long, short, "Starting", 0, &Finalizer::Stays),
            (short, long, "Starting", 0, &Finalizer::Stays),
            (long, long, "Starting", 1, &Finalizer::Stays),
            (long, long, "Deleting", 0, &Finalizer::Stays),
        ] {
            let map = deleted(deletion, &begun(since, caught_up, queued));
            assert_eq!(&judged(&map, &found(Err(missing()), holds())), wanted);
        }
        let map = deleted(long, &begun(long, "Starting", 0));
        assert_eq!(judged(&map, &found(Ok(()), holds())), Finalizer::Stays);
        let refused = found(Err(ResolveError::QueueInUse("other".into())), holds());
        assert_eq!(judged(&map, &refused), Finalizer::Stays);
        let map = deleted(long, &begun(long, UNAVAILABLE, 0));
        assert_eq!(judged(&map, &found(Err(missing()), expired())), given_up);
    }

    /// The operator says that the phase is not known, of any map whose worker's Lease has expired.
    #[test]
    fn a_map_that_nobody_has_begun_goes_though_a_worker_has_come_and_gone() {
        let map = deleted("2026-11-24T22:09:00Z", &json!({"phase": "Unknown"}));
        for error in [missing(), ResolveError::QueueInUse("other".into())] {
            assert_eq!(judged(&map, &found(Err(error), expired())), Finalizer::Goes);
        }
        assert_eq!(judged(&map, &found(Ok(()), expired())), Finalizer::Stays);
    }

    #[test]
    fn what_is_cleaned_up_goes_and_what_is_not_deleted_stays() {
        let clean = json!({"phase": "Deleting", "conditions": [said("CleanedUp", "True", "CleanedUp", NOW)]});
        let mut map = deleted(NOW, &clean);
        assert_eq!(judged(&map, &found(Ok(()), holds())), Finalizer::Goes);
        map.metadata.deletion_timestamp = None;
        assert_eq!(judged(&map, &found(Err(missing()), holds())), Finalizer::Stays);
    }
}
