-- The schema that holds all of Seamark in a PostgreSQL database, but for the triggers on the user's tables.
-- Times are microseconds UTC. The tables of a source and of a generation are made with it, named by its id.

CREATE SCHEMA seamark;
COMMENT ON SCHEMA seamark IS 'Seamark: journals, generations and their indexes';

CREATE TABLE seamark.schema_version (
    version integer NOT NULL
);

CREATE FUNCTION seamark.clock() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint $$;

CREATE FUNCTION seamark.fits(relation regclass, columns name[], types name[], keys integer) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- It raises what we look for, and sees the latest names whatever the snapshot of this transaction.
    PERFORM has_column_privilege(relation, name, 'SELECT') FROM unnest(columns) c (name);
    RETURN (
        SELECT count(*) = cardinality(columns) FROM unnest(columns, types) c (name, type)
        JOIN pg_attribute a ON a.attrelid = relation AND a.attname = c.name
        JOIN pg_type t ON t.oid = a.atttypid AND t.typname = c.type
    ) AND (keys = 0 OR EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary AND i.indnkeyatts = keys AND keys = (
            SELECT count(*) FROM unnest((i.indkey::int2[])[0:keys - 1]) k (number)
            JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = k.number WHERE a.attname = ANY (columns[1:keys])
        )
    ));
EXCEPTION WHEN undefined_column THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION seamark.fits IS
    'whether a table has these columns, with types of these names, and the first so many of them for its key, unless none are '
    'asked for; it is called immutable so that its answer for a constant is made part of a plan, and made anew with it when that '
    'table is altered';

CREATE TABLE seamark.source (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    spec jsonb NOT NULL,
    tables jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('enrolling', 'ready')),
    enrolled jsonb,
    created_at bigint NOT NULL
);
COMMENT ON COLUMN seamark.source.tables IS 'the tables as inspected: the source''s own first, then the touching ones of the spec';

CREATE TABLE seamark.model (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    dimension integer NOT NULL,
    document_prefix text NOT NULL,
    query_prefix text NOT NULL,
    normalised boolean NOT NULL,
    UNIQUE (name, version, dimension, document_prefix, query_prefix, normalised)
);

CREATE TABLE seamark.generation (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer NOT NULL REFERENCES seamark.source (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('lexical', 'vector')),
    fingerprint text NOT NULL,
    identity jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    model_id integer REFERENCES seamark.model (id),
    locator text,
    origin bigint NOT NULL,
    fresh bigint NOT NULL,
    backfill bigint NOT NULL,
    confirmed bigint NOT NULL,
    mark bigint,
    horizon bigint NOT NULL DEFAULT 0,
    swept bigint NOT NULL,
    origin_horizon bigint NOT NULL,
    backoff_until bigint NOT NULL DEFAULT 0,
    backoff_error text,
    created_at bigint NOT NULL,
    activated_at bigint
-- Every claim updates its row: room for the new version on the same page, and no index on what changes.
) WITH (fillfactor = 20);
CREATE UNIQUE INDEX generation_active ON seamark.generation (source_id, kind) WHERE state = 'active';
CREATE UNIQUE INDEX generation_fingerprint ON seamark.generation (source_id, kind, fingerprint) WHERE state <> 'retired';

CREATE TABLE seamark.lease (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation_id integer NOT NULL REFERENCES seamark.generation (id) ON DELETE CASCADE,
    lane text NOT NULL CHECK (lane IN ('fresh', 'backfill', 'retry', 'sweep')),
    lo bigint NOT NULL,
    hi bigint NOT NULL,
    worker text NOT NULL,
    fence integer NOT NULL DEFAULT 1,
    expires_at bigint NOT NULL
-- A few rows that come and go all the time: vacuumed by their number, not by a share of the table.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX lease_generation ON seamark.lease (generation_id, id);

CREATE TABLE seamark.worker (
    id text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at bigint NOT NULL,
    beat_at bigint NOT NULL,
    rates jsonb NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE seamark.postings_upkeep (
    generation_id integer PRIMARY KEY REFERENCES seamark.generation (id) ON DELETE CASCADE,
    merged bigint NOT NULL DEFAULT 0,
    upto bigint NOT NULL DEFAULT 0,
    term text COLLATE "C",
    purging boolean NOT NULL DEFAULT false,
    checked bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE seamark.postings_upkeep IS
    'where the upkeep of a lexical generation stands: term is null between passes; merged, upto and checked are document numbers';
