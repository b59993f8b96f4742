//! Words that arguments are made of.

use clap::ValueEnum;
use std::time::Duration;

/// Classes of errors, as the records API writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Class {
    Application,
    BadRequest,
    Unauthorized,
    Throttled,
    Unavailable,
    Timeout,
    Schema,
}

/// What has come of an error, as the records API writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum RetryStatus {
    Pending,
    InProgress,
    Failed,
    Completed,
    Superseded,
}

impl RetryStatus {
    /// Of records that wait no more.
    pub const SETTLED: [Self; 2] = [Self::Completed, Self::Superseded];
}

/// A word as it is written.
pub fn word(value: impl ValueEnum) -> String {
    let named = value.to_possible_value();
    named.map_or_else(String::new, |named| named.get_name().to_owned())
}

/// A map's name, as lists and messages write it.
pub fn map_name(text: &str) -> Result<String, String> {
    let (kind, name) = text.split_once('/').unwrap_or(("tm", text));
    let kind = kind.strip_suffix(".tablemap.dev").unwrap_or(kind);
    match kind {
        _ if name.is_empty() || name.contains('/') => Err("write NAME or tm/NAME".into()),
        "tm" | "tablemap" | "tablemaps" => Ok(name.to_owned()),
        _ => Err(format!("{kind} is no TableMap: write NAME or tm/NAME")),
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let seconds: u64 = number.parse().map_err(|_| "write 90s, 5m or 2h".to_owned())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write 90s, 5m or 2h".into()),
    };
    Ok(Duration::from_secs(seconds.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

    #[test]
    fn classes_are_those_that_errors_have() {
        for class in Class::value_variants() {
            assert_eq!(failure::Class::parse(&word(*class)).as_str(), word(*class));
        }
        assert_eq!(word(RetryStatus::InProgress), "InProgress");
    }

    #[test]
    fn names_may_say_what_they_name() {
        for text in [
            "a",
            "tm/a",
            "tablemap/a",
            "tablemaps/a",
            "tablemap.tablemap.dev/a",
        ] {
            assert_eq!(map_name(text), Ok("a".into()), "{text}");
        }
        assert!(map_name("pod/a").is_err() && map_name("tm/").is_err() && map_name("tm/a/b").is_err());
    }
}
