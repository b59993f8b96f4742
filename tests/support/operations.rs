//! Operations on maps, as people make them.

use super::{
    rig::{NAMESPACE, Rig, SOON, said},
    wait::wait_for,
};
use serde_json::Value;

/// A manifest; `spec` holds the lines of its spec beside the map.
pub fn operation(name: &str, map: &str, spec: &[&str]) -> String {
    format!(
        "apiVersion: tablemap.dev/v1alpha1
kind: TableMapOperation
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  tableMapRef: {{name: {map}}}
  {}
",
        spec.join("\n  ")
    )
}

impl Rig {
    /// Asks for an operation.
    pub fn ask(&self, name: &str, map: &str, spec: &[&str]) {
        self.api.apply(&operation(name, map, spec));
    }

    /// Asks for something with parked records: `selection` is the whole selection.
    pub fn ask_errors(&self, name: &str, map: &str, action: &str, selection: &str) {
        let (action, selection) = (format!("action: {action}"), format!("selection: {selection}"));
        self.ask(name, map, &[&action, "from: Errors", &selection]);
    }

    /// The status of an operation.
    pub fn operation(&self, name: &str) -> Value {
        let shown = self
            .api
            .kubectl(&["get", "tmop", name, "-n", NAMESPACE, "-o", "json"]);
        serde_json::from_str::<Value>(&shown).unwrap()["status"].clone()
    }

    /// Waits until an operation has come to an end.
    pub async fn ended(&self, name: &str) -> Value {
        wait_for(SOON, &format!("the end of {name}"), async || {
            let status = self.operation(name);
            let ended = ["Complete", "Failed"]
                .iter()
                .any(|type_| said(&status, type_).is_some_and(|said| said["status"] == "True"));
            ended.then_some(status)
        })
        .await
    }

    /// Waits until an operation waits for this reason.
    pub async fn waits(&self, name: &str, reason: &str) -> Value {
        wait_for(SOON, &format!("{reason} of {name}"), async || {
            let status = self.operation(name);
            let waits = said(&status, "Waiting")
                .is_some_and(|said| said["status"] == "True" && said["reason"] == reason);
            waits.then_some(status)
        })
        .await
    }
}

/// The counts of an operation's status: selected, completed, failed, superseded, remaining.
pub fn counts(status: &Value) -> [u64; 5] {
    ["selected", "completed", "failed", "superseded", "remaining"]
        .map(|name| status["counts"][name].as_u64().unwrap_or(u64::MAX))
}
