//! Makes chunks of the stream's messages. No I/O.

use super::{
    Chunk, SourceError,
    pgoutput::{Begin, Message, decode},
};
use crate::record::{Change, Lsn, MARK, OldRow, Operation, Origin, Position, Relation, Row};
use bytes::{Buf, Bytes};
use std::{collections::HashMap, mem, sync::Arc};

/// Bytes of an `XLogData` before its message: a tag, two positions and a clock.
const HEADER: usize = 25;

/// What the server wants after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// It asked for feedback at once.
    Feedback,
}

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Of the slot: part of every position.
    generation: u32,
    chunk: Chunk,
    relations: HashMap<u32, Arc<Relation>>,
    transaction: Option<Begin>,
    /// From where the transaction was brought, if one of our workers made it.
    origin: Option<Origin>,
    /// Table and position of the last change.
    last: Option<(u32, Position)>,
    /// The end of everything handed out or in the chunk.
    through: Lsn,
    received: Lsn,
}

impl Assembler {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            generation,
            ..Self::default()
        }
    }

    /// Whether the body of one `CopyData` may be added. A table is described anew at the beginning of a chunk: what was
    /// sent before has the shape of before.
    pub(super) fn has_room(&self, body: &[u8]) -> bool {
        let describes = body.first() == Some(&b'w') && body.get(HEADER) == Some(&b'R');
        self.chunk.has_room(body.len()) && (!describes || self.chunk.changes.is_empty())
    }

    pub(super) fn take(&mut self) -> Option<Chunk> {
        if self.chunk.is_empty() {
            return None;
        }
        Some(Chunk {
            received: self.received,
            ..mem::take(&mut self.chunk)
        })
    }

    /// Adds the body of one `CopyData` (`PostgreSQL` manual, "Streaming Replication Protocol").
    pub(super) fn push(&mut self, mut body: Bytes) -> Result<Wish, SourceError> {
        let short = |_| SourceError::Protocol("a replication message ends too early".to_owned());
        match body.try_get_u8().map_err(short)? {
            b'w' => {
                let start = Lsn(body.try_get_u64().map_err(short)?);
                let end = Lsn(body.try_get_u64().map_err(short)?);
                body.try_get_i64().map_err(short)?; // the server's clock
                self.received = self.received.max(end);
                self.add(start, body)?;
                Ok(Wish::Nothing)
            }
            b'k' => {
                let end = Lsn(body.try_get_u64().map_err(short)?);
                body.try_get_i64().map_err(short)?; // the server's clock
                let wish = if body.try_get_u8().map_err(short)? == 0 {
                    Wish::Nothing
                } else {
                    Wish::Feedback
                };
                self.received = self.received.max(end);
                // Inside a transaction it cannot vouch for what has not come yet.
                let limit = self.transaction.map_or(end, |begin| begin.final_lsn);
                self.covered(end.min(limit));
                Ok(wish)
            }
            tag => Err(SourceError::Protocol(format!(
                "an unknown replication message {tag:#04x}"
            ))),
        }
    }

    fn add(&mut self, start: Lsn, body: Bytes) -> Result<(), SourceError> {
        let size = body.len();
        match decode(body)? {
            Message::Begin(begin) => {
                self.origin = None;
                if self.transaction.replace(begin).is_some() {
                    return Err(unexpected("a transaction begins within another"));
                }
            }
            Message::Commit(commit) => {
                if self.transaction.take().is_none() {
                    return Err(unexpected("a commit without a begin"));
                }
                self.received = self.received.max(commit.end_lsn);
                self.covered(commit.end_lsn);
            }
            Message::Relation(relation) => {
                let relation = Arc::new(relation);
                self.relations.insert(relation.id, Arc::clone(&relation));
                self.chunk.relations.push(relation);
            }
            Message::Insert { relation, new } => {
                self.change(start, size, Operation::Insert, relation, None, Some(new))?;
            }
            Message::Update { relation, old, new } => {
                self.change(start, size, Operation::Update, relation, old, Some(new))?;
            }
            Message::Delete { relation, old } => {
                self.change(start, size, Operation::Delete, relation, Some(old), None)?;
            }
            Message::Truncate { relations } => self.chunk.truncates.extend(relations),
            // A worker names its source first of all in a transaction. What comes outside of one is somebody else's.
            Message::Logical {
                transactional: true,
                prefix,
                content,
                ..
            } if prefix == MARK && self.transaction.is_some() => {
                self.origin = std::str::from_utf8(&content)
                    .ok()
                    .and_then(|text| text.parse().ok());
            }
            Message::Origin { .. } | Message::Type { .. } | Message::Logical { .. } => {}
        }
        Ok(())
    }

    fn change(
        &mut self,
        start: Lsn,
        size: usize,
        operation: Operation,
        table: u32,
        old: Option<OldRow>,
        new: Option<Row>,
    ) -> Result<(), SourceError> {
        let begin = self
            .transaction
            .ok_or_else(|| unexpected("a change outside a transaction"))?;
        let relation = self
            .relations
            .get(&table)
            .ok_or_else(|| unexpected("a change of a table not described"))?;
        let rows = old.as_ref().map(OldRow::row).into_iter().chain(new.as_ref());
        if rows.into_iter().any(|row| row.len() != relation.columns.len()) {
            return Err(unexpected("a row with another number of columns than its table"));
        }
        let index = match self.last {
            // The rows of one COPY share a log record.
            Some((last, at)) if last == table && at.commit == begin.final_lsn && at.change == start => {
                at.index + 1
            }
            _ => 0,
        };
        let position = Position {
            generation: self.generation,
            commit: begin.final_lsn,
            change: start,
            index,
        };
        self.last = Some((table, position));
        self.chunk.bytes += size;
        self.chunk.changes.push(Change {
            position,
            operation,
            commit_time: begin.commit_time,
            relation: Arc::clone(relation),
            origin: self.origin.clone(),
            old,
            new,
        });
        Ok(())
    }

    /// Everything that ended at or below `end` is in this chunk or was handed out before.
    fn covered(&mut self, end: Lsn) {
        if end > self.through {
            self.through = end;
            self.chunk.through = Some(Position::through(self.generation, end));
        }
    }
}

fn unexpected(what: &str) -> SourceError {
    SourceError::Protocol(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Cell;
    use bytes::{BufMut, BytesMut};

    fn data(start: u64, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'w');
        bytes.put_u64(start);
        bytes.put_u64(start);
        bytes.put_i64(0);
        write(&mut bytes);
        bytes.freeze()
    }

    fn begin(commit: u64) -> Bytes {
        data(1, |b| {
            b.put_u8(b'B');
            b.put_u64(commit);
            b.put_i64(0);
            b.put_u32(7);
        })
    }

    fn commit(at: u64, end: u64) -> Bytes {
        data(at, |b| {
            b.put_slice(b"C\0");
            b.put_u64(at);
            b.put_u64(end);
            b.put_i64(0);
        })
    }

    fn relation(id: u32) -> Bytes {
        data(1, |b| {
            b.put_u8(b'R');
            b.put_u32(id);
            b.put_slice(b"s\0t\0d\0\x01\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF");
        })
    }

    fn insert(start: u64, id: u32, size: usize) -> Bytes {
        let row: Row = [Cell::Text(&vec![b'x'; size])].into_iter().collect();
        data(start, |b| {
            b.put_u8(b'I');
            b.put_u32(id);
            b.put_u8(b'N');
            b.put_slice(row.as_bytes());
        })
    }

    fn keepalive(end: u64, reply: u8) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'k');
        bytes.put_u64(end);
        bytes.put_i64(0);
        bytes.put_u8(reply);
        bytes.freeze()
    }

    fn push_all(assembler: &mut Assembler, messages: impl IntoIterator<Item = Bytes>) {
        for message in messages {
            assembler.push(message).expect("a good message");
        }
    }

    #[test]
    fn rows_of_one_log_record_count_up_and_the_next_record_starts_anew() {
        let mut assembler = Assembler::new(3);
        let rows = [
            insert(50, 1, 1),
            insert(50, 1, 1),
            insert(60, 1, 1),
            insert(60, 2, 1),
        ];
        push_all(
            &mut assembler,
            [begin(100), relation(1), relation(2)].into_iter().chain(rows),
        );
        let chunk = assembler.take().expect("changes");
        let at = |change: &Change| (change.position.change.0, change.position.index);
        assert_eq!(
            chunk.changes.iter().map(at).collect::<Vec<_>>(),
            [(50, 0), (50, 1), (60, 0), (60, 0)]
        );
        assert_eq!(chunk.through, None, "the transaction is not at its end");
    }

    #[test]
    fn through_never_passes_a_transaction_that_is_not_at_its_end() {
        let mut assembler = Assembler::new(3);
        push_all(
            &mut assembler,
            [begin(100), relation(1), insert(50, 1, 1), keepalive(900, 0)],
        );
        assert_eq!(
            assembler.take().and_then(|chunk| chunk.through),
            Some(Position::through(3, Lsn(100)))
        );
        push_all(&mut assembler, [insert(60, 1, 1), commit(100, 148)]);
        let chunk = assembler.take().expect("the rest");
        assert_eq!(chunk.through, Some(Position::through(3, Lsn(148))));
        assert_eq!(chunk.received, Lsn(900));
    }

    #[test]
    fn a_keepalive_moves_an_idle_stream_once() {
        let mut assembler = Assembler::new(3);
        assert_eq!(assembler.push(keepalive(10, 1)), Ok(Wish::Feedback));
        assert_eq!(
            assembler.take().and_then(|chunk| chunk.through),
            Some(Position::through(3, Lsn(10)))
        );
        assert_eq!(assembler.push(keepalive(10, 0)), Ok(Wish::Nothing));
        assert!(assembler.take().is_none());
    }

    #[test]
    fn a_chunk_takes_no_more_than_its_bytes_and_a_large_row_comes_alone() {
        let mut assembler = Assembler::new(3);
        push_all(&mut assembler, [begin(100), relation(1)]);
        assert!(assembler.has_room(&insert(50, 1, 2 << 20)), "alone");
        push_all(&mut assembler, [insert(50, 1, 2 << 20)]);
        assert!(!assembler.has_room(&insert(50, 1, 1)));
        assert!(assembler.take().is_some());
        push_all(&mut assembler, [insert(60, 1, 600 << 10)]);
        assert!(!assembler.has_room(&insert(60, 1, 600 << 10)));
        assert!(assembler.has_room(&insert(60, 1, 100 << 10)));
    }

    #[test]
    fn a_table_is_described_anew_in_a_chunk_of_its_own() {
        let mut assembler = Assembler::new(3);
        push_all(&mut assembler, [begin(100), relation(1)]);
        assert!(assembler.has_room(&relation(2)));
        push_all(&mut assembler, [insert(50, 1, 1)]);
        assert!(!assembler.has_room(&relation(1)));
        assert!(assembler.has_room(&insert(60, 1, 1)));
        assert!(assembler.take().is_some());
        assert!(assembler.has_room(&relation(1)));
    }

    #[test]
    fn a_mark_holds_for_the_rest_of_its_transaction_and_only_within_one() {
        let message = |flags: u8, prefix: &str, content: &str| {
            data(1, |b| {
                b.put_u8(b'M');
                b.put_u8(flags);
                b.put_u64(1);
                b.put_slice(prefix.as_bytes());
                b.put_u8(0);
                b.put_u32(u32::try_from(content.len()).expect("short"));
                b.put_slice(content.as_bytes());
            })
        };
        let mut assembler = Assembler::new(3);
        push_all(
            &mut assembler,
            [
                message(0, MARK, "outside"),
                begin(100),
                message(0, MARK, "not of the transaction"),
                message(1, "somebody", "else's"),
                relation(1),
                insert(50, 1, 1),
                commit(100, 148),
                begin(200),
                message(1, MARK, "42/crm"),
                insert(150, 1, 1),
                insert(160, 1, 1),
                commit(200, 248),
                begin(300),
                insert(250, 1, 1),
            ],
        );
        let chunk = assembler.take().expect("changes");
        let origins: Vec<_> = chunk.changes.iter().map(|change| change.origin.clone()).collect();
        let marked = Some(Origin::new("42", "crm"));
        assert_eq!(origins, [None, marked.clone(), marked, None]);
    }

    #[test]
    fn messages_out_of_place_are_errors() {
        for messages in [
            vec![insert(50, 1, 1)],
            vec![begin(1), insert(50, 1, 1)],
            vec![begin(1), begin(2)],
            vec![commit(1, 2)],
        ] {
            let mut assembler = Assembler::new(3);
            let outcome = messages
                .into_iter()
                .try_for_each(|message| assembler.push(message).map(drop));
            assert!(matches!(outcome, Err(SourceError::Protocol(_))));
        }
    }
}
