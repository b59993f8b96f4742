//! What a filter may contain, so that no expression can hold a worker up: every part is bounded before the first row.

use super::FilterError;
use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators},
};

/// Bytes of an expression.
pub(super) const MAX_BYTES: usize = 4096;
/// Nested brackets, and levels of the parsed expression.
pub(super) const MAX_DEPTH: usize = 64;
/// Steps that one evaluation may take at most.
const MAX_COST: u64 = 10_000;
/// Each `+` may copy its operands, which may be large texts.
const MAX_ADDITIONS: u32 = 16;

/// Besides operators.
const FUNCTIONS: [&str; 12] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "type",
    "dyn",
    operators::IN,
];

const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
];

/// Names of types, as in `type(row.id) == int`.
const TYPES: [&str; 8] = [
    "bool",
    "bytes",
    "double",
    "int",
    "null_type",
    "string",
    "type",
    "uint",
];

/// Bounds what the parser has to do.
pub(super) fn check_text(expression: &str) -> Result<(), FilterError> {
    if expression.len() > MAX_BYTES {
        return Err(FilterError::TooLong);
    }
    let mut depth = 0_usize;
    for byte in expression.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
    }
    Ok(())
}

/// A variable that an expression may read members of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// None: of any name.
    pub members: Option<&'static [&'static str]>,
}

/// The variable of a filter.
pub(super) const ROW: Variable = Variable {
    name: "row",
    members: None,
};

/// The columns that an expression reads, once all else in it is known to be allowed.
pub(super) fn columns(expression: &IdedExpr) -> Result<Vec<String>, FilterError> {
    let members = members(expression, &[ROW])?;
    if members.is_empty() {
        return Err(FilterError::NoColumn);
    }
    Ok(members.into_iter().map(|(_, column)| column).collect())
}

/// The members of these variables that an expression reads, once all else in it is known to be allowed.
pub(super) fn members(
    expression: &IdedExpr,
    variables: &'static [Variable],
) -> Result<Vec<(&'static str, String)>, FilterError> {
    let mut check = Check {
        variables,
        members: Vec::new(),
        scope: Vec::new(),
        additions: 0,
        depth: 0,
    };
    let cost = check.cost(expression)?;
    if cost > MAX_COST || check.additions > MAX_ADDITIONS {
        return Err(FilterError::TooCostly);
    }
    check.members.sort_unstable();
    check.members.dedup();
    Ok(check.members)
}

struct Check<'e> {
    variables: &'static [Variable],
    members: Vec<(&'static str, String)>,
    /// Variables of the macros around.
    scope: Vec<&'e str>,
    additions: u32,
    depth: usize,
}

impl<'e> Check<'e> {
    /// The most steps that an evaluation can take.
    fn cost(&mut self, expression: &'e IdedExpr) -> Result<u64, FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(FilterError::TooDeep);
        }
        let cost = match &expression.expr {
            Expr::Literal(_) => 1,
            Expr::Ident(name) => self.name(name)?,
            Expr::Select(select) => match self.variable(&select.operand) {
                Some(variable) => self.member(variable, &select.field)?,
                None => return Err(FilterError::Unsupported("a member of a member")),
            },
            Expr::Call(call) => self.call(call)?,
            Expr::List(list) => self.sum(&list.elements)?,
            Expr::Map(map) => self.entries(map.entries.iter().map(|entry| &entry.expr))?,
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
            Expr::Struct(_) => return Err(FilterError::Unsupported("a struct")),
            Expr::Unspecified => return Err(FilterError::Unsupported("an empty expression")),
        };
        self.depth -= 1;
        Ok(cost.saturating_add(1))
    }

    fn sum(&mut self, expressions: impl IntoIterator<Item = &'e IdedExpr>) -> Result<u64, FilterError> {
        expressions.into_iter().try_fold(0_u64, |sum, expression| {
            Ok(sum.saturating_add(self.cost(expression)?))
        })
    }

    fn entries(&mut self, entries: impl Iterator<Item = &'e EntryExpr>) -> Result<u64, FilterError> {
        let mut sum = 0_u64;
        for entry in entries {
            let EntryExpr::MapEntry(entry) = entry else {
                return Err(FilterError::Unsupported("a struct"));
            };
            sum = sum.saturating_add(self.sum([&entry.key, &entry.value])?);
        }
        Ok(sum)
    }

    fn name(&mut self, name: &str) -> Result<u64, FilterError> {
        match name {
            _ if self.scope.contains(&name) || TYPES.contains(&name) => Ok(1),
            _ if self.variables.iter().any(|variable| variable.name == name) => {
                Err(FilterError::Whole(name.to_owned()))
            }
            _ => Err(self.unknown(name.to_owned())),
        }
    }

    fn unknown(&self, name: String) -> FilterError {
        let names: Vec<String> = self
            .variables
            .iter()
            .map(|variable| format!("`{}`", variable.name))
            .collect();
        FilterError::UnknownName(name, names.join(" and "))
    }

    fn member(&mut self, variable: Variable, name: &str) -> Result<u64, FilterError> {
        if variable.members.is_some_and(|known| !known.contains(&name)) {
            return Err(self.unknown(format!("{}.{name}", variable.name)));
        }
        self.members.push((variable.name, name.to_owned()));
        Ok(1)
    }

    /// The variable that an expression is, and nothing else.
    fn variable(&self, expression: &IdedExpr) -> Option<Variable> {
        let Expr::Ident(name) = &expression.expr else {
            return None;
        };
        let mut known = self.variables.iter();
        known.find(|variable| variable.name == name).copied()
    }

    fn call(&mut self, call: &'e CallExpr) -> Result<u64, FilterError> {
        let name = call.func_name.as_str();
        if let (operators::INDEX, [object, index]) = (name, call.args.as_slice())
            && let Some(variable) = self.variable(object)
        {
            return match &index.expr {
                Expr::Literal(LiteralValue::String(column)) => self.member(variable, column.inner()),
                _ => Err(FilterError::Whole(variable.name.to_owned())),
            };
        }
        if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
            return Err(FilterError::UnknownFunction(name.to_owned()));
        }
        self.additions += u32::from(name == operators::ADD);
        self.sum(call.target.as_deref().into_iter().chain(&call.args))
    }

    /// `all`, `exists` and `exists_one` over a list that is written out.
    fn comprehension(&mut self, macro_: &'e ComprehensionExpr) -> Result<u64, FilterError> {
        let Expr::List(list) = &macro_.iter_range.expr else {
            return Err(FilterError::Unsupported(
                "a macro over anything but a list that is written out",
            ));
        };
        if matches!(macro_.accu_init.expr, Expr::List(_) | Expr::Map(_)) {
            return Err(FilterError::Unsupported("`map` or `filter`"));
        }
        let hides = self.variables.iter().any(|known| known.name == macro_.iter_var);
        if hides || macro_.iter_var2.is_some() {
            return Err(FilterError::Unsupported(
                "a macro variable with the name of another, or a second one",
            ));
        }
        let range = self.cost(&macro_.iter_range)?;
        let length = self.scope.len();
        self.scope
            .extend([macro_.iter_var.as_str(), macro_.accu_var.as_str()]);
        let turn = self.sum([&macro_.loop_cond, &macro_.loop_step])?;
        let ends = self.sum([&macro_.accu_init, &macro_.result])?;
        self.scope.truncate(length);
        let turns = u64::try_from(list.elements.len()).unwrap_or(u64::MAX);
        Ok(turn
            .saturating_mul(turns)
            .saturating_add(range)
            .saturating_add(ends))
    }
}

#[cfg(test)]
mod tests {
    use crate::mapping::{Filter, FilterError, FilterSpec, OnExit};
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn compile(expression: &str) -> Result<Filter, FilterError> {
        Filter::compile(FilterSpec {
            expression: expression.into(),
            on_exit: OnExit::Delete,
        })
    }

    #[test]
    fn only_the_columns_that_are_read_are_collected() {
        let filter =
            compile("row.country in ['DE', 'AT'] && (row['Straße Nr'] != null || row.country == 'CH')");
        let filter = filter.unwrap();
        assert_eq!(filter.columns().collect::<Vec<_>>(), ["Straße Nr", "country"]);
    }

    #[test]
    fn what_a_filter_may_not_hold_is_refused_by_name() {
        let refused = |expression| compile(expression).unwrap_err();
        assert_eq!(refused("size(row) > 1"), FilterError::Whole("row".into()));
        assert_eq!(refused("row[row.a] == 1"), FilterError::Whole("row".into()));
        assert_eq!(refused("true"), FilterError::NoColumn);
        assert_eq!(
            refused("now == row.a"),
            FilterError::UnknownName("now".into(), "`row`".into())
        );
        assert_eq!(
            refused("row.a.matches('x')"),
            FilterError::UnknownFunction("matches".into())
        );
        assert!(matches!(refused("row.a =="), FilterError::Syntax(_)));
        assert!(matches!(
            refused("[1].map(x, row.a) == []"),
            FilterError::Unsupported(_)
        ));
        assert!(matches!(
            refused("row.a.exists(x, x == 1)"),
            FilterError::Unsupported(_)
        ));
        assert!(matches!(
            refused("[1].exists(row, row.a)"),
            FilterError::Unsupported(_)
        ));
    }

    #[test]
    fn a_hostile_expression_is_refused_at_once() {
        let list = vec!["1"; 100].join(",");
        let nested = format!("[{list}].all(a, [{list}].all(b, [{list}].all(c, row.x == a + b + c)))");
        let hostile = [
            "1".repeat(5000),
            "(".repeat(4000),
            "!".repeat(4000),
            "-".repeat(4000),
            "[".repeat(60),
            format!("{}1", "a?".repeat(2000)),
            format!("row.a == {}1", "true?1:".repeat(500)),
            format!("row.a{}", ".b".repeat(2000)),
            format!("row.a == 'x'{}", " && row.a == 'x'".repeat(250)),
            format!("row.a == row.a{}", " + row.a".repeat(400)),
            "a.b(".repeat(60),
            nested,
        ];
        for expression in hostile {
            let start = Instant::now();
            let _ = compile(&expression);
            let head: String = expression.chars().take(30).collect();
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{head} took {:?}",
                start.elapsed()
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(expression in "(row|[a-z]|[0-9]|[.,:?!&|+*()'\"\\[\\]{}= -]|in|ä){0,30}") {
            let _ = compile(&expression);
        }
    }
}
