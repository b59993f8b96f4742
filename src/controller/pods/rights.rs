//! What a worker may do: read our objects in its namespace and write their status, renew its own Lease, tell events, and read
//! just those Secrets and `ConfigMaps` that its Connections name. Pure.

use crate::api::{Connection, Credentials, TlsSpec};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of a worker's Role. `lease` is its Lease's name.
#[must_use]
pub fn of(lease: &str, connections: &[&Connection]) -> Vec<Value> {
    let ours = "tablemap.dev";
    let mut rules = vec![
        // Connections are looked at by name; of the others it is told.
        rule(ours, &["connections"], &["get"], None),
        rule(
            ours,
            &["tablemaps", "tablemapoperations"],
            &["list", "watch"],
            None,
        ),
        rule(
            ours,
            &[
                "connections/status",
                "tablemaps/status",
                "tablemapoperations/status",
            ],
            &["patch"],
            None,
        ),
        rule(
            "coordination.k8s.io",
            &["leases"],
            &["get", "update"],
            Some(&BTreeSet::from([lease.into()])),
        ),
        rule("events.k8s.io", &["events"], &["create", "patch"], None),
    ];
    let mut named = Named::default();
    for connection in connections {
        named.add(connection);
    }
    // A rule without names would allow all of them.
    for (resource, names) in [("secrets", &named.secrets), ("configmaps", &named.config_maps)] {
        if !names.is_empty() {
            rules.push(rule("", &[resource], &["get"], Some(names)));
        }
    }
    rules
}

fn rule(group: &str, resources: &[&str], verbs: &[&str], names: Option<&BTreeSet<String>>) -> Value {
    let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    if let Some(names) = names {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// What Connections name.
#[derive(Default)]
struct Named {
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
}

impl Named {
    fn add(&mut self, connection: &Connection) {
        let postgres = connection.spec.postgres.iter();
        let redis = connection.spec.redis.iter();
        let of_postgres = postgres.map(|spec| (Some(&spec.credentials), &spec.tls));
        let of_redis = redis.map(|spec| (spec.credentials.as_ref(), &spec.tls));
        for (credentials, tls) in of_postgres.chain(of_redis) {
            self.add_one(credentials, tls);
        }
    }

    fn add_one(&mut self, credentials: Option<&Credentials>, tls: &TlsSpec) {
        let login = credentials.map(|credentials| &credentials.secret_ref.name);
        let own = tls.client_certificate.as_ref().map(|own| &own.secret_ref.name);
        let ca = |of: fn(&crate::api::CertificateAuthority) -> Option<&crate::api::KeySelector>| {
            Some(&of(tls.ca.as_ref()?)?.name)
        };
        let secret = ca(|ca| ca.secret_key_ref.as_ref());
        self.secrets
            .extend(login.into_iter().chain(own).chain(secret).cloned());
        self.config_maps
            .extend(ca(|ca| ca.config_map_key_ref.as_ref()).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(spec: &Value) -> Connection {
        serde_json::from_value(json!({
            "apiVersion": "tablemap.dev/v1alpha1", "kind": "Connection", "metadata": {"name": "c"}, "spec": spec,
        }))
        .unwrap()
    }

    fn names(rules: &[Value], resource: &str) -> Vec<Value> {
        let of = rules.iter().filter(|rule| rule["resources"] == json!([resource]));
        of.map(|rule| rule["resourceNames"].clone()).collect()
    }

    #[test]
    fn a_worker_reads_just_what_its_connections_name() {
        let postgres = connection(&json!({"postgres": {
            "hosts": [{"host": "h"}], "database": "d", "credentials": {"secretRef": {"name": "login"}},
            "tls": {
                "ca": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}},
                "clientCertificate": {"secretRef": {"name": "own"}},
            },
        }}));
        let redis = connection(&json!({"redis": {
            "topology": {"standalone": {"host": "r"}}, "tls": {"ca": {"configMapKeyRef": {"name": "roots", "key": "k"}}},
        }}));
        let rules = of("lease", &[&postgres, &redis]);
        assert_eq!(names(&rules, "secrets"), [json!(["ca", "login", "own"])]);
        assert_eq!(names(&rules, "configmaps"), [json!(["roots"])]);
        assert_eq!(names(&rules, "leases"), [json!(["lease"])]);
    }

    #[test]
    fn no_name_is_no_right() {
        let redis = connection(&json!({"redis": {"topology": {"standalone": {"host": "r"}}}}));
        let rules = of("lease", &[&redis]);
        assert!(names(&rules, "secrets").is_empty() && names(&rules, "configmaps").is_empty());
    }
}
