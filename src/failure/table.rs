//! One row for each SQLSTATE, or class of them, that has something of its own to say.

use super::{
    Class::{self, Application, BadRequest, Schema, Throttled, Timeout, Unauthorized, Unavailable},
    Fault::{self, Destination, Record, Retry},
    Verdict,
};

/// A pattern is the beginning of a SQLSTATE; the longest one counts.
type Row = (&'static str, Verdict);

const fn row(pattern: &'static str, fault: Fault, class: Class, remedy: &'static str) -> Row {
    (pattern, Verdict { class, fault, remedy })
}

#[rustfmt::skip] // One line an entry: it is a table.
pub(super) const TABLE: &[Row] = &[
    // 08, 28: connection and authentication
    row("08", Destination, Unavailable, "The connection failed: check the server and the network between; writing goes on by itself."),
    row("08004", Destination, Unavailable, "The server rejects connections: check its pg_hba.conf and connection limit; writing goes on by itself."),
    row("08P01", Destination, Unavailable, "The server or a pooler between broke the protocol: connect to the server itself, or by a pooler in session mode."),
    row("28", Destination, Unauthorized, "The server refuses the user: check the Secret's user and password, and pg_hba.conf."),
    row("0L", Destination, Unauthorized, "The server refuses a grant: give the Connection's user the rights that the documentation lists."),
    row("0P", Destination, Unauthorized, "The role does not exist: create it at the destination, or correct the Connection's credentials."),
    // 09, 21, 27, 38, 39, 44, P0: rules of the destination's own
    row("09", Record, Application, "A trigger at the destination failed on this record: correct the record or the trigger, then retry."),
    row("21", Record, Application, "A query in a trigger or rule at the destination found several rows: correct the data or the trigger, then retry."),
    row("27", Record, Application, "A trigger at the destination changes the row that is being written: correct the trigger, then retry."),
    row("38", Record, Application, "A function at the destination failed on this record: correct the record or the function, then retry."),
    row("39", Record, Application, "A function at the destination failed on this record: correct the record or the function, then retry."),
    row("44", Record, Application, "The row is outside the destination view's WITH CHECK OPTION: correct the record or the view, then retry."),
    row("P0", Record, Application, "A procedure at the destination failed on this record: correct the record or the procedure, then retry."),
    row("P0001", Record, Application, "A business rule at the destination refuses the record: read the server's text, correct the record, then retry."),
    // 10, 22: values
    row("10", Record, BadRequest, "The XML in the record cannot be processed: correct it at the source, then retry."),
    row("22", Record, BadRequest, "A value cannot be stored in its column: correct it at the source or with a transform, then retry."),
    row("22001", Record, BadRequest, "A text is too long for its column: widen the column or add the transform `truncate`, then retry."),
    row("22003", Record, BadRequest, "A number is out of the column's range: widen the column or correct the value, then retry."),
    row("22004", Record, BadRequest, "A value must not be NULL: give the field a `default`, then retry."),
    row("22007", Record, BadRequest, "A text is not a date or time: correct it at the source or with a value map, then retry."),
    row("22008", Record, BadRequest, "A date or time is out of range: correct it at the source, then retry."),
    row("22012", Record, BadRequest, "A check, trigger or generated column at the destination divides by zero: correct the value, then retry."),
    row("22021", Record, BadRequest, "A text does not fit the destination's encoding: remove the character, or use a UTF8 database, then retry."),
    row("22P02", Record, BadRequest, "A text cannot be read as the column's type: correct it at the source or with a value map, then retry."),
    row("22P05", Record, BadRequest, "A character does not exist in the destination's encoding: remove it, or use a UTF8 database, then retry."),
    // 23: constraints
    row("23", Record, Application, "A constraint of the destination refuses the record: correct the record or the constraint, then retry."),
    row("23001", Record, Application, "Rows at the destination still refer to this one: delete them first, then retry."),
    row("23502", Record, Application, "A column must not be NULL: map a source column or give the field a `default`, then retry."),
    row("23503", Record, Application, "The row refers to a parent that is not at the destination, or is still referred to: write the parent or remove the children, then retry."),
    row("23505", Record, Application, "Another row has the same value in a unique column: correct one of the two, or add the column to `integrationKey`, then retry."),
    row("23514", Record, Application, "A check constraint refuses the row: correct the value or the constraint, then retry."),
    row("23P01", Record, Application, "An exclusion constraint refuses the row, because it overlaps another: correct one of the two, then retry."),
    // 25, 26, 40, 72: transactions
    row("25", Destination, Unavailable, "The transaction was ended by the server: check its logs; writing goes on by itself."),
    row("25006", Destination, Unavailable, "The server is read-only: name the primary in the Connection's hosts, or end the server's read-only state."),
    row("25P02", Retry, Unavailable, "An earlier statement of the transaction failed: it is tried again by itself."),
    row("25P03", Destination, Timeout, "The server's idle_in_transaction_session_timeout ended the transaction: raise it for the Connection's user."),
    row("25P04", Destination, Timeout, "The server's transaction_timeout ended the transaction: raise it for the Connection's user."),
    row("26", Destination, Unavailable, "The server lost a prepared statement: connect to the server itself, or by a pooler in session mode."),
    row("40", Retry, Unavailable, "The transaction met a conflict: it is tried again by itself."),
    row("40001", Retry, Unavailable, "The transaction met a concurrent change: it is tried again by itself."),
    row("40002", Record, Application, "A deferred constraint of the destination refuses the record: correct the record, then retry."),
    row("40003", Destination, Unavailable, "The server does not know whether the statement was carried out: the position is read again by itself."),
    row("40P01", Retry, Unavailable, "The transaction met a deadlock: it is tried again by itself; if that happens often, write the tables in one order."),
    row("72", Retry, Unavailable, "The server's snapshot is too old: it is tried again by itself."),
    // 0A, 2B, 3D, 3F, 42: the destination's schema
    row("0A", Destination, Schema, "The destination table does not support this write: map to a table or an updatable view."),
    row("2B", Destination, Schema, "Other objects at the destination depend on the table's shape: correct its schema."),
    row("3D", Destination, Schema, "The database does not exist: create it, or correct the Connection's `database`."),
    row("3F", Destination, Schema, "The destination's schema does not exist: create it, or correct `destination.table.schema`."),
    row("42", Destination, Schema, "The mapping does not fit the destination's schema: compare `fields` with the table's columns."),
    row("42501", Destination, Unauthorized, "The user may not write this table: GRANT SELECT, INSERT, UPDATE, DELETE, and let row security policies pass it."),
    row("42703", Destination, Schema, "The destination has no such column: add it, or remove the field."),
    row("42704", Destination, Schema, "A type or object is missing at the destination: create it, or correct the mapping."),
    row("42804", Destination, Schema, "A field's type does not fit its column: change the column's type, or map another field to it."),
    row("42846", Destination, Schema, "A field's type cannot be cast to its column's: change the column's type, or map another field to it."),
    row("428C9", Destination, Schema, "The column is generated at the destination: remove the field, or make the identity GENERATED BY DEFAULT."),
    row("42883", Destination, Schema, "A function or operator is missing at the destination: create it, or check the extensions and the search_path."),
    row("42P01", Destination, Schema, "The destination table does not exist: create it, or correct `destination.table`."),
    row("42P10", Destination, Schema, "No unique index matches `integrationKey`: create one on exactly these columns, neither partial nor deferrable."),
    row("42P17", Destination, Schema, "An object at the destination is defined wrongly: correct its definition."),
    // 53, 54: resources and limits
    row("53", Destination, Unavailable, "The server is short of resources: free some; writing goes on by itself."),
    row("53100", Destination, Unavailable, "The server's disk is full: free space; writing goes on by itself."),
    row("53200", Destination, Unavailable, "The server is out of memory: free some, or lower its settings; writing goes on by itself."),
    row("53300", Destination, Throttled, "The server has too many connections: raise max_connections or close some; writing goes on by itself."),
    row("53400", Destination, Throttled, "A limit of the server's configuration is reached: raise it; writing goes on by itself."),
    row("54", Record, BadRequest, "The record exceeds a limit of the server, such as an index row's size: shorten the value, then retry."),
    row("54001", Record, BadRequest, "A trigger or check at the destination nests too deep on this record: correct it, then retry."),
    // 55, 57: the state of objects and server
    row("55", Destination, Unavailable, "The destination table is not in a state to be written: see the server's text in its log; writing goes on by itself."),
    row("55000", Destination, Schema, "The destination is not in a state for this write: map to a table or an updatable view, with a unique index that is not deferrable."),
    row("55006", Destination, Unavailable, "The destination table is in use by another command: let it end; writing goes on by itself."),
    row("55P03", Destination, Timeout, "The destination table is locked: end the transaction that holds the lock; writing goes on by itself."),
    row("57", Destination, Unavailable, "An operator of the server interrupted the write: writing goes on by itself."),
    row("57014", Destination, Timeout, "The write took too long or was cancelled: look for locks, slow triggers and missing indexes; writing goes on by itself."),
    row("57P01", Destination, Unavailable, "The server is shutting down: start it again; writing goes on by itself."),
    row("57P02", Destination, Unavailable, "The server is restarting after a crash: writing goes on by itself."),
    row("57P03", Destination, Unavailable, "The server does not accept connections yet: writing goes on by itself."),
    row("57P04", Destination, Schema, "The database was dropped: restore it, or correct the Connection's `database`."),
    row("57P05", Destination, Timeout, "The server's idle_session_timeout ended the connection: raise it for the Connection's user."),
    // 58, F0, HV, XX: the server itself
    row("58", Destination, Unavailable, "The server has an I/O error: check its disks and logs; writing goes on by itself."),
    row("F0", Destination, Unavailable, "The server's configuration file has an error: correct it; writing goes on by itself."),
    row("HV", Destination, Unavailable, "The foreign server behind the destination table fails: mend it; writing goes on by itself."),
    row("XX", Destination, Unavailable, "The server has an internal error: check its logs; writing goes on by itself."),
    row("XX001", Destination, Unavailable, "The server reports corrupted data: check its disks and restore the table."),
    row("XX002", Destination, Unavailable, "The server reports a corrupted index: REINDEX it."),
];
