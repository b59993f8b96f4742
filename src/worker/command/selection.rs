//! Which parked records an operation takes. Pure.

use crate::{
    api,
    mapping::{MatchError, Matcher, joined_key},
    record::ParkedRecord,
};
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    All,
    Ids(BTreeSet<String>),
    /// Canonical keys.
    Keys(BTreeSet<Vec<u8>>),
    Match(Matcher),
}

impl Selection {
    /// What an object asks for.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn of(selection: &api::Selection) -> Result<Self, String> {
        let missing = |field: &str| format!("`spec.selection.{field}` is missing.");
        match selection.type_ {
            api::SelectionType::All => Ok(Self::All),
            api::SelectionType::Ids => {
                let ids = selection.ids.clone().ok_or_else(|| missing("ids"))?;
                Ok(Self::Ids(ids.into_iter().collect()))
            }
            api::SelectionType::Keys => {
                let keys = selection.keys.as_ref().ok_or_else(|| missing("keys"))?;
                let key = |key: &api::RecordKey| {
                    let joined = joined_key(key.values.iter().map(String::as_str));
                    joined.as_bytes().to_vec()
                };
                Ok(Self::Keys(keys.iter().map(key).collect()))
            }
            api::SelectionType::Match => {
                let wanted = selection.match_.as_ref().ok_or_else(|| missing("match"))?;
                let compiled = Matcher::compile(&wanted.expression);
                compiled
                    .map(Self::Match)
                    .map_err(|error| format!("`spec.selection.match.expression` {error}."))
            }
        }
    }

    /// Whether it takes a record.
    ///
    /// # Errors
    /// Its expression cannot be evaluated on this record.
    pub fn takes(&self, record: &ParkedRecord) -> Result<bool, MatchError> {
        match self {
            Self::All => Ok(true),
            Self::Ids(ids) => Ok(ids.contains(&record.id)),
            Self::Keys(keys) => Ok(record.keys.iter().any(|key| keys.contains(key))),
            Self::Match(matcher) => matcher.matches(record),
        }
    }
}
