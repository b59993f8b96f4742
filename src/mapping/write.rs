//! What a change asks of the destination.

use super::{binding::Binding, key::Key, transform::Value};
use crate::{
    failure::{Class, Refusal},
    record::{Change, OldRow, Operation, Row},
};

/// One write by integration key. `values` are in the order of [`super::Mapping::destinations`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'s, 'a> {
    /// Insert the row, or overwrite it. A value is missing only if the source's table had no such column yet.
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
        if change.operation == Operation::Update && !matches!(change.old, Some(OldRow::Full(_))) {
            self.has_seen_key_changes()?;
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
        // The source sends a new row whole.
        let is_whole = change.operation == Operation::Insert || !values.contains(&Value::NotSent);
        match (unsure, is_whole) {
            (true, _) => IfMissing::Filter,
            (false, true) => IfMissing::Insert,
            (false, false) => IfMissing::Refuse,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mapping::{
            KeyType, OnExit,
            fixture::{change, mapping, relation, row},
        },
        record::ReplicaIdentity,
    };

    fn binding(identity: ReplicaIdentity) -> Binding {
        mapping(None).bind(&relation(identity)).unwrap()
    }

    fn update(old: Option<OldRow>, new: [&'static str; 4]) -> Change {
        change(Operation::Update, old, Some(row(new)))
    }

    fn key(text: &str) -> Key {
        Key::from_text(text)
    }

    fn refusal(binding: &Binding, change: &Change) -> String {
        binding.write(change, &mut Vec::new()).unwrap_err().code
    }

    const COMPLETE: [&str; 4] = ["7", "Ada", "GB", "n"];

    #[test]
    fn a_complete_row_is_an_upsert() {
        let binding = binding(ReplicaIdentity::Default);
        let values = [Value::text("Ada"), Value::text("7"), Value::text("crm")];
        let expected = Write::Upsert {
            key: key("7"),
            values: &values,
        };
        for operation in [Operation::Insert, Operation::Update] {
            let change = change(operation, None, Some(row(COMPLETE)));
            assert_eq!(binding.write(&change, &mut Vec::new()), Ok(expected.clone()));
        }
    }

    #[test]
    fn a_partial_row_only_updates() {
        let change = update(None, ["7", "u", "GB", "n"]);
        let values = [Value::NotSent, Value::text("7"), Value::text("crm")];
        let expected = Write::Update {
            key: key("7"),
            values: &values,
            if_missing: IfMissing::Refuse,
        };
        assert_eq!(
            binding(ReplicaIdentity::Default).write(&change, &mut Vec::new()),
            Ok(expected)
        );
    }

    #[test]
    fn a_full_old_row_fills_what_was_not_sent() {
        let change = update(
            Some(OldRow::Full(row(["7", "Ada", "GB", "n"]))),
            ["7", "u", "FR", "n"],
        );
        let values = [Value::text("Ada"), Value::text("7"), Value::text("crm")];
        let expected = Write::Upsert {
            key: key("7"),
            values: &values,
        };
        assert_eq!(
            binding(ReplicaIdentity::Full).write(&change, &mut Vec::new()),
            Ok(expected)
        );
    }

    #[test]
    fn the_null_cells_of_a_key_only_old_row_mean_nothing() {
        let change = update(
            Some(OldRow::Key(row(["6", "n", "n", "n"]))),
            ["7", "u", "FR", "n"],
        );
        let values = [Value::NotSent, Value::text("7"), Value::text("crm")];
        let expected = Write::Move {
            old_key: key("6"),
            key: key("7"),
            values: &values,
            if_missing: IfMissing::Refuse,
        };
        assert_eq!(
            binding(ReplicaIdentity::Default).write(&change, &mut Vec::new()),
            Ok(expected)
        );
    }

    #[test]
    fn a_key_that_is_equal_at_the_destination_does_not_move() {
        let change = update(
            Some(OldRow::Key(row(["x", "n", "n", "n"]))),
            ["x  ", "Ada", "n", "n"],
        );
        let keys = |kind| {
            binding(ReplicaIdentity::Default)
                .with_key_types(vec![kind])
                .keys(&change)
        };
        assert_eq!(
            keys(KeyType::FixedChar),
            Ok(ChangeKeys {
                old: None,
                key: key("x")
            })
        );
        assert_eq!(
            keys(KeyType::Text),
            Ok(ChangeKeys {
                old: Some(key("x")),
                key: key("x  ")
            })
        );
    }

    #[test]
    fn an_update_whose_key_may_have_changed_unseen_is_refused() {
        let mut outside = (*relation(ReplicaIdentity::Index)).clone();
        for column in &mut outside.columns {
            column.key = false;
        }
        let binding = mapping(None).bind_stored(&outside.into()).unwrap();
        assert_eq!(refusal(&binding, &update(None, COMPLETE)), "KeyNotSent");
        let old = OldRow::Full(row(COMPLETE));
        assert!(binding.keys(&update(Some(old), COMPLETE)).is_ok());
    }

    #[test]
    fn a_delete_is_by_the_old_key() {
        let change = change(
            Operation::Delete,
            Some(OldRow::Key(row(["7", "n", "n", "n"]))),
            None,
        );
        let expected = Write::Delete { key: key("7") };
        assert_eq!(
            binding(ReplicaIdentity::Default).write(&change, &mut Vec::new()),
            Ok(expected)
        );
    }

    #[test]
    fn a_row_without_a_key_is_refused() {
        let binding = binding(ReplicaIdentity::Default);
        assert_eq!(
            refusal(&binding, &update(None, ["n", "Ada", "GB", "n"])),
            "NullKey"
        );
        assert_eq!(
            refusal(&binding, &update(None, ["u", "Ada", "GB", "n"])),
            "KeyNotSent"
        );
        assert_eq!(
            refusal(&binding, &update(None, ["x", "Ada", "GB", "n"])),
            "InvalidKey"
        );
        assert_eq!(
            refusal(&binding, &change(Operation::Delete, None, None)),
            "RowNotSent"
        );
        assert_eq!(
            refusal(&binding, &change(Operation::Insert, None, None)),
            "RowNotSent"
        );
    }

    #[test]
    fn a_row_whose_old_key_was_null_is_new_to_the_destination() {
        let change = update(Some(OldRow::Full(row(["n", "Ada", "GB", "n"]))), COMPLETE);
        let keys = binding(ReplicaIdentity::Full).keys(&change);
        assert_eq!(
            keys,
            Ok(ChangeKeys {
                old: None,
                key: key("7")
            })
        );
    }

    #[test]
    fn an_unsent_filter_column_never_inserts_and_never_parks() {
        let filtered = mapping(Some(("row.country == 'GB'", OnExit::Delete)));
        let binding = filtered.bind(&relation(ReplicaIdentity::Default)).unwrap();
        let change = update(None, ["7", "Ada", "u", "n"]);
        let mut scratch = Vec::new();
        let write = binding.write(&change, &mut scratch).unwrap();
        assert!(
            matches!(
                write,
                Write::Update {
                    if_missing: IfMissing::Filter,
                    ..
                }
            ),
            "{write:?}"
        );
    }

    #[test]
    fn an_exit_deletes_the_key_that_the_destination_has() {
        let binding = binding(ReplicaIdentity::Default);
        let kept = into_exit(update(None, COMPLETE));
        let moved = into_exit(update(Some(OldRow::Key(row(["6", "n", "n", "n"]))), COMPLETE));
        assert_eq!(
            binding.write(&kept, &mut Vec::new()),
            Ok(Write::Delete { key: key("7") })
        );
        assert_eq!(
            binding.write(&moved, &mut Vec::new()),
            Ok(Write::Delete { key: key("6") })
        );
    }
}
