//! Queued records and errors, from the records API.

use super::{
    Ended,
    args::{Errors, Output, Queued},
    choices::{RetryStatus, word},
    cluster::{Cluster, within},
    pick, print, recent,
};
use crate::api::TableMap;
use kube::api::ListParams;
use serde_json::{Value, json};

pub const NO_API: &str = "this cluster has no records API (records.tablemap.dev): ask whoever runs the operator for \
                          --records-api-address";

/// A column of a list: its heading, and where its value is.
pub type Column = (&'static str, &'static str);

const QUEUED: &[Column] = &[
    ("NAME", "/metadata/name"),
    ("KEY", "/key/text"),
    ("OPERATION", "/operation"),
    ("COMMITTED", "/commitTime"),
];

const ERRORS: &[Column] = &[
    ("NAME", "/metadata/name"),
    ("MAP", "/tableMap"),
    ("KEY", "/key/text"),
    ("OPERATION", "/operation"),
    ("CLASS", "/class"),
    ("CODE", "/code"),
    ("RETRY", "/retryStatus"),
    ("REMEDY", "/remedy"),
];

/// Records as far as they were asked for.
pub struct Listed {
    pub records: Vec<Value>,
    pub more: bool,
    /// How many more, if that is known.
    pub remaining: Option<i64>,
}

/// # Errors
/// There is no such map; or the records API is not there, refuses, or cannot be reached.
pub async fn queued(cluster: &Cluster, wanted: &Queued, output: Output) -> Result<(), Ended> {
    check(cluster, &wanted.map, wanted.key.as_ref()).await?;
    let fields = selector(&[("tableMap", Some(&wanted.map)), ("key", wanted.key.as_ref())]);
    let found = list(cluster, "queuedrecords", &fields, wanted.limit).await?;
    let listed = found.ok_or_else(|| Ended::Failed(NO_API.into()))?;
    show_list(listed, QUEUED, output)
}

/// # Errors
/// There is no such map, or the errors cannot be read.
pub async fn errors(cluster: &Cluster, wanted: &Errors, output: Output) -> Result<(), Ended> {
    if let Some(map) = &wanted.map {
        check(cluster, map, wanted.key.as_ref()).await?;
    }
    let fields = selector_of(wanted);
    let Some(mut listed) = list(cluster, "recorderrors", &fields, wanted.limit).await? else {
        return recent::errors(cluster, wanted, output).await;
    };
    let is_plain = wanted.key.is_none() && wanted.class.is_none() && wanted.retry_status.is_none();
    if listed.more && listed.remaining.is_none() && is_plain && !wanted.settled {
        let shown = i64::try_from(listed.records.len()).unwrap_or(i64::MAX);
        // Without it the list is as good.
        listed.remaining = waiting(cluster, wanted).await.ok().map(|all| all - shown);
    }
    show_list(listed, ERRORS, output)
}

/// A map or key that is not there is not one without records.
async fn check(cluster: &Cluster, map: &str, key: Option<&String>) -> Result<(), Ended> {
    let maps = pick::named(cluster, map).await?;
    maps.iter().try_for_each(|map| pick::check_keys(map, key))
}

/// How many errors wait, as the maps' status counts them.
async fn waiting(cluster: &Cluster, wanted: &Errors) -> Result<i64, Ended> {
    let maps = maps(cluster, wanted).await?;
    let counts = maps.into_iter().map(|map| map.status?.errors?.count);
    Ok(counts.map(Option::unwrap_or_default).sum())
}

/// The maps whose errors are meant.
///
/// # Errors
/// There is no such map, or they cannot be read.
pub async fn maps(cluster: &Cluster, wanted: &Errors) -> Result<Vec<TableMap>, Ended> {
    match &wanted.map {
        Some(map) => pick::named(cluster, map).await,
        None => Ok(within(cluster.scope().list(&ListParams::default())).await?.items),
    }
}

fn selector_of(wanted: &Errors) -> String {
    let class = wanted.class.map(word);
    let status = wanted.retry_status.map(word);
    let [completed, superseded] = RetryStatus::SETTLED.map(word);
    let waits = status.is_none() && !wanted.settled;
    selector(&[
        ("tableMap", wanted.map.as_ref()),
        ("key", wanted.key.as_ref()),
        ("class", class.as_ref()),
        ("retryStatus", status.as_ref()),
        ("retryStatus!", Some(&completed).filter(|_| waits)),
        ("retryStatus!", Some(&superseded).filter(|_| waits)),
    ])
}

/// Fields, with `!` behind what must differ, and values.
fn selector(terms: &[(&str, Option<&String>)]) -> String {
    let escape = |value: &str| {
        let escaped = value.chars().flat_map(|character| {
            let escape = matches!(character, ',' | '=' | '\\').then_some('\\');
            escape.into_iter().chain([character])
        });
        escaped.collect::<String>()
    };
    let said: Vec<String> = terms
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_ref()?))))
        .collect();
    said.join(",")
}

/// Up to `limit` records, page by page. None: the cluster has no such API.
async fn list(cluster: &Cluster, resource: &str, fields: &str, limit: u32) -> Result<Option<Listed>, Ended> {
    let scope = if cluster.all_namespaces {
        String::new()
    } else {
        format!("namespaces/{}/", cluster.namespace)
    };
    let limit = limit as usize;
    let (mut records, mut token) = (Vec::new(), String::new());
    loop {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("fieldSelector", fields)
            .append_pair("limit", &(limit - records.len()).clamp(1, 500).to_string())
            .append_pair("continue", &token)
            .finish();
        let Some(mut page) = cluster.records(&format!("{scope}{resource}?{query}")).await? else {
            return Ok(None);
        };
        if let Some(items) = page["items"].as_array_mut() {
            records.append(items);
        }
        page["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut token);
        if token.is_empty() || records.len() >= limit {
            return Ok(Some(Listed {
                records,
                more: !token.is_empty(),
                remaining: page["metadata"]["remainingItemCount"].as_i64(),
            }));
        }
    }
}

/// # Errors
/// It cannot be written.
pub fn show_list(listed: Listed, columns: &[Column], output: Output) -> Result<(), Ended> {
    let Listed { records, .. } = listed;
    if output != Output::Table {
        print::object(
            &json!({"apiVersion": "v1", "kind": "List", "items": records}),
            output,
        )?;
    } else if records.is_empty() {
        eprintln!("No records found.");
    } else {
        let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
        let row = |record: &Value| columns.iter().map(|(_, at)| cell(record, at)).collect();
        let rows: Vec<Vec<String>> = records.iter().map(row).collect();
        print::write(&print::table(&heading, &rows));
    }
    if listed.more {
        let more = match listed.remaining {
            Some(1) => "is 1 more".into(),
            Some(number) if number > 1 => format!("are {} more", print::count(number)),
            _ => "are more".to_owned(),
        };
        eprintln!("There {more}: --limit shows more of them.");
    }
    Ok(())
}

fn cell(record: &Value, pointer: &str) -> String {
    match record.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_escaped() {
        let key = r"a,b\=".to_owned();
        assert_eq!(selector(&[("key", Some(&key)), ("class", None)]), r"key=a\,b\\\=");
    }

    #[test]
    fn errors_that_wait_no_more_are_asked_for() {
        let mut wanted = Errors {
            map: Some("a".into()),
            key: None,
            class: None,
            retry_status: None,
            settled: false,
            limit: 1,
        };
        assert_eq!(
            selector_of(&wanted),
            "tableMap=a,retryStatus!=Completed,retryStatus!=Superseded"
        );
        wanted.retry_status = Some(RetryStatus::Completed);
        assert_eq!(selector_of(&wanted), "tableMap=a,retryStatus=Completed");
        (wanted.retry_status, wanted.settled) = (None, true);
        assert_eq!(selector_of(&wanted), "tableMap=a");
    }
}
