//! Rows in thousands: COPY into a table of the session, then one statement.

use super::{
    error::{Meaning, meaning},
    fast::Row,
    target::Target,
};
use crate::mapping::{Key, Value, key_columns};
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use std::collections::HashSet;
use tokio_postgres::Client;

/// From so many rows of one table on, COPY is faster than statements.
pub const FROM: usize = 50;
/// COPY data is sent in pieces of about this size.
const PIECE: usize = 1 << 18;

/// From so many new rows on, COPY into the table itself is faster than statements.
pub const COPY_FROM: usize = 20;

/// Inserts rows that are not there. One that is makes it fail.
pub async fn insert(client: &Client, target: &Target, rows: &[Row<'_, '_>]) -> Result<(), Meaning> {
    let sql = target.copy_sql(&target.qualified(), false);
    copy(client, &sql, rows.iter().map(|(_, row)| row.iter().map(Some))).await
}

/// Upserts rows by way of the session's table `stage`.
pub async fn upsert<'s>(
    client: &Client,
    target: &Target,
    stage: &'s str,
    rows: &[Row<'_, '_>],
    used: &mut HashSet<&'s str>,
) -> Result<(), Meaning> {
    empty(client, stage, used).await?;
    copy(
        client,
        &target.copy_sql(stage, false),
        rows.iter().map(|(_, row)| row.iter().map(Some)),
    )
    .await?;
    client
        .execute(&target.merge_sql(stage), &[])
        .await
        .map_err(|error| meaning(&error))?;
    Ok(())
}

/// Makes a table of the session empty that this transaction has used already; its end empties all of them.
async fn empty<'s>(client: &Client, stage: &'s str, used: &mut HashSet<&'s str>) -> Result<(), Meaning> {
    if used.insert(stage) {
        return Ok(());
    }
    client
        .batch_execute(&format!("TRUNCATE {stage}"))
        .await
        .map_err(|error| meaning(&error))
}

/// Deletes rows by key by way of the session's table `stage`.
pub async fn delete<'s>(
    client: &Client,
    target: &Target,
    stage: &'s str,
    keys: &[&Key],
    used: &mut HashSet<&'s str>,
) -> Result<(), Meaning> {
    empty(client, stage, used).await?;
    let rows = keys.iter().map(|key| {
        key_columns(key.as_bytes())
            .into_iter()
            .map(|text| Value::Text(text.into()))
    });
    let rows: Vec<Vec<Value<'_>>> = rows.map(Iterator::collect).collect();
    copy(
        client,
        &target.copy_sql(stage, true),
        rows.iter().map(|row| row.iter().map(Some)),
    )
    .await?;
    client
        .execute(&target.sweep_sql(stage), &[])
        .await
        .map_err(|error| meaning(&error))?;
    Ok(())
}

async fn copy<'r, 'a: 'r>(
    client: &Client,
    sql: &str,
    rows: impl Iterator<Item = impl Iterator<Item = Option<&'r Value<'a>>>>,
) -> Result<(), Meaning> {
    let sink = client
        .copy_in::<_, Bytes>(sql)
        .await
        .map_err(|error| meaning(&error))?;
    futures::pin_mut!(sink);
    let mut piece = BytesMut::with_capacity(PIECE + 4096);
    for row in rows {
        put_row(&mut piece, row);
        if piece.len() >= PIECE {
            sink.send(piece.split().freeze())
                .await
                .map_err(|error| meaning(&error))?;
        }
    }
    if !piece.is_empty() {
        sink.send(piece.freeze()).await.map_err(|error| meaning(&error))?;
    }
    sink.finish().await.map_err(|error| meaning(&error))?;
    Ok(())
}

/// One line of COPY's text format (`PostgreSQL` manual, COPY).
fn put_row<'r, 'a: 'r>(out: &mut BytesMut, row: impl Iterator<Item = Option<&'r Value<'a>>>) {
    for (index, value) in row.enumerate() {
        if index > 0 {
            out.put_u8(b'\t');
        }
        match value {
            Some(Value::Text(text)) => put_escaped(out, text),
            _ => out.put_slice(b"\\N"),
        }
    }
    out.put_u8(b'\n');
}

fn put_escaped(out: &mut BytesMut, text: &[u8]) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r');
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        let (plain, tail) = rest.split_at(at);
        out.put_slice(plain);
        let Some((byte, after)) = tail.split_first() else {
            return;
        };
        out.put_slice(match byte {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = after;
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_escaped_as_copy_wants_it() {
        let row = [
            Value::Text(b"a\tb\\\n".as_slice().into()),
            Value::Null,
            Value::Text(b"".as_slice().into()),
        ];
        let mut out = BytesMut::new();
        put_row(&mut out, row.iter().map(Some));
        assert_eq!(&out[..], b"a\\tb\\\\\\n\t\\N\t\n");
    }
}
