//! Every built-in type, with its limits, directly, by way of the queue, and parked and tried again: equal at the
//! destination, byte for byte in text form.

use crate::{
    scene::Scene,
    support::{operations::counts, rig::assert_balanced, timing::timed},
};
use std::fmt::Write;

/// Values of each column.
const ROWS: usize = 24;

/// A type, its special values, and an expression of `n` for the others.
struct Type {
    name: &'static str,
    special: &'static [&'static str],
    other: &'static str,
}

const fn of(name: &'static str, special: &'static [&'static str], other: &'static str) -> Type {
    Type { name, special, other }
}

#[rustfmt::skip]
const TYPES: &[Type] = &[
    of("smallint", &["NULL", "-32768", "32767", "0"], "n"),
    of("integer", &["NULL", "-2147483648", "2147483647", "0"], "n"),
    of("bigint", &["NULL", "-9223372036854775808", "9223372036854775807", "0"], "n"),
    of("numeric", &["NULL", "'NaN'", "'Infinity'", "'-Infinity'", "0", "0.000", "-1e-100", "repeat('9', 5000)::numeric", "1.10"], "n / 7.0"),
    of("numeric(10,3)", &["NULL", "'NaN'", "9999999.999", "-9999999.999"], "n * 1.001"),
    of("real", &["NULL", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1e-45", "3.4028235e38", "0.1"], "n / 3.0"),
    of("double precision", &["NULL", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "5e-324", "1.7976931348623157e308", "0.1"], "n / 3.0"),
    of("money", &["NULL", "'-92233720368547758.08'", "'92233720368547758.07'", "0"], "n"),
    of("text", &["NULL", "''", "' '", r"E'\\N'", r"E'\\'", r"E'a\tb\nc\rd\be\ff'", "'''\"{},'", "'käse 🧀'", "'null'", "'NULL'", r"E'\\.'", "repeat('long ', 20000)", r"E'\x01\x7f'"], "md5(n::text)"),
    of("varchar(20)", &["NULL", "''", "'  x  '", "repeat('ä', 20)"], "md5(n::text)::varchar(20)"),
    of("char(8)", &["NULL", "''", "'x'", "'ä'"], "left(md5(n::text), 5)"),
    of("\"char\"", &["NULL", "''", "'x'", r"E'\\377'"], "chr(64 + n)"),
    of("name", &["NULL", "''", "'x'", "repeat('x', 63)"], "md5(n::text)"),
    of("bytea", &["NULL", "''", r"'\x00'", r"'\x5c78ff'", "decode(repeat('00ff', 50000), 'hex')"], "decode(md5(n::text), 'hex')"),
    of("boolean", &["NULL", "true", "false"], "n % 2 = 0"),
    of("date", &["NULL", "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2000-02-29'", "'0001-12-31 BC'"], "date '2026-01-01' + n"),
    of("time", &["NULL", "'00:00'", "'24:00'", "'23:59:59.999999'"], "time '01:00' + n * interval '1.000001 s'"),
    of("time(2)", &["NULL", "'24:00'", "'23:59:59.99'"], "time '01:00' + n * interval '1.01 s'"),
    of("timetz", &["NULL", "'00:00+15:59'", "'24:00-15:59'", "'12:00:00.000001+05:30:15'"], "timetz '01:00+01' + n * interval '1 s'"),
    of("timestamp", &["NULL", "'infinity'", "'-infinity'", "'4713-01-01 00:00 BC'", "'294276-12-31 23:59:59.999999'"], "timestamp '2026-01-01' + n * interval '1.000001 s'"),
    of("timestamptz", &["NULL", "'infinity'", "'-infinity'", "'4713-01-02 00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'", "'1890-01-01 12:00:07+00'"], "timestamptz '2026-01-01' + n * interval '1.000001 s'"),
    of("timestamptz(0)", &["NULL", "'infinity'"], "timestamptz '2026-01-01' + n * interval '1 s'"),
    of("interval", &["NULL", "'0'", "'-1 mon 2 days -03:04:05.6'", "'178000000 years'", "'-178000000 years'", "'1 mon'", "'30 days'", "'24:00'", "'2562047788:00:54.775807'"], "n * interval '1 mon 1 day 1.000001 s'"),
    of("uuid", &["NULL", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"], "md5(n::text)::uuid"),
    of("json", &["NULL", "'null'", "'{\"a\": 1, \"a\": 2}'", "' [1 ,  2] '", r#"'"\u00e4\\\""'"#, "'1e400'"], "json_build_object('n', n, 't', 'ä')"),
    of("jsonb", &["NULL", "'null'", "'{}'", "'[]'", "'{\"b\": [1, {\"a\": null}], \"a\": \"\\\"\"}'", "'1.00'", "'123456789012345678901234567890.1'"], "jsonb_build_object('n', n, 't', 'ä')"),
    of("jsonpath", &["NULL", "'$'", "'$.a[*] ? (@.b > 1)'"], "('$.a[' || n || ']')::jsonpath"),
    of("xml", &["NULL", "'<a/>'", "'<?xml version=\"1.0\"?><a b=\"1\">ä</a>'", "'text'"], "('<n>' || n || '</n>')::xml"),
    of("inet", &["NULL", "'0.0.0.0/0'", "'10.1.2.3/8'", "'::1'", "'fe80::1/64'"], "inet '10.0.0.0' + n"),
    of("cidr", &["NULL", "'0.0.0.0/0'", "'10.0.0.0/8'", "'fe80::/64'"], "('10.0.' || n || '.0/24')::cidr"),
    of("macaddr", &["NULL", "'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"], "('08:00:2b:01:02:' || lpad(to_hex(n), 2, '0'))::macaddr"),
    of("macaddr8", &["NULL", "'00:00:00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff:ff:ff'"], "('08:00:2b:01:02:03:04:' || lpad(to_hex(n), 2, '0'))::macaddr8"),
    of("bit(5)", &["NULL", "B'00000'", "B'11111'"], "n::bit(5)"),
    of("varbit", &["NULL", "B''", "B'1'", "repeat('10', 1000)::varbit"], "n::bit(32)::varbit"),
    of("point", &["NULL", "'(NaN,Infinity)'", "'(-0,1e-300)'"], "point(n, n / 3.0)"),
    of("line", &["NULL", "'{1,-1,0.1}'"], "line(point(0, n), point(1, 2 * n))"),
    of("lseg", &["NULL", "'[(0,0),(1e300,-1)]'"], "lseg(point(0, n), point(1, n))"),
    of("box", &["NULL", "'(1,1),(0,0)'"], "box(point(0, n), point(n, 0))"),
    of("path", &["NULL", "'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"], "path(polygon(box(point(0, n), point(n, 0))))"),
    of("polygon", &["NULL", "'((0,0),(1,1),(2,0))'"], "polygon(box(point(0, n), point(n, 0)))"),
    of("circle", &["NULL", "'<(0,0),0>'"], "circle(point(n, n), n)"),
    of("tsvector", &["NULL", "''", "'a:1A,16383 b'", "$$'it''s' '\\\\x'$$"], "to_tsvector('simple', md5(n::text) || ' x')"),
    of("tsquery", &["NULL", "''", "'a & (b | !c) <2> d:*A'"], "to_tsquery('simple', 'a' || n)"),
    of("pg_lsn", &["NULL", "'0/0'", "'FFFFFFFF/FFFFFFFF'"], "pg_lsn '0/0' + n"),
    of("oid", &["NULL", "0", "4294967295"], "n"),
    of("xid8", &["NULL", "'0'", "'18446744073709551615'"], "n::text::xid8"),
    of("xid", &["NULL", "'0'", "'4294967295'"], "n::text::xid"),
    of("tid", &["NULL", "'(0,0)'", "'(4294967295,65535)'"], "('(1,' || n || ')')::tid"),
    of("regclass", &["NULL", "'pg_class'"], "'pg_type'::regclass"),
    of("int2vector", &["NULL", "''", "'1 2 3'"], "n::text::int2vector"),
    of("pg_snapshot", &["NULL", "'1:1:'", "'10:20:10,14,15'"], "(n || ':' || n || ':')::pg_snapshot"),
    of("int4range", &["NULL", "'empty'", "'(,)'", "'[1,)'"], "int4range(n, 2 * n)"),
    of("int8range", &["NULL", "'empty'", "'(,5]'"], "int8range(n, 2 * n)"),
    of("numrange", &["NULL", "'empty'", "'(0.10,1.000]'", "'[NaN,NaN]'"], "numrange(n, n + 0.5)"),
    of("daterange", &["NULL", "'[-infinity,infinity]'"], "daterange(date '2026-01-01', date '2026-01-01' + n)"),
    of("tsrange", &["NULL", "'[\"2026-01-01 00:00:00.000001\",)'"], "tsrange(timestamp '2026-01-01', timestamp '2026-01-01' + n * interval '1 h')"),
    of("tstzrange", &["NULL", "'(,infinity)'"], "tstzrange(timestamptz '2026-01-01', timestamptz '2026-01-01' + n * interval '1 h')"),
    of("int4multirange", &["NULL", "'{}'", "'{[1,3),[5,)}'"], "int4multirange(int4range(n, 2 * n))"),
    of("tstzmultirange", &["NULL", "'{}'"], "tstzmultirange(tstzrange(timestamptz '2026-01-01', timestamptz '2026-01-01' + n * interval '1 h'))"),
    of("mood", &["NULL", "'so so'", "'ä''\"\\'", "'NULL'"], "(ARRAY['so so', 'NULL'])[1 + n % 2]::mood"),
    of("percent", &["NULL", "0", "100"], "n"),
    of("outer_percent", &["NULL", "0", "50"], "n"),
    of("pair", &["NULL", "ROW(NULL, NULL)", "ROW('', 0)", r#"ROW(E'a,b"c\\d(e)', 1)"#], "ROW('x', n)::pair"),
    of("words", &["NULL", "'{}'", "'{\"\",NULL,\"NULL\"}'"], "ARRAY[n::text]"),
];

const OWN: &str = r#"
    CREATE TYPE mood AS ENUM ('so so', 'ä''"\', 'NULL');
    CREATE DOMAIN percent AS integer CHECK (VALUE BETWEEN 0 AND 100);
    CREATE DOMAIN outer_percent AS percent CHECK (VALUE <= 50);
    CREATE TYPE pair AS (word text, number integer);
    CREATE DOMAIN words AS text[];
"#;

/// Such a column at index `i`, and one of its arrays beside it.
fn columns() -> Vec<String> {
    (0..TYPES.len())
        .flat_map(|i| [format!("c{i}"), format!("a{i}")])
        .collect()
}

/// The table `name` with all columns.
fn table(name: &str) -> String {
    let mut sql = format!("CREATE TABLE {name} (id bigint PRIMARY KEY");
    for (i, kind) in TYPES.iter().enumerate() {
        write!(sql, ", c{i} {0}, a{i} {0}[]", kind.name).unwrap();
    }
    sql + ");"
}

/// Fills the table of values.
fn fill() -> String {
    let mut sql = table("sample");
    for n in 1..=ROWS {
        let value = |kind: &Type, n: usize| match kind.special.get(n - 1) {
            Some(text) => format!("({text})::{}", kind.name),
            None => format!(
                "(SELECT ({})::{} FROM (SELECT {n}::integer AS n) numbers)",
                kind.other, kind.name
            ),
        };
        let cells = TYPES.iter().map(|kind| {
            let (one, next) = (value(kind, n), value(kind, n % ROWS + 1));
            let array = match n {
                1 => "NULL".to_owned(),
                2 => format!("'{{}}'::{}[]", kind.name),
                3 => format!("ARRAY[[{one}, NULL], [{next}, {one}]]::{}[]", kind.name),
                _ => format!("ARRAY[{one}, NULL, {next}]::{}[]", kind.name),
            };
            format!("{one}, {array}")
        });
        let cells: Vec<String> = cells.collect();
        writeln!(sql, "INSERT INTO sample VALUES ({n}, {});", cells.join(", ")).unwrap();
    }
    sql
}

/// Gives every row the values of one that is so many further.
fn shift(by: usize) -> String {
    let set: Vec<String> = columns()
        .iter()
        .map(|name| format!("{name} = sample.{name}"))
        .collect();
    format!(
        "UPDATE types SET {} FROM sample WHERE sample.id = (types.id + {by}) % {ROWS} + 1",
        set.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_it_is() {
    let _time = timed("every_type_arrives_as_it_is");
    let names = columns();
    let mut map = vec!["types", "id"];
    map.extend(names.iter().map(String::as_str));
    let scene = Scene::start(&format!("{OWN}{}", table("types")), "", &[&map], &[]).await;
    let (rig, crm) = (&scene.rig, &scene.crm);
    crm.batch_execute(&fill()).await.unwrap();
    let run = async |sql: &str| crm.batch_execute(sql).await.unwrap();

    run("INSERT INTO types SELECT * FROM sample").await;
    rig.equal("types", "id").await;
    run(&shift(1)).await;
    rig.equal("types", "id").await;

    scene.pause().await;
    run(&shift(2)).await;
    run("DELETE FROM types WHERE id % 5 = 0").await;
    let more = names.join(", ");
    run(&format!(
        "INSERT INTO types (id, {more}) SELECT id + 100, {more} FROM sample"
    ))
    .await;
    scene.resume().await;
    rig.equal("types", "id").await;
    let status = rig.settled("types").await;
    assert_eq!(status["errors"]["count"], 0, "{:#}", status["errors"]);
    assert_balanced(&status);

    let at_destination = async |sql: &str| scene.erp.batch_execute(sql).await.unwrap();
    at_destination("ALTER TABLE types ADD CONSTRAINT closed CHECK (false) NOT VALID").await;
    run(&format!(
        "INSERT INTO types (id, {more}) SELECT id + 200, {more} FROM sample"
    ))
    .await;
    scene.errors("types", ROWS as u64).await;
    at_destination("ALTER TABLE types DROP CONSTRAINT closed").await;
    rig.ask_errors("again", "types", "Retry", "{type: All}");
    let again = rig.ended("again").await;
    assert_eq!(counts(&again), [ROWS as u64, ROWS as u64, 0, 0, 0], "{again:#}");
    rig.equal("types", "id").await;
    scene.errors("types", 0).await;
    rig.settled("types").await;
}
