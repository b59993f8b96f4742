-- Sentences of random words. Neighbouring rows never share one, so nothing is easier to compress than real text.
CREATE TABLE notes (n int PRIMARY KEY, note text NOT NULL);

-- Content follows from the id, so that the same rows can be made again for another tool.
CREATE FUNCTION rows_of(first bigint, last bigint, step bigint, revision int) RETURNS SETOF items
LANGUAGE sql STABLE AS $$
    SELECT id, 'Customer ' || id * 7919 % 1000003, (id * 31 % 100000)::numeric / 100 + revision,
           timestamptz '2026-01-01 00:00:00Z' + id * interval '1 second' + revision * interval '1 day', note
    FROM generate_series(first, last, step) id JOIN notes ON n = (id * 7 + revision) % 20000
$$;

-- Inserts, then updates of every second row, so many rows a transaction. With tables above 0 each transaction is of the
-- next one of item_0, item_1 and so on.
CREATE PROCEDURE backlog(first bigint, rows bigint, per bigint, tables int) LANGUAGE plpgsql AS $$
DECLARE
    name text := 'items';
    number int := 0;
BEGIN
    FOR start IN first .. first + rows - 1 BY per LOOP
        IF tables > 0 THEN name := 'item_' || number % tables; END IF;
        EXECUTE format('INSERT INTO %I SELECT * FROM rows_of($1, $2, 1, 0)', name)
            USING start, least(start + per, first + rows) - 1;
        COMMIT;
        number := number + 1;
    END LOOP;
    number := 0;
    FOR start IN first .. first + rows - 1 BY per LOOP
        IF tables > 0 THEN name := 'item_' || number % tables; END IF;
        EXECUTE format('UPDATE %I i SET (amount, changed, note) = (r.amount, r.changed, r.note)
                        FROM rows_of($1, $2, 2, 1) r WHERE i.id = r.id', name)
            USING start + 1, least(start + per, first + rows) - 1;
        COMMIT;
        number := number + 1;
    END LOOP;
END
$$;

-- A steady load: so many transactions a second. Half of their rows are new, half are updates of the rows 1 to 10,000.
CREATE PROCEDURE live(first bigint, rows int, transactions int, seconds int) LANGUAGE plpgsql AS $$
DECLARE
    id bigint := first;
    half int := rows / 2;
    turn int := 0;
    due timestamptz := clock_timestamp();
BEGIN
    FOR turn IN 0 .. transactions * seconds - 1 LOOP
        INSERT INTO items SELECT * FROM rows_of(id, id + half - 1, 1, 0);
        UPDATE items i SET amount = i.amount + 1 WHERE i.id > turn * half % 9900 AND i.id <= turn * half % 9900 + half;
        COMMIT;
        id := id + half;
        due := due + interval '1 second' / transactions;
        PERFORM pg_sleep(greatest(0, extract(epoch FROM due - clock_timestamp())));
    END LOOP;
END
$$;
