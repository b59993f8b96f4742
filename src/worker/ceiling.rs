//! What no map may have queued, whatever its spec says: in the whole installation, and in one namespace. Pure.

use super::limits::Measures;
use std::{collections::BTreeMap, str::FromStr, time::Duration};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    all: Measures,
    of: BTreeMap<String, Measures>,
}

/// One bound as an argument: `500000`, or `sales=500000` for one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub namespace: Option<String>,
    pub most: u64,
}

impl FromStr for Bound {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, number) = match text.split_once('=') {
            Some((namespace, number)) => (Some(namespace.to_owned()), number),
            None => (None, text),
        };
        match number.parse() {
            Ok(most) if namespace.as_deref() != Some("") => Ok(Self { namespace, most }),
            _ => Err("write a whole number, or NAMESPACE=NUMBER"),
        }
    }
}

impl Ceilings {
    #[must_use]
    pub fn new(records: &[Bound], bytes: &[Bound], age_seconds: &[Bound]) -> Self {
        let mut ceilings = Self::default();
        for bound in records {
            ceilings.lower(bound, |most| Measures {
                records: Some(most),
                ..Measures::default()
            });
        }
        for bound in bytes {
            ceilings.lower(bound, |most| Measures {
                bytes: Some(most),
                ..Measures::default()
            });
        }
        for bound in age_seconds {
            ceilings.lower(bound, |most| Measures {
                age: Some(Duration::from_secs(most)),
                ..Measures::default()
            });
        }
        ceilings
    }

    fn lower(&mut self, bound: &Bound, measures: impl Fn(u64) -> Measures) {
        let known = match &bound.namespace {
            None => &mut self.all,
            Some(namespace) => self.of.entry(namespace.clone()).or_default(),
        };
        *known = known.within(measures(bound.most));
    }

    /// The lower of both.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Measures {
        let own = self.of.get(namespace).copied().unwrap_or_default();
        self.all.within(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_may_have_less_and_never_more() {
        let bound = |text: &str| text.parse::<Bound>().unwrap();
        let records = [
            bound("100"),
            bound("sales=50"),
            bound("sales=60"),
            bound("stock=500"),
        ];
        let ceilings = Ceilings::new(&records, &[bound("sales=7")], &[]);
        let of = |namespace: &str| (ceilings.of(namespace).records, ceilings.of(namespace).bytes);
        assert_eq!(of("sales"), (Some(50), Some(7)));
        assert_eq!(of("stock"), (Some(100), None));
        assert_eq!(of("others"), (Some(100), None));
        for text in ["", "x", "=5", "sales=", "-1"] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }
}
