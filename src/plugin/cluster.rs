//! The cluster, as the user's kubeconfig reaches it.

use super::{Ended, args::Global, print::plain};
use crate::api::{TableMap, TableMapOperation};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config, Resource,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde_json::Value;
use std::{error::Error as _, time::Duration};

const DEADLINE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub client: Client,
    /// Of its API server.
    pub url: String,
    pub namespace: String,
    pub all_namespaces: bool,
}

impl Cluster {
    /// # Errors
    /// There is no kubeconfig, or it cannot be used.
    pub async fn connect(global: &Global) -> Result<Self, Ended> {
        let config = match from_file(global).await {
            Ok(config) => config,
            // Without a kubeconfig it may be a pod that asks.
            Err(error) => match Config::incluster() {
                Ok(config) if global.context.is_none() => config,
                _ => return Err(unusable(&error)),
            },
        };
        let namespace = global
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| Ended::Failed(format!("the kubeconfig {} cannot be used: {error}", files())))?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
            namespace,
            all_namespaces: global.all_namespaces,
        })
    }

    pub fn maps(&self, namespace: &str) -> Api<TableMap> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn operations(&self, namespace: &str) -> Api<TableMapOperation> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Of the namespace, or of all.
    pub fn scope<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        if self.all_namespaces {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        }
    }

    /// Reads from the records API. Its warnings are printed. None: the cluster has no such API.
    ///
    /// # Errors
    /// It refuses, or cannot be reached.
    pub async fn records(&self, path: &str) -> Result<Option<Value>, Ended> {
        let group = format!("{}/{}", crate::records::GROUP, crate::records::VERSION);
        let answer = self.get(&format!("/apis/{group}/{path}")).await?;
        for warning in answer.headers().get_all(header::WARNING) {
            let text = warning.to_str().unwrap_or_default();
            let text = text.trim_start_matches("299 - ").trim_matches('"');
            eprintln!("Warning: {}", plain(text));
        }
        let code = answer.status();
        let body = within(answer.into_body().collect()).await?.to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_status = value["kind"] == "Status" && value["message"].is_string();
        match code {
            StatusCode::OK => Ok(Some(value)),
            // Without the API the answer is a bare text.
            StatusCode::NOT_FOUND if !is_status => Ok(None),
            // Whoever has no rule for it is refused before anybody looks whether it is there.
            StatusCode::FORBIDDEN if !self.has_records().await? => Ok(None),
            _ => {
                let message = value["message"]
                    .as_str()
                    .map_or_else(|| code.to_string(), str::to_owned);
                Err(refusal(code.as_u16(), message))
            }
        }
    }

    /// Whether the cluster has a records API: everybody may ask.
    async fn has_records(&self) -> Result<bool, Ended> {
        let answer = self.get(&format!("/apis/{}", crate::records::GROUP)).await?;
        Ok(answer.status() != StatusCode::NOT_FOUND)
    }

    async fn get(&self, path: &str) -> Result<Response<Body>, Ended> {
        let request = Request::get(path)
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| Ended::Failed(error.to_string()))?;
        within(self.client.send(request)).await
    }
}

async fn from_file(global: &Global) -> Result<Config, KubeconfigError> {
    let options = KubeConfigOptions {
        context: global.context.clone(),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await
}

fn unusable(error: &KubeconfigError) -> Ended {
    let said = match error {
        KubeconfigError::ReadConfig(error, file) => {
            format!("the kubeconfig {} cannot be read: {error}", file.display())
        }
        error => format!("the kubeconfig {} cannot be used: {error}", files()),
    };
    // A parser shows lines of the file too.
    Ended::Failed(said.lines().next().unwrap_or_default().to_owned())
}

/// Where the kubeconfig is looked for.
fn files() -> String {
    let named = std::env::var("KUBECONFIG").ok().filter(|files| !files.is_empty());
    named.unwrap_or_else(|| "~/.kube/config".into())
}

/// A call with a deadline.
///
/// # Errors
/// What the API server says.
pub async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Ended> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(refusal(status.code, status.message)),
        Ok(Err(error @ (kube::Error::Service(_) | kube::Error::HyperError(_)))) => {
            Err(Ended::Unreachable(cause(&error)))
        }
        Ok(Err(error)) => Err(Ended::Failed(error.to_string())),
        Err(_) => Err(Ended::Unreachable(format!(
            "no answer in {} s",
            DEADLINE.as_secs()
        ))),
    }
}

/// A server that has failed may have done what was asked all the same.
const fn refusal(code: u16, message: String) -> Ended {
    match code {
        400..500 => Ended::Refused { code, message },
        _ => Ended::Failed(message),
    }
}

/// The end of a chain of errors tells most.
fn cause(error: &kube::Error) -> String {
    let chain = std::iter::successors(error.source(), |&error| error.source());
    let chain: Vec<String> = chain.map(ToString::to_string).collect();
    match chain.as_slice() {
        [] => error.to_string(),
        [.., before, last] if !before.contains(last.as_str()) => format!("{before}: {last}"),
        [.., before, _] => before.clone(),
        [only] => only.clone(),
    }
}
