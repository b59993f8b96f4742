//! Field and label selectors (Kubernetes documentation, "Field Selectors", "Labels and Selectors").

use super::{
    fault::Fault,
    object::{Body, LABELS, Object},
    resource::Resource,
};

/// All terms of a request: a record must meet each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    is: Is,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Is {
    In(Vec<String>),
    NotIn(Vec<String>),
    Present,
    Absent,
}

impl Selector {
    /// # Errors
    /// A selector cannot be read, or names something that the resource has not.
    pub fn parse(resource: Resource, fields: &str, labels: &str) -> Result<Self, Fault> {
        let mut terms = Vec::new();
        for term in split(fields, b',').into_iter().filter(|term| !term.is_empty()) {
            terms.push(field_term(resource, term)?);
        }
        for term in split_labels(labels) {
            terms.push(label_term(term)?);
        }
        Ok(Self(terms))
    }

    /// The one value that a field must have, if the selector says so.
    pub fn only(&self, field: &str) -> Option<&str> {
        self.0.iter().find_map(|term| match &term.is {
            Is::In(values) if term.field == field && values.len() == 1 => values.first().map(String::as_str),
            _ => None,
        })
    }

    /// Whether a map's records can be meant at all.
    pub fn may_concern(&self, map: &str, namespace: &str) -> bool {
        self.0.iter().all(|term| match term.field.as_str() {
            "tableMap" => term.is.takes(Some(map)),
            "metadata.namespace" => term.is.takes(Some(namespace)),
            _ => true,
        })
    }

    /// Nothing but the map is selected by: so the map's own counts are those of the list.
    pub fn is_whole_map(&self) -> bool {
        let of_map = |term: &Term| matches!(term.field.as_str(), "tableMap" | "metadata.namespace");
        self.0.iter().all(of_map)
    }

    pub fn takes<B: Body>(&self, object: &Object<B>) -> bool {
        self.0.iter().all(|term| match term.field.as_str() {
            "metadata.name" => term.is.takes(Some(&object.metadata.name)),
            "metadata.namespace" => term.is.takes(Some(&object.metadata.namespace)),
            "key" => term.is.takes_any(|key| object.body.has_key(key)),
            field => term.is.takes(object.body.field(field)),
        })
    }
}

impl Is {
    fn takes(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.iter().any(|known| known == value)),
            Self::NotIn(values) => !value.is_some_and(|value| values.iter().any(|known| known == value)),
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }

    /// The same where an object has several values.
    fn takes_any(&self, has: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::In(values) => values.iter().any(|value| has(value)),
            Self::NotIn(values) => !values.iter().any(|value| has(value)),
            Self::Present => true,
            Self::Absent => false,
        }
    }
}

/// Splits at a byte that no backslash precedes.
fn split(text: &str, at: u8) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' if !escaped => escaped = true,
            _ if byte == at && !escaped => {
                parts.push(&text[begin..index]);
                begin = index + 1;
            }
            _ => escaped = false,
        }
    }
    parts.push(&text[begin..]);
    parts
}

fn field_term(resource: Resource, term: &str) -> Result<Term, Fault> {
    let unreadable = || {
        Fault::BadRequest(
            "the field selector cannot be read: write `field=value` or `field!=value`, joined by \
                              commas; a comma, `=` or backslash within a value is preceded by a backslash"
                .into(),
        )
    };
    let at = term.find('=').ok_or_else(unreadable)?;
    let (field, value) = (&term[..at], &term[at + 1..]);
    let (field, negated) = match field.strip_suffix('!') {
        Some(field) => (field, true),
        None => (field, false),
    };
    let value = if negated {
        value
    } else {
        value.strip_prefix('=').unwrap_or(value)
    };
    if !resource.selectable().any(|known| known == field) {
        let known: Vec<&str> = resource.selectable().collect();
        return Err(Fault::BadRequest(format!(
            "{} cannot be selected by field `{field}`: use one of {}",
            resource.plural(),
            known.join(", ")
        )));
    }
    let values = vec![unescape(value).ok_or_else(unreadable)?];
    Ok(Term {
        field: field.to_owned(),
        is: if negated {
            Is::NotIn(values)
        } else {
            Is::In(values)
        },
    })
}

/// None: an escape or a sign that stands alone.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                escaped @ ('\\' | ',' | '=') => out.push(escaped),
                _ => return None,
            },
            '=' => return None,
            plain => out.push(plain),
        }
    }
    Some(out)
}

/// Commas within parentheses part values, not terms.
fn split_labels(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut depth) = (0, 0_i32);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[begin..index].trim());
                begin = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text[begin..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn label_term(term: &str) -> Result<Term, Fault> {
    let (label, is) = if let Some((label, value)) = term.split_once("!=") {
        (label, Is::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((label, value)) = term.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (label, Is::In(vec![value.trim().to_owned()]))
    } else if let Some((label, values)) = set(term, " notin") {
        (label, Is::NotIn(values))
    } else if let Some((label, values)) = set(term, " in") {
        (label, Is::In(values))
    } else if let Some(label) = term.strip_prefix('!') {
        (label, Is::Absent)
    } else {
        (term, Is::Present)
    };
    let label = label.trim();
    let known = LABELS.iter().find(|(known, _)| *known == label);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if label.is_empty() || !label.bytes().all(valid) {
        return Err(Fault::BadRequest(
            "the label selector cannot be read: write `label=value`, `label!=value`, `label in (a,b)`, `label notin (a,b)`, \
             `label` or `!label`, joined by commas"
                .into(),
        ));
    }
    Ok(Term {
        // A label that no record has is a field that no record has.
        field: known.map_or_else(|| format!("label {label}"), |(_, field)| (*field).to_owned()),
        is,
    })
}

fn set<'a>(term: &'a str, word: &str) -> Option<(&'a str, Vec<String>)> {
    let (label, rest) = term.split_once(word)?;
    let values = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some((
        label,
        values.split(',').map(|value| value.trim().to_owned()).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::object::{Key, RecordError};
    use proptest::prelude::*;

    fn error(key: &str) -> Object<RecordError> {
        let body = RecordError {
            table_map: "customers".into(),
            key: Key::of(key.as_bytes()),
            old_key: None,
            operation: "Insert".into(),
            class: "Application".into(),
            code: "23503".into(),
            object: None,
            remedy: String::new(),
            attempts: 1,
            retry_status: "Pending".into(),
            first_time: String::new(),
            last_time: String::new(),
            position: String::new(),
        };
        Object::new("sales", "", "customers-e-00000001".into(), 0, body)
    }

    fn takes(fields: &str, labels: &str, key: &str) -> bool {
        let selector = Selector::parse(Resource::RecordErrors, fields, labels).unwrap();
        selector.takes(&error(key))
    }

    #[test]
    fn every_term_must_be_met() {
        for (fields, labels, expected) in [
            ("", "", true),
            ("tableMap=customers", "", true),
            ("tableMap==customers,class!=Schema", "", true),
            ("tableMap=customers,class!=Application", "", false),
            (
                "metadata.name=customers-e-00000001,metadata.namespace=sales",
                "",
                true,
            ),
            ("retryStatus=Failed", "", false),
            (
                "",
                "tablemap.dev/class in (Schema, Application),tablemap.dev/retry-status",
                true,
            ),
            ("", "tablemap.dev/class notin (Schema,Application)", false),
            ("", "tablemap.dev/table-map=customers,!app", true),
            ("", "app", false),
            ("", "tablemap.dev/operation != Delete", true),
        ] {
            assert_eq!(takes(fields, labels, "7"), expected, "{fields} {labels}");
        }
    }

    #[test]
    fn a_key_is_taken_as_the_list_shows_it_and_kubectl_escapes_it() {
        // The columns `C-1,007` and `a=b\`: the key's own escapes, and those of the selector.
        let key = r"C-1\,007,a=b\\";
        assert!(takes(r"key=C-1\\\,007\,a\=b\\\\", "", key));
        assert!(!takes(r"key!=C-1\\\,007\,a\=b\\\\", "", key));
        let selector = Selector::parse(Resource::QueuedRecords, r"key=1\,2", "").unwrap();
        assert_eq!(selector.only("key"), Some("1,2"));
    }

    #[test]
    fn what_cannot_be_selected_by_is_named() {
        let error = Selector::parse(Resource::QueuedRecords, "class=Schema", "").unwrap_err();
        assert!(
            error.to_string().contains("`class`: use one of metadata.name,"),
            "{error}"
        );
        for fields in ["key", r"key=a\b", "key=a=b", r"key=a\"] {
            assert!(
                Selector::parse(Resource::RecordErrors, fields, "").is_err(),
                "{fields}"
            );
        }
        assert!(Selector::parse(Resource::RecordErrors, "", "a b = c").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(fields in ".{0,40}", labels in ".{0,40}") {
            let _ = Selector::parse(Resource::RecordErrors, &fields, &labels);
        }

        #[test]
        fn any_key_can_be_selected(key in "[a-z,=\\\\]{1,12}") {
            let escaped: String = key.chars().flat_map(|c| match c {
                ',' | '=' | '\\' => vec!['\\', c],
                c => vec![c],
            }).collect();
            let selector = format!("key={escaped}");
            prop_assert!(takes(&selector, "", &key));
        }
    }
}
