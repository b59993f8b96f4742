//! Makes operations, and waits for their end.

use super::{
    Ended,
    args::{Patience, Retry, Selection as Chosen},
    cluster::{Cluster, within},
    pending, pick,
    print::{count, counted, out},
    wait::{self, Teller},
};
use crate::{
    api::{
        Action, Match, Mode, RecordKey, RecordsFrom, Selection, SelectionType, TableMap, TableMapOperation,
        TableMapOperationSpec, TableMapRef,
    },
    mapping::key_columns,
};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};

const CREATED_BY: &str = "tablemap.dev/created-by";
/// An operation is kept for a week after its end.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;

/// # Errors
/// It cannot be made; or, if it is waited for, a record was refused again.
pub async fn retry(cluster: &Cluster, wanted: &Retry) -> Result<(), Ended> {
    let map = pick::one(cluster, &wanted.map).await?;
    pick::check_keys(&map, &wanted.selection.key)?;
    let spec = TableMapOperationSpec {
        selection: Some(selection(&wanted.selection)),
        mode: mode(wanted.dry_run),
        max_records_per_second: wanted.max_records_per_second,
        ..spec(&map, Action::Retry, RecordsFrom::Errors)
    };
    run(cluster, &map, spec, &wanted.patience).await
}

/// Everything, unless the selection says otherwise.
pub fn spec(map: &TableMap, action: Action, from: RecordsFrom) -> TableMapOperationSpec {
    TableMapOperationSpec {
        table_map_ref: TableMapRef { name: map.name_any() },
        action,
        from: Some(from),
        selection: Some(selection(&Chosen::default())),
        mode: Mode::Execute,
        max_records_per_second: None,
        accept_gap: None,
        ttl_seconds_after_finished: Some(KEPT_SECONDS),
    }
}

/// Ends the pauses that rules have begun.
pub fn resume(map: &TableMap) -> TableMapOperationSpec {
    TableMapOperationSpec {
        from: None,
        selection: None,
        ..spec(map, Action::Resume, RecordsFrom::Queue)
    }
}

pub const fn mode(dry_run: bool) -> Mode {
    if dry_run { Mode::DryRun } else { Mode::Execute }
}

pub fn selection(chosen: &Chosen) -> Selection {
    let key = |key: &String| RecordKey {
        values: key_columns(key.as_bytes())
            .iter()
            .map(|column| String::from_utf8_lossy(column).into_owned())
            .collect(),
    };
    let ids = Some(chosen.id.clone()).filter(|ids| !ids.is_empty());
    let keys: Vec<RecordKey> = chosen.key.iter().map(key).collect();
    let keys = Some(keys).filter(|keys| !keys.is_empty());
    let match_ = chosen.expression.clone().map(|expression| Match { expression });
    let type_ = match (&ids, &keys, &match_) {
        (Some(_), ..) => SelectionType::Ids,
        (_, Some(_), _) => SelectionType::Keys,
        (.., Some(_)) => SelectionType::Match,
        _ => SelectionType::All,
    };
    Selection {
        type_,
        ids,
        keys,
        match_,
    }
}

/// An operation as it will be made. Its name is chosen here, so that it can be taken back even if it is not known whether
/// it was made.
pub async fn draft(cluster: &Cluster, map: &TableMap, spec: TableMapOperationSpec) -> TableMapOperation {
    let action = format!("{:?}", spec.action).to_lowercase();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("{}-{action}-{}", map.name_any(), &random[..8]);
    let mut operation = TableMapOperation::new(&name, spec);
    operation.metadata.namespace = map.namespace();
    if let Some(user) = user(cluster).await {
        operation.annotations_mut().insert(CREATED_BY.into(), user);
    }
    operation
}

/// Makes an operation.
///
/// # Errors
/// The API server refuses it.
pub async fn create(cluster: &Cluster, draft: &TableMapOperation) -> Result<TableMapOperation, Ended> {
    let api = cluster.operations(&draft.namespace().unwrap_or_default());
    let made = within(api.create(&PostParams::default(), draft)).await?;
    out(format_args!(
        "tablemapoperation.tablemap.dev/{} created",
        made.name_any()
    ));
    Ok(made)
}

/// Whether the API server would make it.
///
/// # Errors
/// It would not.
pub async fn check(cluster: &Cluster, draft: &TableMapOperation) -> Result<(), Ended> {
    let api = cluster.operations(&draft.namespace().unwrap_or_default());
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    within(api.create(&params, draft)).await.map(|_| ())
}

/// Deletes an operation, which ends it.
///
/// # Errors
/// It may still be there.
pub async fn take_back(cluster: &Cluster, operation: &TableMapOperation) -> Result<(), Ended> {
    let api = cluster.operations(&operation.namespace().unwrap_or_default());
    let name = operation.name_any();
    let delete = async {
        match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    };
    within(delete).await
}

/// Who we are; a cluster that does not say leaves it open.
async fn user(cluster: &Cluster) -> Option<String> {
    let api: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let review = within(api.create(&params, &question)).await;
    review.ok()?.status?.user_info?.username
}

/// Makes an operation and, if that is wanted, waits for its end.
///
/// # Errors
/// It failed, records were refused again, or it has not ended in time.
pub async fn run(
    cluster: &Cluster,
    map: &TableMap,
    spec: TableMapOperationSpec,
    patience: &Patience,
) -> Result<(), Ended> {
    let waits = patience.wait || spec.mode == Mode::DryRun;
    let draft = draft(cluster, map, spec).await;
    let made = create(cluster, &draft).await?;
    if !waits {
        out(format_args!(
            "follow it with: kubectl tablemap operations {}",
            map.name_any()
        ));
        return Ok(());
    }
    end(cluster, &made, &mut Teller::new(patience.timeout)).await
}

/// Waits for the end of an operation, and tells what came of it.
///
/// # Errors
/// As above.
pub async fn end(cluster: &Cluster, made: &TableMapOperation, teller: &mut Teller) -> Result<(), Ended> {
    let ended = wait::operation(cluster, made, teller, TableMapOperation::is_finished).await;
    let ended = ended.map_err(|ended| match ended {
        Ended::TimedOut(why) => {
            let how = pending::how_to_end(made);
            Ended::TimedOut(format!("{} It goes on; {how}.", sentence(&why)))
        }
        other => other,
    })?;
    refused(&ended)?;
    let status = ended.status.unwrap_or_default();
    let message = status.message.unwrap_or_default();
    let Some(counts) = status.counts else {
        out(format_args!("{message}"));
        return Ok(());
    };
    if counts.selected == 0 {
        out(format_args!("No record is selected: nothing was done."));
        return Ok(());
    }
    out(format_args!(
        "{} selected: {} done, {} failed, {} superseded, {} left. {message}",
        count(counts.selected),
        count(counts.completed),
        count(counts.failed),
        count(counts.superseded),
        count(counts.remaining),
    ));
    for failure in status.failures.iter().flatten() {
        let object = failure.object.as_deref().unwrap_or_default();
        let line = format!("  {} {} {} {object}", failure.id, failure.class, failure.code);
        out(format_args!("{}", line.trim_end()));
    }
    if counts.failed > 0 {
        let were = if counts.failed == 1 { "was" } else { "were" };
        return Err(Ended::Failed(format!(
            "{} {were} refused again: kubectl tablemap errors {}",
            counted(counts.failed, "record"),
            made.spec.table_map_ref.name
        )));
    }
    Ok(())
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// # Errors
/// The operation could not be carried out.
pub fn refused(operation: &TableMapOperation) -> Result<(), Ended> {
    let conditions = operation.status.iter().flat_map(|status| &status.conditions);
    let failed = conditions
        .into_iter()
        .find(|said| said.type_ == "Failed" && said.status == "True");
    failed.map_or(Ok(()), |said| {
        Err(Ended::Failed(format!("{}: {}", said.reason, said.message)))
    })
}
