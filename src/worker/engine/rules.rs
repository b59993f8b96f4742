//! Pausing by rule: what the destination refuses is counted, and a rule that fires pauses its map once Redis knows of it.

use super::{Engine, Event};
use crate::{
    api::reasons::{PAUSE_ENDED, RULE_FIRED, RULE_MATCHED, RULE_WOULD_PAUSE},
    clock,
    queue::QueueError,
    rule::{Action, Fired, Rule, State, Tally},
    worker::{
        map::{Map, MapId, RulePause},
        status::RuleFacts,
    },
};
use std::{sync::Arc, time::Instant};

impl Engine {
    /// So many records of a map were written, and these refused.
    pub(super) fn observe(&mut self, id: &MapId, written: u64, refused: &Tally) {
        let now = clock::now();
        let Some(map) = self.maps.get_mut(id) else { return };
        let fired = map.ruling.rules.observe(now, written, refused);
        for (rule, fired) in fired {
            self.fire(id, &rule, fired);
        }
        self.store_rules(id);
    }

    fn fire(&mut self, id: &MapId, rule: &Rule, fired: Fired) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let said = format!(
            "{} Within {} seconds.{}",
            counted(&fired),
            rule.window / 1_000_000,
            flapping(map, &rule.name)
        );
        map.ruling.changed();
        match (rule.action, rule.enforced) {
            (Action::Pause, true) => map.ruling.begins(rule, fired, map.plan.wish.paused),
            (Action::Pause, false) => {
                let note = format!("{said} It is a dry run: the map would be paused.");
                self.statuses.warn(&map.plan, RULE_WOULD_PAUSE, note);
            }
            (Action::Notify, _) => self.statuses.warn(&map.plan, RULE_MATCHED, said),
        }
    }

    /// Tells Redis how the rules of a map stand, if it does not know.
    fn store_rules(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(text) = map.ruling.take_unstored(Instant::now()) else {
            return;
        };
        let (map, queue) = (id.clone(), map.queue.clone());
        self.spawn(async move {
            let result = queue.set_rules(&text).await;
            Event::RulesStored { map, text, result }
        });
    }

    pub(super) fn rules_stored(&mut self, id: &MapId, text: &str, result: Result<(), QueueError>) {
        let again = Instant::now() + self.pace.retry;
        let Some(map) = self.maps.get_mut(id) else { return };
        if let Err(error) = &result {
            tracing::warn!(map = %map.plan.name, %error, "how its rules stand could not be stored; trying again");
        }
        let begun = map.ruling.stored(text, result.is_ok(), again);
        for RulePause { fired, .. } in &begun {
            let flaps = flapping(map, &fired.rule);
            let note = format!(
                "{}{flaps} The map is being paused. {}",
                counted(fired),
                remedy(map)
            );
            self.statuses.warn(&map.plan, RULE_FIRED, note);
        }
        if !begun.is_empty() {
            self.act_on_pauses(id);
        }
        self.store_rules(id);
    }

    /// What could not be stored is stored again; and trials begin that are due.
    pub(super) fn look_at_rules(&mut self) {
        self.look_at_trials();
        for id in self.those(|map| map.ruling.is_unstored()) {
            self.store_rules(&id);
        }
    }

    /// `spec.state` ends pauses of rules: one that was Paused, and is Running again.
    pub(super) fn end_joined(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.plan.wish.paused {
            map.ruling.join();
        } else {
            let ended = map.ruling.end(clock::now(), |pause| pause.joined);
            self.tell_ended(id, &ended);
        }
        self.store_rules(id);
    }

    /// Ends all pauses that rules have begun, as an operation asks.
    pub(super) fn resume_by(&mut self, operation: &Arc<str>, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.ruling.resume(clock::now(), operation);
        self.store_rules(id);
        self.act_on_pauses(id);
    }

    fn tell_ended(&self, id: &MapId, ended: &[RulePause]) {
        let Some(map) = self.maps.get(id).filter(|_| !ended.is_empty()) else {
            return;
        };
        let rules: Vec<&str> = ended.iter().map(|pause| pause.fired.rule.as_str()).collect();
        let note = format!(
            "The pause by rule {} has ended: spec.state is Running again.",
            rules.join(" and ")
        );
        self.statuses.note(&map.plan, PAUSE_ENDED, note);
    }
}

/// What a rule has counted.
fn counted(fired: &Fired) -> String {
    let Fired {
        rule,
        count,
        tried,
        tally,
        ..
    } = fired;
    if *count == 0 {
        return format!("Rule {rule} has fired; how many were refused is not known any more.");
    }
    format!("Rule {rule} has fired: {count} of {tried} records were refused ({tally}).")
}

/// What a person should know of a rule that fires again and again.
fn flapping(map: &Map, name: &str) -> String {
    let flaps = map.ruling.rules.flaps(name);
    let rule = map.plan.rules.iter().find(|rule| rule.name == name);
    let Some(rule) = rule.filter(|_| flaps > 0) else {
        return String::new();
    };
    let (times, quiet) = (flaps.saturating_add(1), rule.quiet(flaps) / 1_000_000);
    let from = if rule.pauses() {
        "the end of the pause"
    } else {
        "now"
    };
    format!(" It has fired {times} times in a row, so it does not fire for {quiet} seconds from {from} on.")
}

/// What a person does about a pause by rule.
fn remedy(map: &Map) -> String {
    let name = &map.plan.name;
    format!(
        "See kubectl tablemap errors {name}; mend what refuses them, then kubectl tablemap resume {name}, and retry the errors."
    )
}

/// How the rules of a map stand.
pub(super) fn facts(map: &Map) -> Vec<RuleFacts> {
    let states = map.ruling.rules.clone().states(clock::now());
    let facts = |state: State| RuleFacts {
        name: state.rule,
        count: state.count,
        tried: state.tried,
        last_fired: state.last_fired,
        quiet_until: state.quiet_until,
    };
    states.into_iter().map(facts).collect()
}

/// Why a rule holds a map, and what ends that.
pub(super) fn message(pause: &RulePause, map: &Map) -> String {
    let may_follow = !map.plan.wish.paused && map.ruling.due_trial(i64::MAX, &map.plan.rules).is_some();
    let trial = match (map.ruling.trial, pause.next_trial) {
        (Some(most), _) => format!(" A trial of {most} records is under way."),
        (None, Some(at)) if may_follow => format!(" A trial follows at {}.", clock::text(at)),
        (None, _) => String::new(),
    };
    let flaps = flapping(map, &pause.fired.rule);
    format!("{}{flaps} {}{trial}", counted(&pause.fired), remedy(map))
}
