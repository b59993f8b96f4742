//! The rules of one map together: known by name, edited at any time.

use super::{Fired, Past, Rule, State, Tally, watched::Watched};

/// All rules of one map.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    watched: Vec<Watched>,
}

impl Rules {
    /// Takes the rules as they now are. One that was edited keeps its past, and what it has counted unless it now
    /// counts other failures; one that is gone is forgotten, with the pause that may be in effect.
    pub fn set(&mut self, rules: Vec<Rule>) {
        let mut former = std::mem::take(&mut self.watched);
        let watch = |rule: Rule| {
            let same = former.iter().position(|known| known.rule.name == rule.name);
            let Some(at) = same else {
                return Watched::new(rule);
            };
            let mut known = former.swap_remove(at);
            known.change(rule);
            known
        };
        self.watched = rules.into_iter().map(watch).collect();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    fn find(&mut self, name: &str) -> Option<&mut Watched> {
        self.watched.iter_mut().find(|watched| watched.rule.name == name)
    }

    /// What was stored before a restart. To be called after [`Rules::set`]: a rule that is gone needs no past.
    pub fn restore(&mut self, name: &str, past: Past) {
        if let Some(watched) = self.find(name) {
            watched.past = past;
        }
    }

    /// The pause by that rule is in effect, as it was before a restart: it does not fire until [`Rules::ended`].
    pub fn hold(&mut self, name: &str) {
        if let Some(watched) = self.find(name) {
            watched.in_effect = true;
        }
    }

    /// The pause by that rule has ended, for whatever reason. It begins to count anew, and is quiet at first.
    /// Changes nothing if no pause by it is in effect.
    pub fn ended(&mut self, name: &str, now: i64) {
        if let Some(watched) = self.find(name) {
            watched.ended(now);
        }
    }

    /// Of the rules that have fired.
    pub fn pasts(&self) -> impl Iterator<Item = (&str, Past)> {
        let fired = self.watched.iter().filter(|one| one.past.last_fired.is_some());
        fired.map(|watched| (watched.rule.name.as_str(), watched.past))
    }

    /// How many times in a row a rule has fired again soon after it had been quiet.
    #[must_use]
    pub fn flaps(&self, name: &str) -> u32 {
        let mut of_it = self.pasts().filter(|(rule, _)| *rule == name);
        of_it.next().map_or(0, |(_, past)| past.flaps)
    }

    /// Counts a batch. Returns the rules that fire, each with why.
    pub fn observe(&mut self, now: i64, written: u64, refused: &Tally) -> Vec<(Rule, Fired)> {
        let tried = written.saturating_add(refused.total());
        let observe = |watched: &mut Watched| {
            let fired = watched.observe(now, tried, refused)?;
            Some((watched.rule.clone(), fired))
        };
        self.watched.iter_mut().filter_map(observe).collect()
    }

    /// Of each rule, in their order.
    pub fn states(&mut self, now: i64) -> Vec<State> {
        self.watched
            .iter_mut()
            .map(|watched| watched.state(now))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failure::Class,
        rule::{
            Matching, Threshold,
            fixture::{SECOND, failures, rule},
        },
    };

    fn rules(rules: impl IntoIterator<Item = Rule>) -> Rules {
        let mut all = Rules::default();
        all.set(rules.into_iter().collect());
        all
    }

    /// The names of the rules that fire when so many fail.
    fn fail(rules: &mut Rules, now: i64, count: u64) -> Vec<String> {
        let fired = rules.observe(now * SECOND, 0, &failures(count));
        fired.into_iter().map(|(rule, _)| rule.name).collect()
    }

    fn counts(rules: &mut Rules, now: i64) -> Vec<u64> {
        let states = rules.states(now * SECOND).into_iter();
        states.map(|state| state.count).collect()
    }

    #[test]
    fn each_rule_counts_what_it_is_about() {
        let timeouts = Rule {
            matching: Matching {
                classes: vec![Class::Timeout],
                codes: vec![],
            },
            threshold: Threshold::Count(1),
            ..rule("timeouts")
        };
        let mut rules = rules([rule("application"), timeouts.clone()]);
        assert!(!rules.is_empty());
        assert_eq!(fail(&mut rules, 0, 4), [""; 0]);
        let mut refused = failures(1);
        refused.add(Class::Timeout, "57014", 2);
        let fired = rules.observe(SECOND, 5, &refused);
        let because = fired
            .iter()
            .map(|(_, fired)| (fired.count, fired.tried, fired.tally.to_string()));
        assert_eq!(
            because.collect::<Vec<_>>(),
            [
                (5, 12, "Application 23514 5 times".to_owned()),
                (2, 12, "Timeout 57014 2 times".to_owned())
            ]
        );
        assert_eq!(fired[1].0, timeouts);
        assert_eq!(fired[1].1.rule, "timeouts");
        assert_eq!(fired[1].1.at, SECOND);
    }

    #[test]
    fn an_edited_rule_keeps_its_past_and_what_it_counted() {
        let mut rules = rules([rule("a"), rule("b")]);
        assert_eq!(fail(&mut rules, 0, 5), ["a", "b"]);
        rules.ended("b", SECOND);
        fail(&mut rules, 2, 3);
        let stricter = Rule {
            threshold: Threshold::Count(4),
            window: 30 * SECOND,
            ..rule("b")
        };
        rules.set(vec![stricter, rule("a")]);
        assert_eq!(counts(&mut rules, 3), [3, 3]);
        assert_eq!(
            fail(&mut rules, 4, 50),
            [""; 0],
            "b is still quiet, and the pause by a in effect"
        );
        assert_eq!(fail(&mut rules, 11, 1), ["b"]);
        fail(&mut rules, 20, 1);
        assert_eq!(counts(&mut rules, 49), [1, 55]);
        assert_eq!(counts(&mut rules, 50), [0, 55]);
    }

    #[test]
    fn a_rule_that_counts_other_failures_begins_anew_and_keeps_its_past() {
        let mut rules = rules([rule("a")]);
        fail(&mut rules, 0, 5);
        rules.ended("a", 0);
        fail(&mut rules, 1, 3);
        let mut edited = rule("a");
        edited.matching.classes.push(Class::Timeout);
        rules.set(vec![edited]);
        assert_eq!(counts(&mut rules, 2), [0]);
        assert_eq!(
            rules.pasts().map(|(_, past)| past.last_fired).collect::<Vec<_>>(),
            [Some(0)]
        );
        assert_eq!(fail(&mut rules, 9, 5), [""; 0], "quiet");
    }

    #[test]
    fn a_count_that_becomes_a_percentage_knows_what_was_tried() {
        let mut rules = rules([rule("a")]);
        rules.observe(0, 1000, &Tally::default());
        let threshold = Threshold::Percent {
            percent: 10,
            least: 10,
        };
        rules.set(vec![Rule {
            threshold,
            ..rule("a")
        }]);
        assert_eq!(fail(&mut rules, 1, 20), [""; 0]);
    }

    #[test]
    fn a_removed_rule_is_forgotten() {
        let mut rules = rules([rule("a"), rule("b")]);
        fail(&mut rules, 0, 5);
        rules.set(vec![rule("b")]);
        rules.set(vec![rule("a"), rule("b")]);
        assert_eq!(rules.pasts().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
        assert_eq!(fail(&mut rules, 1, 5), ["a"], "the pause by b is in effect");
    }

    #[test]
    fn the_past_outlives_a_restart() {
        let mut before = rules([rule("a"), rule("b")]);
        fail(&mut before, 0, 5);
        before.set(vec![rule("a"), rule("b"), rule("new")]);
        before.ended("a", 2 * SECOND);
        let stored: Vec<_> = before
            .pasts()
            .map(|(name, past)| (name.to_owned(), past))
            .collect();
        assert_eq!(stored.len(), 2);

        let mut after = rules([rule("a"), rule("b")]);
        for (name, past) in &stored {
            after.restore(name, *past);
        }
        after.restore("gone", Past::default());
        after.hold("b");
        after.hold("gone");
        assert_eq!(
            fail(&mut after, 11, 5),
            [""; 0],
            "a is quiet, and the pause by b in effect"
        );
        assert_eq!(fail(&mut after, 12, 1), ["a"]);
        assert_eq!(after.pasts().next().map(|(_, past)| past.flaps), Some(1));
    }

    #[test]
    fn names_that_are_unknown_change_nothing() {
        let mut rules = Rules::default();
        rules.restore("a", Past::default());
        rules.hold("a");
        rules.ended("a", 0);
        assert!(rules.is_empty());
        assert!(rules.states(0).is_empty());
        assert!(rules.observe(0, 1, &failures(1)).is_empty());
    }
}
