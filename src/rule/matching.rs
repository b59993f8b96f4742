//! Which failures a rule counts.

use super::Tally;
use crate::failure::Class;
use std::fmt;

/// One code, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    /// Without the star.
    Prefix(String),
}

impl Pattern {
    /// Reads `23514`, or `23*`: a star elsewhere than at the end stands for itself.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.strip_suffix('*').map_or_else(
            || Self::Exact(text.to_owned()),
            |start| Self::Prefix(start.to_owned()),
        )
    }

    #[must_use]
    pub fn matches(&self, code: &str) -> bool {
        match self {
            Self::Exact(exact) => code == exact,
            Self::Prefix(start) => code.starts_with(start),
        }
    }
}

/// What [`Pattern::parse`] reads.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(start) => write!(f, "{start}*"),
        }
    }
}

/// The failures whose class is listed, and those whose code is. If nothing is listed: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    pub classes: Vec<Class>,
    pub codes: Vec<Pattern>,
}

impl Matching {
    #[must_use]
    pub fn matches(&self, class: Class, code: &str) -> bool {
        self.classes.contains(&class) || self.codes.iter().any(|pattern| pattern.matches(code))
    }

    /// The part that matches. What a tally does not tell apart ([`super::OTHER`]) is known by its class only.
    #[must_use]
    pub fn of(&self, tally: &Tally) -> Tally {
        tally
            .iter()
            .filter(|(class, code, _)| self.matches(*class, code))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(classes: &[Class], codes: &[&str]) -> Matching {
        Matching {
            classes: classes.to_vec(),
            codes: codes.iter().map(|code| Pattern::parse(code)).collect(),
        }
    }

    #[test]
    fn a_pattern_is_a_code_or_how_codes_begin() {
        let exact = Pattern::parse("23514");
        assert!(exact.matches("23514") && !exact.matches("235140") && !exact.matches("2351"));
        let prefix = Pattern::parse("23*");
        assert!(prefix.matches("23514") && prefix.matches("23") && !prefix.matches("42P23"));
        assert!(Pattern::parse("*").matches("RowMissing"));
        assert!(!Pattern::parse("2*3").matches("23"));
    }

    #[test]
    fn a_pattern_is_written_as_it_was_read() {
        for text in ["23514", "23*", "*"] {
            assert_eq!(Pattern::parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_failure_matches_by_its_class_or_by_its_code() {
        let refused: Tally = [
            (Class::Application, "23505", 1),
            (Class::Application, "P0001", 2),
            (Class::BadRequest, "22P02", 4),
            (Class::Timeout, "57014", 8),
        ]
        .into_iter()
        .collect();
        let total = |classes: &[Class], codes: &[&str]| matching(classes, codes).of(&refused).total();
        assert_eq!(total(&[Class::Application], &[]), 3);
        assert_eq!(total(&[], &["23*", "57014"]), 9);
        assert_eq!(total(&[Class::Application, Class::Schema], &["23*", "22P02"]), 7);
        assert_eq!(total(&[], &["*"]), 15);
        assert_eq!(total(&[], &[]), 0);
    }

    #[test]
    fn the_part_that_matches_keeps_classes_and_codes() {
        let refused: Tally = [(Class::Application, "23505", 1), (Class::Timeout, "57014", 8)]
            .into_iter()
            .collect();
        let part = matching(&[Class::Timeout], &[]).of(&refused);
        assert_eq!(part.to_string(), "Timeout 57014 8 times");
        assert!(matching(&[Class::Schema], &[]).of(&refused).is_empty());
    }
}
