//! Which canonical form a key column has: the destination's type decides what is equal.

use super::{canonical, invalid};
use crate::{failure::Refusal, record::Column};
use std::borrow::Cow;

/// A key column at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_attribute.atttypmod`; -1 is none.
    pub modifier: i32,
    /// `pg_collation.collisdeterministic`; true where the type has no collation.
    pub deterministic: bool,
    /// `pg_type.typtype` is `e`: a value has one text.
    pub is_enum: bool,
}

/// How the texts of one key column are brought to one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    Integer,
    Numeric,
    Text,
    /// `varchar(n)`.
    VarChar {
        max_characters: u32,
    },
    FixedChar,
    Uuid,
    Boolean,
    /// The same type at both sides, whose text is already canonical.
    AsSent,
}

/// The column cannot be part of an integration key.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnsupportedKey {
    #[error(
        "a key column of type {0} is not supported, because equal values have different texts: choose another key"
    )]
    Type(String),
    #[error(
        "a key column with a non-deterministic collation is not supported: choose another key, or a deterministic collation"
    )]
    Collation,
    #[error(
        "a key column of type {destination} cannot be filled from {origin}: use the same type at both sides"
    )]
    Pair { destination: String, origin: String },
    #[error(
        "a key column of type {0} is rounded at the destination: give it at least the source's precision"
    )]
    Rounded(String),
}

/// `pg_type.oid` and name of the built-in types that matter here (`pg_type.dat`).
const TYPES: [(u32, &str, Kind); 25] = [
    (16, "boolean", Kind::Boolean),
    (17, "bytea", Kind::Same),
    (18, "\"char\"", Kind::Same),
    (20, "bigint", Kind::Integer),
    (21, "smallint", Kind::Integer),
    (23, "integer", Kind::Integer),
    (25, "text", Kind::Text),
    (26, "oid", Kind::Integer),
    (650, "cidr", Kind::Same),
    (700, "real", Kind::Unsupported),
    (701, "double precision", Kind::Unsupported),
    (790, "money", Kind::Unsupported),
    (829, "macaddr", Kind::Same),
    (869, "inet", Kind::Same),
    (1042, "char(n)", Kind::FixedChar),
    (1043, "varchar", Kind::VarChar),
    (1082, "date", Kind::Same),
    (1083, "time", Kind::Same),
    (1114, "timestamp", Kind::Same),
    (1184, "timestamptz", Kind::Same),
    (1186, "interval", Kind::Unsupported),
    (1266, "timetz", Kind::Same),
    (1700, "numeric", Kind::Numeric),
    (2950, "uuid", Kind::Uuid),
    (3220, "pg_lsn", Kind::Same),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Numeric,
    Text,
    VarChar,
    FixedChar,
    Uuid,
    Boolean,
    Same,
    /// Made in its database: a domain, an enum, a type of an extension.
    Own,
    Unsupported,
}

/// `FirstNormalObjectId` (`access/transam.h`): what lies below is built in.
const FIRST_OWN: u32 = 16384;

impl Kind {
    fn of(oid: u32) -> Self {
        let known = TYPES.iter().find(|known| known.0 == oid).map(|known| known.2);
        known.unwrap_or(if oid < FIRST_OWN {
            Self::Unsupported
        } else {
            Self::Own
        })
    }

    /// Its text may be one of the destination's type; if it is not, the record is refused.
    const fn is_open(self) -> bool {
        self.is_text() || matches!(self, Self::Own)
    }

    const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::VarChar | Self::FixedChar)
    }
}

fn name(oid: u32) -> String {
    TYPES
        .iter()
        .find(|known| known.0 == oid)
        .map_or_else(|| format!("OID {oid}"), |known| known.1.to_owned())
}

impl KeyType {
    /// The form of a destination column that is filled from a source column.
    ///
    /// # Errors
    /// Equal values of the type have several texts that we cannot bring to one, or the column would change them.
    pub fn of(destination: ColumnType, source: &Column) -> Result<Self, UnsupportedKey> {
        let (kind, origin) = (Kind::of(destination.oid), Kind::of(source.type_oid));
        let pair = || UnsupportedKey::Pair {
            destination: name(destination.oid),
            origin: name(source.type_oid),
        };
        let from = |allowed: bool, found: Self| if allowed { Ok(found) } else { Err(pair()) };
        if kind.is_text() && !destination.deterministic {
            return Err(UnsupportedKey::Collation);
        }
        match kind {
            Kind::Integer => from(
                matches!(origin, Kind::Integer | Kind::Numeric) || origin.is_open(),
                Self::Integer,
            ),
            Kind::Numeric if rounds(destination.modifier, origin, source.type_modifier) => {
                Err(UnsupportedKey::Rounded(name(destination.oid)))
            }
            Kind::Numeric => from(
                matches!(origin, Kind::Integer | Kind::Numeric) || origin.is_open(),
                Self::Numeric,
            ),
            Kind::Text => Ok(Self::Text),
            Kind::FixedChar => Ok(Self::FixedChar),
            Kind::VarChar => Ok(varchar(destination.modifier)),
            Kind::Uuid => from(origin == Kind::Uuid || origin.is_open(), Self::Uuid),
            Kind::Boolean => from(origin == Kind::Boolean || origin.is_open(), Self::Boolean),
            Kind::Same if destination.oid != source.type_oid && origin != Kind::Own => Err(pair()),
            Kind::Same
                if !matches!(destination.modifier, -1) && destination.modifier != source.type_modifier =>
            {
                Err(UnsupportedKey::Rounded(name(destination.oid)))
            }
            Kind::Same => Ok(Self::AsSent),
            Kind::Own if destination.is_enum => Ok(Self::Text),
            Kind::Own | Kind::Unsupported => Err(UnsupportedKey::Type(name(destination.oid))),
        }
    }

    /// Whether a destination column can be part of a key, whatever fills it.
    ///
    /// # Errors
    /// As [`KeyType::of`].
    pub fn check(destination: ColumnType) -> Result<(), UnsupportedKey> {
        Self::own(destination).map(|_| ())
    }

    /// Of texts that the type itself has written.
    ///
    /// # Errors
    /// As [`KeyType::of`].
    pub fn own(destination: ColumnType) -> Result<Self, UnsupportedKey> {
        let anything = Column {
            name: String::new(),
            type_oid: destination.oid,
            type_modifier: destination.modifier,
            key: true,
        };
        Self::of(destination, &anything)
    }

    /// What a source column alone tells, until the destination has been seen.
    pub(in crate::mapping) fn of_source(source: &Column) -> Self {
        let same = ColumnType {
            oid: source.type_oid,
            modifier: source.type_modifier,
            deterministic: true,
            is_enum: false,
        };
        Self::of(same, source).unwrap_or(Self::AsSent)
    }

    /// The one form of all texts that the destination takes for this value.
    ///
    /// # Errors
    /// The destination's type cannot read the text.
    pub fn canonical<'a>(&self, field: &str, text: &'a [u8]) -> Result<Cow<'a, [u8]>, Refusal> {
        if matches!(self, Self::AsSent | Self::Text) {
            return Ok(Cow::Borrowed(text));
        }
        let text = std::str::from_utf8(text).map_err(|_| invalid(field, "the key's text is not UTF-8"))?;
        let found = match self {
            Self::Integer => canonical::integer(text),
            Self::Numeric => canonical::numeric(text),
            Self::Uuid => canonical::uuid(text),
            Self::Boolean => canonical::boolean(text).map(Cow::Borrowed),
            Self::FixedChar => Some(Cow::Borrowed(canonical::fixed_char(text))),
            Self::VarChar { max_characters } => {
                let max = usize::try_from(*max_characters).unwrap_or(usize::MAX);
                Some(Cow::Borrowed(canonical::varchar(text, max)))
            }
            Self::Text | Self::AsSent => Some(Cow::Borrowed(text)),
        };
        match found {
            Some(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
            Some(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
            None => Err(invalid(field, &format!("the key's text is {text:?}"))),
        }
    }
}

/// `atttypmod` of `varchar(n)` is n + 4.
fn varchar(modifier: i32) -> KeyType {
    match u32::try_from(modifier.saturating_sub(4)) {
        Ok(max_characters) if modifier > 0 => KeyType::VarChar { max_characters },
        _ => KeyType::Text,
    }
}

/// Whether `numeric(p, s)` would round what the source holds.
fn rounds(destination: i32, origin: Kind, source: i32) -> bool {
    match (scale(destination), origin) {
        (None, _) => false,
        (Some(kept), Kind::Integer) => kept < 0,
        (Some(kept), Kind::Numeric) => scale(source).is_none_or(|sent| sent > kept),
        (Some(_), _) => true,
    }
}

/// `atttypmod` of `numeric(p, s)` is (p << 16 | s) + 4, with s an 11-bit signed number.
fn scale(modifier: i32) -> Option<i32> {
    (modifier >= 4).then(|| (((modifier - 4) & 0x7ff) ^ 1024) - 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        destination: u32,
        modifier: i32,
        source: u32,
        source_modifier: i32,
    ) -> Result<KeyType, UnsupportedKey> {
        let source = Column {
            name: "id".into(),
            type_oid: source,
            type_modifier: source_modifier,
            key: true,
        };
        KeyType::of(
            ColumnType {
                oid: destination,
                modifier,
                deterministic: true,
                is_enum: false,
            },
            &source,
        )
    }

    fn canonical(kind: KeyType, text: &str) -> String {
        String::from_utf8(kind.canonical("id", text.as_bytes()).unwrap().into_owned()).unwrap()
    }

    const fn numeric_modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn the_destination_type_decides() {
        assert_eq!(of(23, -1, 25, -1), Ok(KeyType::Integer));
        assert_eq!(of(1700, -1, 23, -1), Ok(KeyType::Numeric));
        assert_eq!(of(25, -1, 23, -1), Ok(KeyType::Text));
        assert_eq!(of(1042, 8, 25, -1), Ok(KeyType::FixedChar));
        assert_eq!(of(1043, 14, 25, -1), Ok(KeyType::VarChar { max_characters: 10 }));
        assert_eq!(of(2950, -1, 25, -1), Ok(KeyType::Uuid));
        assert_eq!(of(1184, -1, 1184, -1), Ok(KeyType::AsSent));
    }

    #[test]
    fn types_of_a_databases_own_are_read_as_the_destinations() {
        let (domain, an_enum) = (16500, 16600);
        assert_eq!(of(23, -1, domain, -1), Ok(KeyType::Integer));
        assert_eq!(of(1184, -1, domain, -1), Ok(KeyType::AsSent));
        assert!(of(domain, -1, 23, -1).is_err());
        let destination = |is_enum| ColumnType {
            oid: an_enum,
            modifier: -1,
            deterministic: true,
            is_enum,
        };
        assert!(KeyType::check(destination(true)).is_ok());
        assert!(KeyType::check(destination(false)).is_err());
    }

    #[test]
    fn what_has_no_canonical_text_is_refused_by_name() {
        assert_eq!(
            of(701, -1, 701, -1),
            Err(UnsupportedKey::Type("double precision".into()))
        );
        assert_eq!(
            of(1186, -1, 1186, -1),
            Err(UnsupportedKey::Type("interval".into()))
        );
        assert_eq!(
            of(90_001, -1, 25, -1),
            Err(UnsupportedKey::Type("OID 90001".into()))
        );
        let pair = UnsupportedKey::Pair {
            destination: "date".into(),
            origin: "text".into(),
        };
        assert_eq!(of(1082, -1, 25, -1), Err(pair));
        let folded = ColumnType {
            oid: 25,
            modifier: -1,
            deterministic: false,
            is_enum: false,
        };
        let source = Column {
            name: "id".into(),
            type_oid: 25,
            type_modifier: -1,
            key: true,
        };
        assert_eq!(KeyType::of(folded, &source), Err(UnsupportedKey::Collation));
    }

    #[test]
    fn a_destination_that_rounds_is_refused() {
        let two = numeric_modifier(10, 2);
        assert_eq!(of(1700, two, 1700, two), Ok(KeyType::Numeric));
        assert_eq!(of(1700, two, 23, -1), Ok(KeyType::Numeric));
        assert_eq!(
            of(1700, two, 1700, numeric_modifier(10, 3)),
            Err(UnsupportedKey::Rounded("numeric".into()))
        );
        assert_eq!(
            of(1700, two, 1700, -1),
            Err(UnsupportedKey::Rounded("numeric".into()))
        );
        assert_eq!(
            of(1114, 0, 1114, -1),
            Err(UnsupportedKey::Rounded("timestamp".into()))
        );
        assert_eq!(scale(numeric_modifier(5, -2)), Some(-2));
    }

    #[test]
    fn equal_keys_of_the_destination_are_one_text() {
        assert_eq!(
            canonical(KeyType::Numeric, "1.00"),
            canonical(KeyType::Numeric, "1.0")
        );
        assert_eq!(
            canonical(KeyType::FixedChar, "x "),
            canonical(KeyType::FixedChar, "x")
        );
        assert_eq!(canonical(KeyType::Integer, "007"), "7");
        assert_eq!(canonical(KeyType::Text, "x "), "x ");
        assert_eq!(
            KeyType::Integer.canonical("id", b"x").unwrap_err().code,
            "InvalidKey"
        );
    }
}
