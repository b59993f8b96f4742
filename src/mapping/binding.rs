//! A mapping bound to a source table's shape: names become indexes once, not per row.

use super::{
    field::{From, Mapping},
    filter::{BoundFilter, Filter},
    key::{Key, KeyBuilder, KeyType},
    transform::Value,
};
use crate::{
    failure::{Class, Refusal},
    record::{Cell, Column, Relation, ReplicaIdentity, Row},
};
use std::{borrow::Cow, sync::Arc};

/// The source table does not fit the mapping: `SchemaValid=False`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BindError {
    #[error("the source table has no column `{name}`: add it there, or change the field that reads it")]
    MissingColumn { name: String },
    #[error("the filter reads column `{name}`, which the source table does not have: correct the filter")]
    MissingFilterColumn { name: String },
    #[error(
        "the source table has no replica identity: give it a primary key, or ALTER TABLE ... REPLICA IDENTITY USING INDEX"
    )]
    NoIdentity,
    #[error(
        "key column `{name}` is not part of the source table's replica identity: \
         make it part of the primary key, or ALTER TABLE ... REPLICA IDENTITY FULL"
    )]
    KeyNotInIdentity { name: String },
}

impl BindError {
    /// Without the key no change can be taken; without another column it can, and is mended later.
    #[must_use]
    pub fn concerns_key(&self, mapping: &Mapping) -> bool {
        match self {
            Self::MissingColumn { name } => mapping.key_source_columns().contains(name),
            Self::MissingFilterColumn { .. } | Self::NoIdentity | Self::KeyNotInIdentity { .. } => true,
        }
    }
}

/// Turns rows of one relation into values of the destination's columns.
#[derive(Clone, Debug)]
pub struct Binding {
    mapping: Mapping,
    relation: Arc<Relation>,
    /// Pairs of source column and field, in column order.
    plan: Vec<(usize, usize)>,
    /// The key's source columns, in the order of `integrationKey`.
    key_columns: Vec<usize>,
    key_types: Vec<KeyType>,
    filter: Option<BoundFilter>,
}

impl Mapping {
    /// Binds to the table as it is now.
    ///
    /// # Errors
    /// A column is missing, or the key is not within the replica identity (rule 12).
    pub fn bind(&self, relation: &Arc<Relation>) -> Result<Binding, BindError> {
        let binding = self.bind_stored(relation)?;
        binding.check_identity()?;
        let missing = |name: &&str| relation.column(name).is_none();
        if let Some(name) = self.sources().find(missing) {
            return Err(BindError::MissingColumn {
                name: name.to_owned(),
            });
        }
        if let Some(name) = self.filter_columns().find(missing) {
            return Err(BindError::MissingFilterColumn {
                name: name.to_owned(),
            });
        }
        Ok(binding)
    }

    /// Binds to the table as it was when a queued or parked record was taken: a column that it lacks counts as not
    /// sent, so that a corrected mapping heals old records.
    ///
    /// # Errors
    /// A column of the key is missing.
    pub fn bind_stored(&self, relation: &Arc<Relation>) -> Result<Binding, BindError> {
        let fields = self.0.fields.iter().enumerate();
        let mut plan: Vec<(usize, usize)> = fields
            .filter_map(|(index, field)| match &field.from {
                From::Source(name) => Some((relation.column(name)?, index)),
                From::Constant(_) => None,
            })
            .collect();
        plan.sort_unstable();
        let key_columns = self.key_columns(relation)?;
        let columns = key_columns
            .iter()
            .filter_map(|column| relation.columns.get(*column));
        Ok(Binding {
            key_types: columns.map(KeyType::of_source).collect(),
            filter: self.0.filter.as_ref().map(|filter| filter.bind_known(relation)),
            mapping: self.clone(),
            relation: Arc::clone(relation),
            plan,
            key_columns,
        })
    }

    fn key_columns(&self, relation: &Relation) -> Result<Vec<usize>, BindError> {
        let fields = self.0.key.iter().filter_map(|field| self.0.fields.get(*field));
        let names = fields.filter_map(|field| match &field.from {
            From::Source(name) => Some(name),
            From::Constant(_) => None,
        });
        names
            .map(|name| {
                relation
                    .column(name)
                    .ok_or_else(|| BindError::MissingColumn { name: name.clone() })
            })
            .collect()
    }

    /// The source columns that the fields read.
    fn sources(&self) -> impl Iterator<Item = &str> {
        self.0.fields.iter().filter_map(|field| match &field.from {
            From::Source(name) => Some(name.as_str()),
            From::Constant(_) => None,
        })
    }

    /// All source columns that the mapping reads.
    pub fn source_columns(&self) -> impl Iterator<Item = &str> {
        self.sources().chain(self.filter_columns())
    }

    /// The source columns that the filter reads.
    pub fn filter_columns(&self) -> impl Iterator<Item = &str> {
        self.0.filter.iter().flat_map(Filter::columns)
    }
}

impl Binding {
    /// The same with the key's types as the destination's inspection found them, one for each column of
    /// `integrationKey`. Until then the source's types stand in.
    #[must_use]
    pub fn with_key_types(mut self, key_types: Vec<KeyType>) -> Self {
        debug_assert_eq!(key_types.len(), self.key_columns.len());
        self.key_types = key_types;
        self
    }

    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    #[must_use]
    pub fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// The key's source columns, in the order of `integrationKey`.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key_columns
            .iter()
            .filter_map(|column| self.relation.columns.get(*column))
    }

    pub(super) fn filter(&self) -> Option<&BoundFilter> {
        self.filter.as_ref()
    }

    fn check_identity(&self) -> Result<(), BindError> {
        match self.relation.identity {
            ReplicaIdentity::Full => Ok(()),
            ReplicaIdentity::Nothing => Err(BindError::NoIdentity),
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                if !self.relation.columns.iter().any(|column| column.key) {
                    return Err(BindError::NoIdentity);
                }
                match self.key_columns().find(|column| !column.key) {
                    Some(column) => Err(BindError::KeyNotInIdentity {
                        name: column.name.clone(),
                    }),
                    None => Ok(()),
                }
            }
        }
    }

    /// Whether an update that came without its old row has left the key as it was.
    ///
    /// # Errors
    /// The key was outside the replica identity: then nobody knows which row it was.
    pub(super) fn has_seen_key_changes(&self) -> Result<(), Refusal> {
        let outside = self.key_columns().position(|column| !column.key);
        let Some(at) = outside.filter(|_| self.relation.identity != ReplicaIdentity::Full) else {
            return Ok(());
        };
        let field = self
            .mapping
            .0
            .key
            .get(at)
            .and_then(|at| self.mapping.0.fields.get(*at));
        Err(old_key_not_sent(
            field.map_or("", |field| field.destination.as_str()),
        ))
    }

    /// The values of a row, in the order of [`Mapping::destinations`]. What is in `out` before is dropped.
    ///
    /// # Errors
    /// A value map refuses a value.
    pub fn values<'a>(&'a self, row: &'a Row, out: &mut Vec<Value<'a>>) -> Result<(), Refusal> {
        self.read(row, out);
        self.transform(out)
    }

    /// The untransformed values.
    pub(super) fn read<'a>(&'a self, row: &'a Row, out: &mut Vec<Value<'a>>) {
        out.clear();
        out.extend(self.mapping.0.fields.iter().map(|field| match &field.from {
            From::Source(_) => Value::NotSent,
            From::Constant(text) => Value::text(text),
        }));
        self.fill(row, |_| true, out);
    }

    /// Puts the row's cells of the chosen columns in place of values that were not sent.
    pub(super) fn fill<'a>(&self, row: &'a Row, chosen: impl Fn(&Column) -> bool, out: &mut [Value<'a>]) {
        let mut plan = self.plan.iter().peekable();
        for (index, (cell, column)) in row.cells().zip(&self.relation.columns).enumerate() {
            while let Some((_, field)) = plan.next_if(|(column, _)| *column == index) {
                if let Some(value) = out.get_mut(*field).filter(|value| **value == Value::NotSent)
                    && chosen(column)
                {
                    *value = value_of(cell);
                }
            }
        }
    }

    pub(super) fn transform<'a>(&'a self, out: &mut [Value<'a>]) -> Result<(), Refusal> {
        for (field, value) in self.mapping.0.fields.iter().zip(out) {
            if !field.transforms.is_empty() {
                *value = field.transform(std::mem::replace(value, Value::Null))?;
            }
        }
        Ok(())
    }

    /// The key of a row; its cells that were not sent are taken from `other`.
    ///
    /// # Errors
    /// A column is NULL, was not sent, or cannot be read as the destination's type.
    pub(super) fn key(&self, row: &Row, other: Option<&Row>) -> Result<Key, Refusal> {
        let mut key = KeyBuilder::default();
        for ((index, kind), field) in self
            .key_columns
            .iter()
            .zip(&self.key_types)
            .zip(&self.mapping.0.key)
        {
            let name = self
                .mapping
                .0
                .fields
                .get(*field)
                .map_or("", |field| field.destination.as_str());
            let cell = match cell(row, *index) {
                Cell::NotSent => other.map_or(Cell::NotSent, |other| self::cell(other, *index)),
                cell => cell,
            };
            match cell {
                Cell::Text(text) => key.push(name, &kind.canonical(name, text)?)?,
                Cell::Null => return Err(null_key(name)),
                Cell::NotSent => return Err(key_not_sent(name)),
            }
        }
        Ok(key.finish())
    }
}

fn value_of(cell: Cell<'_>) -> Value<'_> {
    match cell {
        Cell::Null => Value::Null,
        Cell::NotSent => Value::NotSent,
        Cell::Text(text) => Value::Text(Cow::Borrowed(text)),
    }
}

/// An absent cell counts as not sent.
pub(super) fn cell(row: &Row, index: usize) -> Cell<'_> {
    row.cells().nth(index).unwrap_or(Cell::NotSent)
}

fn null_key(field: &str) -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "NullKey".into(),
        object: Some(field.to_owned()),
        server_text: String::new(),
        remedy: format!("Give key field `{field}` a value at the source; this record can then be discarded."),
    }
}

fn old_key_not_sent(field: &str) -> Refusal {
    Refusal {
        remedy: format!(
            "When this update came key field `{field}` was outside the replica identity, so the key that its row had before is not \
             known: make its column part of the replica identity, write the row again at the source, delete what the destination \
             has left under an old key, and discard this record."
        ),
        ..key_not_sent(field)
    }
}

fn key_not_sent(field: &str) -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "KeyNotSent".into(),
        object: Some(field.to_owned()),
        server_text: String::new(),
        remedy: format!(
            "The source did not send key field `{field}`: make its column part of the replica identity, \
             write the row again at the source, and discard this record."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{
        OnExit, Transform,
        fixture::{field, mapping, relation, row},
    };
    use proptest::prelude::*;

    fn values<'a>(binding: &'a Binding, row: &'a Row) -> Vec<Value<'a>> {
        let mut values = vec![Value::Null];
        binding.values(row, &mut values).unwrap();
        values
    }

    #[test]
    fn values_come_in_the_order_of_the_fields() {
        let binding = mapping(None).bind(&relation(ReplicaIdentity::Default)).unwrap();
        let row = row(["7", "Ada", "GB", "n"]);
        assert_eq!(
            values(&binding, &row),
            [Value::text("Ada"), Value::text("7"), Value::text("crm")]
        );
    }

    #[test]
    fn values_are_borrowed_from_the_row() {
        let binding = mapping(None).bind(&relation(ReplicaIdentity::Default)).unwrap();
        let row = row(["7", "Ada", "GB", "n"]);
        let borrowed = |value: &Value<'_>| matches!(value, Value::Text(Cow::Borrowed(_)));
        assert!(values(&binding, &row).iter().all(borrowed));
    }

    #[test]
    fn a_missing_column_is_named() {
        let key = ["no".to_owned()];
        let fields = vec![field("no", "id", vec![]), field("x", "gone", vec![])];
        let mapping = Mapping::compile(fields, &key, None).unwrap();
        let relation = relation(ReplicaIdentity::Default);
        assert_eq!(
            mapping.bind(&relation).unwrap_err(),
            BindError::MissingColumn { name: "gone".into() }
        );
        let stored = mapping.bind_stored(&relation).unwrap();
        let row = row(["7", "Ada", "GB", "n"]);
        assert_eq!(values(&stored, &row), [Value::text("7"), Value::NotSent]);
    }

    #[test]
    fn a_missing_filter_column_is_named() {
        let filtered = mapping(Some(("row.gone == 'x'", OnExit::Delete)));
        let error = filtered.bind(&relation(ReplicaIdentity::Default)).unwrap_err();
        assert_eq!(error, BindError::MissingFilterColumn { name: "gone".into() });
    }

    #[test]
    fn the_key_lies_within_the_replica_identity() {
        let by_name = || {
            let fields = vec![field("name", "name", vec![])];
            Mapping::compile(fields, &["name".into()], None).unwrap()
        };
        let outside = BindError::KeyNotInIdentity { name: "name".into() };
        assert_eq!(
            by_name().bind(&relation(ReplicaIdentity::Default)).unwrap_err(),
            outside
        );
        assert_eq!(
            by_name().bind(&relation(ReplicaIdentity::Nothing)).unwrap_err(),
            BindError::NoIdentity
        );
        assert!(by_name().bind(&relation(ReplicaIdentity::Full)).is_ok());
    }

    fn cells() -> impl Strategy<Value = Row> {
        let cell = prop_oneof![
            Just(None),
            Just(Some(None)),
            proptest::collection::vec(any::<u8>(), 0..6).prop_map(|text| Some(Some(text))),
        ];
        proptest::collection::vec(cell, 0..7).prop_map(|cells| {
            cells
                .iter()
                .map(|cell| match cell {
                    None => Cell::NotSent,
                    Some(None) => Cell::Null,
                    Some(Some(text)) => Cell::Text(text),
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_row_gives_one_value_for_each_field(row in cells()) {
            let fields = vec![
                field("id", "id", vec![]),
                field("name", "name", vec![Transform::Truncate { max_characters: 2 }]),
                field("twice", "name", vec![Transform::Default("x".into())]),
            ];
            let mapping = Mapping::compile(fields, &["id".into()], None).unwrap();
            let binding = mapping.bind(&relation(ReplicaIdentity::Default)).unwrap();
            let values = values(&binding, &row);
            prop_assert_eq!(values.len(), 3);
            let unsent = cell(&row, 1) == Cell::NotSent;
            prop_assert_eq!(unsent, values[2] == Value::NotSent);
            let _ = binding.key(&row, None);
        }
    }
}
