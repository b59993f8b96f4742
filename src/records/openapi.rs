//! `OpenAPI` v3 of the API, made of its types, for `kubectl explain`.

use super::{
    GROUP, VERSION,
    object::{QueuedRecord, RecordError, RecordPayload},
    resource::Resource,
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// `/openapi/v3`: where the document is.
pub fn index() -> Value {
    let path = format!("apis/{GROUP}/{VERSION}");
    let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
    json!({"paths": {path: {"serverRelativeURL": url}}})
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into(),
        metadata(),
    );
    schemas.insert(reference("QueuedRecord"), schema::<QueuedRecord>("QueuedRecord"));
    schemas.insert(reference("RecordError"), schema::<RecordError>("RecordError"));
    schemas.insert(
        reference("RecordPayload"),
        schema::<RecordPayload>("RecordPayload"),
    );
    let paths: Map<String, Value> = Resource::ALL.into_iter().flat_map(paths).collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "TableMap records", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn reference(kind: &str) -> String {
    format!("dev.tablemap.records.{VERSION}.{kind}")
}

fn kinds(kind: &str) -> Value {
    json!({"group": GROUP, "version": VERSION, "kind": kind})
}

fn schema<B: JsonSchema>(kind: &str) -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<B>();
    let mut schema: Value = schema.into();
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|name, _| matches!(name.as_str(), "description" | "type" | "properties" | "required"));
        schema.insert("x-kubernetes-group-version-kind".into(), json!([kinds(kind)]));
    }
    let text = |text: &str| json!({"type": "string", "description": text});
    schema["properties"]["apiVersion"] = text("The version of this schema.");
    schema["properties"]["kind"] = text("The kind of the object.");
    schema["properties"]["metadata"] = json!({
        "description": "Standard metadata of the object.",
        "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
    });
    schema
}

fn metadata() -> Value {
    json!({
        "type": "object",
        "description": "What of the standard metadata a record has.",
        "properties": {
            "name": {"type": "string", "description": "Names the record within its namespace."},
            "namespace": {"type": "string", "description": "The namespace of the TableMap."},
            "uid": {"type": "string", "description": "The same for one record at all times."},
            "creationTimestamp": {
                "type": "string", "format": "date-time",
                "description": "Of a queued record, when the source committed it; of an error, when it was refused first.",
            },
            "labels": {
                "type": "object", "additionalProperties": {"type": "string"},
                "description": "tablemap.dev/table-map, operation, class and retry-status.",
            },
        },
    })
}

fn paths(resource: Resource) -> [(String, Value); 3] {
    let base = format!(
        "/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{}",
        resource.plural()
    );
    let operation = |action: &str, kind: &str| {
        json!({"get": {
            "operationId": format!("{action}{}", resource.kind()),
            "x-kubernetes-action": if action == "list" { "list" } else { "get" },
            "x-kubernetes-group-version-kind": kinds(kind),
            "responses": {"200": {"description": "OK"}},
        }})
    };
    [
        (base.clone(), operation("list", resource.kind())),
        (format!("{base}/{{name}}"), operation("read", resource.kind())),
        (
            format!("{base}/{{name}}/payload"),
            operation("readPayloadOf", "RecordPayload"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_documented() {
        let document = document();
        for kind in ["QueuedRecord", "RecordError", "RecordPayload"] {
            let schema = &document["components"]["schemas"][reference(kind)];
            let properties = schema["properties"].as_object().unwrap();
            assert!(properties.len() > 8, "{kind}");
            for (name, property) in properties {
                assert!(property["description"].is_string(), "{kind}.{name}");
                assert!(!property.to_string().contains("$defs"), "{kind}.{name}");
            }
        }
    }
}
