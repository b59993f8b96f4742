//! Gives records up, once the person has said yes.

use super::{
    Ended,
    args::{Discard, From},
    cluster::Cluster,
    operate, pick,
};
use crate::api::{Action, RecordsFrom, TableMapOperationSpec};
use std::io::{IsTerminal as _, Write as _};

/// # Errors
/// Nobody said yes, or it cannot be done.
pub async fn discard(cluster: &Cluster, wanted: &Discard) -> Result<(), Ended> {
    let map = pick::one(cluster, &wanted.map).await?;
    pick::check_keys(&map, &wanted.selection.key)?;
    let (from, what) = match wanted.from {
        From::Errors => (RecordsFrom::Errors, "The selected errors"),
        From::Queue if wanted.selection.all => (RecordsFrom::Queue, "All that waits in the queue"),
        From::Queue => (RecordsFrom::Queue, "What is selected in the queue"),
    };
    if !wanted.dry_run {
        // Not how many: the status may be a minute old. A dry run counts.
        let question = format!("{what} of {} will be given up, and never written.", wanted.map);
        confirm(&question, wanted.yes)?;
    }
    let spec = TableMapOperationSpec {
        selection: Some(operate::selection(&wanted.selection)),
        mode: operate::mode(wanted.dry_run),
        ..operate::spec(&map, Action::Discard, from)
    };
    operate::run(cluster, &map, spec, &wanted.patience).await
}

/// Asks, unless that was done.
///
/// # Errors
/// The answer is no, or there is nobody to ask.
pub fn confirm(question: &str, yes: bool) -> Result<(), Ended> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Ended::Usage(format!("{question} Say --yes to do it.")));
    }
    eprint!("{question} Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Ended::Failed("nothing was done".into()))
    }
}
