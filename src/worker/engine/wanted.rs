//! What the status says of pauses: who wants one, and whether it is in force.

use super::{report::said, rules};
use crate::{
    clock,
    worker::{
        map::{Map, RulePause},
        plan::Plan,
        status::{PauseFacts, Said},
    },
};

/// Those that the spec asks for; `until` is when the one that ends by itself does.
fn by_spec(plan: &Plan, until: Option<i64>) -> Vec<PauseFacts> {
    plan.wish
        .pauses(until, plan.state_by.as_ref(), plan.until_by.as_ref())
}

/// Those of a map that is not taken over yet.
pub(super) fn before(plan: &Plan) -> Vec<PauseFacts> {
    let mut pauses = by_spec(plan, plan.wish.lasts(clock::now()));
    pauses.extend(plan.said.pauses.iter().cloned());
    pauses
}

/// Those that anybody wants.
pub(super) fn by_all(map: &Map) -> Vec<PauseFacts> {
    let mut pauses = by_spec(&map.plan, map.timed);
    pauses.extend(by_rules(map));
    pauses
}

/// Those that rules have begun.
pub(super) fn by_rules(map: &Map) -> Vec<PauseFacts> {
    let pause = |pause: &RulePause| PauseFacts {
        cause: PauseFacts::RULE,
        name: pause.fired.rule.clone(),
        since: Some(pause.fired.at),
        until: None,
        actor: None,
        message: Some(rules::message(pause, map)),
    };
    map.ruling.pauses.iter().map(pause).collect()
}

/// The condition.
pub(super) fn paused(map: &Map) -> Said {
    let gate = &map.gate;
    match (gate.paused(), gate.wanted()) {
        (true, _) => {
            let (reason, wanted) = wanted(map);
            let message = format!("No write to the destination is possible; wanted by {wanted}.");
            said("Paused", true, reason, message)
        }
        (false, true) if map.unfenced.is_some() || map.is_away() => {
            let why = map.unfenced.as_deref().unwrap_or_default();
            let message = format!(
                "Changes are queued, but the destination cannot be closed to them: a write that was under way may still land. \
                 {why}"
            );
            said("Paused", false, "CannotFence", message.trim_end())
        }
        (false, true) => said(
            "Paused",
            false,
            "Pausing",
            "Writes that are under way are being ended.",
        ),
        (false, false) => said("Paused", false, "NothingWantsAPause", "Nothing wants a pause."),
    }
}

/// The reason, and who wants the pause, and until when. What the spec asks for is said first.
fn wanted(map: &Map) -> (&'static str, String) {
    let pauses = by_all(map);
    let name = |pause: &PauseFacts| match (pause.cause, pause.until) {
        (PauseFacts::RULE, _) => format!("rule {}", pause.name),
        (_, Some(until)) => format!("{} until {}", pause.name, clock::text(until)),
        (_, None) => pause.name.clone(),
    };
    let reason = match pauses.first().map(|pause| pause.cause) {
        Some(PauseFacts::RULE) => "RequestedByRule",
        _ => "RequestedBySpec",
    };
    let names: Vec<String> = pauses.iter().map(name).collect();
    let wanted = if names.is_empty() {
        "the spec".into()
    } else {
        names.join(" and ")
    };
    (reason, wanted)
}
