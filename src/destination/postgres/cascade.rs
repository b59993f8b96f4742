//! Deletes that reach other rows: `ON DELETE CASCADE`, `SET NULL` and `SET DEFAULT` at the destination.

use super::{
    batch::{Act, Planned},
    target::{ForeignKey, Target},
};
use crate::mapping::{KeyType, Value, key_columns};
use std::collections::{HashMap, HashSet};

/// The rows of one map refer to those of another.
struct Link {
    child: usize,
    parent: usize,
    /// Where a child's values name its parent, in the order of the parent's key, and how. None: by other columns than the key,
    /// or through a table between them.
    names: Option<Vec<(usize, KeyType)>>,
}

/// Whether a row may be written after the one that it refers to was deleted. In order the destination refuses that, and a
/// person hears of it; with the deletes last the row would go along, and nobody would.
pub fn refers_to_deleted(planned: &[Planned<'_>], targets: &[Target]) -> bool {
    let is_delete = |write: &Planned<'_>| matches!(write.act, Act::Delete { .. });
    if !planned.iter().any(is_delete) {
        return false;
    }
    let links = links(targets);
    if links.is_empty() {
        return false;
    }
    let mut deleted = Deleted::default();
    for write in planned {
        match &write.act {
            Act::Delete { key } if links.iter().any(|link| link.parent == write.map) => {
                deleted
                    .0
                    .entry(write.map)
                    .or_default()
                    .insert(key_columns(key.as_bytes()));
            }
            Act::Upsert { key, values } => {
                if let Some(keys) = deleted.0.get_mut(&write.map) {
                    keys.remove(&key_columns(key.as_bytes()));
                }
                if deleted.may_hold_parent(&links, write.map, values) {
                    return true;
                }
            }
            Act::Update { values, .. } if deleted.may_hold_parent(&links, write.map, values) => return true,
            _ => {}
        }
    }
    false
}

/// The columns of the keys that are deleted by then, by map.
#[derive(Default)]
struct Deleted(HashMap<usize, HashSet<Vec<Vec<u8>>>>);

impl Deleted {
    fn may_hold_parent(&self, links: &[Link], child: usize, values: &[Value<'_>]) -> bool {
        let mut up = links.iter().filter(|link| link.child == child);
        up.any(|link| match self.0.get(&link.parent) {
            Some(keys) if !keys.is_empty() => match link.names.as_ref().map(|names| named(names, values)) {
                Some(Named::Key(key)) => keys.contains(&key),
                Some(Named::Nobody) => false,
                Some(Named::Unreadable) | None => true,
            },
            _ => false,
        })
    }
}

fn links(targets: &[Target]) -> Vec<Link> {
    let mut links = Vec::new();
    for (parent, above) in targets.iter().enumerate() {
        let keys = above.shape.foreign_keys.iter();
        for key in keys.filter(|key| key.reaches && (!key.refers || key.other == above.table)) {
            for (child, below) in targets.iter().enumerate() {
                if below.table == key.other {
                    let names = names(key, below, above);
                    links.push(Link { child, parent, names });
                }
                // What is deleted with its parent may be referred to itself.
                if refers(below, &key.other) {
                    links.push(Link {
                        child,
                        parent,
                        names: None,
                    });
                }
            }
        }
    }
    links
}

fn refers(target: &Target, table: &(String, String)) -> bool {
    let mut keys = target.shape.foreign_keys.iter();
    target.table != *table && keys.any(|key| key.refers && key.other == *table)
}

/// `key` as the parent has it, or, of a table that refers to itself, as the child has.
fn names(key: &ForeignKey, child: &Target, parent: &Target) -> Option<Vec<(usize, KeyType)>> {
    let (referring, referred) = if key.refers {
        (&key.own, &key.others)
    } else {
        (&key.others, &key.own)
    };
    let columns: Vec<&str> = parent.mapping.destinations().collect();
    let own: Vec<&str> = child.mapping.destinations().collect();
    let place = |(at, kind): (&usize, &_)| {
        let column = columns.get(*at)?;
        let pair = referred.iter().position(|other| other == column)?;
        let name = referring.get(pair)?;
        let index = own.iter().position(|known| known == name)?;
        Some((index, KeyType::own(*kind).ok()?))
    };
    let kinds = parent.mapping.key().iter().zip(&parent.shape.key);
    let names: Option<Vec<(usize, KeyType)>> = kinds.map(place).collect();
    names.filter(|names| names.len() == referring.len())
}

/// Whom a row refers to.
enum Named {
    Key(Vec<Vec<u8>>),
    /// A column is NULL, or was not sent.
    Nobody,
    Unreadable,
}

fn named(names: &[(usize, KeyType)], values: &[Value<'_>]) -> Named {
    let mut key = Vec::with_capacity(names.len());
    for (index, kind) in names {
        let Some(Value::Text(text)) = values.get(*index) else {
            return Named::Nobody;
        };
        match kind.canonical("", text) {
            Ok(text) => key.push(text.into_owned()),
            Err(_) => return Named::Unreadable,
        }
    }
    Named::Key(key)
}
