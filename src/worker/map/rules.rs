//! The rules of a map, and the pauses that they have begun. What must outlive a restart is a text in Redis, and a pause is
//! there before it acts.

use crate::{
    clock,
    failure::Class,
    queue::Meta,
    rule::{Fired, Past, Rule, Rules, Tally},
    worker::status::PauseFacts,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Instant};

/// See the module.
#[derive(Debug, Default)]
pub struct Ruling {
    pub rules: Rules,
    /// The pauses that hold the map.
    pub pauses: Vec<RulePause>,
    /// Those that are to, once Redis knows of them.
    coming: Vec<RulePause>,
    /// So many records are written as a trial: until then the pauses do not hold the map.
    pub trial: Option<u64>,
    /// The gate has heard of a trial.
    pub tries: bool,
    /// The operation that has ended pauses last.
    resumed: Option<Arc<str>>,
    /// Redis knows less.
    unstored: bool,
    /// It is being told.
    storing: bool,
    /// It could not be: not again before then.
    retry_at: Option<Instant>,
}

/// A pause that a rule has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePause {
    pub fired: Fired,
    /// `spec.state` is Paused too, or was: the pause ends when it is Running again.
    pub joined: bool,
    /// When the next trial is due, in microseconds since the Unix epoch; and so many have failed.
    pub next_trial: Option<i64>,
    pub failed_trials: u32,
}

/// What Redis remembers.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    pauses: Vec<StoredPause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<String>,
    pasts: Vec<StoredPast>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPause {
    rule: String,
    at: i64,
    count: u64,
    tried: u64,
    /// Class, code and how many.
    refused: Vec<(String, String, u64)>,
    joined: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_trial: Option<i64>,
    #[serde(default)]
    failed_trials: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredPast {
    rule: String,
    last_fired: Option<i64>,
    flaps: u32,
    quiet_until: i64,
}

impl Ruling {
    /// As Redis remembers it, with the rules of the spec; where Redis has lost that, as it was `before`. What cannot be read
    /// asks for nothing.
    #[must_use]
    pub fn recover(rules: Vec<Rule>, meta: Option<&Meta>, before: Option<&str>) -> Self {
        let remembered = meta.and_then(|meta| meta.rules.as_deref());
        let lost = remembered.is_none() && before.is_some();
        let known = remembered.or(before);
        let read = known.map_or_else(|| Ok(Stored::default()), serde_json::from_str);
        let stored: Stored = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "how a map's rules stood cannot be read: did something else write there?");
            Stored::default()
        });
        let mut ruling = Self {
            pauses: stored.pauses.into_iter().map(RulePause::from).collect(),
            resumed: stored.resumed.map(Into::into),
            ..Self::default()
        };
        if lost {
            for pause in &mut ruling.pauses {
                pause.next_trial = next_trial(&rules, pause, clock::now());
            }
            ruling.changed();
        }
        ruling.rules.set(rules);
        for past in stored.pasts {
            let known = Past {
                last_fired: past.last_fired,
                flaps: past.flaps,
                quiet_until: past.quiet_until,
            };
            ruling.rules.restore(&past.rule, known);
        }
        for pause in &ruling.pauses {
            ruling.rules.hold(&pause.fired.rule);
        }
        ruling
    }

    /// What a status tells of the pauses: when each began, but not what was counted.
    #[must_use]
    pub fn shown(pauses: &[PauseFacts], joined: bool) -> Option<String> {
        let pause = |known: &PauseFacts| RulePause {
            fired: Fired {
                rule: known.name.clone(),
                at: known.since.unwrap_or_default(),
                count: 0,
                tried: 0,
                tally: Tally::default(),
            },
            joined,
            next_trial: None,
            failed_trials: 0,
        };
        let ruling = Self {
            pauses: pauses.iter().map(pause).collect(),
            ..Self::default()
        };
        ruling.known()
    }

    /// As it is to be recovered. None: nothing has fired yet.
    #[must_use]
    pub fn known(&self) -> Option<String> {
        (!self.is_new()).then(|| self.text())
    }

    /// The rules of a changed spec.
    pub fn set(&mut self, rules: Vec<Rule>) {
        self.rules.set(rules);
        // What is tried is tried by the rules that there were.
        self.trial = None;
        // One that was removed and is there again has its pause still.
        for pause in self.pauses.iter().chain(&self.coming) {
            self.rules.hold(&pause.fired.rule);
        }
    }

    /// Redis is to be told something.
    #[must_use]
    pub fn is_unstored(&self) -> bool {
        self.unstored
    }

    /// Whether a rule holds the map.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.pauses.is_empty() && self.trial.is_none()
    }

    /// The same, or is about to.
    #[must_use]
    pub fn wants(&self) -> bool {
        !self.pauses.is_empty() || !self.coming.is_empty()
    }

    /// Whether this operation has ended pauses.
    #[must_use]
    pub fn was_resumed_by(&self, operation: &str) -> bool {
        self.resumed.as_deref() == Some(operation)
    }

    /// Redis knows all of it.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !self.unstored && !self.storing
    }

    /// Ends all pauses, as an operation asks: whoever does it again finds that it was done.
    pub fn resume(&mut self, now: i64, operation: &Arc<str>) {
        self.end(now, |_| true);
        self.resumed = Some(operation.clone());
        self.changed();
    }

    /// A pause that begins once it is stored.
    pub fn begins(&mut self, rule: &Rule, fired: Fired, joined: bool) {
        self.coming.push(RulePause {
            next_trial: rule.trial.map(|trial| trial.next(fired.at, 0)),
            failed_trials: 0,
            fired,
            joined,
        });
        self.changed();
    }

    /// Something is to be stored.
    pub fn changed(&mut self) {
        self.unstored = true;
        self.retry_at = None;
    }

    /// Ends all pauses that `which` names, and returns them.
    pub fn end(&mut self, now: i64, which: impl Fn(&RulePause) -> bool) -> Vec<RulePause> {
        let is_ended = |pause: &mut RulePause| which(pause);
        let mut ended: Vec<RulePause> = self.pauses.extract_if(.., is_ended).collect();
        ended.extend(self.coming.extract_if(.., is_ended));
        if self.pauses.is_empty() {
            self.trial = None;
        }
        for pause in &ended {
            self.rules.ended(&pause.fired.rule, now);
        }
        if !ended.is_empty() {
            self.changed();
        }
        ended
    }

    /// How many records a trial has that is due: all pauses must allow one.
    #[must_use]
    pub fn due_trial(&self, now: i64, rules: &[Rule]) -> Option<u64> {
        let of = |pause: &RulePause| {
            let rule = rules.iter().find(|rule| rule.name == pause.fired.rule)?;
            let is_due = pause.next_trial.is_some_and(|at| at <= now);
            rule.trial.filter(|_| is_due).map(|trial| trial.records)
        };
        let all: Option<Vec<u64>> = self.pauses.iter().map(of).collect();
        all.filter(|_| self.trial.is_none() && self.coming.is_empty())?
            .into_iter()
            .max()
    }

    /// Whether a trial shows that nothing has changed: something is refused that a rule of a pause counts.
    #[must_use]
    pub fn is_refused(&self, refused: &Tally, rules: &[Rule]) -> bool {
        let of = |rule: &&Rule| self.pauses.iter().any(|pause| pause.fired.rule == rule.name);
        rules
            .iter()
            .filter(of)
            .any(|rule| !rule.matching.of(refused).is_empty())
    }

    /// A trial has failed: the pauses hold on. Returns when the next one is due.
    pub fn fail_trial(&mut self, now: i64, rules: &[Rule]) -> Option<i64> {
        self.trial = None;
        for pause in &mut self.pauses {
            pause.failed_trials += 1;
            pause.next_trial = next_trial(rules, pause, now);
        }
        self.changed();
        self.pauses.iter().filter_map(|pause| pause.next_trial).max()
    }

    /// `spec.state` is Paused: from now on the pauses end with that.
    pub fn join(&mut self) {
        let all = self.pauses.iter_mut().chain(&mut self.coming);
        let mut new = false;
        for pause in all {
            new |= !std::mem::replace(&mut pause.joined, true);
        }
        if new {
            self.changed();
        }
    }

    /// What Redis is to be told, if it must be now.
    pub fn take_unstored(&mut self, now: Instant) -> Option<String> {
        let waits = self.storing || self.retry_at.is_some_and(|at| at > now);
        if !self.unstored || waits {
            return None;
        }
        self.unstored = false;
        self.storing = true;
        Some(self.text())
    }

    /// Redis knows what it was told, or not. Returns the pauses that begin with that.
    pub fn stored(&mut self, told: &str, is_known: bool, again: Instant) -> Vec<RulePause> {
        self.storing = false;
        if !is_known {
            self.unstored = true;
            self.retry_at = Some(again);
            return Vec::new();
        }
        // One that has come since was not in what was told.
        let stored: Stored = serde_json::from_str(told).unwrap_or_default();
        let is_in = |pause: &RulePause| {
            stored
                .pauses
                .iter()
                .any(|known| known.rule == pause.fired.rule && known.at == pause.fired.at)
        };
        let (begun, coming) = std::mem::take(&mut self.coming)
            .into_iter()
            .partition::<Vec<_>, _>(is_in);
        self.coming = coming;
        self.pauses.extend(begun.iter().cloned());
        if !begun.is_empty() {
            self.trial = None;
        }
        begun
    }

    /// A Redis that went back has forgotten something.
    pub fn seen(&mut self, remembered: Option<&str>) {
        let is_known = remembered.map_or_else(|| self.is_new(), |text| text == self.text());
        if !is_known && !self.storing {
            self.unstored = true;
        }
    }

    /// Nothing has fired yet.
    fn is_new(&self) -> bool {
        !self.wants() && self.resumed.is_none() && self.rules.pasts().next().is_none()
    }

    fn text(&self) -> String {
        let pauses = self.pauses.iter().chain(&self.coming);
        let pasts = self.rules.pasts().map(|(rule, past)| StoredPast {
            rule: rule.to_owned(),
            last_fired: past.last_fired,
            flaps: past.flaps,
            quiet_until: past.quiet_until,
        });
        let stored = Stored {
            pauses: pauses.map(StoredPause::from).collect(),
            resumed: self.resumed.as_deref().map(str::to_owned),
            pasts: pasts.collect(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }
}

/// When the next trial of a pause is due, if its rule has trials.
fn next_trial(rules: &[Rule], pause: &RulePause, now: i64) -> Option<i64> {
    let rule = rules.iter().find(|rule| rule.name == pause.fired.rule)?;
    rule.trial.map(|trial| trial.next(now, pause.failed_trials))
}

impl From<&RulePause> for StoredPause {
    fn from(pause: &RulePause) -> Self {
        let fired = &pause.fired;
        let refused = fired.tally.iter();
        Self {
            rule: fired.rule.clone(),
            at: fired.at,
            count: fired.count,
            tried: fired.tried,
            refused: refused
                .map(|(class, code, count)| (class.as_str().to_owned(), code.to_owned(), count))
                .collect(),
            joined: pause.joined,
            next_trial: pause.next_trial,
            failed_trials: pause.failed_trials,
        }
    }
}

impl From<StoredPause> for RulePause {
    fn from(stored: StoredPause) -> Self {
        let mut tally = Tally::default();
        for (class, code, count) in &stored.refused {
            tally.add(Class::parse(class), code, *count);
        }
        Self {
            fired: Fired {
                rule: stored.rule,
                at: stored.at,
                count: stored.count,
                tried: stored.tried,
                tally,
            },
            joined: stored.joined,
            next_trial: stored.next_trial,
            failed_trials: stored.failed_trials,
        }
    }
}
