-- A nightly import, in one transaction.
BEGIN;
CREATE TEMPORARY TABLE imported ON COMMIT DROP AS SELECT nextval('orders_id_seq') AS id FROM generate_series(1, 10000);
INSERT INTO orders (id, cust_no) OVERRIDING SYSTEM VALUE SELECT id, 'C-' || 1000 + id % 50 FROM imported;
INSERT INTO order_lines
    SELECT id, line, 'SKU-' || (random() * 900)::int, line, random() * 100 FROM imported, generate_series(1, 3) line;
COMMIT;
