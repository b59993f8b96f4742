//! The two resources: their names, columns, and what may be selected by.

/// A resource of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    QueuedRecords,
    RecordErrors,
}

/// A column of a table.
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    /// Where it stands in the object; None: its name, or age.
    pub pointer: Option<&'static str>,
}

const fn column(
    name: &'static str,
    kind: &'static str,
    priority: u8,
    pointer: Option<&'static str>,
    description: &'static str,
) -> Column {
    Column {
        name,
        kind,
        description,
        priority,
        pointer,
    }
}

const NAME: Column = column("Name", "string", 0, None, "Names the record.");
const MAP: Column = column("Map", "string", 0, Some("/tableMap"), "The TableMap.");
const KEY: Column = column("Key", "string", 0, Some("/key/text"), "The integration key.");
const OPERATION: Column = column(
    "Operation",
    "string",
    0,
    Some("/operation"),
    "Insert, Update or Delete.",
);
const POSITION: Column = column(
    "Position",
    "string",
    1,
    Some("/position"),
    "Where it stands in the log of the source.",
);

const QUEUED: &[Column] = &[
    NAME,
    MAP,
    KEY,
    OPERATION,
    column("Age", "string", 0, None, "Since the source committed it."),
    POSITION,
];

const ERRORS: &[Column] = &[
    NAME,
    MAP,
    KEY,
    OPERATION,
    column("Class", "string", 0, Some("/class"), "The class of the failure."),
    column(
        "Code",
        "string",
        0,
        Some("/code"),
        "SQLSTATE, or a code of our own.",
    ),
    column(
        "Attempts",
        "integer",
        0,
        Some("/attempts"),
        "How often it was tried.",
    ),
    column(
        "Retry",
        "string",
        0,
        Some("/retryStatus"),
        "Pending, InProgress, Failed, Completed or Superseded.",
    ),
    column("Age", "string", 0, None, "Since it was refused first."),
    column(
        "Object",
        "string",
        1,
        Some("/object"),
        "What the destination named.",
    ),
    column("Remedy", "string", 1, Some("/remedy"), "What to do about it."),
    POSITION,
];

const OF_EVERY: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "tableMap",
    "key",
    "operation",
];
const OF_ERRORS: &[&str] = &["class", "code", "retryStatus"];

impl Resource {
    pub const ALL: [Self; 2] = [Self::QueuedRecords, Self::RecordErrors];

    pub fn named(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.plural() == plural)
    }

    pub const fn plural(self) -> &'static str {
        match self {
            Self::QueuedRecords => "queuedrecords",
            Self::RecordErrors => "recorderrors",
        }
    }

    pub const fn singular(self) -> &'static str {
        match self {
            Self::QueuedRecords => "queuedrecord",
            Self::RecordErrors => "recorderror",
        }
    }

    pub const fn kind(self) -> &'static str {
        match self {
            Self::QueuedRecords => "QueuedRecord",
            Self::RecordErrors => "RecordError",
        }
    }

    pub const fn short_name(self) -> &'static str {
        match self {
            Self::QueuedRecords => "qrec",
            Self::RecordErrors => "rerr",
        }
    }

    /// What stands between the map's name and the rest in a record's name.
    pub const fn infix(self) -> &'static str {
        match self {
            Self::QueuedRecords => "-q-",
            Self::RecordErrors => "-e-",
        }
    }

    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::QueuedRecords => QUEUED,
            Self::RecordErrors => ERRORS,
        }
    }

    /// The fields by which it can be selected.
    pub fn selectable(self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = match self {
            Self::QueuedRecords => &[],
            Self::RecordErrors => OF_ERRORS,
        };
        OF_EVERY.iter().chain(more).copied()
    }
}
