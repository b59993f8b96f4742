//! Which parked records an operation takes: a CEL expression over `error` and `row`.

use super::{
    FilterError,
    check::{self, Variable},
    evaluate::{BoundColumn, read},
};
use crate::{
    mapping::binding::cell,
    record::{Cell, OldRow, ParkedRecord},
};
use cel::{
    Context, Value as CelValue,
    common::{
        types::{CelInt, CelList, CelMap, CelMapKey, CelNull, CelString},
        value::Val,
    },
};
use jiff::Timestamp;
use std::{collections::HashMap, fmt, sync::Arc};

const VARIABLES: &[Variable] = &[
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
    /// Checks and compiles an expression.
    ///
    /// # Errors
    /// It is not CEL, reads something other than members of `error` and `row`, or could hold a worker up.
    pub fn compile(expression: &str) -> Result<Self, FilterError> {
        check::check_text(expression)?;
        let env = Arc::new(cel::Env::stdlib());
        let program = env
            .compile(expression)
            .map_err(|errors| FilterError::Syntax(errors.to_string()))?;
        let members = check::members(program.expression(), VARIABLES)?;
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
        let failed = || MatchError(record.id.clone());
        let Compiled { program, env, .. } = &*self.0;
        let mut context = Context::with_env(Arc::clone(env));
        context.add_variable_as_val("error", Box::new(CelMap::from(error(record))));
        context.add_variable_as_val(
            "row",
            Box::new(CelMap::from(self.row(record).ok_or_else(failed)?)),
        );
        match program.execute(&context) {
            Ok(CelValue::Bool(taken)) => Ok(taken),
            Ok(_) | Err(_) => Err(failed()),
        }
    }

    /// The columns that were sent: of a delete those of the old row. None: one cannot be read as its type.
    fn row<'a>(&'a self, record: &'a ParkedRecord) -> Option<Members<'a>> {
        let change = &record.change;
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

fn error(record: &ParkedRecord) -> Members<'static> {
    let text = |text: &str| -> Box<dyn Val> { Box::new(CelString::from(text.to_owned())) };
    let time = |micros: i64| {
        let time = Timestamp::from_microsecond(micros).unwrap_or_default();
        text(&time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    let refusal = &record.refusal;
    let keys = record.keys.last().map(|key| key_columns(key)).unwrap_or_default();
    let key: Vec<Box<dyn Val>> = keys.iter().map(|column| text(column)).collect();
    let object = refusal
        .object
        .as_deref()
        .map_or_else(|| Box::new(CelNull) as Box<dyn Val>, text);
    let members: [(&str, Box<dyn Val>); 10] = [
        ("id", text(&record.id)),
        ("key", Box::new(CelList::from(key))),
        ("operation", text(&format!("{:?}", record.change.operation))),
        ("class", text(refusal.class.as_str())),
        ("code", text(&refusal.code)),
        ("object", object),
        ("message", text(&refusal.server_text)),
        ("attempts", Box::new(CelInt::from(i64::from(record.attempts)))),
        ("firstTime", time(record.first_time)),
        ("lastTime", time(record.last_time)),
    ];
    members
        .into_iter()
        .map(|(name, value)| (CelMapKey::from(name), value))
        .collect()
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
        Matcher::compile(expression).unwrap().matches(&record())
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
        let refused = Matcher::compile("error.kind == 'x'").unwrap_err().to_string();
        assert!(
            refused.contains("error.kind") && refused.contains("`row`"),
            "{refused}"
        );
        assert!(Matcher::compile("size(error) > 1").is_err());
    }
}
