//! Databases by their identity: what loop marks name (rule 16).

use std::{convert::Infallible, fmt, str::FromStr, sync::Arc};

/// The prefix of a loop mark: a transactional logical message, first in a transaction of ours at a destination, whose
/// content is the source that its rows come from.
pub const MARK: &str = "tablemap";

/// A database, whatever way leads to it: the server's system identifier and the database's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(Arc<str>);

impl Origin {
    #[must_use]
    pub fn new(system: &str, database: &str) -> Self {
        Self(format!("{system}/{database}").into())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}
