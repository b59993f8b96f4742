//! From items to writes: what each asks of the destination, with owned keys and borrowed values.

use super::target::{Item, Target};
use crate::{
    failure::{Class, Refusal},
    mapping::{Binding, Decision, IfMissing, Key, Value, Write},
    record::{Operation, Position},
};
use std::sync::Arc;

/// What one item asks, ready to be written.
#[derive(Debug)]
pub struct Planned<'a> {
    pub map: usize,
    pub position: Position,
    /// Its place among the batch's items.
    pub index: usize,
    /// The source has inserted the row: at the destination there is most likely none.
    pub is_new: bool,
    pub act: Act<'a>,
}

/// One write. `values` are in the order of the mapping's destinations.
#[derive(Debug)]
pub enum Act<'a> {
    Upsert {
        key: Key,
        values: Vec<Value<'a>>,
    },
    Update {
        key: Key,
        values: Vec<Value<'a>>,
        if_missing: IfMissing,
    },
    Delete {
        key: Key,
    },
    Move {
        old: Key,
        key: Key,
        values: Vec<Value<'a>>,
        if_missing: IfMissing,
    },
    /// A parked record that, looked at again, is not the map's.
    Filtered {
        keys: Vec<Key>,
    },
    Refused {
        keys: Vec<Key>,
        refusal: Refusal,
    },
    /// A queued record that an operation keeps as an error.
    Parked {
        keys: Vec<Key>,
        by: Arc<str>,
        /// The filter could not judge it, as for one that is refused for that.
        unjudged: bool,
    },
    /// A queued record that an operation gives up.
    Discarded {
        by: Arc<str>,
    },
}

impl Act<'_> {
    /// The keys that the record belongs to.
    pub fn keys(&self) -> Vec<&Key> {
        match self {
            Self::Upsert { key, .. } | Self::Update { key, .. } | Self::Delete { key } => vec![key],
            Self::Move { old, key, .. } => vec![old, key],
            Self::Filtered { keys } | Self::Refused { keys, .. } | Self::Parked { keys, .. } => {
                keys.iter().collect()
            }
            Self::Discarded { .. } => Vec::new(),
        }
    }

    /// Writes the whole row, or removes it: what an older record of the key wanted does not matter any more.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Upsert { .. } | Self::Delete { .. } => true,
            Self::Move { if_missing, .. } => *if_missing == IfMissing::Insert,
            Self::Update { .. }
            | Self::Filtered { .. }
            | Self::Refused { .. }
            | Self::Parked { .. }
            | Self::Discarded { .. } => false,
        }
    }
}

/// Bindings for a batch, made before anything borrows from them.
pub type Bindings = Vec<Result<Arc<Binding>, String>>;

/// One binding for each item.
pub fn bind(targets: &mut [Target], items: &[&Item]) -> Bindings {
    items
        .iter()
        .map(|item| match targets.get_mut(item.map) {
            Some(target) => target.binding(&item.change.relation),
            None => Err("the map has no seat".into()),
        })
        .collect()
}

/// What each item asks.
pub fn plan<'a>(items: &[&'a Item], bindings: &'a Bindings) -> Vec<Planned<'a>> {
    items
        .iter()
        .zip(bindings)
        .enumerate()
        .map(|(index, (item, binding))| Planned {
            map: item.map,
            position: item.change.position,
            index,
            is_new: item.change.operation == Operation::Insert,
            act: act(item, binding),
        })
        .collect()
}

fn act<'a>(item: &'a Item, binding: &'a Result<Arc<Binding>, String>) -> Act<'a> {
    let binding = match binding {
        Ok(binding) => binding,
        Err(message) => {
            return Act::Refused {
                keys: Vec::new(),
                refusal: unbound(message),
            };
        }
    };
    if let Some(refusal) = unjudged(item, binding) {
        return refused(item, binding, refusal);
    }
    let mut values = Vec::new();
    match binding.write(&item.change, &mut values) {
        Ok(write) => own(write),
        Err(refusal) => refused(item, binding, refusal),
    }
}

/// With the keys that the record belongs to, the old one first, as far as they can be told.
fn refused<'a>(item: &Item, binding: &Binding, refusal: Refusal) -> Act<'a> {
    let keys = binding.keys(&item.change).ok();
    let keys = keys
        .into_iter()
        .flat_map(|keys| keys.old.into_iter().chain([keys.key]));
    Act::Refused {
        keys: keys.collect(),
        refusal,
    }
}

/// A filter that cannot judge a record refuses it, here where custody passes it in order.
fn unjudged(item: &Item, binding: &Binding) -> Option<Refusal> {
    match binding.decide(&item.change) {
        Decision::Refuse(refusal) => Some(refusal),
        _ => None,
    }
}

fn own<'a>(write: Write<'_, 'a>) -> Act<'a> {
    match write {
        Write::Upsert { key, values } => Act::Upsert {
            key,
            values: values.to_vec(),
        },
        Write::Update {
            key,
            values,
            if_missing,
        } => Act::Update {
            key,
            values: values.to_vec(),
            if_missing,
        },
        Write::Delete { key } => Act::Delete { key },
        Write::Move {
            old_key,
            key,
            values,
            if_missing,
        } => Act::Move {
            old: old_key,
            key,
            values: values.to_vec(),
            if_missing,
        },
    }
}

fn unbound(message: &str) -> Refusal {
    Refusal {
        class: Class::Schema,
        code: "NotMapped".into(),
        object: None,
        server_text: String::new(),
        remedy: format!("{message}; then retry."),
    }
}
