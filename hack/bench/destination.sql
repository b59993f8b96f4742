-- Notes when new rows become visible, from within the server: no client is quick enough. A snapshot is older than the
-- time that is noted, so what is measured is never too short. It commits at each look, so that it holds up no clean-up.
CREATE TABLE watching (is_on boolean);
INSERT INTO watching VALUES (true);

CREATE PROCEDURE watch() LANGUAGE plpgsql AS $$
DECLARE
    top bigint := 0;
    now_top bigint;
    times timestamptz[] := '{}';
    tops bigint[] := '{}';
BEGIN
    WHILE (SELECT is_on FROM watching) LOOP
        SELECT coalesce(max(id), 0) INTO now_top FROM items;
        IF now_top > top THEN
            top := now_top;
            times := times || clock_timestamp();
            tops := tops || top;
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.0005);
    END LOOP;
    CREATE TEMP TABLE sightings AS SELECT * FROM unnest(times, tops) AS s (seen, top);
END
$$;
