//! The rules of a map's spec, ready to be asked.

use crate::{
    api::{Enforcement, RefusalClass, RuleAction, RuleResume, RuleSpec, RuleThreshold, TableMapSpec},
    failure::Class,
    rule::{Action, Matching, Pattern, Rule, Threshold, Trial},
};

/// The rules of a spec.
#[must_use]
pub fn of(spec: &TableMapSpec) -> Vec<Rule> {
    spec.rules.iter().flatten().map(rule).collect()
}

fn rule(spec: &RuleSpec) -> Rule {
    let classes = spec.match_.classes.iter().flatten().copied().map(class);
    let codes = spec.match_.codes.iter().flatten();
    Rule {
        name: spec.name.clone(),
        matching: Matching {
            classes: classes.collect(),
            codes: codes.map(|code| Pattern::parse(code)).collect(),
        },
        threshold: threshold(&spec.threshold),
        window: micros(spec.window_seconds),
        action: match spec.action {
            RuleAction::Notify => Action::Notify,
            RuleAction::Pause => Action::Pause,
        },
        enforced: spec.enforcement == Enforcement::Enforce,
        cooldown: micros(spec.cooldown_seconds),
        trial: spec.resume.as_ref().and_then(trial),
    }
}

const fn class(class: RefusalClass) -> Class {
    match class {
        RefusalClass::Application => Class::Application,
        RefusalClass::BadRequest => Class::BadRequest,
    }
}

/// The schema sees that there is exactly one.
fn threshold(spec: &RuleThreshold) -> Threshold {
    match (&spec.percent, spec.count) {
        (Some(share), _) => Threshold::Percent {
            percent: share.percent,
            least: share.min_records.unsigned_abs(),
        },
        (None, count) => Threshold::Count(count.unwrap_or(1).unsigned_abs()),
    }
}

/// The schema sees that it is there only with the policy that wants it.
fn trial(spec: &RuleResume) -> Option<Trial> {
    spec.when_healthy.as_ref().map(|healthy| Trial {
        records: healthy.canary_records.unsigned_abs(),
        after: micros(healthy.after_seconds),
    })
}

const fn micros(seconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000)
}
