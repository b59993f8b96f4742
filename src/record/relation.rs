//! A source table's shape, as pgoutput's Relation message tells it.

/// Which columns the source sends as the old row of an update or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// None: updates and deletes cannot be published.
    Nothing,
    /// The whole old row.
    Full,
    /// A chosen unique index.
    Index,
}

/// One column of a source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
}

/// A source table as described by the stream. A changed table comes as a new value, never as a changed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid` at the source.
    pub id: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

impl Relation {
    /// The index of a column by its exact name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}
