//! A number of bytes, as Kubernetes writes quantities.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A number of bytes: a whole number, or one with a suffix such as `512Mi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    Number(i64),
    Text(String),
}

const SUFFIXES: &[(&str, u64)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

impl Bytes {
    /// How many. None: it is no such number.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Number(count) => u64::try_from(*count).ok(),
            Self::Text(text) => {
                let (suffix, factor) = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix))?;
                let digits = text.strip_suffix(suffix)?;
                digits.parse::<u64>().ok()?.checked_mul(*factor)
            }
        }
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": "^[1-9][0-9]{0,12}(Ki|Mi|Gi|Ti|k|M|G|T)?$",
            "minimum": 1,
            "maxLength": 16,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_those_of_kubernetes() {
        let count = |text: &str| Bytes::Text(text.into()).count();
        assert_eq!(count("1Gi"), Some(1 << 30));
        assert_eq!(count("5k"), Some(5_000));
        assert_eq!(count("7"), Some(7));
        assert_eq!(Bytes::Number(7).count(), Some(7));
        assert_eq!(
            (
                count("1.5Gi"),
                count("Gi"),
                count("99999999999999999999"),
                Bytes::Number(-1).count()
            ),
            (None, None, None, None)
        );
    }
}
