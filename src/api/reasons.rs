//! Condition types, and the reasons of conditions and events. docs/conditions.md says of each what to do.

/// Condition types: who owns them, and their reasons.
pub const CONDITIONS: &[(&str, &[&str])] = &[
    (
        "Ready",
        &[
            "Starting",
            "Running",
            "CatchingUp",
            "PausedAsRequested",
            "PausedByRule",
            "Pausing",
            "Buffering",
            "SchemaMismatch",
            "OutageHeld",
            "QueueHardLimit",
            "QueueUnavailable",
            "PositionLost",
            "ErrorsLost",
            "SlotLost",
            "SourceReplaced",
            "KeyColumnsGone",
            "SourceTableGone",
            "TableNotPublished",
            "EntryUnreadable",
            "CannotFence",
            "WorkerUnavailable",
            "SpecInvalid",
            "Deleting",
        ],
    ),
    (
        "Reconciling",
        &["Settled", "Starting", "Pausing", "WorkerUnavailable", "Deleting"],
    ),
    (
        "Stalled",
        &[
            "NotStalled",
            "PausedByRule",
            "CannotFence",
            "SchemaMismatch",
            "QueueHardLimit",
            "QueueUnavailable",
            "PositionLost",
            "ErrorsLost",
            "SlotLost",
            "SourceReplaced",
            "KeyColumnsGone",
            "SourceTableGone",
            "TableNotPublished",
            "EntryUnreadable",
            "WorkerUnavailable",
            "SpecInvalid",
        ],
    ),
    (
        "SpecValid",
        &[
            "Accepted",
            "ConnectionMissing",
            "ConnectionUnfit",
            "MappingInvalid",
            "QueueInUse",
            "SecretMissing",
        ],
    ),
    (
        "WorkerAvailable",
        &[
            "LeaseHeld",
            "LeaseExpired",
            "NoWorker",
            "ImageUnavailable",
            "Unschedulable",
            "PodRefused",
            "ContainerRefused",
            "WorkerCrashes",
            "WorkerRefused",
        ],
    ),
    (
        "Paused",
        &[
            "RequestedBySpec",
            "RequestedByRule",
            "Pausing",
            "CannotFence",
            "NothingWantsAPause",
            "Starting",
        ],
    ),
    (
        "CaughtUp",
        &[
            "Direct",
            "Queueing",
            "Replaying",
            "Buffering",
            "Blocked",
            "Starting",
        ],
    ),
    (
        "SchemaValid",
        &[
            "Matches",
            "SchemaMismatch",
            "SourceColumnMissing",
            "NotChecked",
            "KeyUnusable",
        ],
    ),
    (
        "SourceConnected",
        &["Streaming", "Connecting", "Joining", "Unreachable", "SlotLost"],
    ),
    (
        "DestinationConnected",
        &[
            "Connected",
            "FsyncOff",
            "Connecting",
            "Unreachable",
            "DestinationRefuses",
            "ProgressNotAllowed",
            "ReadOnly",
            "TableLocked",
            "TableSlow",
            "TableFailing",
            "WaitsForParent",
            "TooManyErrors",
            "Fenced",
            "ProgressUnreadable",
        ],
    ),
    (
        "QueueDurable",
        &[
            "FsyncAlways",
            "Likely",
            "NotPersistent",
            "Evicting",
            "NotAllowedToAsk",
            "NotChecked",
        ],
    ),
    ("WithinLimits", &["BelowSoftLimit", "SoftLimit", "HardLimit"]),
    (
        "CleanedUp",
        &["CleanedUp", "CleaningUp", "CleanUpFailed", "QueueNotEmpty"],
    ),
];

/// A deleted map could not be cleaned up everywhere.
pub const LEFT_BEHIND: &str = "LeftBehind";
/// The source table was truncated.
pub const TRUNCATE_NOT_REPLICATED: &str = "TruncateNotReplicated";
/// A worker ended by an error, and was started again.
pub const WORKER_RESTARTED: &str = "WorkerRestarted";

/// A person has accepted that changes are lost.
pub const GAP_ACCEPTED: &str = "GapAccepted";

/// A map that takes nothing has no slot of its own.
pub const NO_SIDE_SLOT: &str = "NoSideSlot";
/// A slot keeps nearly as much of the log as it may.
pub const SLOT_NEARLY_LOST: &str = "SlotNearlyLost";

/// A map begins, with an empty queue.
pub const JOINED: &str = "Joined";
/// A map goes on with the queue of one that is gone.
pub const QUEUE_ADOPTED: &str = "QueueAdopted";
/// The queue that a map was to go on with is not there: it begins empty.
pub const QUEUE_NOT_FOUND: &str = "QueueNotFound";

/// A rule has paused its map;
pub const RULE_FIRED: &str = "RuleFired";
/// would have done so, if it were enforced;
pub const RULE_WOULD_PAUSE: &str = "RuleWouldPause";
/// or only tells.
pub const RULE_MATCHED: &str = "RuleMatched";
/// A rule's trial was refused: the pause stays.
pub const TRIAL_FAILED: &str = "TrialFailed";
/// A pause that ends by itself, or was begun by a rule, is over.
pub const PAUSE_ENDED: &str = "PauseEnded";

/// Parked records were written again.
pub const RECORDS_RETRIED: &str = "RecordsRetried";
/// Parked records were given up.
pub const RECORDS_DISCARDED: &str = "RecordsDiscarded";

/// A queue has reached its soft limit.
pub const SOFT_LIMIT: &str = "SoftLimit";

/// Parked records are to be purged.
pub const PURGE_SOON: &str = "PurgeSoon";
/// Parked records were purged.
pub const ERRORS_PURGED: &str = "ErrorsPurged";

/// Queued records were given up, or kept as errors.
pub const QUEUE_SKIPPED: &str = "QueueSkipped";

/// Reasons of events.
pub const EVENTS: &[&str] = &[
    JOINED,
    QUEUE_ADOPTED,
    QUEUE_NOT_FOUND,
    PAUSE_ENDED,
    RULE_FIRED,
    RULE_WOULD_PAUSE,
    RULE_MATCHED,
    TRIAL_FAILED,
    TRUNCATE_NOT_REPLICATED,
    WORKER_RESTARTED,
    LEFT_BEHIND,
    GAP_ACCEPTED,
    NO_SIDE_SLOT,
    SLOT_NEARLY_LOST,
    SOFT_LIMIT,
    PURGE_SOON,
    ERRORS_PURGED,
    RECORDS_RETRIED,
    RECORDS_DISCARDED,
    QUEUE_SKIPPED,
];

/// Conditions of a `TableMapOperation`, and their reasons.
pub const OPERATION_CONDITIONS: &[(&str, &[&str])] = &[
    (
        "Complete",
        &[
            "GapAccepted",
            "Resumed",
            "Completed",
            "CompletedWithFailures",
            "DryRun",
            "InProgress",
        ],
    ),
    (
        "Failed",
        &[
            "AnotherGap",
            "NoGap",
            "NothingToResume",
            "PausedBySpec",
            "MapDeleted",
            "MapMissing",
            "SelectionInvalid",
            "SelectionFailed",
            "TooMany",
        ],
    ),
    (
        "Waiting",
        &[
            "Queued",
            "MapStarting",
            "MapPaused",
            "MapBuffering",
            "MapBlocked",
            "Unreachable",
        ],
    ),
];

/// Added by the operator, removed once the worker has cleaned up.
pub const FINALIZER: &str = "tablemap.dev/cleanup";

#[cfg(test)]
mod tests {
    use super::{CONDITIONS, EVENTS, OPERATION_CONDITIONS};
    use std::collections::{BTreeMap, BTreeSet};

    const DOCS: &str = include_str!("../../docs/conditions.md");

    /// A heading for each condition, and below it a row for each of its reasons: no more and no less.
    #[test]
    fn the_documentation_names_every_condition_and_reason() {
        let chapter = DOCS
            .split("\n# ")
            .find(|chapter| chapter.starts_with("Conditions\n"));
        let sections = chapter.expect("the chapter on conditions").split("\n## ").skip(1);
        let documented: BTreeMap<&str, BTreeSet<&str>> = sections
            .map(|section| {
                let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
                let reasons = rows.filter_map(|row| row.split('`').next()).collect();
                (section.lines().next().unwrap_or_default(), reasons)
            })
            .collect();
        let known = CONDITIONS.iter();
        let known = known.map(|(type_, reasons)| (*type_, reasons.iter().copied().collect()));
        assert_eq!(documented, known.collect());
    }

    /// The first cells of a chapter's tables.
    fn rows(chapter: &str) -> BTreeSet<&str> {
        let found = DOCS.split("\n# ").find(|text| text.starts_with(chapter));
        let rows = found
            .expect("the chapter")
            .lines()
            .filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('`').next()).collect()
    }

    #[test]
    fn the_documentation_names_every_event_and_every_end_of_an_operation() {
        assert_eq!(rows("Events\n"), EVENTS.iter().copied().collect());
        let reasons = OPERATION_CONDITIONS.iter().flat_map(|(_, reasons)| *reasons);
        assert_eq!(rows("Operations\n"), reasons.copied().collect());
    }
}
