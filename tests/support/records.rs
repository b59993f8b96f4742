//! The records API behind the Kubernetes API, and asked without it.

use super::{
    apiserver::FRONT,
    certificates::{Authority, Signed},
    ports::free_port,
    process::Process,
    rig::{Rig, SOON},
    wait::wait_until,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const SERVICE: &str = "tablemap-records.default.svc";

/// What registers a records API at this port with the Kubernetes API; whom to trust may be told later.
pub fn registration(port: u16, authority: &str) -> String {
    let bundle = base64_of(authority);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: tablemap-records, namespace: default}}
spec: {{type: ExternalName, externalName: localhost}}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1alpha1.records.tablemap.dev}}
spec:
  group: records.tablemap.dev
  version: v1alpha1
  groupPriorityMinimum: 1000
  versionPriority: 10
  service: {{name: tablemap-records, namespace: default, port: {port}}}
  caBundle: {bundle}"
    )
}

/// Waits until it can be asked by way of the Kubernetes API.
pub async fn registered(rig: &Rig) {
    wait_until(SOON, "the records API by way of the Kubernetes API", async || {
        let mut command = rig.api.command();
        command.args(["get", "recorderrors"]);
        command.output().unwrap().status.success()
    })
    .await;
}

/// Of one records API: where it is, and who signed its certificate.
pub struct Records {
    pub port: u16,
    pub authority: Authority,
    folder: TempDir,
}

impl Records {
    /// Makes its certificate; whoever is started with `arguments` serves it.
    pub fn new() -> Self {
        let records = Self {
            port: free_port(),
            authority: Authority::new(),
            folder: tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap(),
        };
        records.certify();
        records
    }

    /// Gives it a new certificate of the same authority.
    pub fn certify(&self) {
        let Signed { certificate, key } = self.authority.sign(SERVICE);
        std::fs::write(self.folder.path().join("tls.crt"), certificate).unwrap();
        std::fs::write(self.folder.path().join("tls.key"), key).unwrap();
    }

    pub fn arguments(&self) -> [String; 2] {
        [
            format!("--records-api-address=127.0.0.1:{}", self.port),
            format!("--records-api-certificates={}", self.folder.path().display()),
        ]
    }

    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    /// Registers it with the Kubernetes API.
    pub async fn register(&self, rig: &Rig) {
        rig.api
            .apply(&registration(self.port, &self.authority.certificate));
        registered(rig).await;
    }

    /// Starts another operator that only serves records, at another port.
    pub fn replica(&self, rig: &mut Rig) -> (u16, Process) {
        let port = free_port();
        let before = std::mem::take(&mut rig.arguments);
        let [_, certificates] = self.arguments();
        rig.arguments = vec![format!("--records-api-address=127.0.0.1:{port}"), certificates];
        let process = rig.controllers();
        rig.arguments = before;
        (port, process)
    }

    /// Asks one of them at `port`, as whoever has this certificate, on behalf of a user. Its answer's code and body.
    pub async fn ask(
        &self,
        port: u16,
        certificate: Option<&Signed>,
        user: Option<&str>,
        path: &str,
    ) -> Option<(u16, Value)> {
        ask(&self.authority.certificate, port, certificate, user, path).await
    }

    /// Asks one of them as the Kubernetes API would, on behalf of its administrator.
    pub async fn list(&self, rig: &Rig, port: u16, path: &str) -> Value {
        let front = rig.api.front.sign(FRONT);
        let path = format!("/apis/records.tablemap.dev/v1alpha1/{path}");
        let (code, answer) = self.ask(port, Some(&front), Some("admin"), &path).await.unwrap();
        assert_eq!(code, 200, "{answer}");
        answer
    }
}

pub fn base64_of(text: &str) -> String {
    let secret = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(secret).unwrap().as_str().unwrap().to_owned()
}

/// Asks a records API at `port`, trusting these authorities, as whoever has this certificate, on behalf of a user. Its answer's
/// code and body; None if it is not trusted, or not there.
pub async fn ask(
    authorities: &str,
    port: u16,
    certificate: Option<&Signed>,
    user: Option<&str>,
    path: &str,
) -> Option<(u16, Value)> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(Signed { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let name = ServerName::try_from(SERVICE).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let group = user
        .filter(|user| *user == "admin")
        .map(|_| "X-Remote-Group: system:masters\r\n");
    let user = user.map_or_else(String::new, |user| format!("X-Remote-User: {user}\r\n"));
    let user = format!("{user}{}", group.unwrap_or_default());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n{user}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // A server may leave without a farewell.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, serde_json::from_str(body).unwrap()))
}
