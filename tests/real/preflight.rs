//! Every wrong set-up, its condition, and that it ends by itself once the SQL of the message was run.

use crate::support::{
    rig::{NAMESPACE, Rig, SOON, Settings, connections, said, same_map},
    timing::timed,
    wait::wait_until,
};

/// One thing that is wrong with a map's way. Each map has tables of its own, named after it.
struct Wrong {
    map: &'static str,
    /// What makes the tables, if it is not the usual one: at the source and at the destination.
    crm: &'static str,
    erp: &'static str,
    /// Lines of the Connection that differ from the usual ones: this one is then the map's source or destination.
    source: Option<Way>,
    destination: Option<Way>,
    condition: &'static str,
    reason: &'static str,
    /// The words that tell what to do.
    says: &'static str,
    mend: Mend,
}

/// A Connection of the map's own.
#[derive(Clone, Copy)]
struct Way {
    host: &'static str,
    database: &'static str,
    user: &'static str,
    tls: &'static str,
    /// Slot and publication are given, named after the map.
    given: bool,
}

const PLAIN: Way = Way {
    host: "127.0.0.1",
    database: "",
    user: "postgres",
    tls: "{mode: Disable}",
    given: false,
};

#[derive(Clone, Copy)]
enum Mend {
    Crm(&'static str),
    Erp(&'static str),
    /// The Connection is put right.
    Way,
}

const TABLE: &str = "CREATE TABLE NAME (id bigint PRIMARY KEY, note text)";

const USUAL: Wrong = Wrong {
    map: "",
    crm: TABLE,
    erp: TABLE,
    source: None,
    destination: None,
    condition: "SchemaValid",
    reason: "SchemaMismatch",
    says: "",
    mend: Mend::Way,
};

const WRONG: &[Wrong] = &[
    Wrong {
        map: "unknown_host",
        source: Some(Way { host: "nowhere.invalid", ..PLAIN }),
        condition: "SourceConnected",
        reason: "UnknownHost",
        says: "check its name",
        ..USUAL
    },
    Wrong {
        map: "without_tls",
        source: Some(Way { tls: "{mode: Require}", ..PLAIN }),
        condition: "SourceConnected",
        reason: "TLSFailed",
        says: "set ssl = on",
        ..USUAL
    },
    Wrong {
        map: "no_user",
        source: Some(Way { user: "absent", ..PLAIN }),
        condition: "SourceConnected",
        reason: "AuthenticationFailed",
        says: "check user name, password",
        mend: Mend::Crm("CREATE ROLE absent LOGIN SUPERUSER"),
        ..USUAL
    },
    Wrong {
        map: "no_database",
        source: Some(Way { database: "absent", ..PLAIN }),
        condition: "SourceConnected",
        reason: "DatabaseNotFound",
        says: "has no database \"absent\"",
        ..USUAL
    },
    Wrong {
        map: "no_replication",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text);
              CREATE ROLE reader LOGIN; GRANT CREATE ON DATABASE crm TO reader; ALTER TABLE NAME OWNER TO reader",
        source: Some(Way { user: "reader", ..PLAIN }),
        condition: "SourceConnected",
        reason: "PermissionDenied",
        says: "ALTER ROLE <user> LOGIN REPLICATION",
        mend: Mend::Crm("ALTER ROLE reader LOGIN REPLICATION"),
        ..USUAL
    },
    Wrong {
        map: "no_create",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text);
              CREATE ROLE maker LOGIN REPLICATION; ALTER TABLE NAME OWNER TO maker",
        source: Some(Way { user: "maker", ..PLAIN }),
        condition: "SourceConnected",
        reason: "PermissionDenied",
        says: "GRANT CREATE ON DATABASE",
        mend: Mend::Crm("GRANT CREATE ON DATABASE crm TO maker"),
        ..USUAL
    },
    Wrong {
        map: "not_owner",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text);
              CREATE ROLE guest LOGIN REPLICATION; GRANT CREATE ON DATABASE crm TO guest",
        source: Some(Way { user: "guest", ..PLAIN }),
        condition: "SourceConnected",
        reason: "NotOwner",
        says: "ALTER TABLE \"public\".\"not_owner\" OWNER TO",
        mend: Mend::Crm("ALTER TABLE not_owner OWNER TO guest"),
        ..USUAL
    },
    Wrong {
        map: "only_inserts",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text);
              CREATE PUBLICATION NAME FOR TABLE NAME WITH (publish = 'insert');
              SELECT pg_create_logical_replication_slot('NAME', 'pgoutput')",
        source: Some(Way { given: true, ..PLAIN }),
        condition: "SourceConnected",
        reason: "PublicationUnfit",
        says: "SET (publish =",
        mend: Mend::Crm("ALTER PUBLICATION only_inserts SET (publish = 'insert, update, delete, truncate')"),
        ..USUAL
    },
    Wrong {
        map: "not_published",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE PUBLICATION NAME;
              SELECT pg_create_logical_replication_slot('NAME', 'pgoutput')",
        source: Some(Way { given: true, ..PLAIN }),
        condition: "SourceConnected",
        reason: "PublicationUnfit",
        says: "ADD TABLE \"public\".\"not_published\"",
        mend: Mend::Crm("ALTER PUBLICATION not_published ADD TABLE not_published"),
        ..USUAL
    },
    Wrong {
        map: "some_rows",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE PUBLICATION NAME FOR TABLE NAME WHERE (id > 5);
              SELECT pg_create_logical_replication_slot('NAME', 'pgoutput')",
        source: Some(Way { given: true, ..PLAIN }),
        condition: "SourceConnected",
        reason: "PublicationUnfit",
        says: "leaves rows of",
        mend: Mend::Crm("ALTER PUBLICATION some_rows DROP TABLE some_rows; ALTER PUBLICATION some_rows ADD TABLE some_rows"),
        ..USUAL
    },
    Wrong {
        map: "no_slot",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE PUBLICATION NAME FOR TABLE NAME",
        source: Some(Way { given: true, ..PLAIN }),
        condition: "SourceConnected",
        reason: "SlotMissing",
        says: "SELECT pg_create_logical_replication_slot('no_slot', 'pgoutput')",
        mend: Mend::Crm("SELECT pg_create_logical_replication_slot('no_slot', 'pgoutput')"),
        ..USUAL
    },
    Wrong {
        map: "no_source_table",
        crm: "",
        reason: "SourceTableMissing",
        says: "create it, or correct `source.table`",
        mend: Mend::Crm("CREATE TABLE no_source_table (id bigint PRIMARY KEY, note text)"),
        ..USUAL
    },
    Wrong {
        map: "no_source_column",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY)",
        reason: "SourceColumnMissing",
        says: "has no column \"note\"",
        mend: Mend::Crm("ALTER TABLE no_source_column ADD note text"),
        ..USUAL
    },
    Wrong {
        map: "no_identity",
        crm: "CREATE TABLE NAME (id bigint NOT NULL, note text)",
        reason: "KeyUnusable",
        says: "ADD PRIMARY KEY",
        mend: Mend::Crm("ALTER TABLE no_identity ADD PRIMARY KEY (id)"),
        ..USUAL
    },
    Wrong {
        map: "other_identity",
        crm: "CREATE TABLE NAME (id bigint NOT NULL UNIQUE, note text, row bigserial PRIMARY KEY)",
        reason: "KeyUnusable",
        says: "REPLICA IDENTITY FULL",
        mend: Mend::Crm("ALTER TABLE other_identity REPLICA IDENTITY FULL"),
        ..USUAL
    },
    Wrong {
        map: "late_identity",
        crm: "CREATE TABLE NAME (id bigint PRIMARY KEY DEFERRABLE, note text)",
        reason: "KeyUnusable",
        says: "not deferrable",
        mend: Mend::Crm("ALTER TABLE late_identity REPLICA IDENTITY FULL"),
        ..USUAL
    },
    Wrong {
        map: "no_table",
        erp: "",
        says: "has no table \"public\".\"no_table\": create it",
        mend: Mend::Erp("CREATE TABLE no_table (id bigint PRIMARY KEY, note text)"),
        ..USUAL
    },
    Wrong {
        map: "a_view",
        erp: "CREATE VIEW NAME AS SELECT 1::bigint AS id, ''::text AS note",
        says: "is not a table",
        mend: Mend::Erp("DROP VIEW a_view; CREATE TABLE a_view (id bigint PRIMARY KEY, note text)"),
        ..USUAL
    },
    Wrong {
        map: "no_column",
        erp: "CREATE TABLE NAME (id bigint PRIMARY KEY)",
        says: "ALTER TABLE \"public\".\"no_column\" ADD COLUMN \"note\"",
        mend: Mend::Erp("ALTER TABLE no_column ADD COLUMN note text"),
        ..USUAL
    },
    Wrong {
        map: "no_index",
        erp: "CREATE TABLE NAME (id bigint, note text)",
        says: "CREATE UNIQUE INDEX ON \"public\".\"no_index\" (\"id\")",
        mend: Mend::Erp("CREATE UNIQUE INDEX ON no_index (id)"),
        ..USUAL
    },
    Wrong {
        map: "partial_index",
        erp: "CREATE TABLE NAME (id bigint, note text); CREATE UNIQUE INDEX ON NAME (id) WHERE id > 0",
        says: "neither partial nor deferrable",
        mend: Mend::Erp("CREATE UNIQUE INDEX ON partial_index (id)"),
        ..USUAL
    },
    Wrong {
        map: "late_index",
        erp: "CREATE TABLE NAME (id bigint UNIQUE DEFERRABLE, note text)",
        says: "DROP CONSTRAINT \"late_index_id_key\", ADD CONSTRAINT \"late_index_id_key\" UNIQUE (\"id\")",
        mend: Mend::Erp(
            "ALTER TABLE late_index DROP CONSTRAINT late_index_id_key, ADD CONSTRAINT late_index_id_key UNIQUE (id)",
        ),
        ..USUAL
    },
    Wrong {
        map: "float_key",
        erp: "CREATE TABLE NAME (id double precision PRIMARY KEY, note text)",
        says: "\"id\" of",
        mend: Mend::Erp("ALTER TABLE float_key ALTER id TYPE numeric"),
        ..USUAL
    },
    Wrong {
        map: "no_right",
        erp: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE ROLE writer LOGIN;
              GRANT CREATE ON DATABASE erp TO writer; GRANT SELECT, INSERT, UPDATE ON NAME TO writer;
              CREATE SCHEMA IF NOT EXISTS tablemap; GRANT ALL ON SCHEMA tablemap TO writer;
              ALTER DEFAULT PRIVILEGES IN SCHEMA tablemap GRANT ALL ON TABLES TO writer",
        destination: Some(Way { user: "writer", ..PLAIN }),
        says: "GRANT DELETE ON \"public\".\"no_right\" TO \"writer\"",
        mend: Mend::Erp("GRANT DELETE ON no_right TO writer"),
        ..USUAL
    },
    Wrong {
        map: "no_progress",
        erp: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE ROLE clerk LOGIN; GRANT ALL ON NAME TO clerk",
        destination: Some(Way { user: "clerk", ..PLAIN }),
        condition: "DestinationConnected",
        reason: "ProgressNotAllowed",
        says: "GRANT USAGE ON SCHEMA tablemap TO <user>",
        mend: Mend::Erp(
            "GRANT USAGE ON SCHEMA tablemap TO clerk;
             GRANT SELECT, INSERT, UPDATE, DELETE ON tablemap.progress TO clerk",
        ),
        ..USUAL
    },
    Wrong {
        map: "read_only",
        erp: "CREATE TABLE NAME (id bigint PRIMARY KEY, note text); CREATE ROLE quiet LOGIN SUPERUSER;
              ALTER ROLE quiet SET default_transaction_read_only = on",
        destination: Some(Way { user: "quiet", ..PLAIN }),
        condition: "DestinationConnected",
        reason: "ReadOnly",
        says: "default_transaction_read_only",
        mend: Mend::Erp("ALTER ROLE quiet RESET default_transaction_read_only"),
        ..USUAL
    },
    Wrong {
        map: "refused",
        destination: Some(Way { host: "127.0.0.2", ..PLAIN }),
        condition: "DestinationConnected",
        reason: "ConnectionRefused",
        says: "check that Postgres runs there",
        ..USUAL
    },
];

impl Wrong {
    fn sql(&self, text: &str) -> String {
        text.replace("NAME", self.map)
    }

    fn name(&self) -> String {
        self.map.replace('_', "-")
    }

    /// The same, after it was mended.
    fn mended(&self, rig: &Rig) -> String {
        let way = |way: Option<Way>| {
            way.map(|way| {
                if matches!(self.mend, Mend::Way) {
                    PLAIN
                } else {
                    way
                }
            })
        };
        let mended = Self {
            source: way(self.source),
            destination: way(self.destination),
            ..*self
        };
        mended.manifests(rig)
    }

    /// What was printed of the map.
    fn line<'a>(&self, printed: &'a str) -> &'a str {
        let object = format!("TableMap {NAMESPACE}/{}: ", self.name());
        let mut lines = printed.lines().filter(|line| line.contains(&object));
        lines.next().unwrap_or_else(|| panic!("{object}{printed}"))
    }

    /// The map, and the Connection that is wrong.
    fn manifests(&self, rig: &Rig) -> String {
        let map = same_map(self.map, &["id"], &["id", "note"]);
        match (self.source, self.destination) {
            (Some(way), _) => {
                map.replace("{name: crm}", &format!("{{name: {}}}", self.name()))
                    + &self.connection(way, "crm", rig.source.port)
            }
            (_, Some(way)) => {
                map.replace("{name: erp}", &format!("{{name: {}}}", self.name()))
                    + &self.connection(way, "erp", rig.destination.port)
            }
            _ => map,
        }
    }

    fn connection(&self, way: Way, usual: &str, port: u16) -> String {
        let name = self.name();
        let Way { host, user, tls, .. } = way;
        let database = if way.database.is_empty() {
            usual
        } else {
            way.database
        };
        let given = if way.given {
            format!(
                "    replication:\n      management: External\n      slots: [{{workerGroup: default, slotName: {0}, \
                 publicationName: {0}}}]\n",
                self.map
            )
        } else {
            String::new()
        };
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {NAMESPACE}}}
stringData: {{username: {user}, password: unused}}
---
apiVersion: tablemap.dev/v1alpha1
kind: Connection
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  postgres:
    hosts: [{{host: {host}, port: {port}}}]
    database: {database}
    credentials: {{secretRef: {{name: {name}}}}}
    tls: {tls}
    connectTimeoutSeconds: 3
{given}---
"
        )
    }

    async fn is_said(&self, rig: &Rig) {
        let what = format!(
            "{}: {}={}, {:?}",
            self.map, self.condition, self.reason, self.says
        );
        let mut last = serde_json::Value::Null;
        let met = tokio::time::timeout(SOON, async {
            loop {
                let status = rig.status(&self.name()).await;
                let known = said(&status, self.condition).cloned().unwrap_or_default();
                let says = known["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(self.says));
                if known["status"] == "False" && known["reason"] == self.reason && says {
                    return;
                }
                last = status;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        assert!(met.await.is_ok(), "{what}: {last:#}");
    }

    async fn mend(&self, rig: &Rig) {
        match (&self.mend, self.source.is_some()) {
            (Mend::Crm(sql), _) => rig.crm().await.batch_execute(sql).await.unwrap(),
            (Mend::Erp(sql), _) => rig.erp().await.batch_execute(sql).await.unwrap(),
            (Mend::Way, true) => rig.api.apply(&self.connection(PLAIN, "crm", rig.source.port)),
            (Mend::Way, false) => rig
                .api
                .apply(&self.connection(PLAIN, "erp", rig.destination.port)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_map_is_said_and_ends_once_it_is_mended() {
    let _time = timed("what_is_wrong_with_a_map_is_said_and_ends_once_it_is_mended");
    let mut rig = Rig::start_with(Settings {
        source: &[("max_replication_slots", "40"), ("max_wal_senders", "40")],
        ..Settings::default()
    })
    .await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    for wrong in WRONG {
        // One by one: a slot cannot be made after other things in one transaction.
        for sql in wrong.sql(wrong.crm).split(';') {
            crm.batch_execute(sql).await.unwrap();
        }
        erp.batch_execute(&wrong.sql(wrong.erp)).await.unwrap();
    }
    let manifests: String = WRONG.iter().map(|wrong| wrong.manifests(&rig)).collect();
    let usual = connections(rig.source.port, rig.destination.port, rig.redis.port);
    // Before anything is applied, and without a cluster.
    let printed = rig.check(&format!("{usual}{manifests}"), false);
    for wrong in WRONG {
        let line = wrong.line(&printed);
        let is_said = line.starts_with("FAIL") && line.contains(wrong.reason) && line.contains(wrong.says);
        assert!(is_said, "{}: {line}", wrong.map);
    }
    let _operator = rig.operator(&[]);
    rig.api.apply(&manifests);
    for wrong in WRONG {
        wrong.is_said(&rig).await;
        println!("{} is said", wrong.map);
    }
    for wrong in WRONG {
        wrong.mend(&rig).await;
    }
    let mended: String = WRONG.iter().map(|wrong| wrong.mended(&rig)).collect();
    let printed = rig.check(&format!("{usual}{mended}"), false);
    for wrong in WRONG {
        let line = wrong.line(&printed);
        assert!(line.starts_with("ok"), "{line}");
    }
    for wrong in WRONG {
        rig.condition(&wrong.name(), "CaughtUp", "True").await;
        let insert = format!("INSERT INTO {} (id, note) VALUES (6, 'mended')", wrong.map);
        crm.batch_execute(&insert).await.unwrap();
    }
    for wrong in WRONG {
        let sql = format!("SELECT count(*) FROM {} WHERE note = 'mended'", wrong.map);
        let what = format!("the row of {}", wrong.map);
        wait_until(SOON, &what, async || {
            erp.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
    }
}
