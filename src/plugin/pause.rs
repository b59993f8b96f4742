//! Pauses and resumes maps: all of them, or none if one cannot be.

use super::{
    Ended,
    args::{Pause, Resume},
    cluster::{Cluster, within},
    operate, pending,
    print::out,
    skip,
    wait::{self, Teller},
};
use crate::api::{State, TableMap, TableMapOperation};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// # Errors
/// A map is not there or may not be changed: then none is; or they are not paused in time.
pub async fn pause(cluster: &Cluster, wanted: &Pause) -> Result<(), Ended> {
    let maps = checked(cluster, wanted, State::Paused).await?;
    if wanted.dry_run {
        would(&maps, State::Paused);
        return Ok(());
    }
    let changed = set(cluster, &maps, State::Paused, &[]).await?;
    if wanted.patience.wait {
        let mut teller = Teller::new(wanted.patience.timeout);
        wait::maps(cluster, &changed, "Paused", &mut teller).await?;
    }
    Ok(())
}

/// # Errors
/// As for a pause; or what is queued cannot be skipped.
pub async fn resume(cluster: &Cluster, wanted: &Resume) -> Result<(), Ended> {
    let maps = checked(cluster, &wanted.pause, State::Running).await?;
    pending::warn(cluster, &maps).await;
    if wanted.pause.dry_run {
        return try_out(cluster, &maps, wanted).await;
    }
    let operations = match wanted.skip {
        None => Vec::new(),
        Some(skip) => skip::skip(cluster, &maps, skip, wanted.yes).await?,
    };
    let changed = set(cluster, &maps, State::Running, &operations).await?;
    let resumes = end_rule_pauses(cluster, &maps).await?;
    if wanted.pause.patience.wait {
        let mut teller = Teller::new(wanted.pause.patience.timeout);
        for operation in operations.iter().chain(&resumes) {
            operate::end(cluster, operation, &mut teller).await?;
        }
        wait::maps(cluster, &changed, "CaughtUp", &mut teller).await?;
    }
    Ok(())
}

/// Whether a rule has paused it. With `spec.state: Paused` the change of that ends such a pause too.
fn is_held(map: &TableMap) -> bool {
    let pauses = map.status.iter().filter_map(|status| status.pauses.as_ref());
    map.spec.state == State::Running && pauses.flatten().any(|pause| pause.cause == "Rule")
}

/// The operations that end what rules have begun.
async fn end_rule_pauses(cluster: &Cluster, maps: &[TableMap]) -> Result<Vec<TableMapOperation>, Ended> {
    let mut made = Vec::new();
    for map in maps.iter().filter(|map| is_held(map)) {
        let draft = operate::draft(cluster, map, operate::resume(map)).await;
        operate::create(cluster, &draft).await?;
        made.push(draft);
    }
    Ok(made)
}

async fn try_out(cluster: &Cluster, maps: &[TableMap], wanted: &Resume) -> Result<(), Ended> {
    if let Some(skip) = wanted.skip {
        skip::check(cluster, maps, skip).await?;
    }
    would(maps, State::Running);
    if let Some(skip) = wanted.skip {
        skip::would(maps, skip);
    }
    Ok(())
}

/// The maps, once the API server would take the change of each.
async fn checked(cluster: &Cluster, wanted: &Pause, state: State) -> Result<Vec<TableMap>, Ended> {
    let maps = wanted.pick.chosen(cluster).await?;
    for map in &maps {
        check(cluster, map, state).await?;
    }
    Ok(maps)
}

fn would(maps: &[TableMap], state: State) {
    for map in maps {
        say(map, state, "would be ");
    }
}

fn say(map: &TableMap, state: State, would: &str) {
    let is_else = state == State::Running && (map.spec.pause_until_time.is_some() || is_held(map));
    let no_change = if map.spec.state == state && !is_else {
        " (no change)"
    } else {
        ""
    };
    out(format_args!(
        "tablemap.tablemap.dev/{} {would}{}{no_change}",
        map.name_any(),
        word(state)
    ));
}

const fn word(state: State) -> &'static str {
    match state {
        State::Paused => "paused",
        State::Running => "resumed",
    }
}

/// Changes the maps, and gives them as they are then. `operations` were made for it.
async fn set(
    cluster: &Cluster,
    maps: &[TableMap],
    state: State,
    operations: &[TableMapOperation],
) -> Result<Vec<TableMap>, Ended> {
    let mut changed = Vec::new();
    for (index, map) in maps.iter().enumerate() {
        match patch(cluster, map, state, false).await {
            Ok(now) => changed.push(now),
            Err(ended) => return Err(half_done(cluster, &maps[index..], operations, state, &ended).await),
        }
        say(map, state, "");
    }
    Ok(changed)
}

/// What was not done is not left armed.
async fn half_done(
    cluster: &Cluster,
    maps: &[TableMap],
    operations: &[TableMapOperation],
    state: State,
    ended: &Ended,
) -> Ended {
    let names: Vec<String> = maps.iter().map(ResourceExt::name_any).collect();
    let is_theirs = |operation: &&TableMapOperation| names.contains(&operation.spec.table_map_ref.name);
    let theirs: Vec<TableMapOperation> = operations.iter().filter(is_theirs).cloned().collect();
    let left = if theirs.is_empty() {
        String::new()
    } else {
        format!(" {}", skip::take_back(cluster, &theirs).await)
    };
    Ended::Failed(format!(
        "not {}: {}: {ended}.{left}",
        word(state),
        names.join(", ")
    ))
}

/// Whether the API server would take it.
async fn check(cluster: &Cluster, map: &TableMap, state: State) -> Result<(), Ended> {
    let name = map.name_any();
    if map.metadata.deletion_timestamp.is_some() {
        return Err(Ended::Failed(format!(
            "{name} is being deleted; nothing was changed"
        )));
    }
    let refused = |ended| Ended::Failed(format!("{name} cannot be changed: {ended}; nothing was changed"));
    patch(cluster, map, state, true)
        .await
        .map(|_| ())
        .map_err(refused)
}

/// Flux takes over what managers have set whose names begin with `kubectl`, and would undo the pause.
const MANAGER: &str = "tablemap-plugin";

async fn patch(cluster: &Cluster, map: &TableMap, state: State, dry_run: bool) -> Result<TableMap, Ended> {
    let params = PatchParams {
        dry_run,
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let spec = match state {
        State::Paused => json!({"state": state}),
        // A pause that would end by itself ends now.
        State::Running => json!({"state": state, "pauseUntilTime": null}),
    };
    let patch = Patch::Merge(json!({"spec": spec}));
    let namespace = map.namespace().unwrap_or_default();
    within(cluster.maps(&namespace).patch(&map.name_any(), &params, &patch)).await
}
