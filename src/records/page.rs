//! Pages of a list: how many, and where the next one begins.

use super::{fault::Fault, resource::Resource};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A page without `limit` has as many; so kubectl asks too.
const USUAL: usize = 500;
const MOST: usize = 5000;
/// Of a token; what is longer was not made here.
const LONGEST: usize = 4096;

/// How many records at most, and after which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub limit: usize,
    /// The client knows that there are pages.
    pub is_asked: bool,
    pub after: Option<After>,
}

/// The last record of the page before. It names a position of the source, which stays while the queue moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    v: u8,
    resource: String,
    /// Of what was selected by: another selector is another list.
    selectors: Uuid,
    pub namespace: String,
    pub map: String,
    /// Of the map's object: another one is another queue.
    pub uid: String,
    pub position: String,
    /// Of the queue's entry, where the search goes on.
    pub seq: u64,
}

impl Page {
    /// # Errors
    /// The token was not made for this list.
    pub fn parse(
        resource: Resource,
        selectors: &str,
        limit: Option<&str>,
        token: Option<&str>,
    ) -> Result<Self, Fault> {
        let asked = limit.filter(|limit| !limit.is_empty() && *limit != "0");
        let limit = match asked {
            None => USUAL,
            Some(limit) => limit
                .parse()
                .map_err(|_| Fault::BadRequest("`limit` must be a whole number from 0".into()))?,
        };
        let after = token.filter(|token| !token.is_empty()).map(|token| {
            let after = read(token).ok_or_else(|| {
                Fault::BadRequest("the continue token cannot be read: begin the list anew".into())
            })?;
            if after.resource == resource.plural() && after.selectors == digest(selectors) {
                Ok(after)
            } else {
                Err(Fault::BadRequest(
                    "the continue token is of another list: give the same selectors as for the first page"
                        .into(),
                ))
            }
        });
        Ok(Self {
            limit: limit.clamp(1, MOST),
            is_asked: asked.is_some(),
            after: after.transpose()?,
        })
    }
}

fn digest(selectors: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, selectors.as_bytes())
}

fn read(token: &str) -> Option<After> {
    let bytes = URL_SAFE_NO_PAD.decode(Some(token).filter(|token| token.len() <= LONGEST)?);
    let after: After = serde_json::from_slice(&bytes.ok()?).ok()?;
    (after.v == 1).then_some(after)
}

impl After {
    pub fn new(resource: Resource, selectors: &str) -> Self {
        Self {
            v: 1,
            resource: resource.plural().to_owned(),
            selectors: digest(selectors),
            namespace: String::new(),
            map: String::new(),
            uid: String::new(),
            position: String::new(),
            seq: 0,
        }
    }

    pub fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(selectors: &str, token: &str) -> Result<Page, Fault> {
        Page::parse(Resource::QueuedRecords, selectors, Some("2"), Some(token))
    }

    #[test]
    fn a_token_serves_the_list_that_it_was_made_for() {
        let after = After {
            position: "p".into(),
            seq: 7,
            ..After::new(Resource::QueuedRecords, "key=1")
        };
        let page = parse("key=1", &after.token()).unwrap();
        assert_eq!((page.limit, page.after), (2, Some(after.clone())));
        assert!(parse("key=2", &after.token()).is_err());
        let other = Page::parse(Resource::RecordErrors, "key=1", None, Some(&after.token()));
        assert!(other.is_err());
    }

    #[test]
    fn limits() {
        let limit = |text| Page::parse(Resource::QueuedRecords, "", text, None).map(|page| page.limit);
        assert_eq!(limit(None), Ok(USUAL));
        assert_eq!(limit(Some("0")), Ok(USUAL));
        assert_eq!(limit(Some("99999")), Ok(MOST));
        assert!(limit(Some("-1")).is_err());
    }

    proptest! {
        #[test]
        fn any_token_is_read_or_refused(token in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse("", &token);
            let _ = parse("", &URL_SAFE_NO_PAD.encode(bytes));
        }
    }
}
