-- Whatever is wrong with audit.written, against audit.change. Of each key, what was written must be changes of the source, in its
-- order, none of them twice, and it must end as the source ended. A change that a later one of its key follows may be left out:
-- a batch writes the last one alone. No row may look twice the same at the source, so that each state is one change.
WITH changed AS (
    SELECT map, key, state, count(*) OVER same AS times, row_number() OVER (of_key ORDER BY id) AS n,
           last_value(state) OVER (of_key ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS at_end
    FROM audit.change WINDOW of_key AS (PARTITION BY map, key), same AS (PARTITION BY map, key, state)
), written AS (
    SELECT map, key, state, w.id, c.n, max(c.n) OVER (PARTITION BY map, key ORDER BY w.id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM audit.written w LEFT JOIN changed c USING (map, key, state)
), written_last AS (
    SELECT DISTINCT ON (map, key) map, key, state FROM audit.written ORDER BY map, key, id DESC
), findings AS (
    SELECT 'came twice at the source, so this check is blind' AS finding, map, key, state FROM changed WHERE times > 1
    UNION ALL
    SELECT 'was never at the source', map, key, state FROM written WHERE n IS NULL
    UNION ALL
    SELECT 'was written twice, or after a later one', map, key, state FROM written WHERE n <= before
    UNION ALL
    SELECT DISTINCT 'is how the source ended, and was not written last', map, key, at_end
    FROM changed LEFT JOIN written_last last USING (map, key) WHERE at_end <> coalesce(last.state, 'no row')
)
SELECT format('%s %s: %s %s', map, key, state, finding) FROM findings LIMIT 10;
