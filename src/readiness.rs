//! What the process still lacks before it does its work. Whoever begins something that may take a while says so, and takes
//! it back.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

static LACKS: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// `part` does not work yet, or not now, and why.
pub fn lacks(part: &'static str, why: impl Into<String>) {
    let mut lacks = LACKS.lock().unwrap_or_else(PoisonError::into_inner);
    lacks.insert(part, why.into());
}

/// `part` works.
pub fn has(part: &'static str) {
    let mut lacks = LACKS.lock().unwrap_or_else(PoisonError::into_inner);
    lacks.remove(part);
}

/// # Errors
/// A line for each part that does not work.
pub fn check() -> Result<(), String> {
    let lacks = LACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if lacks.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = lacks.iter().map(|(part, why)| format!("{part}: {why}")).collect();
    Err(lines.join("\n") + "\n")
}
