//! Which records an operation takes: a CEL expression over `error` and `row`, of queued ones over `record` and `row`.

use super::{
    FilterError,
    check::{self, Variable},
    evaluate::{BoundColumn, read},
};
use crate::{
    clock,
    mapping::{ChangeKeys, binding::cell},
    record::{Cell, Change, OldRow, ParkedRecord},
};
use cel::{
    Context, Value as CelValue,
    common::{
        types::{CelInt, CelList, CelMap, CelMapKey, CelNull, CelString},
        value::Val,
    },
};
use std::{collections::HashMap, fmt, sync::Arc};

const OF_QUEUED: &[Variable] = &[
    Variable {
        name: "record",
        members: Some(&["key", "operation", "commitTime"]),
    },
    check::ROW,
];

const OF_PARKED: &[Variable] = &[
    Variable {
        name: "error",
        members: Some(&[
            "id",
            "key",
            "operation",
            "class",
            "code",
            "object",
            "message",
            "attempts",
            "firstTime",
            "lastTime",
        ]),
    },
    check::ROW,
];

/// The expression cannot be evaluated on a record. The evaluator's own text may quote values, and is not told.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "cannot be evaluated on record {0}: let it handle NULL and columns that were not sent (`has(row.name)`), compare values of \
     one type, and yield true or false"
)]
pub struct MatchError(pub String);

/// A compiled expression. Cloning shares it.
#[derive(Clone)]
pub struct Matcher(Arc<Compiled>);

struct Compiled {
    program: cel::Program,
    env: Arc<cel::Env>,
    columns: Vec<String>,
    expression: String,
}

impl Matcher {
    /// Checks and compiles an expression over parked records.
    ///
    /// # Errors
    /// It is not CEL, reads something other than members of `error` and `row`, or could hold a worker up.
    pub fn of_parked(expression: &str) -> Result<Self, FilterError> {
        Self::compile(expression, OF_PARKED)
    }

    /// Checks and compiles an expression over queued records.
    ///
    /// # Errors
    /// It is not CEL, reads something other than members of `record` and `row`, or could hold a worker up.
    pub fn of_queued(expression: &str) -> Result<Self, FilterError> {
        Self::compile(expression, OF_QUEUED)
    }

    fn compile(expression: &str, variables: &'static [Variable]) -> Result<Self, FilterError> {
        check::check_text(expression)?;
        let env = Arc::new(cel::Env::stdlib());
        let program = env
            .compile(expression)
            .map_err(|errors| FilterError::Syntax(errors.to_string()))?;
        let members = check::members(program.expression(), variables)?;
        let columns = members
            .into_iter()
            .filter(|(variable, _)| *variable == "row")
            .map(|(_, column)| column)
            .collect();
        Ok(Self(Arc::new(Compiled {
            program,
            env,
            columns,
            expression: expression.to_owned(),
        })))
    }

    /// Whether it takes a record.
    ///
    /// # Errors
    /// The expression fails on this record, or yields something other than true or false.
    pub fn matches(&self, record: &ParkedRecord) -> Result<bool, MatchError> {
        let taken = self.evaluate("error", error(record), &record.change);
        taken.ok_or_else(|| MatchError(record.id.clone()))
    }

    /// Whether it takes a queued record of these keys.
    ///
    /// # Errors
    /// The expression fails on this record, or yields something other than true or false.
    pub fn matches_queued(&self, change: &Change, keys: Option<&ChangeKeys>) -> Result<bool, MatchError> {
        let taken = self.evaluate("record", queued(change, keys), change);
        taken.ok_or_else(|| MatchError(format!("{} of the source's log", change.position.commit)))
    }

    fn evaluate<'a>(&'a self, name: &str, members: Members<'a>, change: &'a Change) -> Option<bool> {
        let Compiled { program, env, .. } = &*self.0;
        let mut context = Context::with_env(Arc::clone(env));
        context.add_variable_as_val(name, Box::new(CelMap::from(members)));
        context.add_variable_as_val("row", Box::new(CelMap::from(self.row(change)?)));
        match program.execute(&context) {
            Ok(CelValue::Bool(taken)) => Some(taken),
            Ok(_) | Err(_) => None,
        }
    }

    /// The columns that were sent: of a delete those of the old row. None: one cannot be read as its type.
    fn row<'a>(&'a self, change: &'a Change) -> Option<Members<'a>> {
        let mut row = Members::new();
        for name in &self.0.columns {
            let Some(index) = change.relation.column(name) else {
                continue;
            };
            let known = change.relation.columns.get(index)?;
            let sent = match (&change.new, &change.old) {
                (Some(new), _) => cell(new, index),
                (None, Some(OldRow::Full(old))) => cell(old, index),
                (None, Some(OldRow::Key(old))) if known.key => cell(old, index),
                _ => Cell::NotSent,
            };
            if sent != Cell::NotSent {
                let value = read(&BoundColumn::new(index, known), sent).ok()?;
                row.insert(CelMapKey::from(name.as_str()), value);
            }
        }
        Some(row)
    }
}

type Members<'a> = HashMap<CelMapKey<'a>, Box<dyn Val + 'a>>;

fn text(text: &str) -> Box<dyn Val> {
    Box::new(CelString::from(text.to_owned()))
}

/// The columns of a canonical key.
fn key(key: &[u8]) -> Box<dyn Val> {
    let columns = key_columns(key);
    let columns: Vec<Box<dyn Val>> = columns.iter().map(|column| text(column)).collect();
    Box::new(CelList::from(columns))
}

fn operation(change: &Change) -> Box<dyn Val> {
    text(&format!("{:?}", change.operation))
}

fn queued(change: &Change, keys: Option<&ChangeKeys>) -> Members<'static> {
    let known = keys.map_or(&[][..], |keys| keys.key.as_bytes());
    let members = [
        ("key", key(known)),
        ("operation", operation(change)),
        ("commitTime", text(&clock::text(change.commit_time))),
    ];
    named(members)
}

fn named<const N: usize>(members: [(&'static str, Box<dyn Val>); N]) -> Members<'static> {
    let members = members.into_iter();
    members
        .map(|(name, value)| (CelMapKey::from(name), value))
        .collect()
}

fn error(record: &ParkedRecord) -> Members<'static> {
    let time = |micros: i64| text(&clock::text(micros));
    let refusal = &record.refusal;
    let object = refusal
        .object
        .as_deref()
        .map_or_else(|| Box::new(CelNull) as Box<dyn Val>, text);
    let members = [
        ("id", text(&record.id)),
        ("key", key(record.keys.last().map_or(&[][..], Vec::as_slice))),
        ("operation", operation(&record.change)),
        ("class", text(refusal.class.as_str())),
        ("code", text(&refusal.code)),
        ("object", object),
        ("message", text(&refusal.server_text)),
        ("attempts", Box::new(CelInt::from(i64::from(record.attempts)))),
        ("firstTime", time(record.first_time)),
        ("lastTime", time(record.last_time)),
    ];
    named(members)
}

/// The columns of a canonical key, as text.
fn key_columns(key: &[u8]) -> Vec<String> {
    let columns = crate::mapping::key_columns(key).into_iter();
    columns
        .map(|column| String::from_utf8_lossy(&column).into_owned())
        .collect()
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.0.expression == other.0.expression
    }
}

impl Eq for Matcher {}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Matcher").field(&self.0.expression).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failure::{Class, Refusal},
        mapping::fixture::{change, row},
        record::Operation,
    };

    fn record() -> ParkedRecord {
        ParkedRecord {
            id: "customers-e-00000001".into(),
            keys: vec![b"7".to_vec()],
            change: change(Operation::Insert, None, Some(row(["7", "Ada", "u", "5"]))),
            refusal: Refusal {
                class: Class::Application,
                code: "23503".into(),
                object: None,
                server_text: "secret".into(),
                remedy: "Write the parent.".into(),
            },
            first_time: 1_767_225_600_000_000,
            last_time: 1_767_225_600_000_000,
            attempts: 3,
            unjudged: false,
            superseded: None,
            moved: None,
            completed: None,
            operation: None,
        }
    }

    fn matches(expression: &str) -> Result<bool, MatchError> {
        Matcher::of_parked(expression).unwrap().matches(&record())
    }

    #[test]
    fn an_expression_reads_the_error_and_the_row() {
        for expression in [
            "true",
            "error.class == 'Application' && error.attempts < 5 && error.code == '23503'",
            "error.key[0] == '7' && error.id.endsWith('1')",
            "error.object == null && error.message.contains('secret')",
            "error.firstTime >= '2026-01-01T00:00:00Z' && error.operation == 'Insert'",
            "row.name == 'Ada' && !has(row.country)",
        ] {
            assert_eq!(matches(expression), Ok(true), "{expression}");
        }
        assert_eq!(matches("error.code.startsWith('22')"), Ok(false));
    }

    #[test]
    fn what_cannot_be_evaluated_names_the_record_and_no_value() {
        for expression in [
            "row.name > 1",
            "row.country == 'DE'",
            "error.code",
            "error.attempts == 'x' || int(row.name) == 1",
        ] {
            let failed = matches(expression).unwrap_err().to_string();
            assert!(
                failed.contains("customers-e-00000001") && !failed.contains("Ada"),
                "{failed}"
            );
        }
    }

    #[test]
    fn an_unknown_member_is_refused_by_name() {
        let refused = Matcher::of_parked("error.kind == 'x'").unwrap_err().to_string();
        assert!(
            refused.contains("error.kind") && refused.contains("`row`"),
            "{refused}"
        );
        assert!(Matcher::of_parked("size(error) > 1").is_err());
    }
}
