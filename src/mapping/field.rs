//! A map's fields as the spec gives them, checked once.

use super::{
    filter::{Filter, FilterError, FilterSpec},
    transform::{Transform, Value},
};
use crate::failure::Refusal;
use std::{collections::HashSet, sync::Arc};

/// One entry of `spec.fields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// A destination column.
    pub destination: String,
    pub from: From,
    /// Carried out in order.
    pub transforms: Vec<Transform>,
}

/// Where a field's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A source column, by its exact name.
    Source(String),
    Constant(String),
}

/// The spec cannot be used. Each message names the field and the remedy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MappingError {
    #[error("`fields` is empty: list at least the columns of `integrationKey`")]
    NoFields,
    #[error("field `{0}` is listed twice: keep one of them")]
    DuplicateField(String),
    #[error("`integrationKey` is empty: name the destination columns that identify a row")]
    NoKey,
    #[error("`integrationKey` names `{0}` twice: remove one")]
    DuplicateKey(String),
    #[error("`integrationKey` names `{0}`, which is not among `fields`: add the field")]
    KeyNotMapped(String),
    #[error(
        "field `{0}` is part of `integrationKey`: give it a `source`, and no `value` and no `transforms`"
    )]
    KeyTransformed(String),
    #[error("field `{0}`: `truncate.maxCharacters` must be at least 1")]
    TruncateToNothing(String),
    #[error("`filter.expression`: {0}")]
    Filter(#[from] FilterError),
}

/// A map's fields, key and filter, compiled. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Mapping(pub(super) Arc<Compiled>);

#[derive(Debug)]
pub(super) struct Compiled {
    pub fields: Vec<FieldSpec>,
    /// Indexes into `fields`, in the order of `integrationKey`.
    pub key: Vec<usize>,
    pub filter: Option<Filter>,
}

impl Mapping {
    /// Checks a spec and prepares it.
    ///
    /// # Errors
    /// The spec is inconsistent, or its filter is not a usable expression.
    pub fn compile(
        fields: Vec<FieldSpec>,
        integration_key: &[String],
        filter: Option<FilterSpec>,
    ) -> Result<Self, MappingError> {
        check_fields(&fields)?;
        let key = find_key(&fields, integration_key)?;
        let filter = filter.map(Filter::compile).transpose()?;
        Ok(Self(Arc::new(Compiled { fields, key, filter })))
    }

    /// The destination columns, in the order of the values.
    #[must_use]
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.fields.iter().map(|field| field.destination.as_str())
    }

    /// The source columns of the key, in the order of `integrationKey`.
    #[must_use]
    pub fn key_source_columns(&self) -> Vec<String> {
        let source = |index: &usize| match &self.0.fields.get(*index)?.from {
            From::Source(name) => Some(name.clone()),
            From::Constant(_) => None,
        };
        self.0.key.iter().filter_map(source).collect()
    }

    /// Where the key's columns stand among [`Mapping::destinations`], in the order of `integrationKey`.
    #[must_use]
    pub fn key(&self) -> &[usize] {
        &self.0.key
    }
}

impl FieldSpec {
    /// # Errors
    /// A value map refuses the value.
    pub(super) fn transform<'a>(&'a self, value: Value<'a>) -> Result<Value<'a>, Refusal> {
        self.transforms
            .iter()
            .try_fold(value, |value, step| step.apply(&self.destination, value))
    }
}

fn check_fields(fields: &[FieldSpec]) -> Result<(), MappingError> {
    if fields.is_empty() {
        return Err(MappingError::NoFields);
    }
    let mut seen = HashSet::new();
    for field in fields {
        if !seen.insert(&field.destination) {
            return Err(MappingError::DuplicateField(field.destination.clone()));
        }
        if field
            .transforms
            .contains(&Transform::Truncate { max_characters: 0 })
        {
            return Err(MappingError::TruncateToNothing(field.destination.clone()));
        }
    }
    Ok(())
}

fn find_key(fields: &[FieldSpec], integration_key: &[String]) -> Result<Vec<usize>, MappingError> {
    if integration_key.is_empty() {
        return Err(MappingError::NoKey);
    }
    let mut key = Vec::with_capacity(integration_key.len());
    for name in integration_key {
        let found = fields
            .iter()
            .enumerate()
            .find(|(_, field)| field.destination == *name);
        let (index, field) = found.ok_or_else(|| MappingError::KeyNotMapped(name.clone()))?;
        if key.contains(&index) {
            return Err(MappingError::DuplicateKey(name.clone()));
        }
        if !matches!(field.from, From::Source(_)) || !field.transforms.is_empty() {
            return Err(MappingError::KeyTransformed(name.clone()));
        }
        key.push(index);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(destination: &str, from: From, transforms: Vec<Transform>) -> FieldSpec {
        FieldSpec {
            destination: destination.into(),
            from,
            transforms,
        }
    }

    fn refused(fields: Vec<FieldSpec>, key: &[&str]) -> MappingError {
        let key: Vec<String> = key.iter().map(ToString::to_string).collect();
        Mapping::compile(fields, &key, None).unwrap_err()
    }

    #[test]
    fn a_spec_is_refused_by_the_name_of_its_field() {
        let id = || field("id", From::Source("id".into()), Vec::new());
        let constant = field("id", From::Constant("1".into()), Vec::new());
        let cut = field(
            "id",
            From::Source("id".into()),
            vec![Transform::Truncate { max_characters: 3 }],
        );
        let nothing = field(
            "name",
            From::Source("n".into()),
            vec![Transform::Truncate { max_characters: 0 }],
        );
        assert_eq!(refused(vec![], &["id"]), MappingError::NoFields);
        assert_eq!(
            refused(vec![id(), id()], &["id"]),
            MappingError::DuplicateField("id".into())
        );
        assert_eq!(refused(vec![id()], &[]), MappingError::NoKey);
        assert_eq!(
            refused(vec![id()], &["id", "id"]),
            MappingError::DuplicateKey("id".into())
        );
        assert_eq!(
            refused(vec![id()], &["no"]),
            MappingError::KeyNotMapped("no".into())
        );
        assert_eq!(
            refused(vec![constant], &["id"]),
            MappingError::KeyTransformed("id".into())
        );
        assert_eq!(
            refused(vec![cut], &["id"]),
            MappingError::KeyTransformed("id".into())
        );
        assert_eq!(
            refused(vec![id(), nothing], &["id"]),
            MappingError::TruncateToNothing("name".into())
        );
    }
}
