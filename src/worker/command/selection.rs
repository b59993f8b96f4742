//! Which records an operation takes. Pure.

use crate::{
    api,
    mapping::{FilterError, MatchError, Matcher, joined_key},
    record::{Only, ParkedRecord},
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
        match selection.type_ {
            api::SelectionType::All => Ok(Self::All),
            api::SelectionType::Ids => ids(selection).map(Self::Ids),
            api::SelectionType::Keys => {
                let keys = keys(selection)?.into_iter().map(String::into_bytes);
                Ok(Self::Keys(keys.collect()))
            }
            api::SelectionType::Match => {
                let compiled = Matcher::of_parked(expression(selection)?);
                compiled.map(Self::Match).map_err(unreadable)
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

/// Which queued records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueSelection {
    All,
    /// By their names, which tell where they lie for as long as they wait.
    Ids(BTreeSet<String>),
    Only(Only),
}

impl QueueSelection {
    /// What an object asks for.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn of(selection: &api::Selection) -> Result<Self, String> {
        match selection.type_ {
            api::SelectionType::All => Ok(Self::All),
            api::SelectionType::Ids => ids(selection).map(Self::Ids),
            api::SelectionType::Keys => Ok(Self::Only(Only::Keys(keys(selection)?))),
            api::SelectionType::Match => {
                let expression = expression(selection)?;
                Matcher::of_queued(expression).map_err(unreadable)?;
                Ok(Self::Only(Only::Match(expression.to_owned())))
            }
        }
    }
}

fn ids(selection: &api::Selection) -> Result<BTreeSet<String>, String> {
    let ids = selection.ids.as_ref().ok_or_else(|| missing("ids"))?;
    Ok(ids.iter().cloned().collect())
}

/// Canonical keys.
fn keys(selection: &api::Selection) -> Result<BTreeSet<String>, String> {
    let keys = selection.keys.as_ref().ok_or_else(|| missing("keys"))?;
    let key = |key: &api::RecordKey| joined_key(key.values.iter().map(String::as_str));
    Ok(keys.iter().map(|one| key(one).as_str().to_owned()).collect())
}

fn expression(selection: &api::Selection) -> Result<&str, String> {
    let wanted = selection.match_.as_ref().ok_or_else(|| missing("match"))?;
    Ok(&wanted.expression)
}

fn missing(field: &str) -> String {
    format!("`spec.selection.{field}` is missing.")
}

fn unreadable(error: FilterError) -> String {
    format!("`spec.selection.match.expression` {error}.")
}
