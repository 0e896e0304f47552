-- What a detach leaves: `chunks_<id>` and `kept_<id>` of what was generation `id`.
CREATE TABLE seamark.donor (
    id integer PRIMARY KEY,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key jsonb NOT NULL,
    model_id integer NOT NULL REFERENCES seamark.model (id),
    precision text,
    detached_at bigint NOT NULL
);
COMMENT ON COLUMN seamark.donor.key IS 'name and type of each column of the key';
CREATE INDEX donor_table ON seamark.donor (table_name, schema_name);

-- What indexing has cost, by generation and worker. `tokens` is what the model's provider says that it bills.
CREATE TABLE seamark.spend (
    generation_id integer NOT NULL REFERENCES seamark.generation (id) ON DELETE CASCADE,
    worker text NOT NULL,
    calls bigint NOT NULL,
    texts bigint NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (generation_id, worker)
) WITH (fillfactor = 50);

-- The vectors of rows that are outside the source's `where`, and in the table all the same: a table for each vector generation.
DO $$
DECLARE
    generation integer;
    keys text;
BEGIN
    FOR generation IN SELECT id FROM seamark.generation WHERE kind = 'vector' LOOP
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO keys FROM pg_catalog.pg_attribute
        WHERE attrelid = ('seamark.chunks_' || generation)::regclass AND attname ~ '^k[0-9]+$';
        EXECUTE 'CREATE TABLE seamark.kept_' || generation || ' AS SELECT ' || keys
            || ', digest, embedding FROM seamark.chunks_' || generation || ' WITH NO DATA';
        EXECUTE 'ALTER TABLE seamark.kept_' || generation || ' ADD PRIMARY KEY (' || keys
            || ', digest), ALTER embedding SET NOT NULL';
    END LOOP;
END
$$;
