-- The table, at the source and at every destination: about 230 bytes a row.
CREATE TABLE items (
    id       bigint PRIMARY KEY,
    customer text NOT NULL,
    amount   numeric(12, 2) NOT NULL,
    changed  timestamptz NOT NULL,
    note     text NOT NULL
);
