//! Integration keys in a form in which the destination's equal keys are equal bytes (rule 12).

mod canonical;
mod kind;

pub use kind::{ColumnType, KeyType, UnsupportedKey};

use crate::failure::{Class, Refusal};
use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

/// How long a key is kept without an allocation.
const INLINE: usize = 30;

/// The canonical text of one integration key: its columns in the order of `integrationKey`, joined by commas; a comma
/// or backslash within a column is preceded by a backslash. It is row data: never in logs, events, status or metrics.
#[derive(Clone)]
pub struct Key(Text);

#[derive(Clone)]
enum Text {
    Inline { length: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Key {
    /// A key whose text was written by [`Key::as_str`].
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut key = KeyBuilder::default();
        key.push_bytes(text.as_bytes());
        key.finish()
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Inline { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Text::Heap(bytes) => bytes,
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// Shows the length only: a key is row data.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.as_bytes().len())
    }
}

/// Joins canonical columns.
#[derive(Default)]
pub(super) struct KeyBuilder {
    length: usize,
    inline: [u8; INLINE],
    heap: Vec<u8>,
    columns: usize,
}

impl KeyBuilder {
    /// Appends one column's canonical text.
    ///
    /// # Errors
    /// The text is not UTF-8: a key must be readable.
    pub fn push(&mut self, field: &str, text: &[u8]) -> Result<(), Refusal> {
        if std::str::from_utf8(text).is_err() {
            return Err(invalid(field, "the key's text is not UTF-8"));
        }
        if self.columns > 0 {
            self.push_bytes(b",");
        }
        self.columns += 1;
        for part in text.split_inclusive(|byte| matches!(byte, b',' | b'\\')) {
            match part.split_last() {
                Some((special @ (b',' | b'\\'), before)) => {
                    self.push_bytes(before);
                    self.push_bytes(&[b'\\', *special]);
                }
                _ => self.push_bytes(part),
            }
        }
        Ok(())
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        match self.inline.get_mut(self.length..end) {
            Some(room) if self.heap.is_empty() => room.copy_from_slice(bytes),
            _ => {
                if self.heap.is_empty() {
                    self.heap
                        .extend_from_slice(self.inline.get(..self.length).unwrap_or_default());
                }
                self.heap.extend_from_slice(bytes);
            }
        }
        self.length = end;
    }

    pub fn finish(self) -> Key {
        match u8::try_from(self.length) {
            Ok(length) if self.heap.is_empty() => Key(Text::Inline {
                length,
                bytes: self.inline,
            }),
            _ => Key(Text::Heap(self.heap.into_boxed_slice())),
        }
    }
}

/// The columns of a canonical key, in the order of `integrationKey`.
#[must_use]
pub fn key_columns(key: &[u8]) -> Vec<Vec<u8>> {
    let mut columns = vec![Vec::new()];
    let mut escaped = false;
    for byte in key {
        match (byte, escaped) {
            (b'\\', false) => escaped = true,
            (b',', false) => columns.push(Vec::new()),
            _ => {
                escaped = false;
                if let Some(column) = columns.last_mut() {
                    column.push(*byte);
                }
            }
        }
    }
    columns
}

/// The canonical key of columns that are canonical themselves.
#[must_use]
pub fn joined_key<'a>(columns: impl IntoIterator<Item = &'a str>) -> Key {
    let mut key = KeyBuilder::default();
    for column in columns {
        // Text is UTF-8.
        let _ = key.push("", column.as_bytes());
    }
    key.finish()
}

/// A key column's value is not one of its destination type.
pub(super) fn invalid(field: &str, server_text: &str) -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "InvalidKey".into(),
        object: Some(field.to_owned()),
        server_text: server_text.to_owned(),
        remedy: format!(
            "Correct key field `{field}` at the source so that the destination's column type can read it, then retry."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(columns: &[String]) -> Key {
        let mut key = KeyBuilder::default();
        for column in columns {
            key.push("id", column.as_bytes()).unwrap();
        }
        key.finish()
    }

    #[test]
    fn columns_are_joined_readably() {
        assert_eq!(key(&["C-1007".into()]).as_str(), "C-1007");
        assert_eq!(key(&["a,b".into(), "c\\".into()]).as_str(), "a\\,b,c\\\\");
        assert!(KeyBuilder::default().push("id", &[0xff]).is_err());
    }

    #[test]
    fn columns_are_split_and_joined() {
        let key = joined_key(["a,b", "c\\"]);
        assert_eq!(key_columns(key.as_bytes()), [b"a,b".to_vec(), b"c\\".to_vec()]);
        assert_eq!(key_columns(b""), [b"".to_vec()]);
    }

    #[test]
    fn debug_shows_no_row_data() {
        assert_eq!(format!("{:?}", Key::from_text("secret")), "Key(6 bytes)");
    }

    proptest! {
        #[test]
        fn different_columns_make_different_keys(
            left in proptest::collection::vec("[a,\\\\]{0,12}", 2..5),
            right in proptest::collection::vec("[a,\\\\]{0,12}", 2..5),
        ) {
            prop_assert_eq!(left == right, key(&left) == key(&right));
        }

        #[test]
        fn text_reads_back_at_any_length(text in "[a-z]{0,70}") {
            let read = Key::from_text(&text);
            prop_assert_eq!(read.as_str(), &text);
            prop_assert_eq!(read, key(&[text]));
        }
    }
}
