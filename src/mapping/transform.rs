//! Values on their way to the destination, and the steps that change them.

use crate::failure::{Class, Refusal};
use std::{borrow::Cow, collections::HashMap};

/// What a destination column gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// The source did not send it (unchanged TOAST): the destination keeps what it has (rule 11).
    NotSent,
    /// A text form that the destination's type reads.
    Text(Cow<'a, [u8]>),
}

/// One step of a field's `transforms`. No step touches a value that was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transform {
    /// In place of NULL.
    Default(String),
    ValueMap(ValueMap),
    /// Keeps at most so many Unicode characters (code points).
    Truncate {
        max_characters: u32,
    },
}

/// Replaces listed values by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMap {
    /// From a source value to its replacement; `None` is NULL.
    pub entries: HashMap<String, Option<String>>,
    /// In place of NULL; without it, NULL stays NULL.
    pub on_null: Option<String>,
    pub on_unmatched: Unmatched,
}

/// What becomes of a value that a [`ValueMap`] does not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmatched {
    Keep,
    Null,
    Value(String),
    /// The record is refused, code `ValueNotMapped`.
    Error,
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text.as_bytes()))
    }

    fn text_or_null(text: Option<&'a String>) -> Self {
        text.map_or(Self::Null, |text| Self::text(text))
    }
}

impl Transform {
    /// # Errors
    /// The value map does not list the value, and says `Error` for that.
    pub(super) fn apply<'a>(&'a self, field: &str, value: Value<'a>) -> Result<Value<'a>, Refusal> {
        match (self, value) {
            (_, Value::NotSent) => Ok(Value::NotSent),
            (Self::Default(text), Value::Null) => Ok(Value::text(text)),
            (Self::ValueMap(map), Value::Null) => Ok(Value::text_or_null(map.on_null.as_ref())),
            (Self::ValueMap(map), Value::Text(text)) => map.replace(field, text),
            (Self::Truncate { max_characters }, Value::Text(text)) => {
                Ok(Value::Text(truncate(text, *max_characters)))
            }
            (Self::Default(_) | Self::Truncate { .. }, value) => Ok(value),
        }
    }
}

impl ValueMap {
    fn replace<'a>(&'a self, field: &str, text: Cow<'a, [u8]>) -> Result<Value<'a>, Refusal> {
        let listed = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| self.entries.get(text));
        if let Some(to) = listed {
            return Ok(Value::text_or_null(to.as_ref()));
        }
        match &self.on_unmatched {
            Unmatched::Keep => Ok(Value::Text(text)),
            Unmatched::Null => Ok(Value::Null),
            Unmatched::Value(value) => Ok(Value::text(value)),
            Unmatched::Error => Err(not_mapped(field, &text)),
        }
    }
}

/// The remedy names the field only; the value is row data.
fn not_mapped(field: &str, text: &[u8]) -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "ValueNotMapped".into(),
        object: Some(field.to_owned()),
        server_text: format!(
            "the value map has no entry for {:?}",
            String::from_utf8_lossy(text)
        ),
        remedy: format!(
            "Add the value to the value map of field `{field}`, or set its `onUnmatched`, then retry."
        ),
    }
}

/// A byte that continues a UTF-8 character is never a cut.
fn truncate(text: Cow<'_, [u8]>, max_characters: u32) -> Cow<'_, [u8]> {
    let max = usize::try_from(max_characters).unwrap_or(usize::MAX);
    if text.len() <= max {
        return text;
    }
    let starts = |(_, byte): &(usize, &u8)| **byte & 0b1100_0000 != 0b1000_0000;
    let Some((cut, _)) = text.iter().enumerate().filter(starts).nth(max) else {
        return text;
    };
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..cut).unwrap_or(text)),
        Cow::Owned(mut text) => {
            text.truncate(cut);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str, max: u32) -> String {
        String::from_utf8(truncate(Cow::Borrowed(text.as_bytes()), max).into_owned()).unwrap()
    }

    fn statuses(on_unmatched: Unmatched) -> Transform {
        let entries = HashMap::from([("active".into(), Some("1".into())), ("erased".into(), None)]);
        Transform::ValueMap(ValueMap {
            entries,
            on_null: Some("0".into()),
            on_unmatched,
        })
    }

    #[test]
    fn truncate_counts_characters_and_splits_none() {
        assert_eq!(cut("häßlich", 3), "häß");
        assert_eq!(cut("日本", 2), "日本");
        assert_eq!(cut("ab", 5), "ab");
    }

    #[test]
    fn default_is_for_null_only() {
        let default = Transform::Default("DE".into());
        assert_eq!(default.apply("country", Value::Null), Ok(Value::text("DE")));
        assert_eq!(default.apply("country", Value::NotSent), Ok(Value::NotSent));
        assert_eq!(default.apply("country", Value::text("")), Ok(Value::text("")));
    }

    #[test]
    fn a_value_map_replaces_listed_values_and_null() {
        let map = statuses(Unmatched::Keep);
        assert_eq!(map.apply("status", Value::text("active")), Ok(Value::text("1")));
        assert_eq!(map.apply("status", Value::text("erased")), Ok(Value::Null));
        assert_eq!(map.apply("status", Value::Null), Ok(Value::text("0")));
        assert_eq!(map.apply("status", Value::NotSent), Ok(Value::NotSent));
    }

    #[test]
    fn unmatched_values_follow_the_policy() {
        let unmatched = |policy| {
            statuses(policy)
                .apply("status", Value::text("odd"))
                .map(|value| format!("{value:?}"))
        };
        let shown = |value: Value<'_>| Ok(format!("{value:?}"));
        assert_eq!(unmatched(Unmatched::Keep), shown(Value::text("odd")));
        assert_eq!(unmatched(Unmatched::Null), shown(Value::Null));
        assert_eq!(unmatched(Unmatched::Value("9".into())), shown(Value::text("9")));
        let refusal = unmatched(Unmatched::Error).unwrap_err();
        assert_eq!(
            (refusal.class, refusal.code.as_str()),
            (Class::BadRequest, "ValueNotMapped")
        );
        assert!(refusal.remedy.contains("`status`") && !refusal.remedy.contains("odd"));
    }

    proptest! {
        #[test]
        fn truncate_keeps_the_first_characters(text in "\\PC{0,20}", max in 1u32..25) {
            let expected: String = text.chars().take(max as usize).collect();
            prop_assert_eq!(cut(&text, max), expected);
        }

        #[test]
        fn truncate_of_hostile_bytes_is_a_prefix(text in proptest::collection::vec(any::<u8>(), 0..40), max in 1u32..9) {
            let cut = truncate(Cow::Borrowed(&text), max);
            prop_assert!(text.starts_with(&cut));
        }
    }
}
