//! The front proxy: who may say on whose behalf a request is made (Kubernetes documentation, "Configure the Aggregation
//! Layer"). The API server publishes it, and it is followed while it changes.

use crate::readiness;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is not ready without it.
const PART: &str = "front proxy";
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// See the module.
#[derive(Debug)]
pub struct Front {
    chain: Arc<dyn ClientCertVerifier>,
    /// Common names of its certificate; none: any.
    names: Vec<String>,
    /// Headers, in lower case; the first that is there counts.
    pub user: Vec<String>,
    pub groups: Vec<String>,
    /// How headers begin whose rest names something else about the caller.
    pub extra: Vec<String>,
}

impl Front {
    /// # Errors
    /// What is missing or unreadable.
    pub fn of(map: &ConfigMap) -> Result<Self, String> {
        let text = |name: &str| {
            map.data
                .as_ref()
                .and_then(|data| data.get(name))
                .map(String::as_str)
        };
        let list = |name: &str| -> Result<Vec<String>, String> {
            let Some(text) = text(name).filter(|text| !text.is_empty()) else {
                return Ok(Vec::new());
            };
            serde_json::from_str(text).map_err(|_| format!("`{name}` is not a list of texts"))
        };
        let headers = |name: &str| -> Result<Vec<String>, String> {
            Ok(list(name)?
                .iter()
                .map(|header| header.to_ascii_lowercase())
                .collect())
        };
        let pem = text("requestheader-client-ca-file").unwrap_or_default();
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(
                "`requestheader-client-ca-file` holds no certificate: is aggregation configured in the API \
                        server (--requestheader-client-ca-file)?"
                    .into(),
            );
        }
        let chain =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
        Ok(Self {
            chain: chain.build().map_err(|error| error.to_string())?,
            names: list("requestheader-allowed-names")?,
            user: headers("requestheader-username-headers")?,
            groups: headers("requestheader-group-headers")?,
            extra: headers("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whether a client that has shown these certificates is the front proxy.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, certificates: &[CertificateDer<'_>]) -> Result<(), &'static str> {
        let (own, more) = certificates.split_first().ok_or("it shows no certificate")?;
        self.chain
            .verify_client_cert(own, more, UnixTime::now())
            .map_err(|_| "its certificate is not one of the front proxy's CA")?;
        let is_named = |name: &str| self.names.iter().any(|known| known == name);
        if self.names.is_empty() || common_name(own).is_some_and(|name| is_named(&name)) {
            Ok(())
        } else {
            Err("its certificate has another name than the front proxy's")
        }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// Follows what the API server publishes, until `shutdown`. What is gone or cannot be read leaves nobody trusted.
pub async fn follow(client: Client, front: watch::Sender<Option<Arc<Front>>>, shutdown: CancellationToken) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    readiness::lacks(PART, format!("ConfigMap {NAMESPACE}/{NAME} was not read yet"));
    let mut changes = watcher::watch_object(api, NAME).default_backoff().boxed();
    while let Some(Some(change)) = shutdown.run_until_cancelled(changes.next()).await {
        let read = match change {
            Ok(Some(map)) => Front::of(&map),
            Ok(None) => Err("it is not there".into()),
            Err(error) => {
                tracing::warn!(%error, "ConfigMap {NAMESPACE}/{NAME} cannot be followed; trying again");
                continue;
            }
        };
        match &read {
            Ok(_) => readiness::has(PART),
            Err(error) => {
                tracing::error!(%error, "nobody can read records: ConfigMap {NAMESPACE}/{NAME}");
                readiness::lacks(PART, format!("ConfigMap {NAMESPACE}/{NAME}: {error}"));
            }
        }
        front.send_replace(read.ok().map(Arc::new));
    }
}
