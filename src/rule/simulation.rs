//! Windows and rules under random loads, clocks and edits, against models that keep each batch for ever.

use super::{Action, Fired, Rule, Rules, Tally, Threshold, Window, fixture};
use crate::failure::Class;

/// A xorshift generator: a seed repeats its numbers.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[at]
    }

    /// Mostly forward by little, at times by more than a window, and at times back.
    fn tick(&mut self, now: i64) -> i64 {
        let up_to = self.pick(&[2, 20, 20, 200, 4000]);
        let by = self.below(up_to).cast_signed();
        if self.chance(5) { now - by } else { now + by }
    }
}

#[derive(Clone, Copy)]
struct Batch {
    at: i64,
    tried: u64,
    failed: u64,
}

/// All batches that may still count, oldest first.
#[derive(Default)]
struct Log {
    batches: Vec<Batch>,
    /// So many of the oldest may have left already.
    left: usize,
}

impl Log {
    fn add(&mut self, batch: Batch, length: i64) {
        for earlier in &mut self.batches {
            earlier.at = earlier.at.min(batch.at);
        }
        self.batches.push(batch);
        let older = |sixtieths| move |one: &Batch| (batch.at - one.at) * 60 >= length * sixtieths;
        self.left = self.left.max(self.batches.partition_point(older(60)));
        let gone = self.batches.partition_point(older(61));
        self.batches.drain(..gone);
        self.left -= gone;
    }

    /// What may be counted, failed and tried: all, and down to no more than the last `length`.
    fn allowed(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..=self.left).map(|from| {
            let of = &self.batches[from..];
            let failed = of.iter().map(|batch| batch.failed).sum();
            (failed, of.iter().map(|batch| batch.tried).sum())
        })
    }
}

#[test]
fn a_count_lies_between_the_length_and_a_sixtieth_more() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let length = random.pick(&[1, 7, 60, 100, 600, 3601]);
        let (mut window, mut log) = (Window::new(length), Log::default());
        let mut now = 0;
        for _ in 0..400 {
            now = random.tick(now);
            let (tried, failed) = (random.below(4), random.below(3));
            window.add(now, tried, &fixture::failures(failed));
            let at = now;
            log.add(Batch { at, tried, failed }, length);
            let counted = (window.count(), window.tried());
            assert_eq!(window.tally().total(), counted.0);
            assert!(
                log.allowed().any(|allowed| allowed == counted),
                "seed {seed} at {now}"
            );
        }
    }
}

#[test]
fn a_window_whose_length_is_edited_loses_nothing_that_fits() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let (mut length, mut log) = (600, Log::default());
        let mut window = Window::new(length);
        let mut now = 0;
        for _ in 0..400 {
            now = random.tick(now);
            if random.chance(5) {
                length = random.pick(&[60, 100, 600, 3601]);
                window.set_length(length);
            }
            let (at, failed) = (now, random.below(3));
            window.add(now, failed, &fixture::failures(failed));
            let tried = failed;
            log.add(Batch { at, tried, failed }, length);
            let least = log.allowed().map(|(failed, _)| failed).min();
            assert!(Some(window.count()) >= least, "seed {seed} at {now}");
        }
    }
}

/// A rule by its definition.
struct Model {
    rule: Rule,
    log: Log,
    in_effect: bool,
    /// None: it has never fired.
    quiet_until: Option<i64>,
    flaps: u32,
}

impl Model {
    fn new(rule: Rule) -> Self {
        Self {
            rule,
            log: Log::default(),
            in_effect: false,
            quiet_until: None,
            flaps: 0,
        }
    }

    fn quiet_time(&self) -> i64 {
        self.rule.cooldown * [1, 2, 4, 8, 16, 32, 64][self.flaps.min(6) as usize]
    }

    fn is_too_much(&self, (failed, tried): (u64, u64)) -> bool {
        match self.rule.threshold {
            Threshold::Count(count) => failed >= count,
            Threshold::Percent { percent, least } => {
                tried >= least && failed * 100 >= tried * u64::from(percent)
            }
        }
    }

    /// Whether the rule did with a batch what it should; then the model follows it.
    fn judge(&mut self, batch: Batch, fired: Option<&Fired>) -> bool {
        self.log.add(batch, self.rule.window);
        let longest = batch.at + self.quiet_time();
        self.quiet_until = self.quiet_until.map(|until| until.min(longest));
        let is_quiet = self.quiet_until.is_some_and(|until| batch.at < until);
        let may_fire = batch.failed > 0 && !self.in_effect && !is_quiet;
        let Some(fired) = fired else {
            return !may_fire || self.log.allowed().any(|counts| !self.is_too_much(counts));
        };
        let counted = (fired.count, fired.tried);
        let is_allowed = self.log.allowed().any(|allowed| allowed == counted);
        let is_right = may_fire && is_allowed && self.is_too_much(counted);
        self.fire(batch.at);
        is_right
    }

    fn fire(&mut self, now: i64) {
        let flapping_until = self.quiet_until.map(|until| until + self.quiet_time());
        let flaps = flapping_until.is_some_and(|until| now < until);
        self.flaps = if flaps { self.flaps + 1 } else { 0 };
        self.in_effect = self.rule.action == Action::Pause && self.rule.enforced;
        self.begin_anew(now);
    }

    fn begin_anew(&mut self, now: i64) {
        self.log = Log::default();
        self.quiet_until = Some(now + self.quiet_time());
    }

    fn end(&mut self, now: i64) {
        self.in_effect = false;
        self.begin_anew(now);
    }
}

fn random_threshold(random: &mut Random) -> Threshold {
    let (percent, least) = (random.pick(&[5, 30, 80]), random.below(20));
    random.pick(&[
        Threshold::Count(3),
        Threshold::Count(12),
        Threshold::Percent { percent, least },
    ])
}

fn random_rule(random: &mut Random) -> Rule {
    Rule {
        threshold: random_threshold(random),
        window: random.pick(&[60, 600, 1801]),
        action: random.pick(&[Action::Pause, Action::Notify]),
        enforced: random.chance(70),
        cooldown: random.pick(&[0, 5, 40]),
        ..fixture::rule("a")
    }
}

fn random_batch(random: &mut Random, at: i64) -> (Batch, Tally) {
    let failed = if random.chance(50) { random.below(6) } else { 0 };
    let mut refused = fixture::failures(failed);
    let others = random.below(2);
    refused.add(Class::Timeout, "57014", others);
    let tried = random.below(10) + failed + others;
    (Batch { at, tried, failed }, refused)
}

#[test]
fn rules_fire_when_their_definition_says_so() {
    let (mut fired_in_all, mut flaps) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut model = Model::new(random_rule(&mut random));
        let mut rules = Rules::default();
        rules.set(vec![model.rule.clone()]);
        let mut now = 1_000_000;
        for step in 0..400 {
            now = random.tick(now);
            if random.chance(10) && model.in_effect {
                rules.ended("a", now);
                model.end(now);
            }
            if random.chance(1) {
                model.rule.threshold = random_threshold(&mut random);
                rules.set(vec![model.rule.clone()]);
            }
            let (batch, refused) = random_batch(&mut random, now);
            let fired = rules.observe(now, batch.tried - refused.total(), &refused);
            let fired = fired.first().map(|(_, fired)| fired);
            assert!(
                model.judge(batch, fired),
                "seed {seed}, step {step} at {now}: {fired:?}"
            );
            fired_in_all += u32::from(fired.is_some());
            flaps = flaps.max(model.flaps);
        }
        assert_eq!(rules.states(now)[0].flaps, model.flaps, "seed {seed}");
    }
    assert!(
        fired_in_all > 1000 && flaps > 3,
        "{fired_in_all} fired, {flaps} in a row"
    );
}
