//! What a failure is, whose fault it is, and what a person can do about it: one table for all.

mod io;
mod sqlstate;
mod table;

pub use io::{CONNECTION_LOST, NO_ANSWER, from_io};
pub use sqlstate::{Fault, Verdict, judge};

use std::fmt;

/// The classes that rules, statistics and people sort failures by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Application,
    BadRequest,
    Unauthorized,
    Throttled,
    Unavailable,
    Timeout,
    Schema,
}

impl Class {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Application => "Application",
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Throttled => "Throttled",
            Self::Unavailable => "Unavailable",
            Self::Timeout => "Timeout",
            Self::Schema => "Schema",
        }
    }

    /// Reads what [`Class::as_str`] wrote; anything else is the most general class.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let all = [
            Self::BadRequest,
            Self::Unauthorized,
            Self::Throttled,
            Self::Unavailable,
            Self::Timeout,
            Self::Schema,
        ];
        all.into_iter()
            .find(|class| class.as_str() == text)
            .unwrap_or(Self::Application)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one record was refused. `server_text` may quote the row: it is kept in the error store only, and never goes
/// to status, events, logs or metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub class: Class,
    /// SQLSTATE, or our own code (`RowMissing`, `NullKey`, ...).
    pub code: String,
    /// The object concerned, such as `sales.Customer/status_code_check`.
    pub object: Option<String>,
    pub server_text: String,
    /// One sentence that says what to do.
    pub remedy: String,
}
