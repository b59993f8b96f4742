-- Notes each change of a row, in order: at the source as the destination should have it, at the destination as it was written.
-- `state` is the row after it. The trigger's arguments: the map, and key and text of a row, which is $1.
CREATE SCHEMA audit;
CREATE TABLE audit.change (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map   text NOT NULL,
    key   text NOT NULL,
    state text NOT NULL
);

-- The same text whatever the writer's settings are.
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    look text := format('SELECT (%s)::text, %s', TG_ARGV[1], TG_ARGV[2]);
    name text;
    was text;
    becomes text;
BEGIN
    IF TG_OP <> 'INSERT' THEN EXECUTE look INTO name, was USING OLD; END IF;
    IF TG_OP <> 'DELETE' THEN EXECUTE look INTO name, becomes USING NEW; END IF;
    -- What the filter keeps out both before and after is none of the destination's.
    IF was IS NOT NULL OR becomes IS NOT NULL THEN
        INSERT INTO audit.change (map, key, state) VALUES (TG_ARGV[0], name, coalesce(becomes, 'no row'));
    END IF;
    RETURN NULL;
END
$$;
