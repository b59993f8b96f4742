//! Which queued records are skipped, where not all are. Pure.

use super::{FilterError, KeyReader, MatchError, Matcher};
use crate::record::{Change, Only, Position};
use std::{collections::BTreeSet, sync::Arc};

/// An [`Only`], compiled. Cloning shares it.
#[derive(Clone, Debug)]
pub enum Choice {
    Positions(Arc<BTreeSet<Position>>),
    Keys(Arc<BTreeSet<String>>),
    Match(Matcher),
}

impl Choice {
    /// # Errors
    /// An expression that is none.
    pub fn of(only: &Only) -> Result<Self, FilterError> {
        Ok(match only {
            Only::Positions(positions) => Self::Positions(Arc::new(positions.clone())),
            Only::Keys(keys) => Self::Keys(Arc::new(keys.clone())),
            Only::Match(expression) => Self::Match(Matcher::of_queued(expression)?),
        })
    }

    /// Whether it takes a record. Of a key change it takes either key.
    ///
    /// # Errors
    /// Its expression cannot be evaluated on this record.
    pub fn takes(&self, change: &Change, keys: &mut KeyReader<'_>) -> Result<bool, MatchError> {
        match self {
            Self::Positions(positions) => Ok(positions.contains(&change.position)),
            Self::Keys(wanted) => {
                let known = keys.keys(change);
                let of = known.iter().flat_map(|keys| keys.old.iter().chain([&keys.key]));
                Ok(of.into_iter().any(|key| wanted.contains(key.as_str())))
            }
            Self::Match(matcher) => matcher.matches_queued(change, keys.keys(change).as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mapping::fixture::{change, mapping, row},
        record::Operation,
    };

    fn takes(only: &Only) -> bool {
        let mapping = mapping(None);
        let change = change(Operation::Insert, None, Some(row(["7", "Ada", "u", "5"])));
        let choice = Choice::of(only).unwrap();
        choice.takes(&change, &mut KeyReader::new(&mapping)).unwrap()
    }

    #[test]
    fn a_record_is_taken_by_place_key_or_expression() {
        let position = change(Operation::Insert, None, None).position;
        assert!(takes(&Only::Positions([position].into())));
        assert!(!takes(&Only::Positions([Position::MAX].into())));
        assert!(takes(&Only::Keys(["7".into()].into())));
        assert!(!takes(&Only::Keys(["8".into()].into())));
        for (expression, taken) in [
            ("row.name == 'Ada' && record.operation == 'Insert'", true),
            (
                "record.key[0] == '7' && record.commitTime < '2100-01-01T00:00:00Z'",
                true,
            ),
            ("row.name == 'Bob'", false),
        ] {
            assert_eq!(takes(&Only::Match(expression.into())), taken, "{expression}");
        }
        assert!(Choice::of(&Only::Match("error.code == '1'".into())).is_err());
    }
}
