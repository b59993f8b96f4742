//! A filter bound to a source table's shape, and its evaluation.

use super::{Compiled, Filter, FilterVerdict, OnExit};
use crate::{
    failure::{Class, Refusal},
    mapping::binding::{BindError, cell},
    record::{Cell, Change, Column, OldRow, Relation, Row},
};
use cel::{
    Context, Value as CelValue,
    common::{
        types::{CelBool, CelDouble, CelInt, CelMap, CelMapKey, CelNull, CelString},
        value::Val,
    },
};
use std::{collections::HashMap, sync::Arc};

/// A filter whose columns are known by index.
#[derive(Clone, Debug)]
pub struct BoundFilter {
    filter: Filter,
    columns: Vec<BoundColumn>,
}

#[derive(Clone, Debug)]
pub(super) struct BoundColumn {
    index: usize,
    name: String,
    kind: Kind,
    /// Part of the replica identity.
    key: bool,
}

/// How a column's text is read: what is not a number or bool stays text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Double,
    Bool,
    Text,
}

impl Kind {
    const fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 => Self::Int,
            700 | 701 => Self::Double,
            16 => Self::Bool,
            _ => Self::Text,
        }
    }
}

impl BoundColumn {
    pub(super) fn new(index: usize, column: &Column) -> Self {
        Self {
            index,
            name: column.name.clone(),
            kind: Kind::of(column.type_oid),
            key: column.key,
        }
    }
}

/// The row that a filter looks at.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    /// The new row; what was not sent is taken from the old one, where that is known.
    New(&'a Row, Option<&'a OldRow>),
    Old(&'a OldRow),
}

impl<'a> View<'a> {
    fn cell(self, column: &BoundColumn) -> Cell<'a> {
        match self {
            Self::New(row, old) => match (cell(row, column.index), old) {
                (Cell::NotSent, Some(old)) => Self::Old(old).cell(column),
                (cell, _) => cell,
            },
            Self::Old(OldRow::Full(row)) => cell(row, column.index),
            Self::Old(OldRow::Key(row)) if column.key => cell(row, column.index),
            Self::Old(OldRow::Key(_)) => Cell::NotSent,
        }
    }
}

impl Filter {
    /// Finds the columns.
    ///
    /// # Errors
    /// The table lacks one.
    pub fn bind(&self, relation: &Relation) -> Result<BoundFilter, BindError> {
        let missing = self.columns().find(|name| relation.column(name).is_none());
        match missing {
            Some(name) => Err(BindError::MissingFilterColumn {
                name: name.to_owned(),
            }),
            None => Ok(self.bind_known(relation)),
        }
    }

    /// Finds the columns that the table has.
    pub(in crate::mapping) fn bind_known(&self, relation: &Relation) -> BoundFilter {
        let found = self.columns().filter_map(|name| {
            let index = relation.column(name)?;
            Some(BoundColumn::new(index, relation.columns.get(index)?))
        });
        BoundFilter {
            columns: found.collect(),
            filter: self.clone(),
        }
    }
}

impl BoundFilter {
    /// Whether a whole row is within the filter.
    ///
    /// # Errors
    /// The expression fails on this row, or yields something other than true or false: code `FilterFailed`.
    pub fn evaluate(&self, row: &Row) -> Result<FilterVerdict, Refusal> {
        self.judge(View::New(row, None))
    }

    pub(super) fn on_exit(&self) -> OnExit {
        self.filter.0.spec.on_exit
    }

    /// Whether the source left a column of the filter out of this row. One that the table did not have is another
    /// matter: an insert from before must still insert.
    pub(in crate::mapping) fn is_unsent(&self, change: &Change) -> bool {
        change.new.as_ref().is_some_and(|new| {
            let view = View::New(new, change.old.as_ref());
            self.columns
                .iter()
                .any(|column| view.cell(column) == Cell::NotSent)
        })
    }

    /// A stored record's table may lack a column that the filter reads by now: that counts as not sent.
    fn lacks_column(&self) -> bool {
        self.columns.len() < self.filter.0.columns.len()
    }

    pub(super) fn judge(&self, view: View<'_>) -> Result<FilterVerdict, Refusal> {
        if self.lacks_column() {
            return Ok(FilterVerdict::Unknown);
        }
        let mut row = HashMap::with_capacity(self.columns.len());
        for column in &self.columns {
            match view.cell(column) {
                Cell::NotSent => return Ok(FilterVerdict::Unknown),
                cell => row.insert(CelMapKey::from(column.name.as_str()), read(column, cell)?),
            };
        }
        let Compiled { program, env, .. } = &*self.filter.0;
        let mut context = Context::with_env(Arc::clone(env));
        context.add_variable_as_val("row", Box::new(CelMap::from(row)));
        match program.execute(&context) {
            Ok(CelValue::Bool(true)) => Ok(FilterVerdict::In),
            Ok(CelValue::Bool(false)) => Ok(FilterVerdict::Out),
            Ok(other) => Err(failed(&format!(
                "the expression yields {}, not a bool",
                other.type_of()
            ))),
            Err(error) => Err(failed(&error.to_string())),
        }
    }
}

pub(super) fn read<'a>(column: &BoundColumn, cell: Cell<'a>) -> Result<Box<dyn Val + 'a>, Refusal> {
    let Cell::Text(bytes) = cell else {
        return Ok(Box::new(CelNull));
    };
    let unreadable = || failed(&format!("column {} cannot be read as its type", column.name));
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable())?;
    Ok(match column.kind {
        Kind::Int => Box::new(CelInt::from(text.parse::<i64>().map_err(|_| unreadable())?)),
        Kind::Double => Box::new(CelDouble::from(text.parse::<f64>().map_err(|_| unreadable())?)),
        Kind::Bool => Box::new(CelBool::from(text == "t")),
        Kind::Text => Box::new(CelString::from(text)),
    })
}

/// The evaluator's message may quote values: it goes to the error store only.
fn failed(server_text: &str) -> Refusal {
    Refusal {
        class: Class::BadRequest,
        code: "FilterFailed".into(),
        object: None,
        server_text: server_text.to_owned(),
        remedy:
            "The filter cannot be evaluated on this row: let the expression handle NULL and other types, \
                 then retry."
                .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::FilterSpec;

    fn verdict(expression: &str, cells: &[(&str, u32, Cell<'_>)]) -> Result<FilterVerdict, Refusal> {
        let column = |(name, type_oid, _): &(&str, u32, Cell<'_>)| Column {
            name: (*name).to_owned(),
            type_oid: *type_oid,
            type_modifier: -1,
            key: false,
        };
        let relation = Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: crate::record::ReplicaIdentity::Default,
            columns: cells.iter().map(column).collect(),
        };
        let spec = FilterSpec {
            expression: expression.into(),
            on_exit: OnExit::Delete,
        };
        let bound = Filter::compile(spec).unwrap().bind(&relation).unwrap();
        bound.evaluate(&cells.iter().map(|cell| cell.2).collect())
    }

    #[test]
    fn columns_have_the_types_that_the_design_gives_them() {
        let cells = [
            ("i", 20, Cell::Text(b"9007199254740993")),
            ("d", 701, Cell::Text(b"-Infinity")),
            ("b", 16, Cell::Text(b"t")),
            ("n", 1700, Cell::Text(b"1.50")),
            ("z", 23, Cell::Null),
            ("s", 25, Cell::Text("größe".as_bytes())),
        ];
        for expression in [
            "row.i == 9007199254740993",
            "type(row.i) == int && row.i > 1.5",
            "row.d < 0.0",
            "row.b",
            "row.n == '1.50'",
            "double(row.n) > 1.4",
            "row.z == null",
            "row.s.size() == 5",
            "row['s'].startsWith('gr')",
            "['x', 'gr'].exists(p, row.s.startsWith(p))",
            "has(row.s)",
        ] {
            assert_eq!(verdict(expression, &cells), Ok(FilterVerdict::In), "{expression}");
        }
        assert_eq!(verdict("row.i == 1", &cells), Ok(FilterVerdict::Out));
    }

    #[test]
    fn a_column_that_was_not_sent_makes_the_verdict_unknown() {
        let cells = [("a", 25, Cell::NotSent), ("b", 25, Cell::Text(b"x"))];
        assert_eq!(
            verdict("row.a == 'x' || row.b == 'x'", &cells),
            Ok(FilterVerdict::Unknown)
        );
        assert_eq!(verdict("row.b == 'x'", &cells), Ok(FilterVerdict::In));
    }

    #[test]
    fn a_failure_keeps_row_data_out_of_the_remedy() {
        let cells = [("a", 25, Cell::Text(b"secret"))];
        for expression in ["int(row.a) > 1", "row.a", "row.a > 1", "1 / 0 == row.a.size()"] {
            let refusal = verdict(expression, &cells).unwrap_err();
            assert_eq!(
                (refusal.class, refusal.code.as_str()),
                (Class::BadRequest, "FilterFailed")
            );
            assert!(!refusal.remedy.contains("secret"));
        }
        assert!(verdict("row.a == 'x'", &[("a", 25, Cell::Text(&[0xff]))]).is_err());
    }
}
