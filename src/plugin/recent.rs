//! Without the records API: the newest errors of each map, as its status has them.

use super::{
    Ended,
    args::{Errors, Output},
    choices::{RetryStatus, word},
    cluster::Cluster,
    records::{self, Column, Listed, NO_API},
};
use kube::ResourceExt as _;
use serde_json::json;

const COLUMNS: &[Column] = &[
    ("NAME", "/id"),
    ("MAP", "/tableMap"),
    ("OPERATION", "/operation"),
    ("CLASS", "/class"),
    ("CODE", "/code"),
    ("RETRY", "/retryStatus"),
    ("REMEDY", "/remedy"),
];

/// # Errors
/// A key is asked for, which a status does not tell; or the maps cannot be read.
pub async fn errors(cluster: &Cluster, wanted: &Errors, output: Output) -> Result<(), Ended> {
    if wanted.key.is_some() {
        return Err(Ended::Failed(NO_API.into()));
    }
    eprintln!("Warning: {NO_API}. Only the newest five errors of each map are shown.");
    let mut records = Vec::new();
    for map in records::maps(cluster, wanted).await? {
        let name = map.name_any();
        let errors = map.status.and_then(|status| status.errors?.recent);
        for error in errors.unwrap_or_default() {
            if takes(wanted, &error.class, &error.retry_status) {
                let mut record = json!(error);
                record["tableMap"] = json!(name);
                records.push(record);
            }
        }
    }
    let left = records.len().saturating_sub(wanted.limit as usize);
    records.truncate(wanted.limit as usize);
    let listed = Listed {
        records,
        more: left > 0,
        remaining: i64::try_from(left).ok(),
    };
    records::show_list(listed, COLUMNS, output)
}

fn takes(wanted: &Errors, class: &str, status: &str) -> bool {
    let of_class = wanted.class.is_none_or(|wanted| word(wanted) == class);
    let is_settled = || {
        RetryStatus::SETTLED
            .iter()
            .any(|settled| word(*settled) == status)
    };
    of_class
        && match wanted.retry_status {
            Some(wanted) => word(wanted) == status,
            None => wanted.settled || !is_settled(),
        }
}
