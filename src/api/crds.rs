//! The manifests of the custom resources.

use super::{Connection, TableMap, TableMapOperation};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// All of them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Connection::crd(), TableMap::crd(), TableMapOperation::crd()]
}

/// As one YAML stream. `nullable` goes: an optional field is left out, never null.
///
/// # Errors
/// A manifest cannot be written as YAML, which no released build does.
pub fn yaml() -> Result<String, serde_json::Error> {
    let mut out = String::new();
    for crd in crds() {
        let mut value = serde_json::to_value(crd)?;
        strip_nullable(&mut value);
        out.push_str("---\n");
        out.push_str(&serde_saphyr::to_string(&value).map_err(serde::ser::Error::custom)?);
    }
    Ok(out)
}

fn strip_nullable(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(strip_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nullable),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_manifests_are_those_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/tablemap.dev.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::yaml().unwrap(),
            "crds/ is stale: run `make crds`"
        );
    }
}
