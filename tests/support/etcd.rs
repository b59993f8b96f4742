//! What an API server has in its etcd, so that one server can serve a test after the other.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(10);
/// Operations that one transaction takes (etcd manual, `--max-txn-ops`).
const AT_ONCE: usize = 100;

/// What the API server makes by itself, at any time.
const ITS_OWN: &[&str] = &[
    "compact_rev_key",
    "/registry/apiregistration.k8s.io/apiservices/v1alpha1.tablemap.dev",
    "/registry/configmaps/kube-system/",
    "/registry/endpointslices/default/kubernetes",
    "/registry/flowschemas/",
    "/registry/ipaddresses/",
    "/registry/leases/kube-system/apiserver-",
    "/registry/masterleases/",
    "/registry/prioritylevelconfigurations/",
    "/registry/ranges/",
    "/registry/servicecidrs/",
    "/registry/services/endpoints/default/kubernetes",
    "/registry/services/specs/default/kubernetes",
];

/// What is made once; a test that changes it has made the server its own.
const MADE_ONCE: &[&str] = &[
    "/registry/apiextensions.k8s.io/customresourcedefinitions/",
    "/registry/namespaces/",
];

/// Keys, with the revision at which each was last written.
pub type Keys = BTreeMap<String, u64>;

/// All keys of the etcd on this port.
pub fn keys(port: u16) -> Option<Keys> {
    let all = BASE64_STANDARD.encode([0]);
    let answer = ask(
        port,
        "range",
        &json!({"key": all, "range_end": all, "keys_only": true}),
    )?;
    let entry = |entry: &Value| {
        let key = BASE64_STANDARD.decode(entry["key"].as_str()?).ok()?;
        Some((
            String::from_utf8(key).ok()?,
            entry["mod_revision"].as_str()?.parse().ok()?,
        ))
    };
    answer["kvs"].as_array()?.iter().map(entry).collect()
}

/// Deletes what was made since `before`. None: something is not as it was then, and cannot be made so.
pub fn wipe(port: u16, before: &Keys) -> Option<()> {
    let now = keys(port)?;
    let begins = |key: &str, any: &[&str]| any.iter().any(|prefix| key.starts_with(prefix));
    let is_changed = |(key, revision): (&String, &u64)| {
        begins(key, MADE_ONCE) && now.get(key) != Some(revision)
            || !now.contains_key(key) && !begins(key, ITS_OWN)
    };
    if before.iter().any(is_changed) {
        return None;
    }
    let made: Vec<&String> = now
        .keys()
        .filter(|key| !before.contains_key(*key) && !begins(key, ITS_OWN))
        .collect();
    for some in made.chunks(AT_ONCE) {
        let delete = |key: &&String| json!({"request_delete_range": {"key": BASE64_STANDARD.encode(key)}});
        let deletes: Vec<Value> = some.iter().map(delete).collect();
        ask(port, "txn", &json!({"success": deletes}))?;
    }
    Some(())
}

/// By way of its JSON gateway (etcd manual, "gRPC gateway"). In HTTP/1.0 no answer comes in chunks.
fn ask(port: u16, what: &str, request: &Value) -> Option<Value> {
    let body = request.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(
        stream,
        "POST /v3/kv/{what} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| serde_json::from_str(body).ok())?
}
