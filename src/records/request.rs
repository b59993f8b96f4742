//! What a request asks for. Pure.

use super::{
    GROUP, VERSION, fault::Fault, page::Page, resource::Resource, selector::Selector, table::Include,
};
use std::collections::HashMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// For everybody who comes by way of the API server.
    Groups,
    Group,
    Resources,
    Schemas,
    Schema,
    /// For those who may read these records.
    Records(Box<Records>),
}

/// A request for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    pub resource: Resource,
    /// None: all.
    pub namespace: Option<String>,
    pub wanted: Wanted,
    /// As a table with this in its rows.
    pub table: Option<Include>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    List(List),
    One(String),
    Payload(String),
}

/// Which records of which page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub selector: Selector,
    /// Both selectors as they came: a page belongs to them.
    pub selectors: String,
    pub page: Page,
}

impl Records {
    /// Verb and subresource, as roles name them.
    pub const fn verb(&self) -> (&'static str, &'static str) {
        match self.wanted {
            Wanted::List(_) => ("list", ""),
            Wanted::One(_) => ("get", ""),
            Wanted::Payload(_) => ("get", "payload"),
        }
    }

    pub fn name(&self) -> Option<&str> {
        match &self.wanted {
            Wanted::List(_) => None,
            Wanted::One(name) | Wanted::Payload(name) => Some(name),
        }
    }
}

impl Request {
    /// # Errors
    /// There is no such path, or a parameter cannot be read.
    pub fn parse(path: &str, query: &str, accept: &str) -> Result<Self, Fault> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let here = |group: &str, version: &str| group == GROUP && version == VERSION;
        let (resource, namespace, rest): (&str, Option<&str>, &[&str]) = match parts.as_slice() {
            ["apis"] => return Ok(Self::Groups),
            ["apis", group] if *group == GROUP => return Ok(Self::Group),
            ["apis", group, version] if here(group, version) => return Ok(Self::Resources),
            ["openapi", "v3"] => return Ok(Self::Schemas),
            ["openapi", "v3", "apis", group, version] if here(group, version) => return Ok(Self::Schema),
            [
                "apis",
                group,
                version,
                "namespaces",
                namespace,
                resource,
                rest @ ..,
            ] if here(group, version) => (resource, Some(namespace), rest),
            ["apis", group, version, resource] if here(group, version) => (resource, None, &[]),
            _ => return Err(Fault::NoSuchPath),
        };
        let resource = Resource::named(resource).ok_or(Fault::NoSuchPath)?;
        let parameters = Parameters::read(query);
        let wanted = match rest {
            [] => Wanted::List(list(resource, &parameters)?),
            [name] => Wanted::One((*name).to_owned()),
            [name, "payload"] => Wanted::Payload((*name).to_owned()),
            _ => return Err(Fault::NoSuchPath),
        };
        Ok(Self::Records(Box::new(Records {
            resource,
            namespace: namespace.map(str::to_owned),
            wanted,
            table: wants_table(accept).then(|| parameters.include()),
        })))
    }
}

fn list(resource: Resource, parameters: &Parameters) -> Result<List, Fault> {
    if matches!(parameters.get("watch"), "true" | "1") {
        return Err(Fault::MethodNotAllowed);
    }
    let (fields, labels) = (parameters.get("fieldSelector"), parameters.get("labelSelector"));
    let selectors = format!("{fields}&{labels}");
    let of = |name| Some(parameters.get(name));
    Ok(List {
        selector: Selector::parse(resource, fields, labels)?,
        page: Page::parse(resource, &selectors, of("limit"), of("continue"))?,
        selectors,
    })
}

/// A table, unless a plain object is asked for first.
fn wants_table(accept: &str) -> bool {
    let first = accept.split(',').next().unwrap_or_default();
    let mut parameters = first.split(';').skip(1).map(str::trim);
    parameters.any(|parameter| parameter == "as=Table")
}

struct Parameters(HashMap<String, String>);

impl Parameters {
    fn read(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn include(&self) -> Include {
        match self.get("includeObject") {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &str, query: &str, accept: &str) -> Records {
        let path = format!("/apis/{GROUP}/{VERSION}/{path}");
        match Request::parse(&path, query, accept).unwrap() {
            Request::Records(records) => *records,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths() {
        let listed = records(
            "namespaces/sales/recorderrors",
            "limit=500&fieldSelector=key%3D1%5C%2C2",
            "",
        );
        assert_eq!(
            (listed.resource, listed.namespace.as_deref()),
            (Resource::RecordErrors, Some("sales"))
        );
        assert!(matches!(listed.wanted, Wanted::List(ref list) if list.selector.only("key") == Some("1,2")));
        assert_eq!(records("queuedrecords", "", "").namespace, None);
        let payload = records("namespaces/sales/queuedrecords/a-q-1-2/payload", "", "");
        assert_eq!(
            (payload.verb(), payload.name()),
            (("get", "payload"), Some("a-q-1-2"))
        );
        for path in [
            "/",
            "/apis/apps",
            "/api/v1",
            "/apis/records.tablemap.dev/v1alpha1/pods",
        ] {
            assert_eq!(Request::parse(path, "", ""), Err(Fault::NoSuchPath), "{path}");
        }
    }

    #[test]
    fn a_table_is_for_those_who_ask_for_it() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(
            records("queuedrecords", "", kubectl).table,
            Some(Include::Metadata)
        );
        assert_eq!(
            records("queuedrecords", "includeObject=Object", kubectl).table,
            Some(Include::Object)
        );
        assert_eq!(records("queuedrecords", "", "application/json").table, None);
    }

    #[test]
    fn a_watch_is_refused() {
        let path = format!("/apis/{GROUP}/{VERSION}/recorderrors");
        assert_eq!(
            Request::parse(&path, "watch=true", ""),
            Err(Fault::MethodNotAllowed)
        );
    }
}
