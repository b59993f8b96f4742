//! Reading manifests: YAML or JSON, several documents a file, lists too.

use crate::api;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{file} cannot be read: {error}")]
    Unreadable { file: String, error: std::io::Error },
    #[error("{file} is not YAML: {error}")]
    NotYaml { file: String, error: String },
}

/// All objects of these files. Those without a namespace are of the given one.
pub fn read(files: &[PathBuf], namespace: &str) -> Result<Vec<Value>, ManifestError> {
    let mut objects = Vec::new();
    for file in files {
        let text = text(file)?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| ManifestError::NotYaml {
                file: file.display().to_string(),
                error: error.to_string(),
            })?;
        for mut document in documents {
            let items = match document["kind"].as_str() {
                Some("List") => document["items"].as_array().cloned().unwrap_or_default(),
                _ => vec![document.take()],
            };
            objects.extend(items.into_iter().filter(|item| !item.is_null()));
        }
    }
    for object in &mut objects {
        if object["metadata"].is_object() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(namespace);
        }
    }
    Ok(objects)
}

fn text(file: &Path) -> Result<String, ManifestError> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| ManifestError::Unreadable {
        file: file.display().to_string(),
        error,
    })
}

/// `TableMap sales/customers`.
pub fn name(manifest: &Value) -> String {
    let part = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let metadata = &manifest["metadata"];
    format!(
        "{} {}/{}",
        part(&manifest["kind"]),
        part(&metadata["namespace"]),
        part(&metadata["name"])
    )
}

/// An object of ours. A field that its kind does not have is a mistake, as it is for the API server.
pub fn typed<K: DeserializeOwned>(manifest: &Value) -> Result<K, String> {
    if let Some(field) = unknown_field(manifest) {
        return Err(format!("there is no field `{field}`"));
    }
    serde_json::from_value(manifest.clone()).map_err(|error| error.to_string())
}

fn unknown_field(manifest: &Value) -> Option<String> {
    let crds = api::crds();
    let crd = crds
        .iter()
        .find(|crd| manifest["kind"] == crd.spec.names.kind.as_str())?;
    let schema = crd.spec.versions.first()?.schema.as_ref()?;
    let schema = serde_json::to_value(schema.open_api_v3_schema.as_ref()?).ok()?;
    beyond(&manifest["spec"], &schema["properties"]["spec"], "spec")
}

/// The first field that the schema does not know.
fn beyond(value: &Value, schema: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match &schema["properties"][name] {
                Value::Null => Some(path),
                known => beyond(value, known, &path),
            }
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| beyond(item, &schema["items"], &format!("{path}[{index}]"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TableMap;

    const MAP: &str = "
kind: List
items:
- apiVersion: tablemap.dev/v1alpha1
  kind: TableMap
  metadata: {name: customers}
  spec:
    source: {connectionRef: {name: crm}, table: {name: customers}}
    destination: {connectionRef: {name: erp}, table: {name: customers}}
    integrationKey: [id]
    fields: [{destination: id, source: id}]
";

    #[test]
    fn an_object_is_read_and_a_field_that_its_kind_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maps.yaml");
        std::fs::write(&file, MAP).unwrap();
        let objects = read(&[file], "sales").unwrap();
        assert_eq!(name(&objects[0]), "TableMap sales/customers");
        let map: TableMap = typed(&objects[0]).unwrap();
        assert_eq!(map.spec.source.table.schema, "public");
        let mut wrong = objects[0].clone();
        wrong["spec"]["fields"][0]["sauce"] = json!("id");
        let error = typed::<TableMap>(&wrong).unwrap_err();
        assert_eq!(error, "there is no field `spec.fields[0].sauce`");
    }
}
