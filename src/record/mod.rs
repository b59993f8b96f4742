//! The words of the data plane: positions, relations, rows and changes. No I/O.

mod asleep;
mod change;
mod counters;
mod lsn;
mod origin;
mod parked;
mod position;
mod relation;
mod row;
mod skip;

pub use asleep::{KeyHash, PackId, PackKeys, Waiting, key_hash};
pub use change::{Change, OldRow, Operation};
pub use counters::{Counted, Counters};
pub use lsn::{Lsn, ParseLsnError};
pub use origin::{MARK, Origin};
pub use parked::{Has, Mark, Once, ParkedKey, ParkedRecord, Parks, Retried, RetryStatus};
pub use position::{Era, ParsePositionError, Position};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use row::{Cell, Cells, Row, RowBuilder, RowError};
pub use skip::{Fate, Only, ParseSkipError, Skip};
