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
            "Pausing",
            "Buffering",
            "SchemaMismatch",
            "QueueUnavailable",
            "PositionLost",
            "ErrorsLost",
            "SlotLost",
            "SourceReplaced",
            "KeyColumnsGone",
            "EpochLost",
            "CannotFence",
            "WorkerUnavailable",
            "SpecInvalid",
            "Deleting",
        ],
    ),
    ("Reconciling", &["Settled", "Starting", "Pausing", "Deleting"]),
    (
        "Stalled",
        &[
            "NotStalled",
            "CannotFence",
            "SchemaMismatch",
            "QueueUnavailable",
            "PositionLost",
            "ErrorsLost",
            "SlotLost",
            "SourceReplaced",
            "KeyColumnsGone",
            "EpochLost",
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
            "SecretMissing",
        ],
    ),
    ("WorkerAvailable", &["LeaseHeld", "LeaseExpired", "NoWorker"]),
    (
        "Paused",
        &[
            "RequestedBySpec",
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
            "Connecting",
            "Unreachable",
            "DestinationRefuses",
            "ProgressNotAllowed",
            "ReadOnly",
            "TableLocked",
            "WaitsForParent",
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
    ("WithinLimits", &["BelowSoftLimit"]),
    (
        "CleanedUp",
        &["CleanedUp", "CleaningUp", "CleanUpFailed", "QueueNotEmpty"],
    ),
];

/// The source table was truncated.
pub const TRUNCATE_NOT_REPLICATED: &str = "TruncateNotReplicated";
/// A worker ended by an error, and was started again.
pub const WORKER_RESTARTED: &str = "WorkerRestarted";

/// Reasons of events.
pub const EVENTS: &[&str] = &[TRUNCATE_NOT_REPLICATED, WORKER_RESTARTED];

/// Added by the operator, removed once the worker has cleaned up.
pub const FINALIZER: &str = "tablemap.dev/cleanup";
