//! The certificate that is shown, and read again and again: from files, or from the Secret that the operators keep.

use super::authority::Authority;
use anyhow::{Context as _, ensure};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Where it comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder with `tls.crt` and `tls.key`, as a mounted Secret has them.
    Folder(PathBuf),
    /// The operators make it themselves.
    SelfMade(Authority),
}

impl Source {
    async fn pair(&self) -> anyhow::Result<Pair> {
        match self {
            Self::Folder(folder) => files(folder).await,
            Self::SelfMade(authority) => authority.pair().await,
        }
    }

    /// What it was like is looked at again after this: the API server is asked less often than a folder.
    const fn again(&self) -> Duration {
        match self {
            Self::Folder(_) => Duration::from_secs(5),
            Self::SelfMade(_) => Duration::from_secs(60),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Certificate {
    source: Source,
    /// What was read, and the key made of it.
    current: RwLock<(Pair, Arc<CertifiedKey>)>,
}

/// Certificates and key, as PEM texts.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Certificate {
    /// # Errors
    /// It cannot be read or made, or is no certificate with its key.
    pub async fn read(source: Source) -> anyhow::Result<Self> {
        let pair = source.pair().await?;
        let key = Arc::new(certified(&pair)?);
        Ok(Self {
            source,
            current: RwLock::new((pair, key)),
        })
    }

    /// Reads it again and again, until `shutdown`. What cannot be read leaves the certificate as it is.
    pub async fn follow(&self, shutdown: CancellationToken) {
        while shutdown
            .run_until_cancelled(tokio::time::sleep(self.source.again()))
            .await
            .is_some()
        {
            if let Err(error) = self.renew().await {
                tracing::error!(%error, "the certificate of the records API stays as it was");
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let pair = self.source.pair().await?;
        let known = self.current.read().unwrap_or_else(PoisonError::into_inner).0 == pair;
        if !known {
            let key = Arc::new(certified(&pair)?);
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = (pair, key);
            tracing::info!("the records API has a new certificate");
        }
        Ok(())
    }
}

async fn files(folder: &Path) -> anyhow::Result<Pair> {
    let read = async |name: &str| {
        let path = folder.join(name);
        let bytes = tokio::fs::read(&path).await;
        bytes.with_context(|| format!("{} cannot be read", path.display()))
    };
    Ok((read("tls.crt").await?, read("tls.key").await?))
}

fn certified((chain, key): &Pair) -> anyhow::Result<CertifiedKey> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .context("tls.crt is not a PEM text")?;
    ensure!(!chain.is_empty(), "tls.crt holds no certificate");
    let key = PrivateKeyDer::from_pem_slice(key).context("tls.key is not a PEM text")?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .context("tls.crt and tls.key do not belong together")
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current.1))
    }
}

/// The server's side of TLS.
///
/// # Errors
/// The crypto provider has no TLS version in common with us.
pub fn server_config(certificate: Arc<Certificate>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let clients = Arc::new(AnyClient {
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Lets every client in that has the key of its certificate, or none: of whom it is is judged request by request, so that
/// the answer is a Status, and a CA that was replaced counts at once.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
