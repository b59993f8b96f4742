//! References to other objects and to tables.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A Connection in the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of a Connection in the same namespace.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// A table by its exact names, as the database keeps them: no quotes, no folding of case.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableRef {
    /// The schema's exact name. Default: public.
    #[serde(default = "public")]
    #[schemars(length(min = 1, max = 63))]
    pub schema: String,
    /// The table's exact name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

fn public() -> String {
    "public".into()
}
