//! Deletes that reach other rows: `ON DELETE CASCADE`, `SET NULL` and `SET DEFAULT` at the destination.

use super::{
    batch::{Act, Planned},
    target::{ForeignKey, Target},
};
use crate::mapping::{Value, key_columns};
use std::collections::HashSet;

/// The rows of one map refer to those of another.
struct Link {
    child: usize,
    parent: usize,
    /// Where a child's values name its parent, in the order of the parent's key. None: by other columns than the key.
    names: Option<Vec<usize>>,
}

/// Whether a row is written after the one that it refers to was deleted. In order the destination refuses that, and a person
/// hears of it; with the deletes last the row would go along, and nobody would.
pub fn refers_to_deleted(planned: &[Planned<'_>], targets: &[Target]) -> bool {
    let links = links(targets);
    if links.is_empty() {
        return false;
    }
    let mut deleted: HashSet<(usize, Vec<Vec<u8>>)> = HashSet::new();
    planned.iter().any(|write| match &write.act {
        Act::Delete { key } => {
            if links.iter().any(|link| link.parent == write.map) {
                deleted.insert((write.map, key_columns(key.as_bytes())));
            }
            false
        }
        Act::Upsert { values, .. } | Act::Update { values, .. } => {
            let mut up = links.iter().filter(|link| link.child == write.map);
            up.any(|link| match &link.names {
                Some(names) => named(names, values).is_some_and(|key| deleted.contains(&(link.parent, key))),
                None => deleted.iter().any(|(map, _)| *map == link.parent),
            })
        }
        _ => false,
    })
}

fn links(targets: &[Target]) -> Vec<Link> {
    let mut links = Vec::new();
    for (child, target) in targets.iter().enumerate() {
        let keys = target.shape.foreign_keys.iter();
        for key in keys.filter(|key| key.refers && key.reaches) {
            let parents = targets.iter().enumerate();
            let parents = parents.filter(|(_, parent)| parent.table == key.other);
            links.extend(parents.map(|(parent, of)| Link {
                child,
                parent,
                names: names(key, target, of),
            }));
        }
    }
    links
}

fn names(key: &ForeignKey, child: &Target, parent: &Target) -> Option<Vec<usize>> {
    let columns: Vec<&str> = parent.mapping.destinations().collect();
    let own: Vec<&str> = child.mapping.destinations().collect();
    let place = |at: &usize| {
        let column = columns.get(*at)?;
        let pair = key.others.iter().position(|other| other == column)?;
        let name = key.own.get(pair)?;
        own.iter().position(|known| known == name)
    };
    let names: Option<Vec<usize>> = parent.mapping.key().iter().map(place).collect();
    names.filter(|names| names.len() == key.own.len())
}

/// The key of the row that is referred to. None: there is none, or it is not known.
fn named(names: &[usize], values: &[Value<'_>]) -> Option<Vec<Vec<u8>>> {
    let text = |at: &usize| match values.get(*at)? {
        Value::Text(text) => Some(text.to_vec()),
        Value::Null | Value::NotSent => None,
    };
    names.iter().map(text).collect()
}
