//! The keys of changes one after the other, whatever their tables looked like.

use super::{Binding, ChangeKeys, Mapping};
use crate::record::{Change, Relation};
use std::sync::Arc;

/// Binds the mapping anew only where the relation changes.
pub struct KeyReader<'a> {
    mapping: &'a Mapping,
    bound: Option<(Arc<Relation>, Option<Binding>)>,
}

impl<'a> KeyReader<'a> {
    #[must_use]
    pub const fn new(mapping: &'a Mapping) -> Self {
        Self { mapping, bound: None }
    }

    /// Canonical by the source's types. None: the key cannot be read.
    pub fn keys(&mut self, change: &Change) -> Option<ChangeKeys> {
        let known = self.bound.take();
        let same = |(relation, _): &(Arc<Relation>, _)| Arc::ptr_eq(relation, &change.relation);
        let bound = known.filter(same).unwrap_or_else(|| {
            let binding = self.mapping.bind_stored(&change.relation).ok();
            (Arc::clone(&change.relation), binding)
        });
        let (_, binding) = self.bound.insert(bound);
        binding.as_ref()?.keys(change).ok()
    }
}
