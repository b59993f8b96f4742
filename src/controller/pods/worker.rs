//! The objects of one worker: its Deployment, and who it is. Pure: the same worker is the same objects, so that nothing is
//! rolled but for its own template.

use super::rights;
use crate::{
    api::{Connection, WorkerResources, WorkerTemplate},
    worker::{self, Measures},
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::ServiceAccount,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    ResourceExt,
    core::{ApiResource, Resource},
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Whose worker it is.
pub const CONNECTION: &str = "tablemap.dev/connection";
pub const GROUP: &str = "tablemap.dev/worker-group";
/// Its name: what the Deployment selects.
pub const WORKER: &str = "tablemap.dev/worker";
const PORT: u16 = 8080;
/// SIGTERM finishes or rolls back what is in flight within ten seconds.
const END_SECONDS: u64 = 15;

/// What all worker pods have alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub image: String,
    /// Always, `IfNotPresent` or Never.
    pub pull_policy: String,
    /// Beside namespace, Connection, worker group and limits.
    pub arguments: Vec<String>,
    /// Secrets for pulling the image, beside those of a Connection's template.
    pub pull_secrets: Vec<String>,
    /// Environment variables, with their values.
    pub environment: Vec<(String, String)>,
}

/// One worker that is wanted.
pub struct Worker<'a> {
    pub connection: &'a Connection,
    pub namespace: &'a str,
    pub group: &'a str,
    /// What no map of its namespace may have queued.
    pub limits: Measures,
    /// All that its maps name, and its source.
    pub connections: &'a [&'a Connection],
    pub settings: &'a Settings,
}

/// An object as it is applied.
pub struct Manifest {
    pub resource: ApiResource,
    pub name: String,
    pub value: Value,
}

/// What is made for a worker, in this order; it is removed in the other.
#[must_use]
pub fn kinds() -> [ApiResource; 5] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Lease>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<Deployment>(&()),
    ]
}

impl Worker<'_> {
    #[must_use]
    pub fn name(&self) -> String {
        worker::name(&self.connection.name_any(), self.group)
    }

    /// All of them, those first that the others need.
    #[must_use]
    pub fn manifests(&self) -> Vec<Manifest> {
        let name = self.name();
        let role = json!({"rules": rights::of(&name, self.connections)});
        let binding = json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
        });
        let parts = [
            json!({}),
            json!({}),
            role,
            binding,
            json!({"spec": self.deployment()}),
        ];
        let manifest = |(resource, value): (ApiResource, Value)| self.manifest(resource, value);
        kinds().into_iter().zip(parts).map(manifest).collect()
    }

    fn manifest(&self, resource: ApiResource, mut value: Value) -> Manifest {
        let name = self.name();
        value["apiVersion"] = json!(resource.api_version);
        value["kind"] = json!(resource.kind);
        value["metadata"] = json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": Connection::api_version(&()), "kind": Connection::kind(&()),
                "name": self.connection.name_any(), "uid": self.connection.uid(), "controller": true,
            }],
        });
        Manifest {
            resource,
            name,
            value,
        }
    }

    fn labels(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name", "tablemap".to_owned()),
            ("app.kubernetes.io/component", "worker".to_owned()),
            ("app.kubernetes.io/managed-by", "tablemap-operator".to_owned()),
            (CONNECTION, self.connection.name_any()),
            (GROUP, self.group.to_owned()),
            (WORKER, self.name()),
        ])
    }

    fn deployment(&self) -> Value {
        json!({
            // The Lease lets only one work: a second one would just wait.
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {WORKER: self.name()}},
            "template": {"metadata": self.pod_metadata(), "spec": self.pod()},
        })
    }

    fn template(&self) -> WorkerTemplate {
        self.connection.spec.worker_template.clone().unwrap_or_default()
    }

    fn pod_metadata(&self) -> Value {
        let wanted = self.template().metadata.unwrap_or_default();
        let mut labels = wanted.labels;
        labels.extend(
            self.labels()
                .into_iter()
                .map(|(name, label)| (name.to_owned(), label)),
        );
        let mut metadata = json!({"labels": labels});
        if !wanted.annotations.is_empty() {
            metadata["annotations"] = json!(wanted.annotations);
        }
        metadata
    }

    fn pod(&self) -> Value {
        let wanted = self.template().spec.unwrap_or_default();
        let ours = self.settings.pull_secrets.iter();
        let mut pull_secrets: Vec<Value> = ours.map(|name| json!({"name": name})).collect();
        pull_secrets.extend(wanted.image_pull_secrets.iter().map(|secret| json!(secret)));
        let mut pod = json!({
            "serviceAccountName": self.name(),
            "terminationGracePeriodSeconds": END_SECONDS,
            "enableServiceLinks": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [self.container(wanted.resources.unwrap_or_default())],
        });
        let given = [
            ("nodeSelector", json!(wanted.node_selector)),
            ("tolerations", json!(wanted.tolerations)),
            ("affinity", json!(wanted.affinity)),
            ("priorityClassName", json!(wanted.priority_class_name)),
            ("imagePullSecrets", json!(pull_secrets)),
        ];
        if let Value::Object(pod) = &mut pod {
            for (field, value) in given.into_iter().filter(|(_, value)| is_given(value)) {
                pod.insert(field.into(), value);
            }
        }
        pod
    }

    fn container(&self, resources: WorkerResources) -> Value {
        let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10});
        let mut environment = vec![json!({
            "name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        })];
        let given = self.settings.environment.iter();
        environment.extend(given.map(|(name, value)| json!({"name": name, "value": value})));
        let mut container = json!({
            "name": "worker",
            "image": self.settings.image,
            "imagePullPolicy": self.settings.pull_policy,
            "args": self.arguments(),
            "env": environment,
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "livenessProbe": probe("/healthz"),
            "readinessProbe": probe("/readyz"),
            // The end of its log tells why it does not start.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
        });
        for (name, given) in [("requests", resources.requests), ("limits", resources.limits)] {
            if !given.is_empty() {
                container["resources"][name] = json!(quantities(given));
            }
        }
        container
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "worker".to_owned(),
            format!("--namespace={}", self.namespace),
            format!("--connection={}", self.connection.name_any()),
            format!("--worker-group={}", self.group),
            format!("--bind-address=0.0.0.0:{PORT}"),
        ];
        arguments.extend(self.settings.arguments.iter().cloned());
        let limits = [
            ("records", self.limits.records),
            ("bytes", self.limits.bytes),
            ("age-seconds", self.limits.age.map(|age| age.as_secs())),
        ];
        for (measure, most) in limits {
            arguments.extend(most.map(|most| format!("--max-queue-{measure}={most}")));
        }
        arguments
    }
}

/// As texts: a bare number means the same.
fn quantities(given: BTreeMap<String, IntOrString>) -> Map<String, Value> {
    let text = |quantity| match quantity {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text,
    };
    given
        .into_iter()
        .map(|(name, quantity)| (name, json!(text(quantity))))
        .collect()
}

fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// The workers that maps ask for: of each group of a source the Connections that its maps name.
pub type Groups = BTreeMap<String, BTreeSet<String>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(name: &str, spec: Value) -> Connection {
        serde_json::from_value(json!({
            "apiVersion": "tablemap.dev/v1alpha1", "kind": "Connection",
            "metadata": {"name": name, "namespace": "sales", "uid": "u"}, "spec": spec,
        }))
        .unwrap()
    }

    fn postgres(name: &str, template: Option<Value>) -> Connection {
        let mut spec = json!({"postgres": {
            "hosts": [{"host": "h"}], "database": "d", "credentials": {"secretRef": {"name": format!("{name}-login")}},
        }});
        if let Some(template) = template {
            spec["workerTemplate"] = template;
        }
        connection(name, spec)
    }

    fn deployment(source: &Connection, others: &[&Connection]) -> Value {
        let settings = Settings {
            image: "tablemap:1".into(),
            pull_policy: "IfNotPresent".into(),
            arguments: vec!["--default-queue=queue".into()],
            pull_secrets: vec!["all".into()],
            environment: vec![("TABLEMAP_LOG".into(), "debug".into())],
        };
        let connections: Vec<&Connection> = [source].into_iter().chain(others.iter().copied()).collect();
        let worker = Worker {
            connection: source,
            namespace: "sales",
            group: "default",
            limits: Measures::default(),
            connections: &connections,
            settings: &settings,
        };
        worker.manifests().pop().unwrap().value
    }

    #[test]
    fn a_new_map_rolls_nothing() {
        let (crm, erp) = (postgres("crm", None), postgres("erp", None));
        assert_eq!(deployment(&crm, &[]), deployment(&crm, &[&erp]));
    }

    #[test]
    fn a_template_adds_to_the_pod_and_takes_nothing() {
        let template = json!({
            "metadata": {"labels": {"team": "sales", WORKER: "mine"}, "annotations": {"a": "b"}},
            "spec": {
                "resources": {"requests": {"cpu": 1, "memory": "64Mi"}}, "nodeSelector": {"disk": "fast"},
                "tolerations": [{"key": "k", "operator": "Exists"}], "priorityClassName": "high",
                "imagePullSecrets": [{"name": "pull"}],
            },
        });
        let crm = postgres("crm", Some(template));
        let made = deployment(&crm, &[]);
        let pod = &made["spec"]["template"];
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["team"], "sales");
        assert_eq!(
            labels[WORKER], made["metadata"]["name"],
            "what it selects is its own"
        );
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        let spec = &pod["spec"];
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({"cpu": "1", "memory": "64Mi"})
        );
        assert_eq!(spec["nodeSelector"]["disk"], "fast");
        assert_eq!(spec["tolerations"][0]["key"], "k");
        assert_eq!(spec["priorityClassName"], "high");
        assert_eq!(
            spec["imagePullSecrets"],
            json!([{"name": "all"}, {"name": "pull"}])
        );
        assert_eq!(spec["affinity"], Value::Null);
        assert_eq!(
            spec["containers"][0]["env"][1],
            json!({"name": "TABLEMAP_LOG", "value": "debug"})
        );
    }

    #[test]
    fn a_pod_keeps_the_restricted_standard() {
        let crm = postgres("crm", None);
        let made = deployment(&crm, &[]);
        let pod = &made["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    }
}
