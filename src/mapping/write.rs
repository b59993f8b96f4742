//! What a change asks of the destination.

use super::{binding::Binding, key::Key, transform::Value};
use crate::{
    failure::{Class, Refusal},
    record::{Change, OldRow, Operation, Row},
};

/// One write by integration key. `values` are in the order of [`super::Mapping::destinations`].
#[derive(Debug, PartialEq, Eq)]
pub enum Write<'s, 'a> {
    /// Every value is there: insert the row, or overwrite it.
    Upsert {
        key: Key,
        values: &'s [Value<'a>],
    },
    /// Update the values that were sent; never insert (rule 11).
    Update {
        key: Key,
        values: &'s [Value<'a>],
        if_missing: IfMissing,
    },
    Delete {
        key: Key,
    },
    /// The row's key changed: it belongs to both keys. `if_missing` tells what to do when there is no row of the old
    /// key; `Insert` says that every value is there.
    Move {
        old_key: Key,
        key: Key,
        values: &'s [Value<'a>],
        if_missing: IfMissing,
    },
}

/// What to do when the destination has no row to update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    Insert,
    /// The record is refused: `RowMissing`.
    Refuse,
    /// The row is outside the filter: the record counts as filtered.
    Filter,
}

/// The keys that a change belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeKeys {
    /// The one before, if it was another.
    pub old: Option<Key>,
    pub key: Key,
}

impl Binding {
    /// The keys of a change, without its values.
    ///
    /// # Errors
    /// A key column is NULL, was not sent, or cannot be read as the destination's type; the old or new row is absent.
    pub fn keys(&self, change: &Change) -> Result<ChangeKeys, Refusal> {
        let old = change.old.as_ref().map(OldRow::row);
        if change.operation == Operation::Delete {
            let key = self.key(old.ok_or_else(no_row)?, None)?;
            return Ok(ChangeKeys { old: None, key });
        }
        let key = self.key(change.new.as_ref().ok_or_else(no_row)?, old)?;
        let old = match old {
            Some(old) if change.operation == Operation::Update => self.old_key(old)?,
            _ => None,
        };
        Ok(ChangeKeys {
            old: old.filter(|old| *old != key),
            key,
        })
    }

    /// A row whose key was NULL or unreadable was refused, so there is nothing to move.
    fn old_key(&self, old: &Row) -> Result<Option<Key>, Refusal> {
        match self.key(old, None) {
            Ok(key) => Ok(Some(key)),
            Err(refusal) if refusal.code == "KeyNotSent" => Err(refusal),
            Err(_) => Ok(None),
        }
    }

    /// What a change asks of the destination. `scratch` holds the values.
    ///
    /// # Errors
    /// As [`Binding::keys`], or a value map refuses a value.
    pub fn write<'s, 'a>(
        &'a self,
        change: &'a Change,
        scratch: &'s mut Vec<Value<'a>>,
    ) -> Result<Write<'s, 'a>, Refusal> {
        let ChangeKeys { old, key } = self.keys(change)?;
        let Some(new) = change
            .new
            .as_ref()
            .filter(|_| change.operation != Operation::Delete)
        else {
            return Ok(Write::Delete { key });
        };
        self.read(new, scratch);
        match &change.old {
            Some(OldRow::Full(row)) => self.fill(row, |_| true, scratch),
            Some(OldRow::Key(row)) => self.fill(row, |column| column.key, scratch),
            None => {}
        }
        self.transform(scratch)?;
        let if_missing = self.if_missing(change, scratch);
        let values = scratch.as_slice();
        Ok(match (old, if_missing) {
            (Some(old_key), if_missing) => Write::Move {
                old_key,
                key,
                values,
                if_missing,
            },
            (None, IfMissing::Insert) => Write::Upsert { key, values },
            (None, if_missing) => Write::Update {
                key,
                values,
                if_missing,
            },
        })
    }

    /// Without the filter's columns nobody knows whether the row belongs to the destination.
    fn if_missing(&self, change: &Change, values: &[Value<'_>]) -> IfMissing {
        let unsure = change.operation == Operation::Update
            && self.filter().is_some_and(|filter| filter.is_unsent(change));
        if unsure {
            IfMissing::Filter
        } else if values.contains(&Value::NotSent) {
            IfMissing::Refuse
        } else {
            IfMissing::Insert
        }
    }
}

/// An update that leaves the filter, as the delete by key that it means: so queued it needs no mark.
#[must_use]
pub fn into_exit(change: Change) -> Change {
    let old = change.old.or_else(|| change.new.map(OldRow::Key));
    Change {
        operation: Operation::Delete,
        old,
        new: None,
        ..change
    }
}

fn no_row() -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "RowNotSent".into(),
        object: None,
        server_text: String::new(),
        remedy:
            "The source sent this change without its row: check the table's replica identity, write the row \
                 again at the source, and discard this record."
                .into(),
    }
}
