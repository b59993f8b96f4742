//! Relations, rows and changes for the tests.

use super::{FieldSpec, FilterSpec, From, Mapping, OnExit, Transform};
use crate::record::{Cell, Change, Column, OldRow, Operation, Position, Relation, ReplicaIdentity, Row};
use std::sync::Arc;

/// `id integer` (identity), `name text`, `country text`, `amount numeric`.
pub(super) fn relation(identity: ReplicaIdentity) -> Arc<Relation> {
    let column = |name: &str, type_oid, key| Column {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        key,
    };
    let full = identity == ReplicaIdentity::Full;
    let columns = vec![
        column("id", 23, identity != ReplicaIdentity::Nothing),
        column("name", 25, full),
        column("country", 25, full),
        column("amount", 1700, full),
    ];
    Arc::new(Relation {
        id: 1,
        schema: "public".into(),
        name: "customers".into(),
        identity,
        columns,
    })
}

/// `n` is NULL, `u` not sent, all else text.
pub(super) fn row(cells: [&'static str; 4]) -> Row {
    cells
        .into_iter()
        .map(|text| match text {
            "n" => Cell::Null,
            "u" => Cell::NotSent,
            text => Cell::Text(text.as_bytes()),
        })
        .collect()
}

pub(super) fn change(operation: Operation, old: Option<OldRow>, new: Option<Row>) -> Change {
    let identity = match old {
        Some(OldRow::Full(_)) => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Default,
    };
    Change {
        position: Position::ZERO,
        operation,
        commit_time: 0,
        origin: None,
        relation: relation(identity),
        old,
        new,
    }
}

pub(super) fn field(destination: &str, source: &str, transforms: Vec<Transform>) -> FieldSpec {
    FieldSpec {
        destination: destination.into(),
        from: From::Source(source.into()),
        transforms,
    }
}

/// `no` from id (the key), `full_name` from name, `origin` always `crm`.
pub(super) fn mapping(filter: Option<(&str, OnExit)>) -> Mapping {
    let origin = FieldSpec {
        destination: "origin".into(),
        from: From::Constant("crm".into()),
        transforms: vec![],
    };
    let fields = vec![
        field("full_name", "name", vec![]),
        field("no", "id", vec![]),
        origin,
    ];
    let filter = filter.map(|(expression, on_exit)| FilterSpec {
        expression: expression.into(),
        on_exit,
    });
    Mapping::compile(fields, &["no".into()], filter).unwrap()
}
