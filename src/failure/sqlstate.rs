//! SQLSTATE to class, fault and remedy (`PostgreSQL` manual, appendix A).

use super::{Class, table::TABLE};

/// Whose fault a failure is (rule 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The record's: it is parked.
    Record,
    /// The destination's: nothing is parked, the map buffers.
    Destination,
    /// A passing conflict (deadlock, serialisation): try again.
    Retry,
    /// Our epoch or token was raised by another worker, or by a pause.
    Fenced,
}

/// What a failure means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub fault: Fault,
    pub remedy: &'static str,
}

/// A code that is in no manual comes from `RAISE ... USING ERRCODE`: a business rule of the destination.
const UNKNOWN: Verdict = Verdict {
    class: Class::Application,
    fault: Fault::Record,
    remedy: "The destination refused the record by a code of its own: read the server's text, correct the record, then retry.",
};

/// Looks a SQLSTATE up: its own entry, else that of its class.
///
/// The fence's division by zero (22012) is told apart by its statement, not here.
#[must_use]
pub fn judge(sqlstate: &str) -> Verdict {
    let matching = TABLE.iter().filter(|(pattern, _)| sqlstate.starts_with(pattern));
    matching
        .max_by_key(|(pattern, _)| pattern.len())
        .map_or(UNKNOWN, |(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_entry_says_what_to_do_in_one_sentence() {
        for (pattern, verdict) in TABLE {
            let remedy = verdict.remedy;
            assert!(remedy.len() > 20 && remedy.ends_with('.'), "{pattern}: {remedy}");
            assert_eq!(remedy.matches(". ").count(), 0, "{pattern}: {remedy}");
            assert_ne!(verdict.fault, Fault::Fenced, "{pattern}");
        }
    }

    #[test]
    fn patterns_are_codes_or_classes_and_unique() {
        let mut seen = HashSet::new();
        for (pattern, _) in TABLE {
            assert!(matches!(pattern.len(), 2 | 5), "{pattern}");
            assert!(
                pattern
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()),
                "{pattern}"
            );
            assert!(seen.insert(pattern), "{pattern} is listed twice");
        }
    }

    #[test]
    fn the_longest_match_wins() {
        assert_ne!(judge("23503").remedy, judge("23999").remedy);
        assert_eq!(
            (judge("40001").fault, judge("40002").fault),
            (Fault::Retry, Fault::Record)
        );
        assert_eq!(judge("ABC01"), UNKNOWN);
        assert_eq!(judge(""), UNKNOWN);
    }

    #[test]
    fn the_fault_decides_between_parking_and_buffering() {
        use Class::{Application, BadRequest, Schema, Throttled, Timeout, Unauthorized, Unavailable};
        use Fault::{Destination, Record, Retry};
        for (code, class, fault) in [
            ("22001", BadRequest, Record),
            ("22P02", BadRequest, Record),
            ("23502", Application, Record),
            ("23503", Application, Record),
            ("23505", Application, Record),
            ("23514", Application, Record),
            ("44000", Application, Record),
            ("P0001", Application, Record),
            ("54000", BadRequest, Record),
            ("08006", Unavailable, Destination),
            ("57P01", Unavailable, Destination),
            ("53100", Unavailable, Destination),
            ("53300", Throttled, Destination),
            ("58030", Unavailable, Destination),
            ("XX001", Unavailable, Destination),
            ("28P01", Unauthorized, Destination),
            ("42501", Unauthorized, Destination),
            ("42P01", Schema, Destination),
            ("42703", Schema, Destination),
            ("42804", Schema, Destination),
            ("42P10", Schema, Destination),
            ("25006", Unavailable, Destination),
            ("55006", Unavailable, Destination),
            ("55P03", Timeout, Destination),
            ("57014", Timeout, Destination),
            ("40001", Unavailable, Retry),
            ("40P01", Unavailable, Retry),
        ] {
            let verdict = judge(code);
            assert_eq!((verdict.class, verdict.fault), (class, fault), "{code}");
        }
    }
}
