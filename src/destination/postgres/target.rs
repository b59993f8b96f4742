//! One map as its lane writes it.

use super::{asleep::Asleep, direct::Direct, parked::Parked, progress::Progress, skip::Skips};
use crate::{
    mapping::{Binding, ColumnType, KeyType, Mapping},
    record::{Change, Counted, Counters, Origin, Position, Relation, Retried},
    rule::Tally,
};
use std::sync::Arc;

/// One change on its way, with its map's counters after it.
#[derive(Clone, Debug)]
pub struct Item {
    /// The map's seat in the lane.
    pub map: usize,
    pub change: Change,
    pub counters: Counters,
}

impl From<Item> for Counted {
    fn from(item: Item) -> Self {
        Self {
            change: item.change,
            counters: item.counters,
        }
    }
}

/// A foreign key from or to the destination table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    /// The other table.
    pub other: (String, String),
    /// This table refers to the other, and not the other way round.
    pub refers: bool,
    /// A delete takes the rows along that refer to the one deleted, or changes them.
    pub reaches: bool,
    /// The columns of this table, and those of the other that belong to them.
    pub own: Vec<String>,
    pub others: Vec<String>,
}

/// What the destination table looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// In the order of the mapping's destinations: each column's type without modifier, as SQL writes it.
    pub types: Vec<String>,
    /// The key's columns, for canonical keys.
    pub key: Vec<ColumnType>,
    pub foreign_keys: Vec<ForeignKey>,
    /// A column of the key is GENERATED ALWAYS AS IDENTITY: it can be inserted, and never updated.
    pub fixed_key: bool,
    /// The server writes its log without waiting for the disk (`fsync = off`).
    pub unsafe_log: bool,
    /// COPY writes the table as INSERT does: it has neither rules nor row security.
    pub copies: bool,
}

/// A source table's description, and what binding the mapping to it came to.
type Bound = (Arc<Relation>, Result<Arc<Binding>, String>);

/// One map in its lane.
#[derive(Clone, Debug)]
pub struct Target {
    pub map_id: String,
    pub name: String,
    pub table: (String, String),
    /// The database that its rows come from.
    pub source: Origin,
    pub mapping: Arc<Mapping>,
    pub shape: Shape,
    pub epoch: i64,
    pub progress: Progress,
    pub parked: Parked,
    /// Those of its parked records that lie in packs.
    pub(super) asleep: Asleep,
    /// Something was parked or marked for a transaction of which it is not known that it was committed (rule 3).
    pub provisional: bool,
    /// What is queued up to some position is not to be written, or some of it.
    pub skips: Skips,
    /// So many parked records may wait.
    pub most_parked: usize,
    /// What the destination has refused since somebody last took it, for the map's rules.
    pub refused: Tally,
    /// What has come of parked records that were tried again.
    pub(super) retried: Vec<Retried>,
    pub(super) direct: Direct,
    bindings: Vec<Bound>,
}

impl Target {
    #[must_use]
    #[allow(
        clippy::too_many_arguments,
        reason = "each is one fact of a map; a struct would repeat this one"
    )]
    pub fn new(
        map_id: String,
        name: String,
        table: (String, String),
        source: Origin,
        mapping: Arc<Mapping>,
        shape: Shape,
        epoch: i64,
        progress: Progress,
    ) -> Self {
        let copies = shape.copies;
        Self {
            map_id,
            name,
            table,
            source,
            mapping,
            shape,
            epoch,
            progress,
            parked: Parked::default(),
            asleep: Asleep::default(),
            provisional: false,
            skips: Skips::default(),
            most_parked: usize::MAX,
            refused: Tally::default(),
            retried: Vec::new(),
            direct: Direct::new(copies),
            bindings: Vec::new(),
        }
    }

    /// What is skipped from now on. What has ended is forgotten.
    pub fn set_skips(&mut self, skips: Skips) {
        self.progress.skipped.keep(|operation| skips.has(operation));
        self.skips = skips;
    }

    /// Forgets parked records that were given up.
    pub fn forget(&mut self, positions: &[Position], gone: u64) {
        // Stored with the next write, which may rely on it.
        self.progress.gone = self.progress.gone.max(gone);
        for position in positions {
            self.parked.remove(*position);
        }
    }

    /// The mapping bound to a relation, made once for each.
    pub(super) fn binding(&mut self, relation: &Arc<Relation>) -> Result<Arc<Binding>, String> {
        if let Some((_, binding)) = self
            .bindings
            .iter()
            .find(|(known, _)| Arc::ptr_eq(known, relation))
        {
            return binding.clone();
        }
        let binding = self.bind(relation).map(Arc::new);
        if self.bindings.len() > 16 {
            drop(self.bindings.remove(0));
        }
        self.bindings.push((relation.clone(), binding.clone()));
        binding
    }

    fn bind(&self, relation: &Arc<Relation>) -> Result<Binding, String> {
        let binding = self
            .mapping
            .bind_stored(relation)
            .map_err(|error| error.to_string())?;
        let types: Result<Vec<KeyType>, _> = binding
            .key_columns()
            .zip(&self.shape.key)
            .map(|(source, destination)| KeyType::of(*destination, source))
            .collect();
        Ok(binding.with_key_types(types.map_err(|error| error.to_string())?))
    }
}
