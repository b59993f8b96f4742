//! The custom resources of group `tablemap.dev`: types and validation rules, no I/O.

mod bytes;
mod connection;
mod crds;
mod fields;
mod operation;
pub mod reasons;
mod reference;
mod rules;
mod status;
mod tablemap;
mod worker_template;

pub use bytes::Bytes;
pub use connection::{
    CertificateAuthority, ClientCertificate, Connection, ConnectionSpec, ConnectionStatus, Credentials, Host,
    KeySelector, Management, PostgresSpec, RedisSpec, Replication, SecretName, Slot, SlotStatus, Standalone,
    TlsSpec, TlsVerification, Topology, WorkerSlots,
};
pub use crds::{crds, yaml};
pub use fields::{
    DefaultTransform, Field, OnNull, OnUnmatched, Transform, Truncate, UnmatchedPolicy, ValueMap,
    ValueMapEntry,
};
pub use operation::{
    AcceptGap, Action, Match, Mode, RecordKey, RecordsFrom, Selection, SelectionType, TableMapOperation,
    TableMapOperationSpec, TableMapOperationStatus, TableMapRef,
};
pub use reference::{LocalRef, TableRef};
pub use rules::{
    Enforcement, RefusalClass, ResumePolicy, RuleAction, RuleMatch, RulePercent, RuleResume, RuleSpec,
    RuleThreshold, WhenHealthy,
};
pub use status::{Pause, TableMapStatus};
pub use tablemap::{
    CatchUp, DeletionPolicy, DestinationSpec, ErrorsSpec, OnExit, OutagePolicy, QueueBounds, QueueLimits,
    QueueSpec, SourceFilter, SourceSpec, State, TableMap, TableMapSpec,
};
pub use worker_template::{WorkerMetadata, WorkerPodSpec, WorkerResources, WorkerTemplate};
