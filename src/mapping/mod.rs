//! From a source row to the values of the destination's columns: fields, transforms, keys and the filter. Pure.
//!
//! A [`Mapping`] is compiled once from a map's spec. Bound to a source table's shape it is a [`Binding`], which turns
//! changes into [`Write`]s and decides what the filter lets in.

mod binding;
mod choice;
mod field;
mod filter;
#[cfg(test)]
mod fixture;
mod key;
mod reader;
mod transform;
mod write;

pub use binding::{BindError, Binding};
pub use choice::Choice;
pub use field::{FieldSpec, From, Mapping, MappingError};
pub use filter::{Decision, Filter, FilterError, FilterSpec, FilterVerdict, MatchError, Matcher, OnExit};
pub use key::{ColumnType, Key, KeyType, UnsupportedKey, joined_key, key_columns};
pub use reader::KeyReader;
pub use transform::{Transform, Unmatched, Value, ValueMap};
pub use write::{ChangeKeys, IfMissing, Write, into_exit};
