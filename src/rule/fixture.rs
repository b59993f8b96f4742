//! What tests of rules begin with.

use super::{Action, Matching, Rule, Tally, Threshold};
use crate::failure::Class;

/// In microseconds.
pub const SECOND: i64 = 1_000_000;

/// 5 Application errors in a minute pause the map; then 10 seconds are quiet.
pub fn rule(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        matching: Matching {
            classes: vec![Class::Application],
            codes: vec![],
        },
        threshold: Threshold::Count(5),
        window: 60 * SECOND,
        action: Action::Pause,
        enforced: true,
        cooldown: 10 * SECOND,
        trial: None,
    }
}

/// So many Application errors.
pub fn failures(count: u64) -> Tally {
    [(Class::Application, "23514", count)].into_iter().collect()
}
