//! The kind Connection: one way into a system.

use super::WorkerTemplate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One way into a database or a Redis. Exactly one of `postgres` and `redis` is given.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tablemap.dev",
    version = "v1alpha1",
    kind = "Connection",
    plural = "connections",
    singular = "connection",
    shortname = "tmc",
    category = "tablemap-all",
    namespaced,
    doc = "One way into a database or a Redis.",
    status = "ConnectionStatus",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("name must be at most 40 characters"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.postgres) != has(self.redis)").message("must have exactly one of `postgres` and `redis`"))]
pub struct ConnectionSpec {
    /// A `PostgreSQL` database, as a source or a destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSpec>,
    /// A Redis or Valkey that holds queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSpec>,
    /// What the workers' pods that read from here have beside what they need. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_template: Option<WorkerTemplate>,
}

/// A `PostgreSQL` database.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSpec {
    /// Servers, tried in this order.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub hosts: Vec<Host>,
    /// The database's name.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// User and password.
    pub credentials: Credentials,
    /// How the connection is secured. Default: mode `VerifyFull` with the system's roots.
    #[serde(default)]
    pub tls: TlsSpec,
    /// How long a server may take to answer, in seconds. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 300))]
    pub connect_timeout_seconds: i64,
    /// Slot and publication; read only when a `TableMap` uses this Connection as its source.
    #[serde(default)]
    pub replication: Replication,
}

/// A server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Name or address.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP port. Default: 5432 for postgres, 6379 for redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// User and password, read from a Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret in the same namespace.
    pub secret_ref: SecretName,
    /// The key that holds the user. Default: username.
    #[serde(default = "username")]
    #[schemars(length(min = 1, max = 253))]
    pub username_key: String,
    /// The key that holds the password. Default: password.
    #[serde(default = "password")]
    #[schemars(length(min = 1, max = 253))]
    pub password_key: String,
}

/// A Secret in the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// How a connection is secured.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Disable: no TLS. Require: encrypted, but the server is not verified. `VerifyCA`: its certificate is verified,
    /// but not its name. `VerifyFull` (the default): both.
    #[serde(default)]
    pub mode: TlsVerification,
    /// Who signs the server's certificate. Default: the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// A certificate of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
}

/// How much of the server's certificate is verified.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVerification {
    Disable,
    Require,
    VerifyCA,
    #[default]
    VerifyFull,
}

/// Certificates in PEM, from exactly one place.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)").message("must have exactly one of `secretKeyRef` and `configMapKeyRef`"))]
pub struct CertificateAuthority {
    /// A key of a Secret in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySelector>,
    /// A key of a `ConfigMap` in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
}

/// A key of a Secret or `ConfigMap`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySelector {
    /// The object's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The key within it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret of type kubernetes.io/tls.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// The Secret.
    pub secret_ref: SecretName,
}

/// Slot and publication of a source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// Managed (the default): the worker makes its slot and publication, and removes them with its last map.
    /// External: an administrator made them; `slots` names them.
    #[serde(default)]
    pub management: Management,
    /// The given slots, one for each worker group, with `management: External`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["workerGroup".into()]))]
    pub slots: Vec<Slot>,
}

/// Who makes slot and publication.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Management {
    #[default]
    Managed,
    External,
}

/// A given slot.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// The worker group that uses it.
    #[schemars(length(min = 1, max = 15))]
    pub worker_group: String,
    /// The slot's name.
    #[schemars(length(min = 1, max = 63))]
    pub slot_name: String,
    /// The publication's name.
    #[schemars(length(min = 1, max = 63))]
    pub publication_name: String,
}

/// A Redis or Valkey.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisSpec {
    /// How the servers stand to each other.
    pub topology: Topology,
    /// User and password. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// How the connection is secured. Default: mode `VerifyFull` with the system's roots.
    #[serde(default)]
    pub tls: TlsSpec,
    /// How long the server may take to answer, in seconds. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 300))]
    pub connect_timeout_seconds: i64,
}

/// One server, several that sentinels watch, or a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.standalone) ? 1 : 0) + (has(self.sentinel) ? 1 : 0) + (has(self.cluster) ? 1 : 0) == 1").message("exactly one of `standalone`, `sentinel` and `cluster` must be given"))]
pub struct Topology {
    /// One server alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standalone: Option<Standalone>,
    /// The master that sentinels name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<Sentinel>,
    /// The nodes of a Redis Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
}

/// A Redis Cluster. All keys of one map lie in one of its slots, so that its maps spread over the nodes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Some of its nodes, which know the others.
    #[schemars(length(min = 1, max = 9))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub nodes: Vec<Standalone>,
}

/// The master of a group that sentinels watch. They are asked anew at each connect.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sentinel {
    /// The group's name, as in the sentinels' configuration.
    #[schemars(length(min = 1, max = 253))]
    pub master_name: String,
    /// The sentinels, tried in order, with the Connection's TLS settings and credentials, or without credentials.
    #[schemars(length(min = 1, max = 9))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub hosts: Vec<SentinelHost>,
}

/// One sentinel.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentinelHost {
    /// Name or address.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP port. Default: 26379.
    #[serde(default = "sentinel_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standalone {
    /// Name or address.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP port. Default: 6379.
    #[serde(default = "redis_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// The slots of one worker.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSlots {
    /// Its worker group.
    pub worker_group: String,
    /// Of its Lease.
    pub name: String,
    /// The slot that its maps share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotStatus>,
    /// Slots of maps that take no changes: each keeps what its map has still to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub side_slots: Option<Vec<SlotStatus>>,
}

/// A replication slot at the source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// The `TableMap` for which a side slot was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_map: Option<String>,
    /// Reserved, Extended, Unreserved or Lost (`PostgreSQL` manual, `pg_replication_slots`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_status: Option<String>,
    /// WAL that it keeps, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<i64>,
    /// WAL that may still be written before it is lost, in bytes. Absent: there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_bytes: Option<i64>,
    /// Everything before it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_position: Option<String>,
    /// As of when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_time: Option<Time>,
}

/// What is known of a Connection.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The workers that read from it, each with its slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["workerGroup".into()]))]
    pub workers: Option<Vec<WorkerSlots>>,
    /// Ready: the Connection and what it refers to can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

fn ten() -> i64 {
    10
}

fn username() -> String {
    "username".into()
}

fn password() -> String {
    "password".into()
}

fn sentinel_port() -> i32 {
    26379
}

fn redis_port() -> i32 {
    6379
}
