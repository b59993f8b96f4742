//! A certificate that the operators make themselves: kept in a Secret, which all of them show, and made anew in good time.
//! The `APIService` is told whom to trust before a new one is shown, and goes on trusting the one before.

use super::{GROUP, VERSION, certificate::Pair};
use crate::apiserver;
use anyhow::{Context as _, anyhow};
use jiff::{Span, Timestamp};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// How long a certificate is good, and when the next is made, in days.
const DAYS: i64 = 90;
const LEFT: i64 = 30;
/// A clock may be behind ours.
const BEFORE: i64 = 1;
/// Of a call to the API server.
const DEADLINE: Duration = Duration::from_secs(5);

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The authorities of this certificate and of the one before it.
const AUTHORITIES: &str = "ca.crt";

/// Where it is kept, and for whom it is made.
#[derive(Clone, Debug)]
pub struct SelfMade {
    pub namespace: String,
    /// The Service that the `APIService` names.
    pub service: String,
    pub secret: String,
}

/// See the module.
#[derive(Clone)]
pub struct Authority {
    client: Client,
    made: SelfMade,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.made.fmt(formatter)
    }
}

/// What the Secret holds.
struct Kept {
    authorities: String,
    pair: Pair,
}

impl Authority {
    #[must_use]
    pub fn new(client: Client, made: SelfMade) -> Self {
        Self { client, made }
    }

    /// The certificate to show now, with its key.
    ///
    /// # Errors
    /// The Secret can neither be read nor made.
    pub async fn pair(&self) -> anyhow::Result<Pair> {
        let secret = within(self.secrets().get_opt(&self.made.secret)).await;
        let secret = secret.context("the Secret of the certificate cannot be read")?;
        let kept = secret.as_ref().and_then(read);
        let kept = match kept {
            Some(kept) if !is_due(&kept.pair) => kept,
            kept => self.renew(secret, kept).await?,
        };
        if let Err(error) = self.trust(&kept.authorities).await {
            tracing::warn!(%error, "the records API cannot be reached by kubectl: its APIService was not told whom to trust");
        }
        Ok(kept.pair)
    }

    /// Makes a new one; or takes that of another operator, which was faster.
    async fn renew(&self, secret: Option<Secret>, old: Option<Kept>) -> anyhow::Result<Kept> {
        let mut new = self.make().context("a certificate cannot be made")?;
        if let Some(before) = old.as_ref().and_then(|old| first(&old.authorities)) {
            new.authorities = format!("{}\n{before}\n", new.authorities.trim_end());
        }
        // One that nobody trusts must not be shown in place of one that is good.
        if let Some(old) = old
            && let Err(error) = self.trust(&new.authorities).await
        {
            tracing::warn!(%error, "the certificate of the records API is not renewed: its APIService cannot be told");
            return Ok(old);
        }
        let is_new = secret.is_none();
        let mut wanted = secret.unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(self.made.secret.clone()),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/managed-by".into(),
                    "tablemap-operator".into(),
                )])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".into()),
            ..Secret::default()
        });
        let (certificate, key) = new.pair.clone();
        wanted.data = Some(BTreeMap::from([
            (CERTIFICATE.into(), ByteString(certificate)),
            (KEY.into(), ByteString(key)),
            (
                AUTHORITIES.into(),
                ByteString(new.authorities.clone().into_bytes()),
            ),
        ]));
        let (secrets, params) = (self.secrets(), PostParams::default());
        let stored = if is_new {
            within(secrets.create(&params, &wanted)).await
        } else {
            within(secrets.replace(&self.made.secret, &params, &wanted)).await
        };
        match stored {
            Ok(_) => {
                tracing::info!(secret = %self.made.secret, "a certificate of the records API was made");
                Ok(new)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let theirs = within(self.secrets().get(&self.made.secret)).await?;
                read(&theirs).ok_or_else(|| anyhow!("the Secret {} holds no certificate", self.made.secret))
            }
            Err(error) => Err(error).context("the Secret of the certificate cannot be written"),
        }
    }

    fn make(&self) -> Result<Kept, rcgen::Error> {
        let SelfMade {
            namespace, service, ..
        } = &self.made;
        // Its key is needed once, and kept nowhere.
        let mut authority = params(Vec::new(), &format!("{service} authority"))?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let names = ["", ".cluster.local"].map(|domain| format!("{service}.{namespace}.svc{domain}"));
        let mut server = params(names.to_vec(), service)?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;
        Ok(Kept {
            authorities: authority.pem(),
            pair: (certificate.pem().into_bytes(), key.serialize_pem().into_bytes()),
        })
    }

    /// Tells the API server whom to trust, unless it knows.
    async fn trust(&self, authorities: &str) -> Result<(), kube::Error> {
        let api: Api<APIService> = Api::all(self.client.clone());
        let name = format!("{VERSION}.{GROUP}");
        let found = within(api.get(&name)).await?;
        let known = found.spec.and_then(|spec| spec.ca_bundle);
        let bundle = ByteString(authorities.as_bytes().to_vec());
        if known.as_ref() != Some(&bundle) {
            let patch = Patch::Merge(json!({"spec": {"caBundle": bundle}}));
            within(api.patch(&name, &PatchParams::default(), &patch)).await?;
        }
        Ok(())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.made.namespace)
    }
}

fn params(names: Vec<String>, name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |days: i64| {
        let at = Timestamp::now() + Span::new().hours(24 * days);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().cast_unsigned(),
            date.day().cast_unsigned(),
        )
    };
    params.not_before = at(-BEFORE);
    params.not_after = at(DAYS);
    Ok(params)
}

fn read(secret: &Secret) -> Option<Kept> {
    let data = secret.data.as_ref()?;
    let bytes = |name: &str| data.get(name).map(|bytes| bytes.0.clone());
    Some(Kept {
        authorities: String::from_utf8(bytes(AUTHORITIES)?).ok()?,
        pair: (bytes(CERTIFICATE)?, bytes(KEY)?),
    })
}

/// Whether the next is to be made. One that cannot be read is of no use.
fn is_due((certificate, _): &Pair) -> bool {
    let end = CertificateDer::from_pem_slice(certificate).ok().and_then(|der| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    let due = Timestamp::now() + Span::new().hours(24 * LEFT);
    end.is_none_or(|end| end < due.as_second())
}

/// The first certificate of several.
fn first(authorities: &str) -> Option<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    let end = authorities.find(END)? + END.len();
    authorities.get(..end)
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    apiserver::within(DEADLINE, call).await
}
