//! How many queued records each operation has skipped: kept with the progress that passes them.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// By operation, for those that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped(BTreeMap<Arc<str>, u64>);

impl Skipped {
    /// What an operation has skipped so far.
    #[must_use]
    pub fn of(&self, operation: &str) -> u64 {
        self.0.get(operation).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, operation: &Arc<str>, count: u64) {
        if count > 0 {
            *self.0.entry(operation.clone()).or_default() += count;
        }
    }

    /// Forgets operations that have ended.
    pub(super) fn keep(&mut self, open: impl Fn(&str) -> bool) {
        self.0.retain(|operation, _| open(operation));
    }

    /// Reads what `to_string` made; anything else counts as nothing.
    pub(super) fn read(text: &str) -> Self {
        let parts = text.split(' ').filter_map(|part| part.split_once('='));
        let counts = parts.filter_map(|(operation, count)| Some((operation.into(), count.parse().ok()?)));
        Self(counts.collect())
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (operation, count)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{operation}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_back() {
        let mut skipped = Skipped::default();
        assert_eq!(Skipped::read(&skipped.to_string()), skipped);
        for (operation, count) in [("0b7e", 2), ("1c", 5), ("0b7e", 1), ("2d", 0)] {
            skipped.add(&operation.into(), count);
        }
        assert_eq!(Skipped::read(&skipped.to_string()), skipped);
        skipped.keep(|operation| operation != "1c");
        assert_eq!((skipped.of("0b7e"), skipped.of("1c")), (3, 0));
    }
}
