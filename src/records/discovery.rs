//! What the API has, for kubectl and the API server (Kubernetes documentation, "API Discovery"): the unaggregated form, to
//! which every client falls back.

use super::{GROUP, VERSION, resource::Resource};
use serde_json::{Value, json};

fn versions() -> Value {
    json!([{"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION}])
}

/// `/apis`
pub fn groups() -> Value {
    let mut group = group();
    if let Some(group) = group.as_object_mut() {
        group.retain(|field, _| field != "kind" && field != "apiVersion");
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
}

/// `/apis/GROUP`
pub fn group() -> Value {
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": versions(),
        "preferredVersion": versions()[0],
    })
}

/// `/apis/GROUP/VERSION`: get and list alone, so that garbage collection, quotas and the end of a namespace pass by.
pub fn resources() -> Value {
    let both = |resource: Resource| {
        let plural = resource.plural();
        [
            json!({
                "name": plural,
                "singularName": resource.singular(),
                "namespaced": true,
                "kind": resource.kind(),
                "verbs": ["get", "list"],
                "shortNames": [resource.short_name()],
                "categories": ["tablemap-records"],
            }),
            json!({
                "name": format!("{plural}/payload"),
                "singularName": "",
                "namespaced": true,
                "kind": "RecordPayload",
                "verbs": ["get"],
            }),
        ]
    };
    let all: Vec<Value> = Resource::ALL.into_iter().flat_map(both).collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": all,
    })
}
