//! What the filter does with a change, where it is taken.

use super::{
    FilterVerdict, OnExit,
    evaluate::{BoundFilter, View},
};
use crate::{
    failure::Refusal,
    mapping::Binding,
    record::{Change, Operation},
};

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Take,
    /// Counted as filtered; nothing is written.
    Filtered,
    /// The row left the filter: take it as [`crate::mapping::into_exit`] of the change.
    Exit,
    /// A filter column was not sent: an UPDATE only, and no hit counts as filtered
    /// ([`crate::mapping::IfMissing::Filter`]).
    TakeAsUpdateOnly,
    /// The record is bad: it is parked.
    Refuse(Refusal),
}

impl Binding {
    /// Applies the filter to a change.
    #[must_use]
    pub fn decide(&self, change: &Change) -> Decision {
        self.filter()
            .map_or(Decision::Take, |filter| decide(filter, change))
    }
}

fn decide(filter: &BoundFilter, change: &Change) -> Decision {
    let Some(new) = change
        .new
        .as_ref()
        .filter(|_| change.operation != Operation::Delete)
    else {
        return if was_outside(filter, change) {
            Decision::Filtered
        } else {
            Decision::Take
        };
    };
    match (
        filter.judge(View::New(new, change.old.as_ref())),
        change.operation,
    ) {
        (Err(refusal), _) => Decision::Refuse(refusal),
        (Ok(FilterVerdict::In), _) => Decision::Take,
        (Ok(FilterVerdict::Unknown), _) => Decision::TakeAsUpdateOnly,
        (Ok(FilterVerdict::Out), Operation::Update) if filter.on_exit() == OnExit::Keep => Decision::Filtered,
        (Ok(FilterVerdict::Out), Operation::Update) if !was_outside(filter, change) => Decision::Exit,
        (Ok(FilterVerdict::Out), _) => Decision::Filtered,
    }
}

/// Whether the old row is known, and known to be outside: then the destination has no such row.
fn was_outside(filter: &BoundFilter, change: &Change) -> bool {
    let verdict = change.old.as_ref().map(|old| filter.judge(View::Old(old)));
    matches!(verdict, Some(Ok(FilterVerdict::Out)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mapping::fixture::{change, mapping, relation, row},
        record::{OldRow, ReplicaIdentity, Row},
    };

    const INSIDE: [&str; 4] = ["7", "Ada", "GB", "5"];
    const OUTSIDE: [&str; 4] = ["7", "Ada", "US", "5"];
    const UNSENT: [&str; 4] = ["7", "Ada", "u", "5"];

    fn decided(
        on_exit: OnExit,
        operation: Operation,
        old: Option<OldRow>,
        new: Option<[&'static str; 4]>,
    ) -> Decision {
        let change = change(operation, old, new.map(row));
        let filtered = mapping(Some(("row.country in ['GB', 'FR']", on_exit)));
        filtered.bind(&change.relation).unwrap().decide(&change)
    }

    fn updated(old: Option<OldRow>, new: [&'static str; 4]) -> Decision {
        decided(OnExit::Delete, Operation::Update, old, Some(new))
    }

    fn full(cells: [&'static str; 4]) -> OldRow {
        OldRow::Full(row(cells))
    }

    fn by_key() -> OldRow {
        OldRow::Key(row(["7", "n", "n", "n"]))
    }

    #[test]
    fn without_a_filter_everything_is_taken() {
        let change = change(Operation::Insert, None, Some(row(OUTSIDE)));
        let binding = mapping(None).bind(&relation(ReplicaIdentity::Default)).unwrap();
        assert_eq!(binding.decide(&change), Decision::Take);
    }

    #[test]
    fn inserts_outside_are_filtered() {
        let inserted = |new| decided(OnExit::Delete, Operation::Insert, None, Some(new));
        assert_eq!(inserted(INSIDE), Decision::Take);
        assert_eq!(inserted(OUTSIDE), Decision::Filtered);
    }

    #[test]
    fn an_update_that_leaves_is_an_exit_unless_it_was_outside() {
        assert_eq!(updated(None, OUTSIDE), Decision::Exit);
        assert_eq!(updated(Some(by_key()), OUTSIDE), Decision::Exit);
        assert_eq!(updated(Some(full(INSIDE)), OUTSIDE), Decision::Exit);
        assert_eq!(updated(Some(full(OUTSIDE)), OUTSIDE), Decision::Filtered);
        assert_eq!(updated(Some(full(OUTSIDE)), INSIDE), Decision::Take);
    }

    #[test]
    fn keep_leaves_the_destination_row_alone() {
        assert_eq!(
            decided(OnExit::Keep, Operation::Update, Some(full(INSIDE)), Some(OUTSIDE)),
            Decision::Filtered
        );
    }

    #[test]
    fn an_unsent_column_is_unknown_unless_the_old_row_has_it() {
        assert_eq!(updated(None, UNSENT), Decision::TakeAsUpdateOnly);
        assert_eq!(updated(Some(by_key()), UNSENT), Decision::TakeAsUpdateOnly);
        assert_eq!(updated(Some(full(INSIDE)), UNSENT), Decision::Take);
        assert_eq!(updated(Some(full(OUTSIDE)), UNSENT), Decision::Filtered);
    }

    #[test]
    fn deletes_go_through_unless_the_old_row_was_outside() {
        let deleted = |old| decided(OnExit::Delete, Operation::Delete, Some(old), None);
        assert_eq!(deleted(by_key()), Decision::Take);
        assert_eq!(deleted(full(INSIDE)), Decision::Take);
        assert_eq!(deleted(full(OUTSIDE)), Decision::Filtered);
    }

    #[test]
    fn a_stored_record_from_before_the_filters_column_is_not_refused() {
        let filtered = mapping(Some(("row.added_later == 'x'", OnExit::Delete)));
        let change = change(Operation::Insert, None, Some(row(INSIDE)));
        let binding = filtered.bind_stored(&change.relation).unwrap();
        assert!(!matches!(binding.decide(&change), Decision::Refuse(_)));
        let mut values = Vec::new();
        assert!(matches!(
            binding.write(&change, &mut values),
            Ok(crate::mapping::Write::Upsert { .. })
        ));
    }

    #[test]
    fn a_failing_evaluation_parks_the_record() {
        let new: Row = row(["7", "Ada", "n", "5"]);
        let change = change(Operation::Insert, None, Some(new));
        let filtered = mapping(Some(("row.country.size() == 2", OnExit::Delete)));
        let decision = filtered
            .bind(&relation(ReplicaIdentity::Default))
            .unwrap()
            .decide(&change);
        assert!(matches!(decision, Decision::Refuse(refusal) if refusal.code == "FilterFailed"));
    }
}
