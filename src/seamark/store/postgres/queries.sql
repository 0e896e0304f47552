-- Statements that only this database has, and why.
--
-- Differs by necessity: table_key, table_tree, table_types, functions, triggers_off, partitions_left, partitions_new,
-- partition_unentered, rights, extension, extension_home, extension_create, extension_rights: a catalog with schemas,
-- partitions, roles and extensions.

-- Differs by necessity: source, source_lock, lock_timeout, enroll_lock_timeout, generation_lock, generation_delete, generations_of,
-- schema_lock, schema_state, schema_version, schema_version_write: other processes do the same at the same time; SQLite's
-- transaction has the file to itself, and its version is a pragma.

-- Differs by necessity: sequence_create, missed_create, journal_state, documents_create, documents_index, sequence_floor,
-- sequence_forward, documents_forward, missed_reset: numbers are drawn from sequences.

-- Differs by necessity: audit_damaged: pgvector measures vectors; SQLite's are read and looked at here.

-- Differs by necessity: journal_order, rows_create_vector, rows_create_lexical, rows_index, chunks_create, chunks_index,
-- postings_create, failures_create, failures_index: one statement at a time, with types; SQLite runs a script.

-- Differs by necessity: model_upsert, failures_settle, journal_trim_below, coverage, coverage_live, coverage_pending,
-- pending, serial, parallel: one statement that saves round trips and is its own compare.

-- Differs by necessity: kept_index, hnsw_drop: as above; what a detach leaves has an index.

-- Differs by necessity: chunks_copy, postings_copy, rows_copy, adopt_compare: binary COPY, and what it wants to know.

-- Differs by necessity: view_drop, view_embeddings_none, view_jobs_none: views are kept, with their columns' types; SQLite's are
-- made on each connection.

-- Differs by necessity: adopt_indexed: the planner is held to look-ups by key, whatever they cost.

-- Differs by necessity: stamp_hold, stamp_mend, stamp_rows_none, stamp_there: writers at the same time, each row's lock its own.

-- Differs by necessity: stamp_used: SQLite drops no index with a column; it refuses.

-- Differs by necessity: views_hidden, view_show: SQLite's views are of the connection, and found first.

-- Differs by necessity: sql_begin, sql_settings: a transaction reads only because it is told to; SQLite's file is opened so.

-- Differs by necessity: horizon_now, horizon_next: writers commit out of the order of their `seq`.

-- Differs by necessity: upkeep_lock, generation_upkeep, index_due, index_state, index_build, index_drop, index_size,
-- analyze_due, search_width, search_exact, search_indexed, chunks_nearest, chunks_nearest_exact: the HNSW index is pgvector's,
-- and the planner wants statistics.

-- Differs by necessity: blocks_since, blocks_take, documents_dead, terms_crowded, terms_next: nobody counts while settling,
-- since all settles would wait for that row.

-- Statements of the PostgreSQL store. Those of the same name in store/sqlite/queries.sql do the same thing there.
-- Aliases: j journal, s source, r rows, c chunks, f failures, b batch given by the caller. {k_j} is the key columns as j's,
-- {j_is_s} compares the keys of two. `seq` ranges are lo < seq <= hi.

-- ===== the user's tables ==========================================================================================

-- name: table_find
-- Find a relation by its name as it is, along the search path, else as schema.table.
-- Differs by necessity: schemas, views that are found only to be refused, partitions.
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence,
       c.relkind <> 'p' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND ((c.relname = %(name)s::text AND pg_catalog.pg_table_is_visible(c.oid)) OR n.nspname || '.' || c.relname = %(name)s::text)
ORDER BY c.relname = %(name)s::text DESC
LIMIT 1;

-- name: table_columns
-- Give a table's columns in their order, with the base type under any domains.
WITH RECURSIVE base AS (
    SELECT a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS declared, a.atttypid AS type
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attnum, b.attname, b.declared, t.typbasetype
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.attname, b.declared, t.typname, t.typcategory
FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype <> 'd'
ORDER BY b.attnum;

-- name: table_key
-- Give the columns of a table's primary key, in the key's order.
SELECT a.attname
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS key (attnum, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.attnum
WHERE i.indrelid = %(oid)s::oid AND i.indisprimary AND key.place <= i.indnkeyatts
ORDER BY key.place;

-- name: table_names
-- Give the names of the tables that could have been meant.
SELECT CASE WHEN pg_catalog.pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'seamark') AND n.nspname NOT LIKE 'pg\_%%'
LIMIT 1000;

-- name: table_tree
-- Give the table and its partitions, itself first, whether it is part of a tree, in which row triggers are needed, and whether
-- its key is deferrable, so that a statement may leave the same key twice.
-- Differs by necessity: SQLite has no partitions.
WITH RECURSIVE root AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s
), tree AS (
    SELECT oid, 0 AS depth FROM root
    UNION ALL
    SELECT i.inhrelid, t.depth + 1 FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
)
SELECT n.nspname, c.relname,
       (SELECT relkind = 'p' FROM root) OR EXISTS (SELECT FROM pg_catalog.pg_inherits i, root WHERE i.inhrelid = root.oid),
       EXISTS (SELECT FROM pg_catalog.pg_index x, root WHERE x.indrelid = root.oid AND x.indisprimary AND NOT x.indimmediate)
FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY t.depth, n.nspname, c.relname;

-- name: table_types
-- Give the names of the types of a table's columns.
SELECT a.attname, t.typname
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0;

-- ===== sources ====================================================================================================

-- name: sources
-- Give all sources.
SELECT id, name, spec, tables, state, enrolled FROM seamark.source ORDER BY id;

-- name: source
-- Give one source.
SELECT id, name, spec, tables, state, enrolled FROM seamark.source WHERE id = %(source)s;

-- name: source_insert
-- Enter a source unless its name is taken.
INSERT INTO seamark.source (name, spec, tables, state, created_at)
VALUES (%(name)s, %(spec)s, %(tables)s, 'enrolling', seamark.clock())
ON CONFLICT (name) DO NOTHING RETURNING id;

-- name: source_lock
-- Lock a source's row; say how far its enrolment is.
SELECT state, enrolled FROM seamark.source WHERE id = %(source)s FOR UPDATE;

-- name: source_enrolled
-- Remember how far the enrolment is.
UPDATE seamark.source SET enrolled = %(key)s, state = %(state)s WHERE id = %(source)s;

-- name: source_delete
-- Remove a source; its generations and leases go with it.
DELETE FROM seamark.source WHERE id = %(source)s;

-- name: lock_timeout
-- Wait only for an instant for the lock that CREATE TRIGGER and DROP TRIGGER take: writers queue behind us meanwhile.
-- Differs by necessity: SQLite has its busy timeout.
SET LOCAL lock_timeout = '200ms';

-- name: journal_create
-- Make the journal's table, its key columns with the collations of the user's.
-- Differs by necessity: types, collations.
CREATE TABLE {journal} AS
SELECT {key_copies}, NULL::bigint AS seq, NULL::bigint AS changed_at, NULL::boolean AS deleted FROM {source} s WITH NO DATA;

-- name: journal_key
-- Give the journal its key, and room on each page for the next version of its rows.
ALTER TABLE {journal} ADD PRIMARY KEY ({k}), ALTER seq SET NOT NULL, ALTER changed_at SET NOT NULL, ALTER deleted SET NOT NULL;

-- name: journal_order
-- Index the journal by `seq`, and the few tombstones for themselves.
CREATE INDEX ON {journal} (seq);
CREATE INDEX ON {journal} (seq) WHERE deleted;

-- name: sequence_create
-- Make the sequence that `seq` is drawn from. It caches nothing, so that a later draw is a higher number.
CREATE SEQUENCE {sequence} AS bigint CACHE 1;

-- name: missed_create
-- Make the sequence that is drawn from where a trigger had to let a write pass.
CREATE SEQUENCE {missed} AS bigint CACHE 1;

-- name: enroll_lock_timeout
-- Wait only for an instant for a writer who has entered one of the rows.
SET LOCAL lock_timeout = '50ms';

-- name: enroll
-- Enter the live ones of the existing rows after a key into the journal unless they are there; give the keys looked at, in
-- order.
WITH found AS MATERIALIZED (
    SELECT {k_s}, ({where}) IS NOT TRUE AS deleted FROM {source} s WHERE {after} ORDER BY {k_s} LIMIT %(limit)s
), batch AS (SELECT * FROM found AS b ({k}, deleted)), entered AS (
    INSERT INTO {journal} ({k}, seq, deleted, changed_at)
    SELECT {k_b}, nextval('{sequence}'::regclass), false, seamark.clock() FROM batch b WHERE NOT b.deleted ORDER BY {k_b}
    ON CONFLICT ({k}) DO NOTHING
)
SELECT {k_b} FROM batch b ORDER BY {k_b};

-- name: functions
-- Give the trigger functions of a source.
SELECT p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'seamark' AND p.proname LIKE %(pattern)s;

-- name: journal_drop
-- Drop a source's journal.
DROP TABLE IF EXISTS {journal}; DROP SEQUENCE IF EXISTS {sequence}, {missed};

-- name: collection_create
-- Make a collection's table, an ordinary table of the user's.
CREATE TABLE IF NOT EXISTS {table} (
    path text PRIMARY KEY,
    title text NOT NULL,
    body text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);

-- name: collection_put
-- Insert or update documents by path, where they differ.
INSERT INTO {table} AS t (path, title, body)
SELECT * FROM unnest(%(paths)s::text[], %(titles)s::text[], %(bodies)s::text[]) AS b (path, title, body) ORDER BY path
ON CONFLICT (path) DO UPDATE SET title = EXCLUDED.title, body = EXCLUDED.body
WHERE (t.title, t.body) IS DISTINCT FROM (EXCLUDED.title, EXCLUDED.body);

-- ===== generations ================================================================================================

-- name: generations
-- Give the generations of a source, or all of them.
SELECT g.id, g.source_id, g.kind, g.fingerprint, g.identity, g.state, m.name, m.version, m.dimension, m.document_prefix,
       m.query_prefix, m.normalised, g.locator, g.origin, g.fresh, g.backfill, g.confirmed, g.swept, g.backoff_until,
       g.backoff_error, g.created_at, g.activated_at, g.manual, g.retired_at, g.due, m.drift
FROM seamark.generation g LEFT JOIN seamark.model m ON m.id = g.model_id
WHERE %(source)s::integer IS NULL OR g.source_id = %(source)s ORDER BY g.id;

-- name: generations_of
-- Give the ids of a source's generations.
SELECT id FROM seamark.generation WHERE source_id = %(source)s ORDER BY id;

-- name: generation_source
-- Give the source of a generation, and in which precision its vectors are stored.
SELECT source_id, identity ->> 'precision' FROM seamark.generation WHERE id = %(generation)s;

-- name: journal_end
-- Give the highest `seq`.
SELECT coalesce(max(seq), 0) FROM {journal};

-- name: model_upsert
-- Enter a model unless it is known, and give its id.
WITH entered AS (
    INSERT INTO seamark.model (name, version, dimension, document_prefix, query_prefix, normalised)
    VALUES (%(name)s, %(version)s, %(dimension)s, %(document_prefix)s, %(query_prefix)s, %(normalised)s)
    ON CONFLICT (name, version, dimension, document_prefix, query_prefix, normalised) DO UPDATE SET name = EXCLUDED.name
    RETURNING id
)
SELECT id FROM entered;

-- name: generation_insert
-- Enter a generation that begins at `origin`.
-- Differs by necessity: the horizon below which writers may hold a `seq` at or below the origin that nobody sees yet. It is our
-- own transaction's id, taken after the origin was read: theirs are lower, for they had one before they drew their `seq`.
INSERT INTO seamark.generation (source_id, kind, fingerprint, identity, state, manual, model_id, locator, origin, fresh, backfill,
    confirmed, swept, origin_horizon, created_at)
VALUES (%(source)s, %(kind)s, %(fingerprint)s, %(identity)s, 'building', %(manual)s, %(model)s, %(locator)s, %(origin)s,
    %(origin)s, %(origin)s, %(origin)s, 0, pg_current_xact_id()::text::bigint, seamark.clock())
RETURNING id;

-- name: generation_find
-- Give the generation of that kind and fingerprint: the one that is not retired, else the one that was retired last.
SELECT id FROM seamark.generation WHERE source_id = %(source)s AND kind = %(kind)s AND fingerprint = %(fingerprint)s
ORDER BY state = 'retired', id DESC LIMIT 1;

-- name: generation_take_up
-- Do what is asked of a generation that there is: it is not retired any more, and where its model is and how it is activated are
-- as asked for.
UPDATE seamark.generation SET
    due = CASE state WHEN 'retired' THEN NULL ELSE due END,
    backoff_until = CASE state WHEN 'retired' THEN 0 ELSE backoff_until END,
    backoff_error = CASE state WHEN 'retired' THEN NULL ELSE backoff_error END,
    state = CASE state WHEN 'retired' THEN 'building' ELSE state END,
    retired_at = NULL, manual = %(manual)s, locator = coalesce(%(locator)s, locator)
WHERE id = %(generation)s;

-- name: rows_create_vector
-- Make the table of which version of each row a vector generation holds.
CREATE TABLE {rows} AS
SELECT {k}, NULL::bigint AS seq, NULL::bigint AS embedded_at, NULL::integer AS chunks, NULL::boolean AS truncated,
       NULL::text AS worker
FROM {journal} WITH NO DATA;

-- name: rows_create_lexical
-- Make the table of which version of each row a lexical generation holds, and the document number of that version.
CREATE TABLE {rows} AS
SELECT {k}, NULL::bigint AS seq, NULL::bigint AS embedded_at, NULL::bigint AS doc, NULL::integer AS chunks,
       NULL::boolean AS truncated, NULL::text AS worker
FROM {journal} WITH NO DATA;

-- name: rows_index
-- Give the rows their key, and indexes of the few that are not simply indexed in full.
ALTER TABLE {rows} ADD PRIMARY KEY ({k}), ALTER seq SET NOT NULL, ALTER embedded_at SET NOT NULL, ALTER chunks SET NOT NULL,
    ALTER truncated SET NOT NULL, ALTER worker SET NOT NULL;
CREATE INDEX ON {rows} ({k}) WHERE chunks <= 0;
CREATE INDEX ON {rows} ({k}) WHERE truncated;

-- name: documents_index
-- Index the document numbers.
CREATE UNIQUE INDEX ON {rows} (doc);

-- name: documents_create
-- Make the sequence that document numbers are drawn from.
CREATE SEQUENCE {documents} AS bigint CACHE 1;

-- name: chunks_create
-- Make the table of a vector generation's chunks.
-- Differs by necessity: halfvec or vector, and no number of its own, since no index file has to be kept in step with it.
CREATE TABLE {chunks} AS
SELECT {k}, NULL::integer AS ordinal, NULL::integer AS start, NULL::integer AS stop, NULL::bytea AS digest,
       NULL::{vector}.{stored}({dimension}) AS embedding
FROM {journal} WITH NO DATA;

-- name: chunks_index
-- Give the chunks their key.
ALTER TABLE {chunks} ADD PRIMARY KEY ({k}, ordinal), ALTER start SET NOT NULL, ALTER stop SET NOT NULL,
    ALTER digest SET NOT NULL, ALTER embedding SET NOT NULL;

-- name: kept_create
-- Make the table of the vectors of rows that are outside the source's `where`, and in the table all the same.
CREATE TABLE {kept} AS SELECT {k}, digest, embedding FROM {chunks} WITH NO DATA;

-- name: kept_index
-- Give them their key.
ALTER TABLE {kept} ADD PRIMARY KEY ({k}, digest), ALTER embedding SET NOT NULL;

-- name: postings_create
-- Make the table of a lexical generation's postings. They do not compress, so that it is not tried.
CREATE TABLE {postings} (
    term text COLLATE "C" NOT NULL,
    block bigint NOT NULL,
    docs integer NOT NULL,
    lengths bigint NOT NULL,
    data bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (term, block)
);
CREATE INDEX ON {postings} USING brin (block) WITH (pages_per_range = 16, autosummarize = on);

-- name: failures_create
-- Make the table of the rows that a generation could not index.
CREATE TABLE {failures} AS
SELECT {k}, NULL::bigint AS seq, NULL::integer AS attempts, NULL::text AS kind, NULL::text AS error, NULL::bigint AS retry_at,
       NULL::bigint AS failed_at, NULL::bigint AS lease
FROM {journal} WITH NO DATA;

-- name: failures_index
-- Give the failures their key, and find those that are due, and those that a lease has taken.
ALTER TABLE {failures} ADD PRIMARY KEY ({k}), ALTER seq SET NOT NULL, ALTER attempts SET NOT NULL, ALTER kind SET NOT NULL,
    ALTER error SET NOT NULL, ALTER failed_at SET NOT NULL;
CREATE INDEX ON {failures} (retry_at) WHERE lease IS NULL AND retry_at IS NOT NULL;
CREATE INDEX ON {failures} (lease) WHERE lease IS NOT NULL;

-- name: generation_tables_drop
-- Drop all tables that a generation of either kind may have.
DROP TABLE IF EXISTS {chunks}, {kept}, {rows}, {postings}, {failures}; DROP SEQUENCE IF EXISTS {documents};

-- name: generation_donate
-- Drop a generation's tables but for its vectors.
DROP TABLE IF EXISTS {rows}, {postings}, {failures}; DROP SEQUENCE IF EXISTS {documents};

-- name: hnsw_drop
-- Drop the graph over vectors that nobody searches any more.
DROP INDEX IF EXISTS seamark.{index};

-- name: donor_insert
-- Remember what vectors a generation leaves.
INSERT INTO seamark.donor (id, schema_name, table_name, key, model_id, precision, detached_at)
SELECT id, %(schema)s, %(table)s, %(key)s, model_id, identity ->> 'precision', seamark.clock()
FROM seamark.generation WHERE id = %(generation)s;

-- name: donors_find
-- Give, and forget, what a detach has left of a table.
DELETE FROM seamark.donor WHERE table_name = %(table)s AND (schema_name = %(schema)s OR %(schema)s::text IS NULL) RETURNING id;

-- name: donors_spent
-- Give, and forget, what was left too long ago, or is held by an active generation by now.
DELETE FROM seamark.donor d WHERE d.detached_at < seamark.clock() - %(microseconds)s::bigint OR EXISTS (
    SELECT FROM seamark.generation g JOIN seamark.source s ON s.id = g.source_id
    WHERE g.state = 'active' AND g.model_id = d.model_id AND g.identity ->> 'precision' IS NOT DISTINCT FROM d.precision
      AND s.tables -> 0 ->> 'schema' = d.schema_name AND s.tables -> 0 ->> 'name' = d.table_name
) RETURNING id;

-- name: donor_drop
-- Drop vectors that were left.
DROP TABLE IF EXISTS {chunks}, {kept};

-- name: kept_trim
-- Forget rows that have left the table with no trigger to tell.
DELETE FROM {kept} c WHERE NOT EXISTS (SELECT FROM {source} s WHERE {s_is_c});

-- name: vectors_donors
-- Give whose vectors serve a generation too, since the same model made them of the same table's rows: the other generations of
-- its source, then those that a detach has left, newest first. It comes first itself if anything is put by of its own, or rows
-- that are gone have not been settled as that.
SELECT id FROM (
    SELECT o.id, o.state = 'active' AS active, 1 AS attached
    FROM seamark.generation g
    JOIN seamark.generation o ON o.source_id = g.source_id AND o.id <> g.id AND o.model_id = g.model_id
    WHERE g.id = %(generation)s AND o.identity ->> 'precision' IS NOT DISTINCT FROM g.identity ->> 'precision'
    UNION ALL
    SELECT d.id, false, 0
    FROM seamark.generation g JOIN seamark.donor d ON d.model_id = g.model_id
    WHERE g.id = %(generation)s AND d.precision IS NOT DISTINCT FROM g.identity ->> 'precision'
      AND d.schema_name = %(schema)s AND d.table_name = %(table)s AND d.key = %(key)s
    UNION ALL
    SELECT %(generation)s, true, 2
    WHERE EXISTS (SELECT FROM {kept}) OR EXISTS (SELECT FROM seamark.prepaid WHERE generation_id = %(generation)s)
       OR EXISTS (SELECT FROM {journal} WHERE deleted AND seq > {unsettled_above})
) d ORDER BY attached DESC, active DESC, id DESC;

-- name: unsettled_above
-- Part of the statements about what a generation has not settled of late: a `seq` below all of it, be it under a lease or ahead
-- of the fresh lane.
(SELECT least(g.fresh, (SELECT min(l.lo) FROM seamark.lease l WHERE l.generation_id = g.id AND l.lo >= g.confirmed))
FROM seamark.generation g WHERE g.id = %(generation)s);

-- name: vectors_unsettled
-- Give those of the digests that are among the vectors of the next rows that are gone, and not settled as that yet.
SELECT c.digest, c.embedding FROM (
    SELECT {k_j} FROM {journal} j JOIN {rows} r ON {j_is_r}
    WHERE j.deleted AND j.seq > {unsettled_above} AND r.seq < j.seq AND r.chunks > 0 ORDER BY j.seq LIMIT %(limit)s
) j JOIN {chunks} c ON {c_is_j} WHERE c.digest = ANY (%(digests)s::bytea[]);

-- name: rows_waiting
-- Say whether there are live rows that are not settled among the next entries, but for the range that is about to be.
SELECT EXISTS (
    SELECT FROM (
        SELECT * FROM {journal} WHERE seq > {unsettled_above} AND NOT (seq > %(lo)s AND seq <= %(hi)s) ORDER BY seq LIMIT %(limit)s
    ) j LEFT JOIN {rows} r ON {j_is_r}
    WHERE NOT j.deleted AND r.seq IS DISTINCT FROM j.seq
);

-- name: vectors_leaving
-- Give the vectors of those rows that have left the table.
SELECT c.digest, c.embedding FROM unnest({key_arrays}) AS b ({k}) JOIN {chunks} c ON {c_is_b}
WHERE NOT EXISTS (SELECT FROM {source} s WHERE {s_is_b});

-- name: digests_prepaid
-- Give which digests are paid for.
SELECT digest FROM seamark.prepaid WHERE generation_id = %(generation)s AND digest = ANY (%(digests)s::bytea[]);

-- name: digests_donors
-- Give whose vectors are of a model and a precision, over a source's table.
WITH m AS (
    SELECT id FROM seamark.model
    WHERE name = %(name)s AND version = %(version)s AND dimension = %(dimension)s AND document_prefix = %(document_prefix)s
      AND query_prefix = %(query_prefix)s AND normalised = %(normalised)s
)
SELECT g.id FROM seamark.generation g JOIN m ON m.id = g.model_id
WHERE g.source_id = %(source)s AND g.identity ->> 'precision' = %(precision)s
UNION ALL
SELECT d.id FROM seamark.donor d JOIN m ON m.id = d.model_id
WHERE d.schema_name = %(schema)s AND d.table_name = %(table)s AND d.key = %(key)s AND d.precision = %(precision)s;

-- name: digests_find
-- Give those of the digests that are among those of rows.
SELECT c.digest FROM unnest({key_arrays}) AS b ({k}) JOIN {vectors} c ON {c_is_b}
WHERE c.digest = ANY (%(digests)s::bytea[]);

-- name: vectors_prepaid
-- Give vectors that are paid for, by their digests.
SELECT digest, embedding FROM seamark.prepaid WHERE generation_id = %(generation)s AND digest = ANY (%(digests)s::bytea[]);

-- name: prepaid_insert
-- Put vectors by that are paid for.
INSERT INTO seamark.prepaid (generation_id, digest, embedding, stored_at)
SELECT DISTINCT ON (b.digest) g.id, b.digest, b.embedding, seamark.clock()
FROM unnest(%(digests)s::bytea[], %(embeddings)s::bytea[]) AS b (digest, embedding), seamark.generation g
WHERE g.id = %(generation)s ORDER BY b.digest
ON CONFLICT (generation_id, digest) DO UPDATE SET stored_at = EXCLUDED.stored_at;

-- name: prepaid_trim
-- Drop what was put by a while ago for generations that are not being built any more.
DELETE FROM seamark.prepaid p USING seamark.generation g
WHERE g.id = p.generation_id AND g.state <> 'building' AND p.stored_at < seamark.clock() - %(microseconds)s::bigint;

-- name: batch_insert
-- Plan a batch, unless one is open or nothing is left to backfill.
INSERT INTO seamark.batch (generation_id, tag, state, after, upto, requests, answered, expires_at, created_at)
SELECT id, %(tag)s, 'planned', %(after)s, %(after)s, 0, 0, 0, seamark.clock() FROM seamark.generation
WHERE id = %(generation)s AND backfill > %(after)s ON CONFLICT DO NOTHING;

-- name: batches
-- Give the batches of a generation, oldest first.
SELECT id, generation_id, tag, state, after, upto, requests, answered, provider_id, error, created_at FROM seamark.batch
WHERE generation_id = %(generation)s ORDER BY id;

-- name: batch_take
-- Take an open batch on, unless somebody else has it.
UPDATE seamark.batch SET owner = %(owner)s, expires_at = seamark.clock() + %(microseconds)s::bigint
WHERE generation_id = %(generation)s AND state IN ('planned', 'sending', 'submitted')
  AND (owner = %(owner)s OR expires_at <= seamark.clock() OR %(force)s)
RETURNING id, generation_id, tag, state, after, upto, requests, answered, provider_id, error, created_at;

-- name: batch_write
-- Write what has become of a batch that is ours.
UPDATE seamark.batch SET state = %(state)s, upto = %(upto)s, requests = %(requests)s, answered = %(answered)s,
    provider_id = %(provider_id)s, error = %(error)s, expires_at = CASE WHEN %(state)s IN ('done', 'failed') THEN 0 ELSE expires_at END
WHERE id = %(id)s AND owner = %(owner)s AND expires_at > seamark.clock()
RETURNING 1;

-- name: batch_hold
-- Hold the backfill lane.
UPDATE seamark.generation
SET held_until = CASE WHEN %(microseconds)s = 0 THEN 0 ELSE seamark.clock() + %(microseconds)s::bigint END
WHERE id = %(generation)s;

-- name: spend_add
-- Add to what a generation has cost, if it is still there.
INSERT INTO seamark.spend AS s (generation_id, worker, calls, texts, tokens)
SELECT id, %(worker)s, %(calls)s, %(texts)s, %(tokens)s FROM seamark.generation WHERE id = %(generation)s
ON CONFLICT (generation_id, worker) DO UPDATE
SET calls = s.calls + EXCLUDED.calls, texts = s.texts + EXCLUDED.texts, tokens = s.tokens + EXCLUDED.tokens;

-- name: spends
-- Give what each generation of a source has cost.
SELECT s.generation_id, sum(s.calls)::bigint, sum(s.texts)::bigint, sum(s.tokens)::bigint
FROM seamark.spend s JOIN seamark.generation g ON g.id = s.generation_id WHERE g.source_id = %(source)s GROUP BY s.generation_id;

-- name: vectors_find
-- Give those of the digests that are among the vectors of rows, of their chunks or of what is put by of them.
SELECT c.digest, c.embedding FROM unnest({key_arrays}) AS b ({k}) JOIN {vectors} c ON {c_is_b}
WHERE c.digest = ANY (%(digests)s::bytea[]);

-- name: generation_lock
-- Lock a generation's row, and those of its kind that a swap would change, in the order of their ids.
SELECT o.id FROM seamark.generation g JOIN seamark.generation o ON o.source_id = g.source_id AND o.kind = g.kind
WHERE g.id = %(generation)s ORDER BY o.id FOR UPDATE OF o;

-- name: generation_standing
-- Give what it depends on whether a generation may become the active one.
SELECT g.state, g.manual, g.backfill = 0 AND g.swept >= g.origin
       AND NOT EXISTS (SELECT FROM seamark.lease l WHERE l.generation_id = g.id AND l.lo < g.origin),
       g.due, g.confirmed,
       EXISTS (SELECT FROM seamark.generation o
               WHERE o.source_id = g.source_id AND o.kind = g.kind AND o.state = 'active' AND o.id <> g.id)
FROM seamark.generation g WHERE g.id = %(generation)s;

-- name: generation_due
-- Write down that what the journal holds now is due.
UPDATE seamark.generation SET due = (SELECT coalesce(max(seq), 0) FROM {journal}) WHERE id = %(generation)s RETURNING due;

-- name: generation_failing
-- Say whether a live row has failed at its present version.
SELECT EXISTS (SELECT FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq WHERE NOT j.deleted);

-- name: generation_give_way
-- Retire the active generation of a generation's kind.
UPDATE seamark.generation o SET state = 'retired', retired_at = seamark.clock()
FROM seamark.generation g
WHERE g.id = %(generation)s AND o.source_id = g.source_id AND o.kind = g.kind AND o.state = 'active';

-- name: generation_activate
-- Make a generation the active one: the last in the order in which they came. With `back` its place there stays.
UPDATE seamark.generation g
SET activated_at = CASE WHEN %(back)s THEN coalesce(activated_at, seamark.clock()) ELSE greatest(seamark.clock(), (
        SELECT max(o.activated_at) + 1 FROM seamark.generation o WHERE o.source_id = g.source_id AND o.kind = g.kind
    )) END,
    state = 'active', retired_at = NULL
WHERE id = %(generation)s;

-- name: generation_precede
-- Leave what is being built of a generation's kind to be activated when somebody asks for it.
UPDATE seamark.generation o SET manual = true FROM seamark.generation g
WHERE g.id = %(generation)s AND o.source_id = g.source_id AND o.kind = g.kind AND o.state = 'building' AND o.id <> g.id;

-- name: generation_retire
-- Retire a generation; an active one only with force.
UPDATE seamark.generation SET state = 'retired', retired_at = seamark.clock()
WHERE id = %(generation)s AND (state = 'building' OR (state = 'active' AND %(force)s)) RETURNING 1;

-- name: generation_retired
-- Lock a generation, and say whether it is retired.
SELECT state = 'retired' FROM seamark.generation WHERE id = %(generation)s FOR UPDATE;

-- name: generation_delete
-- Remove a generation; its leases and its upkeep's state go with it.
DELETE FROM seamark.generation WHERE id = %(generation)s;

-- name: generations_bytes
-- Give what the tables and indexes of each generation of a source take.
SELECT g.id, (SELECT coalesce(sum(pg_total_relation_size(to_regclass(format('seamark.%%s_%%s', t, g.id)))), 0)::bigint
              FROM unnest(ARRAY['rows', 'chunks', 'kept', 'postings', 'failures']) t)
FROM seamark.generation g WHERE g.source_id = %(source)s;

-- name: models
-- Give all models, with what they made of the fixed sentences.
SELECT name, version, dimension, document_prefix, query_prefix, normalised, probe, drift FROM seamark.model;

-- name: model_probe
-- Remember what a model makes of the fixed sentences.
UPDATE seamark.model SET probe = %(probe)s
WHERE name = %(name)s AND version = %(version)s AND dimension = %(dimension)s AND document_prefix = %(document_prefix)s
  AND query_prefix = %(query_prefix)s AND normalised = %(normalised)s AND (probe IS NULL OR %(replace)s);

-- name: model_drift
-- Record in what a model is another one by now.
UPDATE seamark.model SET drift = %(drift)s
WHERE name = %(name)s AND version = %(version)s AND dimension = %(dimension)s AND document_prefix = %(document_prefix)s
  AND query_prefix = %(query_prefix)s AND normalised = %(normalised)s;

-- name: generation_backoff
-- Let nobody claim for a while, and say why.
UPDATE seamark.generation
SET backoff_until = CASE WHEN %(microseconds)s = 0 THEN 0 ELSE seamark.clock() + %(microseconds)s::bigint END,
    backoff_error = %(error)s
WHERE id = %(generation)s;

-- ===== upkeep =====================================================================================================

-- name: upkeep_lock
-- Take the upkeep of a generation on, until the transaction ends; false when another process has it.
-- It has no parameters, so that it leaves no portal, and no snapshot, behind for CREATE INDEX CONCURRENTLY to wait for.
-- Differs by necessity: many machines may try.
SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_try_advisory_xact_lock({lock}, {generation});

-- name: generation_upkeep
-- Give what a generation's upkeep depends on.
SELECT g.kind, m.dimension FROM seamark.generation g LEFT JOIN seamark.model m ON m.id = g.model_id WHERE g.id = %(generation)s;

-- name: index_due
-- Say whether the generation's backfill is done and it has so many chunks.
SELECT g.backfill = 0 AND (SELECT count(*) FROM (SELECT FROM {chunks} LIMIT %(enough)s) c) >= %(enough)s
FROM seamark.generation g WHERE g.id = %(generation)s;

-- name: index_state
-- Say whether the generation's HNSW index is whole; no row when there is none.
SELECT i.indisvalid FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE n.nspname = 'seamark' AND c.relname = %(name)s;

-- name: index_build
-- Build the HNSW index while the table is written to.
CREATE INDEX CONCURRENTLY {index} ON {chunks} USING hnsw (embedding {vector}.{stored}_cosine_ops) WITH (m = 16, ef_construction = 256);

-- name: index_drop
-- Drop what an interrupted build left.
DROP INDEX CONCURRENTLY IF EXISTS seamark.{index};

-- name: index_size
-- Give the number of chunks as the planner has it, at least.
SELECT count(*) FROM {chunks};

-- name: analyze_due
-- Give those of the tables that have rows enough for a plan to go wrong and were never analysed.
SELECT s.relname FROM pg_catalog.pg_stat_user_tables s
WHERE s.schemaname = 'seamark' AND s.relname = ANY (%(tables)s) AND s.last_analyze IS NULL AND s.last_autoanalyze IS NULL
  AND s.n_tup_ins >= 1000;

-- name: postings_upkeep
-- Give what is to be known about a lexical generation's postings, and the last document number given out.
SELECT merged, upto, term, purging, checked, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {documents})
FROM seamark.postings_upkeep WHERE generation_id = %(generation)s;

-- name: postings_upkeep_create
-- Begin a generation without postings.
INSERT INTO seamark.postings_upkeep (generation_id) VALUES (%(generation)s);

-- name: postings_upkeep_write
-- Remember where the upkeep stands.
UPDATE seamark.postings_upkeep
SET merged = %(merged)s, upto = %(upto)s, term = %(term)s, purging = %(purging)s, checked = %(checked)s
WHERE generation_id = %(generation)s;

-- name: blocks_since
-- Count the settles since the last pass: each has added a block to the empty term.
SELECT count(*) FROM {postings} WHERE term = '' AND block > %(merged)s;

-- name: documents_dead
-- Count the documents that have postings, and those of them that are current.
SELECT (SELECT coalesce(sum(docs), 0)::bigint FROM {postings} WHERE term = ''), (SELECT count(*) FROM {rows} WHERE doc IS NOT NULL);

-- name: terms_crowded
-- Give the next terms with many blocks that are not full, of those that have had a block since the last pass.
SELECT p.term, array_agg(p.block ORDER BY p.block), array_agg(p.docs ORDER BY p.block) FROM {postings} p
WHERE p.term IN (
    SELECT q.term FROM {postings} q WHERE q.block > %(merged)s AND q.block <= %(upto)s AND (q.term > %(term)s OR %(first)s)
)
GROUP BY p.term HAVING count(*) FILTER (WHERE p.docs < %(full)s) > %(loose)s ORDER BY p.term LIMIT %(limit)s;

-- name: terms_next
-- Give the next terms, up to so many postings.
SELECT term, blocks, docs FROM (
    SELECT term, blocks, docs, sum(total) OVER (ORDER BY term) - total AS before FROM (
        SELECT term, array_agg(block ORDER BY block) AS blocks, array_agg(docs ORDER BY block) AS docs, sum(docs) AS total
        FROM {postings} WHERE (term > %(term)s OR %(first)s) GROUP BY term ORDER BY term LIMIT %(limit)s
    ) t
) t WHERE before < %(postings)s ORDER BY term;

-- name: blocks_take
-- Take runs of blocks out, with their postings. One statement, so that what a settle adds meanwhile is neither read nor
-- dropped.
DELETE FROM {postings} p USING unnest(%(terms)s::text[], %(firsts)s::bigint[], %(lasts)s::bigint[]) AS b (term, first, last)
WHERE p.term = b.term AND p.block BETWEEN b.first AND b.last RETURNING p.term, p.data;

-- name: blocks_read
-- Give blocks with their postings.
SELECT p.term, p.data FROM unnest(%(terms)s::text[], %(blocks)s::bigint[]) AS b (term, block)
JOIN {postings} p ON p.term = b.term AND p.block = b.block ORDER BY p.term, p.block;

-- name: blocks_delete
-- Drop blocks.
DELETE FROM {postings} p USING unnest(%(terms)s::text[], %(blocks)s::bigint[]) AS b (term, block)
WHERE p.term = b.term AND p.block = b.block;

-- name: documents_current
-- Give those of the documents that are current.
SELECT r.doc FROM {rows} r WHERE r.doc = ANY (%(docs)s::bigint[]) ORDER BY r.doc;

-- name: postings_copy
-- Write blocks of postings.
COPY {postings} (term, block, docs, lengths, data) FROM STDIN (FORMAT binary);

-- ===== claim ======================================================================================================

-- name: look
-- Without a lock: where the fresh lane stands, which horizons are not of this cluster, and whether a claim could find anything.
-- A horizon was some committed transaction's id, so it is below the xmax of this snapshot, unless the database was dumped and
-- restored elsewhere, where no transaction of its past can still be under way.
-- Differs by necessity: many machines look all the time; max() and min() are read off an index, whatever the statistics say.
SELECT g.fresh, g.horizon >= n.xmax, g.origin_horizon >= n.xmax, l.expired, coalesce(f.due, false),
    g.backoff_until <= n.clock AND NOT EXISTS (SELECT FROM seamark.model m WHERE m.id = g.model_id AND m.drift IS NOT NULL) AND (
        (g.backfill > 0 AND g.held_until <= n.clock)
        OR (SELECT max(j.seq) FROM {journal} j) > g.fresh
        OR l.expired
        OR f.due
        OR CASE WHEN g.mark IS NULL THEN g.fresh > g.confirmed
                ELSE (n.xmin >= g.horizon OR g.horizon >= n.xmax) AND NOT l.lowest < g.mark END
        OR (g.backfill = 0 AND g.swept < g.origin AND (n.xmin >= g.origin_horizon OR g.origin_horizon >= n.xmax) AND NOT l.lowest < g.origin)
    )
FROM seamark.generation g
CROSS JOIN (
    SELECT pg_snapshot_xmin(s)::text::bigint AS xmin, pg_snapshot_xmax(s)::text::bigint AS xmax, seamark.clock() AS clock
    FROM pg_current_snapshot() s
) n
CROSS JOIN LATERAL (
    SELECT coalesce(min(lo), 9223372036854775807) AS lowest, coalesce(min(expires_at) <= n.clock, false) AS expired
    FROM seamark.lease WHERE generation_id = g.id
) l
CROSS JOIN LATERAL (
    SELECT min(retry_at) <= n.clock AS due FROM {failures} WHERE lease IS NULL AND retry_at IS NOT NULL
) f
WHERE g.id = %(generation)s;

-- name: cursors
-- Lock the generation's row and give its cursors.
SELECT origin, fresh, backfill, confirmed, mark, horizon, swept, origin_horizon, backoff_until > seamark.clock()
    OR EXISTS (SELECT FROM seamark.model m WHERE m.id = model_id AND m.drift IS NOT NULL), held_until > seamark.clock()
FROM seamark.generation WHERE id = %(generation)s FOR UPDATE;

-- name: cursors_write
-- Write the cursors back.
UPDATE seamark.generation
SET fresh = %(fresh)s, backfill = %(backfill)s, confirmed = %(confirmed)s, mark = %(mark)s, horizon = %(horizon)s,
    swept = %(swept)s, origin_horizon = %(origin_horizon)s
WHERE id = %(generation)s;

-- name: lease_takeover
-- Take over the expired lease with the lowest id.
-- Differs by necessity: one that is being settled is locked, and skipped.
UPDATE seamark.lease SET worker = %(worker)s, fence = fence + 1, expires_at = seamark.clock() + %(microseconds)s::bigint
WHERE id = (
    SELECT id FROM seamark.lease WHERE generation_id = %(generation)s AND expires_at <= seamark.clock()
    ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, lane, lo, hi, fence, expires_at;

-- name: lease_lowest
-- Give where the lowest lease begins.
SELECT min(lo) FROM seamark.lease WHERE generation_id = %(generation)s;

-- name: lease_insert
-- Enter a lease.
INSERT INTO seamark.lease (generation_id, lane, lo, hi, worker, expires_at)
VALUES (%(generation)s, %(lane)s, %(lo)s, %(hi)s, %(worker)s, seamark.clock() + %(microseconds)s::bigint)
RETURNING id, lane, lo, hi, fence, expires_at;

-- name: lease_retry
-- Give due failures, oldest first, to a new lease over their range.
WITH due AS MATERIALIZED (
    SELECT {k_f}, f.seq FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq
    WHERE f.lease IS NULL AND f.retry_at <= seamark.clock()
    ORDER BY f.retry_at, f.seq LIMIT %(limit)s FOR UPDATE OF f
), entered AS (
    INSERT INTO seamark.lease (generation_id, lane, lo, hi, worker, expires_at)
    SELECT %(generation)s, 'retry', min(seq) - 1, max(seq), %(worker)s, seamark.clock() + %(microseconds)s::bigint
    FROM due HAVING count(*) > 0
    RETURNING id, lane, lo, hi, fence, expires_at
), taken AS (
    UPDATE {failures} f SET lease = entered.id FROM entered, due b WHERE {f_is_b}
)
SELECT id, lane, lo, hi, fence, expires_at FROM entered;

-- name: journal_ahead
-- Give the `seq` of the limit-th row above, or of the last.
SELECT max(seq) FROM (SELECT seq FROM {journal} WHERE seq > %(seq)s ORDER BY seq LIMIT %(limit)s) j;

-- name: journal_behind
-- Give the `seq` of the limit-th row at or below, descending, or of the last.
SELECT min(seq) FROM (SELECT seq FROM {journal} WHERE seq <= %(seq)s ORDER BY seq DESC LIMIT %(limit)s) j;

-- name: journal_step
-- Give the `seq` of the so-many-th row of the range, or its end.
SELECT coalesce((SELECT seq FROM {journal} WHERE seq > %(lo)s AND seq <= %(hi)s ORDER BY seq OFFSET %(rows)s - 1 LIMIT 1), %(hi)s);

-- name: unsettled
-- Give the first and the last `seq` of the limit first rows of the range neither done nor in failures.
SELECT min(seq), max(seq) FROM (
    SELECT j.seq FROM {journal} j
    WHERE j.seq > %(lo)s AND j.seq <= %(hi)s
      AND NOT EXISTS (SELECT FROM {rows} r WHERE {j_is_r} AND r.seq = j.seq)
      AND NOT EXISTS (SELECT FROM {failures} f WHERE {j_is_f} AND f.seq = j.seq)
    ORDER BY j.seq LIMIT %(limit)s
) u;

-- name: horizon_now
-- Give the lowest transaction id under way.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- name: horizon_next
-- Give a transaction id that is above all that were under way when the look was taken: our own.
SELECT pg_current_xact_id()::text::bigint;

-- ===== leases =====================================================================================================

-- name: lease_read
-- Give the rows of a range that the generation has not done and not recorded as failed, with their text, up to the budget.
WITH todo AS MATERIALIZED (
    SELECT {k_j}, j.seq, {live} AS live, 0 AS attempts, coalesce(r.chunks, 0) AS held, {texts_named}
    FROM {journal} j
    LEFT JOIN {source} s ON NOT j.deleted AND {j_is_s} AND {where}
    LEFT JOIN {rows} r ON {j_is_r}
    LEFT JOIN {failures} f ON {j_is_f} AND f.seq = j.seq
    WHERE j.seq > %(lo)s AND j.seq <= %(hi)s AND r.seq IS DISTINCT FROM j.seq AND f.seq IS NULL
), b AS (
    SELECT *, count(*) OVER () AS total, sum({size}) OVER (ORDER BY seq) - {size} AS before FROM todo
)
SELECT total, seq, live, attempts, held, {texts_read}, {k_b} FROM b
WHERE before < %(characters)s OR before = 0 ORDER BY seq;

-- name: lease_read_retry
-- Give the failed rows that a lease has taken, with their text, up to the budget.
WITH todo AS MATERIALIZED (
    SELECT {k_j}, j.seq, {live} AS live, f.attempts, coalesce(r.chunks, 0) AS held, {texts_named}
    FROM {failures} f
    JOIN {journal} j ON {j_is_f} AND j.seq = f.seq
    LEFT JOIN {source} s ON NOT j.deleted AND {j_is_s} AND {where}
    LEFT JOIN {rows} r ON {j_is_r}
    WHERE f.lease = %(lease)s
), b AS (
    SELECT *, count(*) OVER () AS total, sum({size}) OVER (ORDER BY seq) - {size} AS before FROM todo
)
SELECT total, seq, live, attempts, held, {texts_read}, {k_b} FROM b
WHERE before < %(characters)s OR before = 0 ORDER BY seq;

-- name: rows_scan
-- Give the next rows of the journal, with their text, up to the budget.
WITH todo AS MATERIALIZED (
    SELECT {k_j}, j.seq, {live} AS live, {texts_named}
    FROM (SELECT * FROM {journal} WHERE seq > %(seq)s AND NOT deleted ORDER BY seq LIMIT %(limit)s) j
    LEFT JOIN {source} s ON {j_is_s} AND {where}
), b AS (
    SELECT *, sum({size}) OVER (ORDER BY seq) AS upto, {size} AS size FROM todo
)
SELECT seq, live, {texts_read}, {k_b} FROM b WHERE upto <= %(characters)s OR upto = size ORDER BY seq;

-- name: lease_split
-- Narrow a lease that is ours, and give the rest of its range back as a lease that has expired already.
WITH mine AS (
    UPDATE seamark.lease SET hi = %(hi)s WHERE id = %(lease)s AND fence = %(fence)s AND expires_at > seamark.clock()
    RETURNING generation_id, lane
)
INSERT INTO seamark.lease (generation_id, lane, lo, hi, worker, expires_at)
SELECT generation_id, lane, %(hi)s, %(end)s, '', 0 FROM mine RETURNING id;

-- name: failures_pass_on
-- Give failed rows above a `seq` from one lease to another.
UPDATE {failures} SET lease = %(rest)s WHERE lease = %(lease)s AND seq > %(hi)s;

-- name: lease_renew
-- Put off the expiry of leases that are ours.
UPDATE seamark.lease l SET expires_at = seamark.clock() + %(microseconds)s::bigint
FROM unnest(%(leases)s::bigint[], %(fences)s::integer[]) AS b (id, fence)
WHERE l.id = b.id AND l.fence = b.fence AND l.expires_at > seamark.clock() RETURNING l.id;

-- name: lease_release
-- Let a lease that is ours expire now.
UPDATE seamark.lease SET expires_at = seamark.clock()
WHERE id = %(lease)s AND fence = %(fence)s AND expires_at > seamark.clock();

-- ===== settle =====================================================================================================

-- name: lease_hold
-- Lock a lease that is ours, so that nobody takes it over, and draw document numbers; none where its model is another by now.
-- Differs by necessity: numbers are drawn from a sequence, since others settle at the same time.
SELECT ARRAY(SELECT {next_document} FROM generate_series(1, %(rows)s))
FROM seamark.lease l WHERE id = %(lease)s AND fence = %(fence)s AND expires_at > seamark.clock() AND NOT EXISTS (
    SELECT FROM seamark.generation g JOIN seamark.model m ON m.id = g.model_id WHERE g.id = l.generation_id AND m.drift IS NOT NULL
) FOR UPDATE OF l;

-- name: rows_settle_vector
-- Write the rows whose version is still the journal's and newer than the one held; give the `seq` of those written.
INSERT INTO {rows} AS r ({k}, seq, chunks, truncated, embedded_at, worker)
SELECT {k_b}, b.seq, b.chunks, b.truncated, seamark.clock(), %(worker)s
FROM unnest({key_arrays}, %(seqs)s::bigint[], %(chunks)s::integer[], %(truncated)s::boolean[]) AS b ({k}, seq, chunks, truncated)
JOIN {journal} j ON {j_is_b} AND j.seq = b.seq
ORDER BY {k_b}
ON CONFLICT ({k}) DO UPDATE
SET seq = EXCLUDED.seq, chunks = EXCLUDED.chunks, truncated = EXCLUDED.truncated, embedded_at = EXCLUDED.embedded_at,
    worker = EXCLUDED.worker
WHERE r.seq < EXCLUDED.seq
RETURNING r.seq;

-- name: rows_settle_lexical
-- Do the same for a lexical generation, with the document number of each version.
INSERT INTO {rows} AS r ({k}, seq, chunks, truncated, doc, embedded_at, worker)
SELECT {k_b}, b.seq, b.chunks, b.truncated, CASE WHEN b.chunks > 0 THEN b.doc END, seamark.clock(), %(worker)s
FROM unnest({key_arrays}, %(seqs)s::bigint[], %(chunks)s::integer[], %(truncated)s::boolean[], %(docs)s::bigint[])
    AS b ({k}, seq, chunks, truncated, doc)
JOIN {journal} j ON {j_is_b} AND j.seq = b.seq
ORDER BY {k_b}
ON CONFLICT ({k}) DO UPDATE
SET seq = EXCLUDED.seq, chunks = EXCLUDED.chunks, truncated = EXCLUDED.truncated, doc = EXCLUDED.doc,
    embedded_at = EXCLUDED.embedded_at, worker = EXCLUDED.worker
WHERE r.seq < EXCLUDED.seq
RETURNING r.seq;

-- name: chunks_delete
-- Drop the old chunks of rows, and what is put by of them.
WITH back AS (DELETE FROM {kept} c USING unnest({key_arrays}) AS b ({k}) WHERE {c_is_b})
DELETE FROM {chunks} c USING unnest({key_arrays}) AS b ({k}) WHERE {c_is_b};

-- name: chunks_keep
-- Drop the chunks of rows that are gone: put their vectors by where the row is still in the table, and forget what is put by of
-- those that are not.
WITH b AS MATERIALIZED (
    SELECT * FROM unnest({key_arrays}) AS b ({k})
), gone AS (
    DELETE FROM {chunks} c USING b WHERE {c_is_b} RETURNING {k_c}, c.digest, c.embedding
), forgotten AS (
    DELETE FROM {kept} c USING b WHERE {c_is_b} AND NOT EXISTS (SELECT FROM {source} s WHERE {s_is_c})
)
INSERT INTO {kept} ({k}, digest, embedding)
SELECT DISTINCT ON ({k_c}, c.digest) {k_c}, c.digest, c.embedding FROM gone c JOIN {source} s ON {s_is_c}
ON CONFLICT DO NOTHING;

-- name: chunks_copy
-- Write chunks.
COPY {chunks} ({k}, ordinal, start, stop, digest, embedding) FROM STDIN (FORMAT binary);

-- name: failures_settle
-- Drop the failures of rows that were written.
DELETE FROM {failures} f USING unnest({key_arrays}) AS b ({k}) WHERE {f_is_b};

-- name: failures_write
-- Record failures of rows whose version is still the journal's, and that no newer failure is recorded of.
INSERT INTO {failures} AS f ({k}, seq, attempts, kind, error, retry_at, failed_at, lease)
SELECT {k_b}, b.seq, b.attempts, b.kind, b.error, seamark.clock() + b.wait, seamark.clock(), NULL
FROM unnest({key_arrays}, %(seqs)s::bigint[], %(attempts)s::integer[], %(kinds)s::text[], %(errors)s::text[], %(waits)s::bigint[])
    AS b ({k}, seq, attempts, kind, error, wait)
JOIN {journal} j ON {j_is_b} AND j.seq = b.seq
WHERE NOT EXISTS (SELECT FROM {rows} r WHERE {r_is_b} AND r.seq >= b.seq)
ORDER BY {k_b}
ON CONFLICT ({k}) DO UPDATE
SET seq = EXCLUDED.seq, attempts = EXCLUDED.attempts, kind = EXCLUDED.kind, error = EXCLUDED.error,
    retry_at = EXCLUDED.retry_at, failed_at = EXCLUDED.failed_at, lease = NULL
WHERE f.seq <= EXCLUDED.seq
RETURNING f.seq;

-- name: failures_let_go
-- Let go of failures that a lease had taken and did not settle: a newer version of the row is ahead.
UPDATE {failures} SET lease = NULL WHERE lease = %(lease)s;

-- name: lease_retire
-- Remove a settled lease.
DELETE FROM seamark.lease WHERE id = %(lease)s;

-- name: journal_trim
-- Drop a batch of tombstones that every generation has settled, below every cursor and every lease, and what is kept of them.
-- A writer who brings a row back at this moment is left alone, and waits no longer than this statement takes.
WITH doomed AS MATERIALIZED (
    SELECT {k_j}, j.seq FROM {journal} j
    WHERE j.deleted AND j.seq <= %(below)s AND {settled}
    ORDER BY j.seq LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
), {forgotten}
DELETE FROM {journal} j USING doomed b WHERE {j_is_b} AND j.seq = b.seq;

-- name: journal_trim_settled
-- Part of `journal_trim`, for each generation: it has settled the tombstone.
EXISTS (SELECT FROM {rows} r WHERE {j_is_r} AND r.seq = j.seq);

-- name: journal_trim_forgotten
-- Part of `journal_trim`, for each generation: what it keeps of the row.
rows_{generation} AS (DELETE FROM {rows} r USING doomed b WHERE {r_is_b}),
failures_{generation} AS (DELETE FROM {failures} f USING doomed b WHERE {f_is_b});

-- name: journal_trim_below
-- Give the `seq` up to which tombstones may go: confirmed and swept by all generations, and no lease begins below it.
SELECT min(least(
    CASE WHEN g.backfill > 0 OR g.swept < g.origin THEN 0 ELSE g.confirmed END,
    coalesce((SELECT min(l.lo) FROM seamark.lease l WHERE l.generation_id = g.id), 9223372036854775807)
)) FROM seamark.generation g WHERE g.source_id = %(source)s;

-- ===== failures, counts, workers ==================================================================================

-- name: failures
-- Give failures of rows whose version is still the journal's, newest first.
SELECT {k_f}, f.seq, f.kind, f.error, f.attempts, f.retry_at, f.failed_at
FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq ORDER BY f.failed_at DESC, f.seq DESC LIMIT %(limit)s;

-- name: failures_retry
-- Make failures due now, with no attempts spent.
UPDATE {failures} f SET retry_at = seamark.clock(), attempts = 0
FROM {journal} j WHERE {j_is_f} AND j.seq = f.seq AND f.lease IS NULL;

-- name: failures_retry_keys
-- Do the same for some.
UPDATE {failures} f SET retry_at = seamark.clock(), attempts = 0
FROM {journal} j, unnest({key_arrays}) AS b ({k}) WHERE {j_is_f} AND {f_is_b} AND j.seq = f.seq AND f.lease IS NULL;

-- name: coverage
-- Count a generation but for its live rows. Only what is not known to be done is joined: the windows that a sweep is still to
-- go over, and the ranges of leases (not those of retries, whose rows are in failures).
WITH g AS (
    SELECT * FROM seamark.generation WHERE id = %(generation)s
), windows AS (
    SELECT confirmed AS lo, fresh AS hi FROM g WHERE fresh > confirmed
    UNION ALL
    SELECT greatest(swept, backfill), origin FROM g WHERE swept < origin AND backfill < origin
    UNION ALL
    SELECT lo, hi FROM seamark.lease WHERE generation_id = %(generation)s AND lane <> 'retry'
), missing AS (
    SELECT count(*) AS rows, min(changed_at) AS oldest FROM (
        SELECT DISTINCT j.seq, j.changed_at FROM windows w
        CROSS JOIN LATERAL (SELECT * FROM {journal} j WHERE j.seq > w.lo AND j.seq <= w.hi AND NOT j.deleted OFFSET 0) j
        WHERE NOT EXISTS (SELECT FROM {rows} r WHERE {j_is_r} AND r.seq = j.seq)
          AND NOT EXISTS (SELECT FROM {failures} f WHERE {j_is_f} AND f.seq = j.seq)
    ) w
    UNION ALL
    SELECT count(*), min(j.changed_at) FROM {journal} j WHERE j.seq > (SELECT fresh FROM g) AND NOT j.deleted
    UNION ALL
    SELECT count(*), min(j.changed_at) FROM {journal} j WHERE j.seq <= (SELECT backfill FROM g) AND NOT j.deleted
), empty AS (
    SELECT count(*) FILTER (WHERE r.chunks < 0) AS phantom, count(*) FILTER (WHERE r.chunks = 0) AS blank
    FROM {rows} r JOIN {journal} j ON {j_is_r} AND j.seq = r.seq WHERE r.chunks <= 0 AND NOT j.deleted
), failed AS (
    SELECT count(*) AS rows, count(f.retry_at) AS retrying
    FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq WHERE NOT j.deleted
)
SELECT empty.phantom, empty.blank, failed.rows, failed.retrying,
    (SELECT sum(rows)::bigint FROM missing), (SELECT min(oldest) FROM missing), seamark.clock(),
    (SELECT count(*) FROM {rows} r JOIN {journal} j ON {j_is_r} AND j.seq = r.seq
     WHERE r.truncated AND r.chunks > 0 AND NOT j.deleted),
    (SELECT count(*) FROM seamark.lease WHERE generation_id = %(generation)s)
FROM empty, failed;

-- name: coverage_live
-- Count the live rows of the journal: all but the tombstones, which have an index.
SELECT (SELECT count(*) FROM {journal}) - (SELECT count(*) FROM {journal} WHERE deleted);

-- name: coverage_pending
-- Say how far at most the journal reaches beyond the cursors.
SELECT greatest(0, (SELECT max(seq) FROM {journal}) - fresh) + backfill FROM seamark.generation WHERE id = %(generation)s;

-- name: pending
-- Say whether a generation has work at or below a `seq`, nearest first: leases, what is ahead of a cursor, failures to be tried
-- again, and what a sweep would find. What is gone is work, too, but for what a new generation has never held.
SELECT EXISTS (SELECT FROM seamark.lease l WHERE l.generation_id = g.id AND l.lo < %(upto)s)
    OR EXISTS (SELECT FROM {journal} j WHERE j.seq > g.fresh AND j.seq <= %(upto)s)
    OR EXISTS (SELECT FROM {journal} j WHERE j.seq > 0 AND j.seq <= least(g.backfill, %(upto)s) AND NOT j.deleted)
    OR EXISTS (
        SELECT FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq
        WHERE f.retry_at IS NOT NULL AND f.seq <= %(upto)s AND NOT j.deleted
    )
    OR EXISTS (
        SELECT FROM (VALUES (g.confirmed, g.fresh), (greatest(g.swept, g.backfill), g.origin)) w (lo, hi)
        CROSS JOIN LATERAL (
            SELECT * FROM {journal} j WHERE j.seq > w.lo AND j.seq <= least(w.hi, %(upto)s) OFFSET 0
        ) j
        WHERE NOT EXISTS (SELECT FROM {rows} r WHERE {j_is_r} AND r.seq = j.seq)
          AND NOT EXISTS (SELECT FROM {failures} f WHERE {j_is_f} AND f.seq = j.seq)
    )
FROM seamark.generation g WHERE g.id = %(generation)s;

-- name: serial
-- Use no parallel workers: to start them takes longer than a short query.
SET LOCAL max_parallel_workers_per_gather = 0;

-- name: parallel
-- Use as many as the server is set to.
SET LOCAL max_parallel_workers_per_gather TO DEFAULT;

-- name: worker_beat
-- Record a heartbeat.
INSERT INTO seamark.worker AS w (id, host, pid, started_at, beat_at, rates)
VALUES (%(id)s, %(host)s, %(pid)s, seamark.clock(), seamark.clock(), %(rates)s)
ON CONFLICT (id) DO UPDATE SET host = EXCLUDED.host, pid = EXCLUDED.pid, beat_at = EXCLUDED.beat_at, rates = EXCLUDED.rates;

-- name: workers_expire
-- Forget workers not heard of for long.
DELETE FROM seamark.worker WHERE beat_at < seamark.clock() - %(microseconds)s::bigint;

-- name: worker_forget
-- Forget a worker.
DELETE FROM seamark.worker WHERE id = %(id)s;

-- name: workers
-- Give the workers heard of of late.
SELECT id, host, pid, started_at, beat_at, rates FROM seamark.worker
WHERE beat_at >= seamark.clock() - %(microseconds)s::bigint ORDER BY started_at, id;

-- name: clock
-- Give the time, whether our schema is there or not.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- ===== search =====================================================================================================

-- name: terms_statistics
-- Give the blocks, postings and lengths of terms.
SELECT term, count(*), sum(docs), sum(lengths)::bigint FROM {postings} WHERE term = ANY (%(terms)s::text[]) GROUP BY term;

-- name: postings_read
-- Give the blocks of terms, oldest first.
SELECT term, data FROM {postings} WHERE term = ANY (%(terms)s::text[]) ORDER BY term, block;

-- name: postings_read_newest
-- Give the newest blocks of terms until each has so many postings, oldest first.
SELECT term, data FROM (
    SELECT term, block, data, sum(docs) OVER (PARTITION BY term ORDER BY block DESC) - docs AS before
    FROM {postings} WHERE term = ANY (%(terms)s::text[])
) p WHERE before < %(limit)s ORDER BY term, block;

-- name: documents_keys
-- Give the keys of those documents that are current.
SELECT r.doc, {k_r} FROM {rows} r WHERE r.doc = ANY (%(docs)s::bigint[]);

-- name: documents_resolve
-- Give the keys of those documents that are current and whose row is live and satisfies the filter.
SELECT r.doc, {k_r} FROM unnest(%(docs)s::bigint[]) AS b (doc) JOIN {rows} r ON r.doc = b.doc
JOIN {source} s ON {s_is_r} WHERE {where} AND {filter};

-- name: documents_matching
-- Give documents of live rows that satisfy the filter.
SELECT r.doc, {k_r} FROM {source} s JOIN {rows} r ON {s_is_r} AND r.doc IS NOT NULL WHERE {where} AND {filter} LIMIT %(limit)s;

-- name: search_width
-- Say how far a search of the HNSW index looks.
-- Differs by necessity: a setting of the transaction.
SELECT set_config('hnsw.ef_search', %(width)s::text, true);

-- name: search_exact
-- Keep the planner from the HNSW index.
SET LOCAL enable_indexscan = off;

-- name: search_indexed
-- Let the planner use it again.
SET LOCAL enable_indexscan = on;

-- name: chunks_nearest
-- Give the chunks nearest to a vector, with the distance.
SELECT {k_c}, c.start, c.stop, c.distance FROM (
    SELECT {k_c}, c.ordinal, c.start, c.stop, c.embedding OPERATOR({vector}.<=>) %(vector)s::{vector}.{stored} AS distance
    FROM {chunks} c ORDER BY c.embedding OPERATOR({vector}.<=>) %(vector)s::{vector}.{stored} LIMIT %(limit)s
) c ORDER BY c.distance, {k_c}, c.ordinal;

-- name: chunks_nearest_exact
-- Do the same without the HNSW index.
SELECT {k_c}, c.start, c.stop, c.embedding OPERATOR({vector}.<=>) %(vector)s::{vector}.{stored} AS distance
FROM {chunks} c ORDER BY distance, {k_c}, c.ordinal LIMIT %(limit)s;

-- name: chunks_matching
-- Give the chunks nearest to a vector of live rows that satisfy the filter.
SELECT {k_c}, c.start, c.stop, c.embedding OPERATOR({vector}.<=>) %(vector)s::{vector}.{stored} AS distance
FROM {source} s JOIN {chunks} c ON {s_is_c} WHERE {where} AND {filter}
ORDER BY distance, {k_c}, c.ordinal LIMIT %(limit)s;

-- name: keys_live
-- Give those of the keys whose row is live and satisfies the filter, by their place in the list.
SELECT b.place FROM unnest({key_arrays}) WITH ORDINALITY AS b ({k}, place) JOIN {source} s ON {s_is_b}
WHERE {where} AND {filter} ORDER BY b.place;

-- name: rows_live
-- Give the live rows of keys with their text and the `seq` of the versions held of them, by their place in the list.
SELECT b.place, coalesce(j.seq, 0), {indexed}{texts}
FROM unnest({key_arrays}) WITH ORDINALITY AS b ({k}, place) JOIN {source} s ON {s_is_b} LEFT JOIN {journal} j ON {j_is_b}
WHERE {where} ORDER BY b.place;

-- name: rows_live_indexed
-- Part of `rows_live`, for each generation: the `seq` of the version held.
(SELECT r.seq FROM {rows} r WHERE {r_is_b} AND r.chunks >= 0),

-- ===== adoption ===================================================================================================

-- name: generation_set_aside
-- Let nobody work at a generation, and whatever it does not hold up to its origin be found by the sweep.
UPDATE seamark.generation SET state = 'retired', retired_at = seamark.clock(), backfill = 0, swept = -1
WHERE id = %(generation)s AND state <> 'active';

-- name: adopt_indexed
-- Say whether a table has an index that begins with a column.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass(%(table)s) AND a.attname = %(column)s
);

-- name: adopt_look
-- Give the live rows of keys by their place in the list, with their journal's `seq`, whether the generation holds that version, and
-- their text.
SELECT b.place, j.seq, r.seq IS NOT DISTINCT FROM j.seq, {texts}
FROM unnest({key_arrays}) WITH ORDINALITY AS b ({k}, place) JOIN {source} s ON {s_is_b}
JOIN {journal} j ON {j_is_b} AND NOT j.deleted LEFT JOIN {rows} r ON {r_is_b}
WHERE {where};

-- name: adopt_read
-- Give the next live rows that a generation does not hold, in order of key, with the vector that the user keeps of each.
SELECT {k_s}, j.seq, {vector_sent}, {digest}, {texts}
FROM {source} s JOIN {journal} j ON {j_is_s} AND NOT j.deleted LEFT JOIN {rows} r ON {r_is_s} {foreign}
WHERE {where} AND {after} AND r.seq IS DISTINCT FROM j.seq AND {there} IS NOT NULL ORDER BY {k_s} LIMIT %(limit)s;

-- name: adopt_compare
-- Give the places of the rows whose version is still the journal's, by key, the time, and whether there is anything beside rows and
-- chunks that the generation keeps of any row.
SELECT b.place, (SELECT seamark.clock()), EXISTS (SELECT FROM {kept}) OR EXISTS (SELECT FROM {failures})
FROM unnest({key_arrays}, %(seqs)s::bigint[]) WITH ORDINALITY AS b ({k}, seq, place) JOIN {journal} j ON {j_is_b} AND j.seq = b.seq
ORDER BY {k_b};

-- name: rows_copy
-- Write rows that the generation holds no version of.
COPY {rows} ({k}, seq, embedded_at, chunks, truncated, worker) FROM STDIN (FORMAT binary);

-- name: adopt_rows
-- Write the rows whose version is still the journal's and newer than the one held, each with one chunk, which is to follow, in the
-- place of all that there is of older ones; give the `seq` of those written.
WITH b AS (
    INSERT INTO {rows} AS r ({k}, seq, chunks, truncated, embedded_at, worker)
    SELECT {k_b}, b.seq, 1, FALSE, (SELECT seamark.clock()), 'adopt'
    FROM unnest({key_arrays}, %(seqs)s::bigint[]) AS b ({k}, seq) JOIN {journal} j ON {j_is_b} AND j.seq = b.seq
    ORDER BY {k_b}
    ON CONFLICT ({k}) DO UPDATE
    SET seq = EXCLUDED.seq, chunks = EXCLUDED.chunks, truncated = EXCLUDED.truncated, embedded_at = EXCLUDED.embedded_at,
        worker = EXCLUDED.worker
    WHERE r.seq < EXCLUDED.seq
    RETURNING {k_r}, r.seq
), replaced AS (
    DELETE FROM {chunks} c USING b WHERE {c_is_b}
), back AS (
    DELETE FROM {kept} c USING b WHERE {c_is_b} AND EXISTS (SELECT FROM {kept})
), done AS (
    DELETE FROM {failures} f USING b WHERE {f_is_b} AND EXISTS (SELECT FROM {failures})
)
SELECT b.seq FROM b;

-- ===== stamps =====================================================================================================

-- name: stamp_generation
-- Give the vector generation that search reads, with its model.
SELECT g.id, m.name, m.version FROM seamark.generation g JOIN seamark.model m ON m.id = g.model_id
WHERE g.source_id = %(source)s AND g.kind = 'vector' AND g.state <> 'retired' ORDER BY g.state <> 'active', g.id LIMIT 1;

-- name: stamp_unfit
-- Give those of the columns that cannot be emptied.
SELECT a.attname FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = ANY (%(columns)s::name[])
  AND (a.attgenerated <> '' OR (a.attnotnull AND a.attname <> 'has_embedding'));

-- name: stamp_add
-- Add a column to the user's table, and say there whose it is.
ALTER TABLE {source} ADD COLUMN {column}; COMMENT ON COLUMN {source}.{name} IS {mark};

-- name: stamp_remove
-- Take it away again.
ALTER TABLE {source} DROP COLUMN IF EXISTS {column};

-- name: stamp_used
-- Give the indexes and constraints of the user's that a column takes with it, but for its own NOT NULL.
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 'I')
LEFT JOIN pg_catalog.pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid AND n.contype <> 'n'
WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(%(table)s) AND a.attname = %(column)s
  AND (c.oid IS NOT NULL OR n.oid IS NOT NULL)
ORDER BY 1;

-- name: stamps_marked
-- Give those of the columns that were added by any attach.
SELECT a.attname FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = ANY (%(columns)s::name[])
  AND col_description(a.attrelid, a.attnum) = %(mark)s;

-- name: stamps_made
-- Give the columns that were added.
SELECT stamps_made FROM seamark.source WHERE id = %(source)s;

-- name: stamps_made_write
-- Remember them.
UPDATE seamark.source SET stamps_made = %(columns)s::text[] WHERE id = %(source)s;

-- name: stamp_held
-- Part of what follows: whether the generation holds the row's present text.
coalesce(r.seq = j.seq AND NOT j.deleted AND r.chunks > 0, false)

-- name: stamp_unless_held
-- Part of `stamp_mend`: but for rows whose present text the generation holds.
-- Differs by necessity: SQLite looks that up while it has the lock on the user's file.
 AND NOT EXISTS (SELECT FROM {journal} j JOIN {rows} r ON {j_is_r} WHERE {j_is_s} AND {held});

-- name: stamp_rows_none
-- Stands for the rows of a generation where there is none yet.
(SELECT {k}, seq, changed_at AS embedded_at, 1 AS chunks FROM {journal})

-- name: stamp_hold
-- Lock those of the rows, with their entries in the journal, that nobody else is at; give their keys. We never wait here for
-- anybody, so that no writer can be in a deadlock with us; whoever would change one of them waits until we have committed, which
-- we are about to do.
WITH f AS MATERIALIZED (
    SELECT {k_j} FROM unnest({key_arrays}) AS b ({k}) JOIN {journal} j ON {j_is_b} FOR UPDATE OF j SKIP LOCKED
)
SELECT {k_s} FROM unnest({key_arrays}) AS b ({k}) JOIN {source} s ON {s_is_b}
WHERE EXISTS (SELECT FROM f WHERE {f_is_b}) OR NOT EXISTS (SELECT FROM {journal} j WHERE {j_is_b})
FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: stamp_mend
-- Write into locked rows what is true of them, where something else stands there. A statement of its own: what had been
-- committed when the lock was had is seen.
UPDATE {source} s SET {stamps} FROM (
    SELECT {k_b}, r.embedded_at, {held} AS held FROM unnest({key_arrays}) AS b ({k})
    LEFT JOIN {journal} j ON {j_is_b} LEFT JOIN {rows} r ON {r_is_b}
) b WHERE {s_is_b} AND ({differs});

-- name: stamp_there
-- Say whether the table has a row.
SELECT 1 FROM unnest({key_arrays}) AS b ({k}) JOIN {source} s ON {s_is_b};

-- name: stamp_next
-- Give the next rows in order of key, and whether something else stands there than what is true.
SELECT {k_s}, {differs} FROM {source} s LEFT JOIN {journal} j ON {j_is_s} LEFT JOIN {rows} r ON {r_is_s}
CROSS JOIN LATERAL (SELECT r.embedded_at, {held} AS held) b
WHERE {after} ORDER BY {k_s} LIMIT %(limit)s;

-- name: stamp_holding
-- Give the next live rows of the journal, by `seq`, and whether a generation holds them.
SELECT {k_j}, j.seq, {held}
FROM (SELECT * FROM {journal} j WHERE NOT j.deleted AND j.seq > %(after)s ORDER BY j.seq LIMIT %(limit)s) j
LEFT JOIN {rows} r ON {r_is_j} ORDER BY j.seq;

-- name: stamp_state
-- Give where the pass over the table stands, and whether the last one is long ago; nothing where another process is at it.
SELECT stamped_by, stamped_to, stamped_at IS NULL, stamped_at < seamark.clock() - %(microseconds)s::bigint
FROM seamark.source WHERE id = %(source)s FOR NO KEY UPDATE SKIP LOCKED;

-- name: stamp_state_write
-- Remember where it stands.
UPDATE seamark.source SET stamped_by = %(generation)s, stamped_to = %(key)s,
    stamped_at = CASE WHEN %(done)s THEN seamark.clock() END
WHERE id = %(source)s;

-- name: owed_create
-- Make the table of the rows whose stamp is still to be written.
CREATE TABLE {owed} AS SELECT {k} FROM {journal} WITH NO DATA; ALTER TABLE {owed} ADD PRIMARY KEY ({k});

-- name: owed_drop
-- Drop it.
DROP TABLE IF EXISTS {owed};

-- name: owed_add
-- Remember rows whose stamp is still to be written.
INSERT INTO {owed} ({k}) SELECT {k_b} FROM unnest({key_arrays}) AS b ({k}) ORDER BY {k_b} ON CONFLICT DO NOTHING;

-- name: owed_take
-- Give some of them, in no order, so that those that cannot be written do not keep the others back.
SELECT {k} FROM (SELECT {k} FROM {owed} ORDER BY random() LIMIT %(limit)s) o;

-- name: owed_count
-- Say how many rows are owed their stamp.
SELECT count(*) FROM {owed};

-- name: owed_remove
-- They have been written.
DELETE FROM {owed} b USING unnest({key_arrays}) AS r ({k}) WHERE {r_is_b};

-- ===== views for SQL users ========================================================================================

-- name: views_generations
-- Give what the views have to know of the generations.
SELECT g.source_id, g.id, g.kind, m.name, m.version
FROM seamark.generation g LEFT JOIN seamark.model m ON m.id = g.model_id ORDER BY g.id;

-- name: view_write
-- Make a view, or make it anew where it is: rights that were granted on it stay.
CREATE OR REPLACE VIEW seamark.{view} AS {select};

-- name: view_drop
-- Drop a view.
DROP VIEW IF EXISTS seamark.{view};

-- name: view_embeddings_none
-- Part of a source's view: no chunks, but the names and types of its columns.
SELECT {keys_j}, NULL::integer AS ordinal, NULL::integer AS start, NULL::integer AS stop, NULL::text AS model_id,
    NULL::text AS model_version, NULL::timestamptz AS embedded_at, NULL::boolean AS current, NULL::integer AS generation,
    NULL::text AS state
FROM {journal} j WHERE false

-- name: view_embeddings
-- Part of a source's view: the chunks of one generation. Its model is written out, so that the planner leaves out the parts that
-- a condition on it cannot be true of.
SELECT {keys_c}, c.ordinal, c.start, c.stop, {model_id} AS model_id, {model_version} AS model_version,
    timestamptz 'epoch' + r.embedded_at * interval '1 microsecond' AS embedded_at,
    coalesce(j.seq = r.seq AND NOT j.deleted, false) AS current, {generation} AS generation, {state} AS state
FROM {chunks} c JOIN {rows} r ON {r_is_c} LEFT JOIN {journal} j ON {j_is_c}

-- name: view_state
-- Part of the views: the state of a generation, looked up once.
(SELECT g.state FROM seamark.generation g WHERE g.id = {generation})

-- name: view_jobs_none
-- Part of the view of jobs: no jobs, but the names and types of its columns.
SELECT NULL::text AS source, NULL::text AS key, NULL::text AS model_id, NULL::text AS model_version, NULL::text AS status,
    NULL::integer AS attempts, NULL::text AS last_error, NULL::timestamptz AS inserted_at, NULL::timestamptz AS updated_at,
    NULL::text AS kind, NULL::integer AS generation
WHERE false

-- name: view_jobs_done
-- Part of the view of jobs: live rows whose present version a generation holds.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'done'::text AS status,
    0 AS attempts, NULL::text AS last_error, {changed_at} AS inserted_at,
    timestamptz 'epoch' + r.embedded_at * interval '1 microsecond' AS updated_at, {kind} AS kind, {generation} AS generation
FROM {rows} r JOIN {journal} j ON {j_is_r} AND j.seq = r.seq
WHERE r.chunks >= 0 AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_failed
-- Part of the view of jobs: live rows that failed in their present version, and that nobody is at.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'failed'::text AS status,
    f.attempts AS attempts, f.error AS last_error, {changed_at} AS inserted_at,
    timestamptz 'epoch' + f.failed_at * interval '1 microsecond' AS updated_at, {kind} AS kind, {generation} AS generation
FROM {failures} f JOIN {journal} j ON {j_is_f} AND j.seq = f.seq LEFT JOIN seamark.lease l ON l.id = f.lease AND {held}
WHERE l.id IS NULL AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_retried
-- Part of the view of jobs: live rows that failed, and that are being tried again.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'running'::text AS status,
    f.attempts AS attempts, f.error AS last_error, {changed_at} AS inserted_at,
    timestamptz 'epoch' + f.failed_at * interval '1 microsecond' AS updated_at, {kind} AS kind, {generation} AS generation
FROM seamark.lease l JOIN {failures} f ON f.lease = l.id JOIN {journal} j ON {j_is_f} AND j.seq = f.seq
WHERE l.generation_id = {generation} AND {held} AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_running
-- Part of the view of jobs: live rows in the ranges that workers have in hand, not done yet.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'running'::text AS status,
    0 AS attempts, NULL::text AS last_error, {changed_at} AS inserted_at, {changed_at} AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM seamark.lease l
CROSS JOIN LATERAL (SELECT * FROM {journal} j WHERE j.seq > l.lo AND j.seq <= l.hi AND NOT j.deleted OFFSET 0) j
WHERE l.generation_id = {generation} AND l.lane <> 'retry' AND {held} AND {open} AND {state} <> 'retired'

-- name: view_jobs_pending
-- Part of the view of jobs: live rows that are ahead of a cursor, in what is still to be swept, or under a lease that has
-- expired, and that nobody is at. The ranges do not overlap: of a lease only what is in none of the windows is taken.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'pending'::text AS status,
    0 AS attempts, NULL::text AS last_error, {changed_at} AS inserted_at, {changed_at} AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM (
    SELECT w.lo, w.hi FROM seamark.generation g
    CROSS JOIN LATERAL (VALUES
        (g.fresh, 9223372036854775807), (0, g.backfill), (g.confirmed, g.fresh), (greatest(g.swept, g.backfill), g.origin)
    ) w (lo, hi) WHERE g.id = {generation} AND g.state <> 'retired'
    UNION ALL
    SELECT greatest(l.lo, CASE WHEN l.hi <= g.origin THEN g.backfill ELSE g.origin END),
        least(l.hi, CASE WHEN l.hi <= g.origin THEN g.swept ELSE g.confirmed END)
    FROM seamark.generation g JOIN seamark.lease l ON l.generation_id = g.id AND l.lane <> 'retry'
    WHERE g.id = {generation} AND g.state <> 'retired'
) w
CROSS JOIN LATERAL (SELECT * FROM {journal} j WHERE j.seq > w.lo AND j.seq <= w.hi AND NOT j.deleted OFFSET 0) j
WHERE {open} AND NOT EXISTS (
    SELECT FROM seamark.lease l
    WHERE l.generation_id = {generation} AND l.lane <> 'retry' AND {held} AND j.seq > l.lo AND j.seq <= l.hi
)

-- name: view_open
-- Part of the view of jobs: the journal's row is neither done nor recorded as failed. Each is looked up by its key: to join them
-- the planner might read the whole of what is done.
(SELECT r.seq FROM {rows} r WHERE {r_is_j}) IS DISTINCT FROM j.seq
    AND (SELECT f.seq FROM {failures} f WHERE {f_is_j}) IS DISTINCT FROM j.seq

-- name: view_held
-- Part of the view of jobs: the lease has not expired.
l.expires_at > (extract(epoch FROM statement_timestamp()) * 1000000)::bigint

-- name: view_changed_at
-- Part of the view of jobs: when the row was changed last.
timestamptz 'epoch' + j.changed_at * interval '1 microsecond'

-- name: views_hidden
-- Give the names of views of ours that mean another table on the search path.
SELECT v.relname FROM pg_catalog.pg_class v
WHERE v.relnamespace = to_regnamespace('seamark') AND v.relkind = 'v' AND to_regclass(quote_ident(v.relname)) <> v.oid;

-- name: view_show
-- Let a view of ours be found before all other tables, in this session.
CREATE TEMP VIEW {view} AS SELECT * FROM seamark.{view};

-- name: sql_begin
-- Let a user's query read, for so long at most, the views found after the tables of the role's own search path.
SET TRANSACTION READ ONLY;

-- name: sql_settings
-- The same.
SELECT set_config('statement_timeout', %(milliseconds)s, true),
    set_config('search_path', concat_ws(', ', 'pg_temp', nullif(current_setting('search_path'), ''), 'seamark'), true);

-- ===== audit ======================================================================================================

-- name: audit_page
-- Give rows of the user's table in key order, with their journal's entries, and how many bytes of text each has.
WITH b AS MATERIALIZED (
    SELECT {k}, live, {size} AS size FROM (
        SELECT {k_s_named}, ({where}) IS TRUE AS live, {texts_named} FROM {source} s WHERE {after} ORDER BY {k_s} LIMIT %(limit)s
    ) AS s
)
SELECT b.live, coalesce(j.seq, -1), coalesce(j.deleted, true), b.size, {k_b}
FROM b LEFT JOIN {journal} j ON {j_is_b} ORDER BY {k_b};

-- name: audit_texts
-- Give the texts of the rows of a page, column by column: how long each is, and all of them together.
SELECT {texts_joined} FROM (
    SELECT {texts_encoded} FROM (SELECT {texts_named} FROM {source} s WHERE {after} AND {until} ORDER BY {k_s}) AS s
) AS s;

-- name: audit_ranges
-- Join what is read by ranges of keys all at once, and not key by key.
-- Differs by necessity: settings of the transaction.
SET LOCAL enable_nestloop = off; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;

-- name: audit_held_vector
-- Give what a vector generation holds of the rows of a page, column by column: the first chunk with it, since most have only one.
WITH b AS MATERIALIZED (SELECT {k_s_named} FROM {source} s WHERE {after} AND {until} ORDER BY {k_s}),
r AS MATERIALIZED (SELECT * FROM {rows} r WHERE {after_r} AND {until_r} ORDER BY {k_r}),
c AS MATERIALIZED (
    SELECT {k_c}, c.start, c.stop, c.digest, {damaged} AS damaged FROM {chunks} c
    WHERE {after_c} AND {until_c} AND c.ordinal = 0 ORDER BY {k_c}
), held AS (
    SELECT coalesce(r.seq, -1) AS seq, coalesce(r.chunks, -1) AS chunks, coalesce(r.truncated, false) AS truncated,
        coalesce(c.start, -1) AS start, coalesce(c.stop, -1) AS stop, coalesce(c.damaged, false) AS damaged,
        CASE octet_length(c.digest) WHEN 16 THEN c.digest ELSE decode(repeat('00', 16), 'hex') END AS digest
    FROM b LEFT JOIN r ON {r_is_b} LEFT JOIN c ON {c_is_b} AND r.chunks > 0 ORDER BY {k_b}
)
SELECT array_agg(seq), array_agg(chunks), array_agg(truncated), array_agg(start), array_agg(stop), array_agg(damaged),
    string_agg(digest, '') FROM held;

-- name: audit_damaged
-- Part of the two above and below: whether a vector is none of that dimension.
NOT (coalesce({vector}.vector_dims(c.embedding) = {dimension}, false)
     AND {vector}.inner_product(c.embedding, c.embedding) > 0
     AND {vector}.inner_product(c.embedding, c.embedding) < 'Infinity');

-- name: audit_held_lexical
-- Give what a lexical generation holds of the rows of a page, column by column.
WITH b AS MATERIALIZED (SELECT {k_s_named} FROM {source} s WHERE {after} AND {until} ORDER BY {k_s}),
r AS MATERIALIZED (SELECT * FROM {rows} r WHERE {after_r} AND {until_r} ORDER BY {k_r}),
held AS (
    SELECT coalesce(r.seq, -1) AS seq, coalesce(r.chunks, -1) AS chunks, coalesce(r.truncated, false) AS truncated,
        coalesce(r.doc, -1) AS doc
    FROM b LEFT JOIN r ON {r_is_b} ORDER BY {k_b}
)
SELECT array_agg(seq), array_agg(chunks), array_agg(truncated), array_agg(doc) FROM held;

-- name: audit_passages
-- Give the further chunks of the rows of a page.
WITH r AS MATERIALIZED (SELECT {k_r}, r.chunks FROM {rows} r WHERE {after_r} AND {until_r} AND r.chunks > 1),
c AS MATERIALIZED (
    SELECT {k_c}, c.ordinal, c.start, c.stop, c.digest, {damaged} AS damaged FROM {chunks} c
    WHERE {after_c} AND {until_c} AND c.ordinal > 0
)
SELECT c.start, c.stop, c.digest, c.damaged, {k_c} FROM c JOIN r ON {r_is_c} AND c.ordinal < r.chunks ORDER BY {k_c}, c.ordinal;

-- name: audit_gone
-- Give live entries of a range whose row is not live.
SELECT {k_j} FROM {journal} j
WHERE j.seq > %(lo)s AND j.seq <= %(hi)s AND NOT j.deleted
  AND NOT EXISTS (SELECT FROM {source} s WHERE {j_is_s} AND ({where})) ORDER BY j.seq;

-- name: audit_tombstones
-- Give tombstones of a range.
SELECT {k_j} FROM {journal} j WHERE j.seq > %(lo)s AND j.seq <= %(hi)s AND j.deleted ORDER BY j.seq;

-- name: audit_missing
-- Give entries that are neither done nor failed in a generation, behind its cursors and sweeps, and under no lease; or of a
-- number below the first, which no lane goes to.
SELECT {k_j} FROM seamark.generation g CROSS JOIN unnest({key_arrays}) AS b ({k}) JOIN {journal} j ON {j_is_b}
WHERE g.id = %(generation)s
  AND CASE WHEN j.seq < 1 THEN true WHEN j.seq > g.origin THEN j.seq <= g.confirmed ELSE j.seq > g.backfill AND j.seq <= g.swept END
  AND NOT EXISTS (SELECT FROM {rows} r WHERE {j_is_r} AND r.seq = j.seq)
  AND NOT EXISTS (SELECT FROM {failures} f WHERE {j_is_f} AND f.seq = j.seq)
  AND NOT EXISTS (SELECT FROM seamark.lease l WHERE l.generation_id = g.id AND j.seq > l.lo AND j.seq <= l.hi);

-- name: rows_outdate
-- Let a version be old that is held and that the journal has never given out.
UPDATE {rows} r SET seq = 0 FROM unnest({key_arrays}) AS b ({k}) JOIN {journal} j ON {j_is_b} WHERE {r_is_b} AND r.seq > j.seq;

-- name: audit_rows_end
-- Give the key of the so-many-th row beyond one.
SELECT {k_r} FROM {rows} r WHERE {after_r} ORDER BY {k_r} OFFSET %(limit)s - 1 LIMIT 1;

-- name: audit_rows
-- Give rows held of which the journal has no entry.
SELECT {k_r} FROM {rows} r
WHERE {after_r} AND {until_r} AND r.chunks >= 0
  AND NOT EXISTS (SELECT FROM {journal} j WHERE {after_j} AND {until_j} AND {j_is_r}) ORDER BY {k_r};

-- name: audit_chunks_end
-- Give the key of the so-many-th chunk beyond one.
SELECT {k_c} FROM {chunks} c WHERE {after_c} ORDER BY {k_c} OFFSET %(limit)s - 1 LIMIT 1;

-- name: audit_chunks
-- Give chunks of rows that are not held, or held with fewer.
SELECT DISTINCT {k_c} FROM {chunks} c
WHERE {after_c} AND {until_c}
  AND NOT EXISTS (SELECT FROM {rows} r WHERE {after_r} AND {until_r} AND {r_is_c} AND c.ordinal < r.chunks) ORDER BY {k_c};

-- name: audit_postings
-- Give all postings, by term.
SELECT term, data FROM {postings} ORDER BY term;

-- name: audit_documents
-- Give the highest document that is current.
SELECT coalesce(max(doc), 0) FROM {rows};

-- name: audit_begin
-- Take an audit on, if it is time for one and nobody is at it.
INSERT INTO seamark.audit_run AS r (source_id, owner, expires_at)
SELECT %(source)s, %(worker)s, seamark.clock() + %(microseconds)s::bigint WHERE EXISTS (
    SELECT FROM seamark.generation g LEFT JOIN seamark.audit a ON a.generation_id = g.id
    WHERE g.source_id = %(source)s AND g.state = 'active'
      AND greatest(a.audited_at, coalesce(g.activated_at, g.created_at)) <= seamark.clock() - %(interval)s::bigint
)
ON CONFLICT (source_id) DO UPDATE SET owner = EXCLUDED.owner, expires_at = EXCLUDED.expires_at
WHERE r.expires_at <= seamark.clock() RETURNING 1;

-- name: audit_renew
-- Go on with an audit that is ours.
UPDATE seamark.audit_run SET expires_at = seamark.clock() + %(microseconds)s::bigint
WHERE source_id = %(source)s AND owner = %(worker)s RETURNING 1;

-- name: audit_release
-- Let an audit that is ours go.
DELETE FROM seamark.audit_run WHERE source_id = %(source)s AND owner = %(worker)s RETURNING 1;

-- name: audit_record
-- Record what came of an audit, of a generation that is there.
INSERT INTO seamark.audit (generation_id, audited_at, rows, findings, repaired)
SELECT g.id, seamark.clock(), %(rows)s, %(findings)s, %(repaired)s
FROM seamark.generation g WHERE g.id = %(generation)s FOR KEY SHARE
ON CONFLICT (generation_id) DO UPDATE SET audited_at = EXCLUDED.audited_at, rows = EXCLUDED.rows, findings = EXCLUDED.findings,
    repaired = EXCLUDED.repaired;

-- name: audits
-- Give the last audits of a source's generations.
SELECT a.generation_id, a.audited_at, a.rows, a.findings, a.repaired
FROM seamark.audit a JOIN seamark.generation g ON g.id = a.generation_id WHERE g.source_id = %(source)s;

-- name: poll_state
-- Give how far a polled table has been looked at: from where the enrolment ended, if never. Give also whether all transactions
-- that were open at the mark have ended, or were of another cluster, and a moment has gone by.
SELECT CASE WHEN p.source_id IS NULL THEN s.enrolled ELSE p.seen END, p.confirmed, p.mark, coalesce(p.horizon, 0),
    coalesce(p.marked_at, 0), p.marked_at <= seamark.clock() - %(margin)s::bigint
        AND (pg_snapshot_xmin(n)::text::bigint >= p.horizon OR p.horizon >= pg_snapshot_xmax(n)::text::bigint)
FROM seamark.source s LEFT JOIN seamark.poll p ON p.source_id = s.id CROSS JOIN pg_current_snapshot() n
WHERE s.id = %(source)s;

-- name: poll_write
-- Remember how far it has been looked at. The time is that of a new mark, or the old one's.
INSERT INTO seamark.poll (source_id, seen, confirmed, mark, horizon, marked_at)
VALUES (%(source)s, %(seen)s, %(confirmed)s, %(mark)s, %(horizon)s, coalesce(%(marked_at)s, seamark.clock()))
ON CONFLICT (source_id) DO UPDATE SET seen = EXCLUDED.seen, confirmed = EXCLUDED.confirmed, mark = EXCLUDED.mark,
    horizon = EXCLUDED.horizon, marked_at = EXCLUDED.marked_at;

-- name: poll_found
-- Give the next rows beyond a key, in its order, and whether they are live.
SELECT {k_s}, ({where}) IS TRUE FROM {source} s WHERE {after} ORDER BY {k_s} LIMIT %(limit)s;

-- name: poll_missed
-- Give live rows of a range of keys that the journal does not have.
SELECT {k_s} FROM {source} s
WHERE {after} AND {until} AND ({where}) AND NOT EXISTS (SELECT FROM {journal} j WHERE {j_is_s}) ORDER BY {k_s} LIMIT %(limit)s;

-- name: poll_passed
-- Give those keys that are not beyond one.
SELECT {k_s} FROM unnest({key_arrays}) AS b ({k}) JOIN {source} s ON {s_is_b} WHERE {until};

-- name: journal_renew_lock
-- Lock entries, but for those that somebody is writing just now: they get a new `seq` by it.
-- Differs by necessity: there are other writers.
SELECT {k_j} FROM {journal} j JOIN unnest({key_arrays}) AS b ({k}) ON {j_is_b} ORDER BY {k_j} FOR UPDATE OF j SKIP LOCKED;

-- name: journal_renew
-- Give entries that are locked a new `seq`, and say whether their row is live.
UPDATE {journal} j SET seq = nextval('{sequence}'::regclass), changed_at = seamark.clock(),
    deleted = NOT EXISTS (SELECT FROM {source} s WHERE {j_is_s} AND ({where}))
FROM unnest({key_arrays}) AS b ({k}) WHERE {j_is_b};

-- name: journal_enter
-- Enter live rows that the journal does not have.
INSERT INTO {journal} ({k}, seq, deleted, changed_at)
SELECT {k_s}, nextval('{sequence}'::regclass), false, seamark.clock()
FROM unnest({key_arrays}) AS b ({k}) JOIN {source} s ON {s_is_b}
WHERE ({where}) AND NOT EXISTS (SELECT FROM {journal} j WHERE {j_is_s}) ORDER BY {k_s}
ON CONFLICT ({k}) DO NOTHING;

-- name: strays_drop_rows
-- Drop what is held of rows that the journal has no entry of.
DELETE FROM {rows} r USING unnest({key_arrays}) AS b ({k})
WHERE {r_is_b} AND NOT EXISTS (SELECT FROM {journal} j WHERE {j_is_r});

-- name: strays_drop_chunks
-- Drop rows' chunks too many.
DELETE FROM {chunks} c USING unnest({key_arrays}) AS b ({k})
WHERE {c_is_b} AND NOT EXISTS (SELECT FROM {rows} r WHERE {r_is_c} AND c.ordinal < r.chunks);

-- name: tables_gone
-- Give those of our tables and sequences that are not there.
SELECT name FROM unnest(%(names)s::text[]) AS b (name) WHERE to_regclass(name) IS NULL;

-- name: sequence_floor
-- Give the highest `seq` that was given out, as far as the journal and the cursors tell, and the last of the sequence.
SELECT greatest((SELECT max(seq) FROM {journal}), (
    SELECT max(greatest(fresh, origin)) FROM seamark.generation WHERE source_id = %(source)s
), 0), (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence});

-- name: sequence_forward
-- Set the sequence forward.
SELECT setval('{sequence}'::regclass, %(seq)s);

-- name: documents_forward
-- Set the sequence of document numbers to where they are.
SELECT setval('{documents}'::regclass, max(doc)) FROM {rows} HAVING max(doc) > 0;

-- name: missed_reset
-- Forget that writes were let pass.
SELECT setval('{missed}'::regclass, 1, false);

-- ===== the database itself ========================================================================================

-- name: schema_state
-- Give the server's version and encoding, whether there is a schema of our name, and whether it is ours. The catalog is read as
-- tables: its functions may answer from a cache that is older than a lock waited for.
SELECT current_setting('server_version_num')::integer, current_setting('server_version'), current_setting('server_encoding'),
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'seamark'),
    EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'seamark' AND c.relname = 'schema_version');

-- name: schema_version
-- Give the version of our schema.
SELECT max(version) FROM seamark.schema_version;

-- name: schema_version_write
-- Write the version of our schema.
WITH gone AS (DELETE FROM seamark.schema_version) INSERT INTO seamark.schema_version VALUES (%(version)s);

-- name: shared_gone
-- Give those of what all sources share that are not there.
SELECT name FROM unnest(%(names)s::text[]) s (name)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace('seamark') AND relname = name)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = to_regnamespace('seamark') AND proname = name);

-- name: postings_upkeep_again
-- Begin the upkeep of every lexical generation anew.
INSERT INTO seamark.postings_upkeep (generation_id) SELECT id FROM seamark.generation WHERE kind = 'lexical';

-- name: schema_lock
-- Let one process at a time migrate, until the transaction ends.
SELECT pg_advisory_xact_lock(%(lock)s);

-- name: extension
-- Give the version and the schema of pgvector where it is installed, and the version that could be.
SELECT e.extversion, n.nspname, (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector')
FROM (SELECT) one LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'vector'
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace;

-- name: extension_home
-- Give the schema that an extension goes into, which an empty search path does not say.
SELECT coalesce(current_schema(), 'public');

-- name: extension_create
-- Install pgvector.
CREATE EXTENSION IF NOT EXISTS vector SCHEMA {home};

-- name: extension_rights
-- Say whether the role may install the newest pgvector there is.
SELECT coalesce(bool_or(NOT v.superuser OR r.rolsuper OR (v.trusted AND has_database_privilege(current_database(), 'CREATE'))),
    false)
FROM pg_catalog.pg_available_extension_versions v
JOIN pg_catalog.pg_available_extensions e ON e.name = v.name AND e.default_version = v.version
CROSS JOIN pg_catalog.pg_roles r WHERE v.name = 'vector' AND r.rolname = current_user;

-- name: rights
-- Say whether the role may make a schema, whether ours is there, whether the role may look into it, and whether it acts as its
-- owner, which it takes to make tables, triggers and indexes.
SELECT current_user, has_database_privilege(current_database(), 'CREATE'), n.oid IS NOT NULL,
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(pg_has_role(n.nspowner, 'USAGE'), false)
FROM (SELECT) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'seamark';

-- name: journal_state
-- Say whether writes were not entered, and whether the journal's sequence would give out numbers that it has given out before.
SELECT (SELECT is_called FROM {missed}),
    (SELECT last_value FROM {sequence}) < greatest(max(greatest(fresh, origin)), (SELECT max(seq) FROM {journal}), 0)
FROM seamark.generation WHERE source_id = %(source)s;

-- name: triggers_off
-- Give a source's triggers that should fire and do not, with the table where they are switched off, or none where they are
-- gone. Those that a partition has taken with it are not among them.
SELECT 'seamark_' || substr(p.proname, 7), t.tgrelid::regclass::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_trigger t ON t.tgfoid = p.oid
WHERE n.nspname = 'seamark' AND p.proname LIKE %(pattern)s
  AND (t.tgenabled IN ('D', 'R') OR (t.oid IS NULL AND p.proname !~ %(truncate)s))
ORDER BY 2, 1;

-- name: partitions_left
-- Count the partitions that were there when the table was attached, and are no longer part of it, or are so again: the triggers
-- that they have of the table are then younger than the one for TRUNCATE, which stays with them.
SELECT count(*)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_trigger t ON t.tgfoid = p.oid
WHERE n.nspname = 'seamark' AND p.proname ~ %(truncate)s AND (
    NOT EXISTS (SELECT FROM pg_partition_tree(to_regclass(%(root)s)) r WHERE r.relid = t.tgrelid)
    OR EXISTS (SELECT FROM pg_catalog.pg_trigger c WHERE c.tgrelid = t.tgrelid AND c.tgparentid <> 0 AND c.oid > t.oid
               AND c.tgname LIKE 'seamark\_%%')
);

-- name: partitions_new
-- Give the partitions that the table has had since it was attached, and that the role may read.
SELECT r.relid::oid, r.relid::regclass::text, ns.nspname, c.relname
FROM pg_partition_tree(to_regclass(%(root)s)) r
JOIN pg_catalog.pg_class c ON c.oid = r.relid JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace
WHERE r.isleaf AND r.level > 0 AND has_table_privilege(r.relid, 'SELECT') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_trigger t ON t.tgfoid = p.oid
    WHERE n.nspname = 'seamark' AND p.proname ~ %(truncate)s AND t.tgrelid = r.relid
)
ORDER BY r.relid;

-- name: partition_unentered
-- Say whether a partition had rows when it was attached: the first that it has are not in the journal. Rows that came later
-- are.
SELECT EXISTS (
    SELECT FROM (SELECT * FROM {partition} s WHERE {where} LIMIT 100) s
    WHERE NOT EXISTS (SELECT FROM {journal} j WHERE {j_is_s} AND NOT j.deleted)
);
