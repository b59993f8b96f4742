//! From a map's state to the facts of its status.

use super::{Engine, Event, rules, wanted};
use crate::{
    gate::{Phase, phase},
    queue::{ErrorSummary, QueueError},
    record::{Lsn, Position},
    worker::{
        limits::{Level, Meter},
        map::{Blocked, Counting, Left, Map, MapId, Stage, Unusable, UnusableKind},
        status::{CatchUpFacts, Facts, GapFacts, Lag, Ledger, Said, Starting},
    },
};
use std::time::Instant;

impl Engine {
    /// Tells the status writer how a map stands. It decides when that is written.
    pub(super) fn report(&mut self, id: &MapId) {
        let through = self.through;
        let Some(map) = self.maps.get_mut(id) else {
            return self.report_starting(id);
        };
        if map.gate.is_direct() && map.has_what_waited(through) {
            map.waited = Position::ZERO;
        }
        let Some(map) = self.maps.get(id) else { return };
        let facts = self.facts(map);
        self.statuses.tell(id, facts);
    }

    pub(super) fn report_everywhere(&mut self) {
        let ids: Vec<MapId> = self.maps.keys().cloned().collect();
        for id in &ids {
            self.report(id);
        }
    }

    /// Counters change all the time: the writer limits how often they are written.
    pub(super) fn report_all(&mut self) {
        let now = Instant::now();
        if self.statuses.counters_are_due(now) {
            self.statuses.put_right();
            self.report_everywhere();
        }
    }

    /// Reads the errors of those maps again that have others now: one look at a time, until one succeeds.
    pub(super) fn look_at_errors(&mut self, now: Instant) {
        let mut looks = Vec::new();
        for map in self.maps.values_mut() {
            let seen = map.seen().filter(|seen| map.errors.is_due(now, *seen));
            if let (Some(seen), Some(progress)) = (seen, &map.progress) {
                map.errors.reading = true;
                // What changes from now on is looked at again.
                map.errors.of = Some(seen);
                looks.push((map.id.clone(), map.queue.clone(), progress.has()));
            }
        }
        for (map, queue, has) in looks {
            self.spawn(async move {
                let result = queue.error_summary(has).await;
                Event::ErrorsRead { map, result }
            });
        }
    }

    pub(super) fn errors_read(&mut self, id: &MapId, result: Result<ErrorSummary, QueueError>) {
        let retry = self.pace.retry;
        let Some(map) = self.maps.get_mut(id) else { return };
        map.errors.reading = false;
        map.errors.retry_at = result.is_err().then(|| Instant::now() + retry);
        match result {
            Ok(summary) => map.errors.summary = summary,
            Err(error) => {
                map.errors.look_again();
                tracing::info!(map = %map.plan.name, %error, "the errors were not read; looking again");
            }
        }
        self.report(id);
    }

    /// A map that is not taken over yet.
    pub(super) fn report_starting(&mut self, id: &MapId) {
        let Some(plan) = self.plans.get(id) else { return };
        let blocked = self.attempt(id).and_then(|attempt| attempt.blocked.as_ref());
        let (phase, reason, message) = match blocked {
            _ if plan.deletion.is_some() => (Phase::Deleting, "Starting", "The map is being removed.".into()),
            Some(blocked) => (Phase::Blocked, blocked.reason(), blocked.message().to_owned()),
            None => (
                Phase::Starting,
                "Starting",
                "The map is being taken over.".to_owned(),
            ),
        };
        let mut facts = Starting {
            namespace: &plan.namespace,
            name: &plan.name,
            uid: &plan.uid,
            generation: plan.generation,
            wished: plan.wished,
            shown: plan.shown,
            pauses: wanted::before(plan),
            said: &plan.said,
            queue_connection: &plan.queue_connection,
            queue_id: id,
        }
        .facts(phase, reason, &message);
        facts.blocked = blocked.map(|blocked| (blocked.reason().to_owned(), Phase::Starting));
        facts.gap = blocked.and_then(|blocked| gap(blocked, None));
        if plan.deletion.is_some() {
            let result = self.attempt(id).and_then(|attempt| attempt.cleaned.as_ref());
            facts.conditions.push(cleaned(result));
        }
        self.statuses.tell(id, facts);
    }

    pub(super) fn facts(&self, map: &Map) -> Facts {
        let phase = phase_of(map);
        let through = map.taken(self.through);
        let durable = map.held_by().durable();
        let seconds = match (map.in_flight(), map.commit_time) {
            (0, _) | (_, None) => 0,
            (_, Some(at)) => (jiff::Timestamp::now().as_microsecond() - at).max(0) / 1_000_000,
        };
        let lag = Lag {
            seconds,
            bytes: through.commit.0.saturating_sub(durable.commit.0),
        };
        Facts {
            namespace: map.plan.namespace.clone(),
            name: map.plan.name.clone(),
            uid: map.plan.uid.clone(),
            generation: map.plan.generation,
            wished: map.plan.wished,
            before: map.plan.said.memory.clone(),
            phase,
            pauses: wanted::by_all(map),
            rules: rules::facts(map),
            blocked: map
                .blocked
                .as_ref()
                .map(|blocked| (blocked.reason().to_owned(), returns_to(map))),
            gap: map
                .blocked
                .as_ref()
                .and_then(|blocked| gap(blocked, Some(durable.commit))),
            kept: self.kept_for(map).filter(|_| map.blocked.is_some()),
            received: seen(through),
            // Who finds one takes a position that is missing for a lost one.
            durable: seen(durable).filter(|_| map.has_joined()),
            commit_time: map.commit_time,
            lag: Some(lag),
            truncates: map.truncates,
            queue_connection: map.plan.queue_connection.clone(),
            queue_id: map.id.to_string(),
            queue_records: map.waiting(),
            queue_bytes: map.stock.account.bytes,
            queue_oldest: map.stock.account.oldest.filter(|_| map.waiting() > 0),
            catch_up: catch_up(map),
            errors: map.errors.summary.clone(),
            ledger: ledger(map),
            next_purge: next_purge(map),
            conditions: self.conditions(map, phase),
        }
    }

    fn conditions(&self, map: &Map, phase: Phase) -> Vec<Said> {
        let mut said = vec![
            wanted::paused(map),
            caught_up(map, phase),
            schema_valid(map),
            self.source_connected(map),
            destination_connected(map),
            self.queue_durable(map),
            within_limits(&map.meter),
        ];
        if map.plan.deletion.is_some() {
            said.push(cleaned_up(map));
        }
        said
    }

    fn source_connected(&self, map: &Map) -> Said {
        let (status, reason, message) = match (&self.link.trouble, self.link.is_streaming(), map.stage) {
            (_, true, Stage::Joining | Stage::Holding) => match &map.unusable {
                Some(unusable) if unusable.kind == UnusableKind::Unjoined => {
                    (Some(false), unusable.reason.to_owned(), unusable.message.clone())
                }
                _ => (
                    Some(true),
                    "Joining".to_owned(),
                    "The source table is to join the publication.".to_owned(),
                ),
            },
            (_, true, _) => {
                let slot = self.link.slot().unwrap_or_default();
                (
                    Some(true),
                    "Streaming".to_owned(),
                    format!("Reading from slot {slot}."),
                )
            }
            (Some((reason, message)), ..) => (Some(false), (*reason).to_owned(), message.clone()),
            (None, ..) => (
                None,
                "Connecting".to_owned(),
                "Connecting to the source.".to_owned(),
            ),
        };
        Said {
            type_: "SourceConnected",
            status,
            reason,
            message,
        }
    }

    fn queue_durable(&self, map: &Map) -> Said {
        let (status, reason, message) = self.statuses.durability(&map.id);
        Said {
            type_: "QueueDurable",
            status,
            reason: reason.to_owned(),
            message,
        }
    }
}

fn phase_of(map: &Map) -> Phase {
    match map.stage {
        Stage::Gone => Phase::Deleting,
        _ if map.plan.deletion.is_some() => Phase::Deleting,
        Stage::Joining | Stage::Holding => Phase::Starting,
        Stage::Serving => match phase(&map.gate) {
            Phase::Running if map.waited > Position::ZERO => Phase::CatchingUp,
            phase => phase,
        },
    }
}

fn seen(position: Position) -> Option<Lsn> {
    Some(position.commit).filter(|lsn| lsn.0 > 0)
}

/// What is lost: where the source is what has gone, all beyond what is held now.
fn gap(blocked: &Blocked, held: Option<Lsn>) -> Option<GapFacts> {
    let lost = blocked.gap()?;
    let after = match blocked {
        Blocked::PositionLost(_) | Blocked::ErrorsLost(_) => lost.after,
        _ => held,
    };
    let until = lost.until;
    after.map(|after| GapFacts { after, until })
}

fn returns_to(map: &Map) -> Phase {
    match (map.gate.paused(), map.gate.wanted(), map.gate.is_direct()) {
        (true, ..) => Phase::Paused,
        (_, true, _) => Phase::Pausing,
        (_, _, true) => Phase::Running,
        _ => Phase::CatchingUp,
    }
}

fn ledger(map: &Map) -> Ledger {
    // A destination that was not reached yet has what it had, and has counted what it had counted.
    let Some(progress) = map
        .progress
        .as_ref()
        .filter(|_| map.counting != Counting::SinceBeginning)
    else {
        return map.plan.said.ledger;
    };
    let gone = progress.superseded + progress.settled + map.errors.given_up + map.errors.purged;
    Ledger {
        received: map.counters.received,
        written: progress.written,
        in_flight: map.in_flight(),
        queued: map.waiting(),
        errored: progress.parks.saturating_sub(gone),
        superseded: progress.superseded,
        discarded: progress.discarded + map.errors.given_up,
        purged: map.errors.purged,
        filtered: map.counters.filtered + progress.missed,
    }
}

/// When the first of the records that wait is purged.
fn next_purge(map: &Map) -> Option<i64> {
    let retention = i64::try_from(map.plan.retention.as_micros()).unwrap_or(i64::MAX);
    let oldest = map.errors.summary.oldest_waiting?;
    Some(oldest.saturating_add(retention))
}

fn catch_up(map: &Map) -> Option<CatchUpFacts> {
    let begun = map.catch_up.filter(|_| map.gate.draining())?;
    let progress = map.progress.as_ref()?;
    let replayed = progress.written.saturating_sub(begun.written_before);
    let seconds = begun.started.elapsed().as_secs().max(1);
    Some(CatchUpFacts {
        start: begun.since,
        replayed,
        failed: progress.parks.saturating_sub(begun.parks_before),
        remaining: map.waiting(),
        per_second: replayed / seconds,
        arriving_per_second: map.counters.received.saturating_sub(begun.received_before) / seconds,
    })
}

pub(super) fn said(type_: &'static str, status: bool, reason: &str, message: impl Into<String>) -> Said {
    Said {
        type_,
        status: Some(status),
        reason: reason.into(),
        message: message.into(),
    }
}

fn caught_up(map: &Map, phase: Phase) -> Said {
    match phase {
        Phase::Running => said(
            "CaughtUp",
            true,
            "Direct",
            "The queue is empty and changes are written directly.",
        ),
        Phase::Blocked => {
            let why = map.blocked.as_ref().map_or("", Blocked::message);
            said(
                "CaughtUp",
                false,
                "Blocked",
                format!("Newer changes wait in the source. {why}"),
            )
        }
        Phase::Buffering => {
            let why = map
                .unusable
                .as_ref()
                .map_or("", |unusable| unusable.message.as_str());
            said(
                "CaughtUp",
                false,
                "Buffering",
                format!("Changes are being queued. {why}"),
            )
        }
        Phase::CatchingUp if map.gate.is_direct() => said(
            "CaughtUp",
            false,
            "Replaying",
            "What has waited, at the source or for the end of the replay, is being written.",
        ),
        Phase::CatchingUp => said(
            "CaughtUp",
            false,
            "Replaying",
            "The queue is being replayed; see status.catchUp.",
        ),
        Phase::Starting => said("CaughtUp", false, "Starting", "The map is being taken over."),
        _ => said("CaughtUp", false, "Queueing", "Changes are being queued."),
    }
}

fn schema_valid(map: &Map) -> Said {
    match &map.unusable {
        Some(Unusable {
            reason,
            message,
            kind: UnusableKind::Unfit | UnusableKind::SourceUnfit,
        }) => said("SchemaValid", false, reason, message.clone()),
        _ if map.progress.is_none() => not_checked("The destination was not reached yet."),
        _ if !map.looked.destination => not_checked("The destination table was not looked at yet."),
        _ => match &map.looked.source {
            None => not_checked("The source table was not looked at yet."),
            Some(Err(lacks)) => said("SchemaValid", false, "SourceColumnMissing", lacks.clone()),
            Some(Ok(())) => said(
                "SchemaValid",
                true,
                "Matches",
                "Source and destination tables fit the mapping.",
            ),
        },
    }
}

fn not_checked(message: &str) -> Said {
    Said {
        type_: "SchemaValid",
        status: None,
        reason: "NotChecked".into(),
        message: message.into(),
    }
}

fn destination_connected(map: &Map) -> Said {
    match &map.unusable {
        Some(Unusable {
            reason,
            message,
            kind: UnusableKind::Away,
        }) => said("DestinationConnected", false, reason, message.clone()),
        Some(Unusable {
            reason,
            message,
            kind: UnusableKind::Stuck | UnusableKind::Waits { .. },
        }) => said("DestinationConnected", true, reason, message.clone()),
        _ if map.progress.is_none() => Said {
            type_: "DestinationConnected",
            status: None,
            reason: "Connecting".into(),
            message: "The destination was not reached yet.".into(),
        },
        _ if map.unsafe_log => said(
            "DestinationConnected",
            true,
            "FsyncOff",
            "Connected, but the destination runs with fsync = off: if its machine fails, what was written may be lost.",
        ),
        _ => said(
            "DestinationConnected",
            true,
            "Connected",
            "Connected to the destination.",
        ),
    }
}

fn within_limits(meter: &Meter) -> Said {
    let said = |status, reason, message: String| said("WithinLimits", status, reason, message);
    match meter.level() {
        Level::Below => said(
            true,
            "BelowSoftLimit",
            "The queue is below its soft limit.".into(),
        ),
        Level::Soft(reached) => said(
            false,
            "SoftLimit",
            format!("{reached} That is a soft limit: at the hard one changes stay at the source."),
        ),
        Level::Hard(reached) => said(false, "HardLimit", reached.to_string()),
    }
}

/// Of a map that was never taken over.
fn cleaned(result: Option<&Result<Left, String>>) -> Said {
    match result {
        Some(Ok(left)) => said("CleanedUp", true, "CleanedUp", left.message()),
        Some(Err(message)) => said("CleanedUp", false, "CleanUpFailed", message.clone()),
        None => said(
            "CleanedUp",
            false,
            "CleaningUp",
            "The map is being taken over to be removed.",
        ),
    }
}

fn cleaned_up(map: &Map) -> Said {
    match (map.stage, &map.cleaned) {
        (Stage::Gone, Some(Ok(left))) => said("CleanedUp", true, "CleanedUp", left.message()),
        (_, Some(Err(failure))) => said("CleanedUp", false, "CleanUpFailed", failure.clone()),
        _ if !map.is_drained() => said(
            "CleanedUp",
            false,
            "QueueNotEmpty",
            format!(
                "{} queued records are not written yet. {} to write them, or set spec.deletionPolicy to Discard to drop \
                 them.",
                map.waiting(),
                if map.ruling.holds() && !map.plan.wish.paused {
                    "A rule has paused the map: make a TableMapOperation with action Resume"
                } else {
                    "Set spec.state to Running"
                }
            ),
        ),
        _ => said(
            "CleanedUp",
            false,
            "CleaningUp",
            "Progress row, queue and publication entry are being removed.",
        ),
    }
}
