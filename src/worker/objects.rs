//! Where the objects that a map refers to are read: from the cluster, or from manifests that are not applied yet.

use super::resolve::ResolveError;
use crate::{
    api::{Connection, TableMap},
    apiserver::{self, Answer, Answers},
};
use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{any::Any, fmt::Debug, sync::Arc, time::Duration};

const DEADLINE: Duration = Duration::from_secs(10);

/// As messages name the kind.
pub const CONNECTION: &str = "Connection";

/// What can be read: an object of a namespace.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType: Default>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl Object for Connection {}
impl Object for ConfigMap {}
impl Object for Secret {}

/// Manifests, and the cluster for what is not among them, if it can be asked.
#[derive(Clone)]
pub enum Objects {
    Cluster(Cluster),
    Files {
        files: Arc<Vec<Value>>,
        cluster: Option<Client>,
    },
}

impl Objects {
    /// One object.
    ///
    /// # Errors
    /// It does not exist, cannot be read, or the API server cannot be asked.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str, kind: &str) -> Result<K, ResolveError> {
        let missing = |more: &str| {
            ResolveError::Missing(format!(
                "there is no {kind} {name} in namespace {namespace}{more}"
            ))
        };
        match self {
            Self::Cluster(cluster) => cluster
                .get(namespace, name, kind)
                .await?
                .ok_or_else(|| missing("")),
            Self::Files { files, cluster } => match (find(files, namespace, name, kind), cluster) {
                (Some(found), _) => serde_json::from_value(found)
                    .map_err(|error| ResolveError::Invalid(format!("{kind} {name}: {error}"))),
                (None, Some(client)) => ask(client, namespace, name)
                    .await?
                    .ok_or_else(|| missing(", nor in the files")),
                (None, None) => Err(missing(" of the files, and no cluster is configured")),
            },
        }
    }
}

impl Objects {
    /// Every `TableMap` of a namespace.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn maps(&self, namespace: &str) -> Result<Vec<TableMap>, ResolveError> {
        let (files, cluster) = match self {
            Self::Cluster(cluster) => (None, Some(&cluster.client)),
            Self::Files { files, cluster } => (Some(files), cluster.as_ref()),
        };
        let here = |file: &&Value| file["kind"] == "TableMap" && file["metadata"]["namespace"] == namespace;
        let files = files.into_iter().flat_map(|files| files.iter().filter(here));
        let mut maps: Vec<TableMap> = files
            .filter_map(|file| serde_json::from_value(file.clone()).ok())
            .collect();
        if let Some(client) = cluster {
            let api: Api<TableMap> = Api::namespaced(client.clone(), namespace);
            let all = ListParams::default();
            maps.extend(apiserver::within(DEADLINE, api.list(&all)).await?.items);
        }
        Ok(maps)
    }
}

/// What is read of the cluster serves for a while: maps name the same few objects.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    serves: Duration,
    read: Arc<Answers<Name, Option<Found>>>,
}

/// Kind, namespace and name.
type Name = (String, String, String);

/// An object of this kind.
type Found = Arc<dyn Any + Send + Sync>;

impl Cluster {
    /// For what is told of no change.
    pub const MOMENT: Duration = Duration::from_secs(1);

    #[must_use]
    pub fn new(client: Client, serves: Duration) -> Self {
        Self {
            client,
            serves,
            read: Arc::default(),
        }
    }

    /// It has changed: the next one who asks for it has it read.
    pub fn forget(&self, connection: &Connection) {
        let namespace = connection.namespace().unwrap_or_default();
        self.read
            .forget(&(CONNECTION.to_owned(), namespace, connection.name_any()));
    }

    /// What is missing is waited for: it serves only those who ask meanwhile.
    fn serves(&self, read: &Answer<Option<Found>>) -> bool {
        read.said.is_some() && read.at.elapsed() < self.serves
    }

    /// None: there is none.
    ///
    /// # Errors
    /// The API server cannot be asked.
    async fn get<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
    ) -> Result<Option<K>, ResolveError> {
        let of = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let read = async {
            // What nobody has asked for since goes.
            self.read
                .retain(|_, read| read.is_some_and(|read| self.serves(read)));
            let found = api::<K>(&self.client, namespace).get_opt(name).await?;
            Ok(found.map(|found| Arc::new(found) as Found))
        };
        let found = self
            .read
            .get(&of, DEADLINE, |read| self.serves(read), read)
            .await?;
        Ok(found.and_then(|found| found.downcast_ref::<K>().cloned()))
    }
}

fn api<K: Object>(client: &Client, namespace: &str) -> Api<K> {
    Api::namespaced(client.clone(), namespace)
}

async fn ask<K: Object>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, ResolveError> {
    let objects = api::<K>(client, namespace);
    Ok(apiserver::within(DEADLINE, objects.get_opt(name)).await?)
}

/// A manifest, as the API server would keep it.
fn find(files: &[Value], namespace: &str, name: &str, kind: &str) -> Option<Value> {
    let is_meant = |file: &&Value| {
        let metadata = &file["metadata"];
        file["kind"] == kind && metadata["name"] == name && metadata["namespace"] == namespace
    };
    let mut found = files.iter().find(is_meant)?.clone();
    let texts = found["stringData"].as_object().cloned().unwrap_or_default();
    for (key, text) in texts {
        let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
        found["data"][key] = json!(ByteString(bytes));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_a_file_reads_as_the_cluster_would_keep_it() {
        let file = json!({
            "kind": "Secret", "metadata": {"name": "login", "namespace": "a"}, "stringData": {"password": "p"},
        });
        let found = find(&[file], "a", "login", "Secret").unwrap();
        let secret: Secret = serde_json::from_value(found).unwrap();
        assert_eq!(secret.data.unwrap()["password"], ByteString(b"p".to_vec()));
    }
}
