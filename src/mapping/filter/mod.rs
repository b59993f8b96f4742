//! Which rows belong to a map: a CEL expression over `row`, evaluated where changes are taken.

mod check;
mod decision;
mod evaluate;
mod matcher;

pub use decision::Decision;
pub(super) use evaluate::BoundFilter;
pub use matcher::{MatchError, Matcher};

use std::{fmt, sync::Arc};

/// `spec.source.filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSpec {
    pub expression: String,
    pub on_exit: OnExit,
}

/// What becomes of the destination's row when an update makes the source's leave the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    #[default]
    Delete,
    Keep,
}

/// The expression cannot be used. It is the author's own text, not row data.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    #[error("must be at most {max} bytes long", max = check::MAX_BYTES)]
    TooLong,
    #[error("must nest at most {max} deep", max = check::MAX_DEPTH)]
    TooDeep,
    #[error("would take too long for each row: use fewer or smaller lists and macros")]
    TooCostly,
    #[error("is not a CEL expression: {0}")]
    Syntax(String),
    #[error("must read members as `{0}.name` or `{0}[\"name\"]`: `{0}` cannot be used on its own")]
    Whole(String),
    #[error("must read at least one column of `row`")]
    NoColumn,
    #[error("uses `{0}`, which is unknown here: it may read {1}")]
    UnknownName(String, String),
    #[error("calls `{0}`, which is not available here")]
    UnknownFunction(String),
    #[error("uses `{0}`, which is not available here")]
    Unsupported(&'static str),
}

/// Whether a row belongs to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    In,
    Out,
    /// A column that the filter reads was not sent.
    Unknown,
}

/// A compiled filter. Cloning shares it.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    program: cel::Program,
    env: Arc<cel::Env>,
    /// The columns that the expression reads.
    columns: Vec<String>,
    spec: FilterSpec,
}

impl Filter {
    /// Checks and compiles an expression.
    ///
    /// # Errors
    /// It is not CEL, reads something other than columns of `row`, or could hold a worker up.
    pub fn compile(spec: FilterSpec) -> Result<Self, FilterError> {
        check::check_text(&spec.expression)?;
        let env = Arc::new(cel::Env::stdlib());
        let program = env
            .compile(&spec.expression)
            .map_err(|errors| FilterError::Syntax(errors.to_string()))?;
        let columns = check::columns(program.expression())?;
        Ok(Self(Arc::new(Compiled {
            program,
            env,
            columns,
            spec,
        })))
    }

    /// The source columns that the expression reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.columns.iter().map(String::as_str)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("spec", &self.0.spec)
            .finish_non_exhaustive()
    }
}
