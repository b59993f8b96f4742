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
