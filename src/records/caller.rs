//! Who asks, as the front proxy says.

use super::{fault::Fault, front::Front};
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub user: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// # Errors
    /// The request does not come from the front proxy, or says of nobody that he asks.
    pub fn of(
        front: Option<&Front>,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
    ) -> Result<Self, Fault> {
        let front = front.ok_or(Fault::Unauthorized("the front proxy is not known yet"))?;
        front.check(certificates).map_err(Fault::Unauthorized)?;
        let texts = |name: &str| -> Result<Vec<String>, Fault> {
            let text = |value: &HeaderValue| std::str::from_utf8(value.as_bytes()).map(str::to_owned);
            let all: Result<Vec<String>, _> = headers.get_all(name).iter().map(text).collect();
            all.map_err(|_| Fault::Unauthorized("it names a user or group that is not UTF-8"))
        };
        let of_all = |names: &[String]| -> Result<Vec<String>, Fault> {
            let all: Vec<Vec<String>> = names.iter().map(|name| texts(name)).collect::<Result<_, _>>()?;
            Ok(all.concat())
        };
        let user = of_all(&front.user)?.into_iter().find(|user| !user.is_empty());
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in headers.keys().map(http::HeaderName::as_str) {
            if let Some(rest) = front.extra.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                extra.entry(unescape(rest)).or_default().extend(texts(name)?);
            }
        }
        Ok(Self {
            user: user.ok_or(Fault::Unauthorized("it names no user"))?,
            groups: of_all(&front.groups)?,
            extra,
        })
    }
}

/// Keys hold what a header's name cannot, percent-encoded.
fn unescape(name: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(name);
    decoded.decode_utf8_lossy().into_owned()
}
