//! Shows one queued record or error.

use super::{Ended, args::Output, cluster::Cluster, print, records::NO_API};
use serde_json::Value;

/// # Errors
/// There is no such record, or it cannot be read.
pub async fn show(cluster: &Cluster, id: &str, output: Output) -> Result<(), Ended> {
    let resource = resource(id).ok_or_else(|| {
        Ended::Failed(format!(
            "{id} does not name a record: a queued record is named like customers-q-17-193c6f8-0, an error like \
             customers-e-0000001a; `kubectl tablemap queued MAP` and `kubectl tablemap errors` list them"
        ))
    })?;
    let path = format!("namespaces/{}/{resource}/{id}", cluster.namespace);
    let gone = |ended| gone(cluster, id, ended);
    let mut record = cluster
        .records(&path)
        .await
        .map_err(gone)?
        .ok_or_else(|| Ended::Failed(NO_API.into()))?;
    let payload = cluster.records(&format!("{path}/payload")).await.map_err(gone)?;
    record["payload"] = payload.map_or(Value::Null, |mut payload| {
        if let Some(fields) = payload.as_object_mut() {
            fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        }
        payload
    });
    // For people the form without quotes is the better one.
    let output = if output == Output::Table {
        Output::Yaml
    } else {
        output
    };
    print::object(&record, output)
}

/// Nobody knows what never was.
fn gone(cluster: &Cluster, id: &str, ended: Ended) -> Ended {
    match ended {
        Ended::Refused { code: 404, .. } => Ended::Failed(format!(
            "no record {id} waits now in namespace {}: it was written or given up, or never was",
            cluster.namespace
        )),
        other => other,
    }
}

/// `<map>-e-<8 hex>` names an error; the name of a queued record ends in a number.
fn resource(id: &str) -> Option<&'static str> {
    let is_hex = |hex: &str| hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if id.rsplit_once("-e-").is_some_and(|(_, hex)| is_hex(hex)) {
        Some("recorderrors")
    } else if id.contains("-q-") {
        Some("queuedrecords")
    } else if id.contains("-e-") {
        Some("recorderrors")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_they_name() {
        for error in ["orders-e-00000c02", "a-q-e-00000c02", "orders-e-1"] {
            assert_eq!(resource(error), Some("recorderrors"), "{error}");
        }
        for queued in ["orders-q-12-1f-3", "orders-e-lines-q-12-1f-3"] {
            assert_eq!(resource(queued), Some("queuedrecords"), "{queued}");
        }
        assert_eq!(resource("orders"), None);
    }
}
