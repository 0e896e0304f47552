-- Statements that only this database has, and why.
--
-- Differs by necessity: key_collations, keyless, journal_exists, journal_alike, journal_deleted, journal_upsert,
-- journal_displace, journal_touch, triggers: the journal and the triggers are plain SQL in the user's file, which other
-- programs' SQLite runs; PostgreSQL has functions.

-- Differs by necessity: enroll_last, model_insert, model_find, failures_hold, lease_remainder, settle_compare,
-- failures_any, failures_delete, kept_any, kept_delete, kept_forget, journal_trim_bound, journal_trim_find,
-- vectors_kept, digests_kept, prepaid_any: there is one writer and no round trip, so that several
-- short statements do what one statement with its own compare must do on PostgreSQL.

-- Differs by necessity: lease_keys, lease_keys_retry, rows_settle_gone, failures_forget, failures_park: a key may be text that
-- is not well-formed, which PostgreSQL refuses; it is copied from the journal.

-- Differs by necessity: coverage_cursors, coverage_leases, coverage_journal, coverage_deleted, coverage_rows,
-- coverage_truncated, coverage_failed, coverage_unclaimed, coverage_unsettled, pending_unclaimed, pending_unsettled,
-- failures_pending: as above; PostgreSQL counts in one statement.

-- Differs by necessity: adopt_replace, adopt_chunks, adopt_written: as above; and no COPY, so that SQL takes the columns apart.

-- Differs by necessity: common_tables, vector_tables, lexical_tables: SQLite runs a script of several statements.

-- Differs by necessity: generations_vector: no script of SQLite's can make a table for each row, so that the migration that
-- brings `kept` leaves it to the store.

-- Differs by necessity: generation_precision: a blob does not say what it is made of; a column has a type.

-- Differs by necessity: chunks_insert, postings_insert, next_id, next_id_write: no COPY, and no sequence in our own file.

-- Differs by necessity: chunks_find, chunks_scan, chunks_end, chunks_outside, shard_list, shard_write, shard_bury, shard_begin,
-- shard_delete: the HNSW index is files of ours, kept in step with the chunks by their numbers.

-- Differs by necessity: stamp_read, stamp_write, stamp_empty, stamp_moment, stamp_columns: the user's table is in another file,
-- and is altered and emptied by plain SQL there.

-- Differs by necessity: views_attach, journal_there, view_none, view_group: a view cannot look into another file unless it is the connection's
-- own, without types; and a statement has 500 parts at most.

-- Differs by necessity: sql_columns, sql_raw: PostgreSQL has no text that is not well-formed.

-- Differs by necessity: journal_floor, journal_lift, journal_lift_empty, shards_forget: `seq` is the journal's row id, and the
-- HNSW index is files.

-- Differs by necessity: witness_write, witness_broken: the journal and what was indexed of it are two files, and a backup may
-- bring back one alone.

-- Differs by necessity: upkeep_begin, upkeep_renew, upkeep_end: a row that expires, where PostgreSQL has advisory locks.

-- Differs by necessity: postings_upkeep_add, blocks_list, blocks_count: the settles count what they add, since they are alone.

-- The statements of the SQLite store. `{word}` is an identifier, a list of columns, or a condition over them; see words.py.
-- j is the journal, t the user's table, r the generation's rows, f its failures, c its chunks.

-- name: clock
-- The time, microseconds UTC. Differs by necessity: SQLite's clock ticks in milliseconds.
SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000

-- name: shared_gone
-- Those of what all sources share that are not there.
SELECT value FROM json_each(?) WHERE value NOT IN (SELECT name FROM main.sqlite_schema)

-- name: postings_upkeep_again
-- Begin the upkeep of every lexical generation anew.
INSERT INTO postings_upkeep (generation_id) SELECT id FROM generation WHERE kind = 'lexical'

-- === tables ========================================================================================================

-- name: table_find
-- The table of that name, as SQLite compares names, with its kind.
SELECT name, type FROM pragma_table_list WHERE schema = 'app' AND name = ? COLLATE NOCASE

-- name: table_names
-- All tables that a user could mean.
SELECT name FROM pragma_table_list
WHERE schema = 'app' AND type IN ('table', 'view', 'virtual') AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
  AND name NOT LIKE 'seamark\_journal\_%' ESCAPE '\'
ORDER BY name

-- name: table_columns
-- The columns of a table in order: name, declared type, place in the primary key from 1 or 0, and 2 or 3 when generated.
SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'app') WHERE hidden <> 1 ORDER BY cid

-- name: key_collations
-- By which collations the key is unique, where not byte by byte.
SELECT x.name, x.coll FROM pragma_index_list(?, 'app') i, pragma_index_xinfo(i.name, 'app') x
WHERE i.origin = 'pk' AND x.key AND x.coll <> 'BINARY' COLLATE NOCASE

-- name: keyless
-- How many rows have no whole key.
SELECT count(*) FROM {table} t WHERE NOT ({keys_present})

-- === sources =======================================================================================================

-- name: source_insert
-- A source that begins to enrol; nothing when its table is a source already.
INSERT INTO source (name, table_name, columns, key, spec, state) VALUES (?, ?, ?, ?, ?, 'enrolling') ON CONFLICT DO NOTHING

-- name: sources
-- All sources, by id.
SELECT id, name, table_name, columns, key, spec, state, enrolled FROM source ORDER BY id

-- name: witness_write
-- Remember the journal's last row.
UPDATE source SET (witness_seq, witness) = (SELECT j.seq, {witness} FROM {journal} j ORDER BY j.seq DESC LIMIT 1)
WHERE id = :source

-- name: witness_broken
-- Say whether the journal is not the one that was indexed: it has not come as far, or gave a number that is remembered, and is
-- given out once only, to another change.
SELECT coalesce((SELECT max(seq) FROM {journal}), 0) < s.witness_seq
    OR EXISTS (SELECT 1 FROM {journal} j WHERE j.seq = s.witness_seq AND {witness} <> s.witness)
FROM source s WHERE s.id = :source AND s.witness_seq IS NOT NULL

-- name: source_enrolled
-- Remember how far the enrolment of existing rows has got.
UPDATE source SET enrolled = coalesce(?, enrolled), state = ? WHERE id = ? AND state = 'enrolling'

-- name: source_delete
-- Forget a source.
DELETE FROM source WHERE id = :source;
DELETE FROM poll WHERE source_id = :source;
DELETE FROM audit_run WHERE source_id = :source

-- name: journal_exists
-- Whether the user's file holds this journal.
SELECT EXISTS (SELECT 1 FROM {schema}.sqlite_master WHERE type = 'table' AND name = ?)

-- name: journal_create
-- One narrow row per source row. No AUTOINCREMENT: it would leave a table behind; the last row is never dropped instead.
CREATE TABLE {journal_here} (seq INTEGER PRIMARY KEY, {keys}, deleted INTEGER NOT NULL, changed_at INTEGER NOT NULL)

-- name: journal_key
-- Finds a row's entry; in the trigger, and when rows are joined by key.
CREATE UNIQUE INDEX {journal_key} ON {journal_here} ({keys})

-- name: journal_alike
-- Finds the entries of keys that a collation calls equal; only where the key has one.
CREATE INDEX IF NOT EXISTS {journal_alike} ON {journal_here} ({keys_collated})

-- name: journal_deleted
-- Finds tombstones, which are few, for the coverage and for trimming.
CREATE INDEX {journal_deleted} ON {journal_here} (seq) WHERE deleted

-- name: journal_drop
-- Its indexes go with it.
DROP TABLE IF EXISTS {journal_here}

-- name: triggers
-- Our triggers in the user's file, on the source's table and on those that touch it.
SELECT name, sql FROM {schema}.sqlite_master WHERE type = 'trigger' AND name IN ({names})

-- name: enroll_last
-- The last key of the next batch in key order, and how many rows there are up to it.
SELECT {table_keys_raw}, count(*) OVER () FROM (
    SELECT {table_keys} FROM {table_here} t WHERE {after} AND {keys_present} ORDER BY {table_keys} LIMIT ?
) t ORDER BY {table_keys_descending} LIMIT 1

-- name: enroll
-- Enter the live rows of the batch that the triggers have not entered already, in key order.
INSERT INTO {journal_here} ({keys}, deleted, changed_at)
SELECT {table_keys}, 0, CAST(strftime('%s', 'now') AS INTEGER) FROM {table_here} t
WHERE {after} AND {until} AND {keys_present} AND {live}
  AND NOT EXISTS (SELECT 1 FROM {journal_here} j WHERE {j_is_t})
ORDER BY {table_keys}

-- === triggers: they run inside other programs' SQLite, so nothing in them is newer than 3.24 =======================

-- name: journal_upsert
-- Give the row a new seq. Not INSERT OR REPLACE: a trigger's statements inherit the conflict clause of the user's statement.
UPDATE {journal_here} SET seq = (SELECT max(seq) FROM {journal_here}) + 1, deleted = {deleted},
    changed_at = CAST(strftime('%s', 'now') AS INTEGER)
WHERE {j_is_row};
INSERT INTO {journal_here} ({keys}, deleted, changed_at)
SELECT {row}, {deleted}, CAST(strftime('%s', 'now') AS INTEGER)
WHERE {row_present} AND NOT EXISTS (SELECT 1 FROM {journal_here} WHERE {j_is_row});

-- name: journal_displace
-- Of keys that its collation calls equal a table has one: an entry of another spelling is of a row that has been replaced,
-- without a word from SQLite.
UPDATE {journal_here} SET seq = (SELECT max(seq) FROM {journal_here}) + 1, deleted = 1,
    changed_at = CAST(strftime('%s', 'now') AS INTEGER)
WHERE seq = (SELECT seq FROM {journal_here} WHERE {j_is_alike} AND NOT ({j_is_row}) AND NOT deleted);

-- name: journal_touch
-- Give the row that a related row refers to a new seq, if it is there.
UPDATE {journal_here} SET seq = (SELECT max(seq) FROM {journal_here}) + 1,
    deleted = (SELECT {deleted} FROM {table_here} t WHERE {t_is_reference}),
    changed_at = CAST(strftime('%s', 'now') AS INTEGER)
WHERE seq = (SELECT j.seq FROM {table_here} t JOIN {journal_here} j ON {j_is_t} WHERE {t_is_reference} AND {condition});
INSERT INTO {journal_here} ({keys}, deleted, changed_at)
SELECT {table_keys}, {deleted}, CAST(strftime('%s', 'now') AS INTEGER) FROM {table_here} t
WHERE {t_is_reference} AND {condition} AND {keys_present}
  AND NOT EXISTS (SELECT 1 FROM {journal_here} j WHERE {j_is_t});

-- === collections ===================================================================================================

-- name: collection_create
-- The table of a collection.
CREATE TABLE IF NOT EXISTS {table_here} (
    path TEXT NOT NULL PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL, added_at INTEGER NOT NULL
)

-- name: collection_put
-- Insert or update one document; one row comes back when something changed.
INSERT INTO {table_here} (path, title, body, added_at)
VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000)
ON CONFLICT (path) DO UPDATE SET title = excluded.title, body = excluded.body
WHERE title IS NOT excluded.title OR body IS NOT excluded.body
RETURNING 1

-- === generations ===================================================================================================

-- name: model_insert
-- Register a model's identity.
INSERT INTO model (name, version, dimension, document_prefix, query_prefix, normalised) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- name: model_find
-- The id of a model's identity.
SELECT id FROM model
WHERE name = ? AND version = ? AND dimension = ? AND document_prefix = ? AND query_prefix = ? AND normalised = ?

-- name: journal_end
-- The highest seq given out, 0 when none was.
SELECT coalesce(max(seq), 0) FROM {journal}

-- name: generation_insert
-- A generation that begins at the journal's present end.
INSERT INTO generation (source_id, kind, fingerprint, identity, model_id, locator, state, manual, origin, fresh, backfill, confirmed,
    created_at)
VALUES (:source, :kind, :fingerprint, :identity, :model, :locator, 'building', :manual, :origin, :origin, :origin, :origin, :now)
RETURNING id

-- name: generation_find
-- The generation of that kind and fingerprint: the one that is not retired, else the one that was retired last.
SELECT id FROM generation WHERE source_id = :source AND kind = :kind AND fingerprint = :fingerprint
ORDER BY state = 'retired', id DESC LIMIT 1

-- name: generation_take_up
-- What is asked of a generation that there is: it is not retired any more, and where its model is and how it is activated are as
-- asked for.
UPDATE generation SET
    due = CASE state WHEN 'retired' THEN NULL ELSE due END,
    backoff_until = CASE state WHEN 'retired' THEN 0 ELSE backoff_until END,
    backoff_error = CASE state WHEN 'retired' THEN NULL ELSE backoff_error END,
    state = CASE state WHEN 'retired' THEN 'building' ELSE state END,
    retired_at = NULL, manual = :manual, locator = coalesce(:locator, locator)
WHERE id = :generation

-- name: generations
-- Generations, oldest first, of one source or of all.
SELECT g.id, g.source_id, g.kind, g.fingerprint, g.identity, g.state, g.locator, g.origin, g.fresh, g.backfill, g.confirmed, g.swept,
       g.backoff_until, g.backoff_error, g.created_at, g.activated_at, g.manual, g.retired_at, g.due, m.drift,
       m.name, m.version, m.dimension, m.document_prefix, m.query_prefix, m.normalised
FROM generation g LEFT JOIN model m ON m.id = g.model_id
WHERE :source IS NULL OR g.source_id = :source
ORDER BY g.id

-- name: generation_source
-- The source that a generation is of, and its kind.
SELECT source_id, kind FROM generation WHERE id = ?

-- name: generation_standing
-- What it depends on whether a generation may become the active one.
SELECT g.state, g.manual, g.backfill = 0 AND g.swept >= g.origin
       AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.generation_id = g.id AND l.lo < g.origin),
       g.due, g.confirmed,
       EXISTS (SELECT 1 FROM generation o WHERE o.source_id = g.source_id AND o.kind = g.kind AND o.state = 'active' AND o.id <> g.id)
FROM generation g WHERE g.id = :generation

-- name: generation_due
-- What the journal holds now is due.
UPDATE generation SET due = (SELECT coalesce(max(seq), 0) FROM {journal}) WHERE id = ? RETURNING due

-- name: generation_failing
-- Whether a live row has failed at its present version.
SELECT EXISTS (SELECT 1 FROM {failures} f JOIN {journal} j ON j.seq = f.seq WHERE NOT j.deleted)

-- name: generation_give_way
-- Retire the active generation of a generation's kind: the last of those that were. Differs by necessity: the clock counts
-- milliseconds here, and two may be retired within one.
UPDATE generation AS g SET state = 'retired', retired_at = max(:now, (
        SELECT coalesce(max(o.retired_at), 0) + 1 FROM generation o WHERE (o.source_id, o.kind) = (g.source_id, g.kind)
    ))
WHERE state = 'active' AND (source_id, kind) = (SELECT source_id, kind FROM generation WHERE id = :generation)

-- name: generation_activate
-- Make a generation the active one: the last in the order in which they came. With `back` its place there stays.
UPDATE generation AS g SET activated_at = CASE WHEN :back THEN coalesce(activated_at, :now) ELSE max(:now, (
        SELECT coalesce(max(o.activated_at), 0) + 1 FROM generation o WHERE (o.source_id, o.kind) = (g.source_id, g.kind)
    )) END,
    state = 'active', retired_at = NULL
WHERE id = :generation

-- name: generation_precede
-- Leave what is being built of a generation's kind to be activated when somebody asks for it.
UPDATE generation SET manual = 1
WHERE state = 'building' AND id <> :generation
    AND (source_id, kind) = (SELECT source_id, kind FROM generation WHERE id = :generation)

-- name: generation_retire
-- Retire a generation; an active one only with force.
UPDATE generation SET state = 'retired', retired_at = :now
WHERE id = :generation AND (state = 'building' OR (state = 'active' AND :force)) RETURNING 1

-- name: generation_retired
-- Whether a generation is retired.
SELECT state = 'retired' FROM generation WHERE id = ?

-- name: generations_bytes
-- What the tables and indexes of each generation of a source take. Differs by necessity: every page is looked at.
SELECT g.id, coalesce((SELECT sum(d.pgsize) FROM sqlite_schema s JOIN dbstat('main', 1) d ON d.name = s.name
    WHERE s.tbl_name IN ('rows_' || g.id, 'chunks_' || g.id, 'kept_' || g.id, 'postings_' || g.id, 'failures_' || g.id)), 0),
    coalesce((SELECT sum(a.bytes) FROM ann_shard a WHERE a.generation_id = g.id), 0)
FROM generation g WHERE g.source_id = ?

-- name: models
-- All models, with what they made of the fixed sentences.
SELECT name, version, dimension, document_prefix, query_prefix, normalised, probe, drift FROM model

-- name: model_probe
-- Remember what a model makes of the fixed sentences.
UPDATE model SET probe = :probe
WHERE name = :name AND version = :version AND dimension = :dimension AND document_prefix = :document_prefix
  AND query_prefix = :query_prefix AND normalised = :normalised AND (probe IS NULL OR :replace)

-- name: model_drift
-- Record in what a model is another one by now.
UPDATE model SET drift = :drift
WHERE name = :name AND version = :version AND dimension = :dimension AND document_prefix = :document_prefix
  AND query_prefix = :query_prefix AND normalised = :normalised

-- name: generation_backoff
-- Let nobody claim for a while.
UPDATE generation SET backoff_until = ?, backoff_error = ? WHERE id = ?

-- name: vector_tables
-- The tables of a vector generation: which version of a row is indexed, and its chunks.
CREATE TABLE IF NOT EXISTS {rows} ({keys}, seq INTEGER NOT NULL, chunks INTEGER NOT NULL, truncated INTEGER NOT NULL,
    embedded_at INTEGER NOT NULL, worker TEXT NOT NULL, PRIMARY KEY ({keys})) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {chunks} (id INTEGER PRIMARY KEY, {keys}, ordinal INTEGER NOT NULL, start INTEGER NOT NULL,
    stop INTEGER NOT NULL, digest BLOB NOT NULL, embedding BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS {chunks_key} ON {chunks} ({keys}, ordinal)

-- name: kept_create
-- The vectors of rows that are outside the source's `where`, and in the table all the same.
CREATE TABLE IF NOT EXISTS {kept} ({keys}, digest BLOB NOT NULL, embedding BLOB NOT NULL, PRIMARY KEY ({keys}, digest)) WITHOUT ROWID

-- name: generations_vector
-- The vector generations there are, and the keys of their sources.
SELECT g.id, s.key FROM generation g JOIN source s ON s.id = g.source_id WHERE g.kind = 'vector'

-- name: lexical_tables
-- The tables of a lexical generation: which version of a row is indexed as which document, and the postings.
CREATE TABLE IF NOT EXISTS {rows} ({keys}, seq INTEGER NOT NULL, chunks INTEGER NOT NULL, truncated INTEGER NOT NULL,
    embedded_at INTEGER NOT NULL, worker TEXT NOT NULL, doc INTEGER, PRIMARY KEY ({keys})) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS {rows_doc} ON {rows} (doc);
CREATE TABLE IF NOT EXISTS {postings} (term TEXT NOT NULL, block INTEGER NOT NULL, docs INTEGER NOT NULL, lengths INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (term, block)) WITHOUT ROWID

-- name: common_tables
-- What both kinds have: the rows without chunks and the truncated ones by index, and the failures.
CREATE INDEX IF NOT EXISTS {rows_empty} ON {rows} (chunks) WHERE chunks <= 0;
CREATE INDEX IF NOT EXISTS {rows_truncated} ON {rows} (truncated) WHERE truncated;
CREATE TABLE IF NOT EXISTS {failures} ({keys}, seq INTEGER NOT NULL, attempts INTEGER NOT NULL, kind TEXT NOT NULL, error TEXT NOT NULL,
    retry_at INTEGER, failed_at INTEGER NOT NULL, lease INTEGER, PRIMARY KEY ({keys})) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {failures_due} ON {failures} (retry_at) WHERE retry_at IS NOT NULL AND lease IS NULL;
CREATE INDEX IF NOT EXISTS {failures_lease} ON {failures} (lease) WHERE lease IS NOT NULL

-- name: generation_tables_drop
-- All tables of a generation, whichever kind it is of; in the sidecar only, for where it has no table of such a name, the user's
-- file may have one.
DROP TABLE IF EXISTS main.{chunks};
DROP TABLE IF EXISTS main.{kept};
DROP TABLE IF EXISTS main.{rows};
DROP TABLE IF EXISTS main.{postings};
DROP TABLE IF EXISTS main.{failures};
DELETE FROM lease WHERE generation_id = {generation};
DELETE FROM upkeep WHERE generation_id = {generation};
DELETE FROM ann_shard WHERE generation_id = {generation};
DELETE FROM postings_upkeep WHERE generation_id = {generation};
DELETE FROM spend WHERE generation_id = {generation};
DELETE FROM audit WHERE generation_id = {generation};
DELETE FROM batch WHERE generation_id = {generation};
DELETE FROM prepaid WHERE generation_id = {generation};
DELETE FROM generation WHERE id = {generation}

-- name: generation_donate
-- Drop a generation but for its vectors.
DROP TABLE IF EXISTS main.{rows};
DROP TABLE IF EXISTS main.{postings};
DROP TABLE IF EXISTS main.{failures};
DELETE FROM lease WHERE generation_id = {generation};
DELETE FROM upkeep WHERE generation_id = {generation};
DELETE FROM ann_shard WHERE generation_id = {generation};
DELETE FROM postings_upkeep WHERE generation_id = {generation};
DELETE FROM spend WHERE generation_id = {generation};
DELETE FROM audit WHERE generation_id = {generation};
DELETE FROM batch WHERE generation_id = {generation};
DELETE FROM prepaid WHERE generation_id = {generation};
DELETE FROM generation WHERE id = {generation}

-- name: donor_insert
-- Remember what vectors a generation leaves, if it is of a model.
INSERT INTO donor (id, table_name, "key", model_id, precision, detached_at)
SELECT g.id, s.table_name, s."key", g.model_id, g.identity ->> '$.precision', :now
FROM generation g JOIN source s ON s.id = g.source_id WHERE g.id = :generation AND g.model_id IS NOT NULL

-- name: donors_find
-- What a detach has left of a table.
SELECT id FROM donor WHERE table_name = ?

-- name: donors_spent
-- What was left too long ago, or is held by an active generation by now.
SELECT d.id FROM donor d WHERE d.detached_at < :before OR EXISTS (
    SELECT 1 FROM generation g JOIN source s ON s.id = g.source_id
    WHERE g.state = 'active' AND s.table_name = d.table_name AND s."key" = d."key" AND g.model_id = d.model_id
      AND d.precision IS g.identity ->> '$.precision'
)

-- name: donor_drop
-- Drop vectors that were left.
DROP TABLE IF EXISTS main.{chunks};
DROP TABLE IF EXISTS main.{kept};
DELETE FROM donor WHERE id = {generation}

-- name: kept_trim
-- Forget rows that have left the table with no trigger to tell.
DELETE FROM {kept} AS r WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE {t_is_r})

-- === claims ========================================================================================================

-- name: look
-- Whether a claim could find anything, read without a lock, so that idle workers write nothing.
SELECT g.backoff_until <= :now AND NOT EXISTS (SELECT 1 FROM model m WHERE m.id = g.model_id AND m.drift IS NOT NULL) AND (
    EXISTS (SELECT 1 FROM lease l WHERE l.generation_id = g.id AND l.expires_at <= :now)
    OR g.fresh < (SELECT max(seq) FROM {journal})
    OR EXISTS (SELECT 1 FROM {failures} f JOIN {journal} j ON j.seq = f.seq
               WHERE f.lease IS NULL AND f.retry_at IS NOT NULL AND f.retry_at <= :now)
    OR (g.backfill > 0 AND g.held_until <= :now)
    OR (g.confirmed < g.fresh
        AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.generation_id = g.id AND l.lo < coalesce(g.mark, g.fresh)))
    OR (g.backfill = 0 AND g.swept < g.origin AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.generation_id = g.id AND l.lo < g.origin)))
FROM generation g WHERE g.id = :generation

-- name: cursors
-- A generation's cursors. Differs by necessity: the transaction has locked the whole file already.
SELECT origin, fresh, backfill, confirmed, mark, horizon, swept, origin_horizon, backoff_until > :now
    OR EXISTS (SELECT 1 FROM model m WHERE m.id = model_id AND m.drift IS NOT NULL), held_until > :now
FROM generation WHERE id = :generation

-- name: cursors_write
-- Write the cursors back.
UPDATE generation SET fresh = ?, backfill = ?, confirmed = ?, mark = ?, horizon = ?, swept = ? WHERE id = ?

-- name: lease_takeover
-- Take over the expired lease of the lowest id.
UPDATE lease SET worker = :worker, fence = fence + 1, expires_at = :expires_at
WHERE id = (SELECT min(id) FROM lease WHERE generation_id = :generation AND expires_at <= :now)
RETURNING id, lane, lo, hi, fence

-- name: lease_lowest
-- Where the lowest open lease begins.
SELECT min(lo) FROM lease WHERE generation_id = ?

-- name: lease_insert
-- A new lease.
INSERT INTO lease (generation_id, lane, lo, hi, worker, fence, expires_at) VALUES (?, ?, ?, ?, ?, 1, ?) RETURNING id

-- name: lease_retry
-- Due failures, oldest first.
SELECT f.seq FROM {failures} f JOIN {journal} j ON j.seq = f.seq
WHERE f.lease IS NULL AND f.retry_at IS NOT NULL AND f.retry_at <= ? ORDER BY f.retry_at, f.seq LIMIT ?

-- name: failures_hold
-- Give just those to a lease.
UPDATE {failures} SET lease = :lease WHERE ({keys}) IN (
    SELECT {fkeys} FROM {failures} f JOIN {journal} j ON j.seq = f.seq
    WHERE f.lease IS NULL AND f.retry_at IS NOT NULL AND f.retry_at <= :now ORDER BY f.retry_at, f.seq LIMIT :limit
)

-- name: journal_ahead
-- The seq of the n-th entry above one.
SELECT max(seq) FROM (SELECT seq FROM {journal} WHERE seq > ? ORDER BY seq LIMIT ?)

-- name: journal_behind
-- The seq of the n-th entry at or below one, descending.
SELECT min(seq) FROM (SELECT seq FROM {journal} WHERE seq <= ? ORDER BY seq DESC LIMIT ?)

-- name: journal_step
-- The seq of the n-th entry of a range; null when it has fewer.
SELECT seq FROM {journal} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 1 OFFSET ?

-- name: unsettled
-- The first and the last of the first n entries of a range that are neither done nor in failures.
SELECT min(seq), max(seq) FROM (
    SELECT j.seq FROM {journal} j
    LEFT JOIN {rows} r ON {r_is_j}
    LEFT JOIN {failures} f ON {f_is_j}
    WHERE j.seq > ? AND j.seq <= ? AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq
    ORDER BY j.seq LIMIT ?
)

-- === reading, renewing and settling a lease ========================================================================

-- name: lease_read
-- The rows of a lease that its generation has not done, with their text, by seq.
SELECT j.seq, j.deleted, {t_found}, 0, r.chunks, {jkeys}, {texts}
FROM {journal} j
LEFT JOIN {rows} r ON {r_is_j}
LEFT JOIN {failures} f ON {f_is_j}
LEFT JOIN {table} t ON {t_is_j} AND NOT j.deleted
WHERE j.seq > :lo AND j.seq <= :hi AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq
ORDER BY j.seq

-- name: lease_read_retry
-- The rows whose failures a lease has taken, with their text, by seq.
SELECT j.seq, j.deleted, {t_found}, f.attempts, r.chunks, {jkeys}, {texts}
FROM {failures} f
JOIN {journal} j ON j.seq = f.seq
LEFT JOIN {rows} r ON {r_is_j}
LEFT JOIN {table} t ON {t_is_j} AND NOT j.deleted
WHERE f.lease = :lease
ORDER BY j.seq

-- name: rows_scan
-- The next rows of the journal, with their text.
SELECT j.seq, {t_found}, {jkeys}, {texts}
FROM (SELECT * FROM {journal} WHERE seq > :seq AND NOT deleted ORDER BY seq LIMIT :limit) j
LEFT JOIN {table} t ON {t_is_j}
ORDER BY j.seq

-- name: lease_keys
-- The keys of the rows of a lease that its generation has not done.
SELECT j.seq, j.deleted, {jkeys_raw} FROM {journal} j
LEFT JOIN {rows} r ON {r_is_j}
LEFT JOIN {failures} f ON {f_is_j}
WHERE j.seq > :lo AND j.seq <= :hi AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq

-- name: lease_keys_retry
-- The keys of the rows whose failures a lease has taken.
SELECT j.seq, j.deleted, {jkeys_raw} FROM {failures} f JOIN {journal} j ON j.seq = f.seq WHERE f.lease = :lease

-- name: rows_settle_gone
-- A row that is gone, by its tombstone.
INSERT INTO {rows} ({keys}, seq, chunks, truncated, embedded_at, worker)
SELECT {jkeys}, j.seq, -1, 0, ?, ? FROM {journal} j WHERE j.seq = ?
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, embedded_at = excluded.embedded_at, worker = excluded.worker

-- name: failures_forget
-- The failure of a row that is gone.
DELETE FROM {failures} WHERE ({keys}) IN (SELECT {jkeys} FROM {journal} j WHERE j.seq = ?)

-- name: failures_park
-- A row that cannot be done, by its entry.
INSERT INTO {failures} ({keys}, seq, attempts, kind, error, retry_at, failed_at, lease)
SELECT {jkeys}, j.seq, 1, 'input', ?, NULL, ?, NULL FROM {journal} j WHERE j.seq = ?
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, attempts = excluded.attempts, kind = excluded.kind,
    error = excluded.error, retry_at = excluded.retry_at, failed_at = excluded.failed_at, lease = NULL

-- name: lease_split
-- Give the upper part of a lease's range up.
UPDATE lease SET hi = ? WHERE id = ? AND fence = ? AND worker = ? AND expires_at > ?

-- name: lease_remainder
-- The part that was given up, as a lease that has expired already.
INSERT INTO lease (generation_id, lane, lo, hi, worker, fence, expires_at) VALUES (?, ?, ?, ?, ?, 1, 0) RETURNING id

-- name: failures_pass_on
-- The failures of the part that was given up.
UPDATE {failures} SET lease = ? WHERE lease = ? AND seq > ?

-- name: lease_renew
-- Put off the expiry of a lease that is still ours.
UPDATE lease SET expires_at = ? WHERE id = ? AND fence = ? AND worker = ? AND expires_at > ? RETURNING id

-- name: lease_release
-- Let a lease expire at once.
UPDATE lease SET expires_at = 0 WHERE id = ? AND fence = ? AND worker = ?

-- name: lease_hold
-- Whether a lease is still ours, and its model still the one that is written under its name; the generation's next id.
SELECT g.next_id FROM lease l JOIN generation g ON g.id = l.generation_id
WHERE l.id = ? AND l.fence = ? AND l.worker = ? AND l.expires_at > ? AND l.generation_id = ?
  AND NOT EXISTS (SELECT 1 FROM model m WHERE m.id = g.model_id AND m.drift IS NOT NULL)

-- name: settle_compare
-- Of these seqs, those that are still the journal's and of which the generation holds an older version or none.
SELECT j.seq, r.seq, r.chunks FROM carray(?) a
CROSS JOIN {journal} j ON j.seq = a.value
LEFT JOIN {rows} r ON {r_is_j}
WHERE r.seq IS NULL OR r.seq < j.seq

-- name: rows_settle_vector
-- A row's new state.
INSERT INTO {rows} ({keys}, seq, chunks, truncated, embedded_at, worker) VALUES ({marks}, ?, ?, ?, ?, ?)
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, chunks = excluded.chunks, truncated = excluded.truncated,
    embedded_at = excluded.embedded_at, worker = excluded.worker

-- name: rows_settle_lexical
-- A row's new state, and its new document number.
INSERT INTO {rows} ({keys}, seq, chunks, truncated, embedded_at, worker, doc) VALUES ({marks}, ?, ?, ?, ?, ?, ?)
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, chunks = excluded.chunks, truncated = excluded.truncated,
    embedded_at = excluded.embedded_at, worker = excluded.worker, doc = excluded.doc

-- name: chunks_delete
-- The chunks of a row's old version.
DELETE FROM {chunks} WHERE {keys_given} RETURNING id

-- name: chunks_keep
-- Put the vectors of a row that is gone by, if it is still in the table.
INSERT OR IGNORE INTO {kept} ({keys}, digest, embedding)
SELECT {ckeys}, c.digest, c.embedding FROM {table} t CROSS JOIN {chunks} c ON {c_is_t} WHERE {t_is_given}

-- name: kept_any
-- Whether any vectors are put by.
SELECT EXISTS (SELECT 1 FROM {kept})

-- name: kept_delete
-- A row is back: its vectors are among its chunks again.
DELETE FROM {kept} WHERE {keys_given}

-- name: kept_forget
-- A row has been deleted: nothing of it is put by.
DELETE FROM {kept} WHERE {keys_given} AND NOT EXISTS (SELECT 1 FROM {table} t WHERE {t_is_given})

-- name: chunks_insert
-- One chunk, in the place of a stray one of a row that the generation did not hold.
INSERT OR REPLACE INTO {chunks} (id, {keys}, ordinal, start, stop, digest, embedding) VALUES (?, {marks}, ?, ?, ?, ?, ?)

-- name: generation_precision
-- In which precision a generation's vectors are stored.
SELECT coalesce(json_extract(identity, '$.precision'), 'float16') FROM generation WHERE id = ?

-- name: vectors_find
-- The digests and vectors of a row's chunks.
SELECT digest, embedding FROM {chunks} WHERE {keys_given}

-- name: vectors_kept
-- Those that are put by of a row.
SELECT digest, embedding FROM {kept} WHERE {keys_given}

-- name: unsettled_above
-- A seq that whatever a generation has not settled of late is above: under a lease, or ahead of the fresh lane.
SELECT min(g.fresh, coalesce(
    (SELECT min(lo) FROM lease WHERE generation_id = g.id AND lo >= g.confirmed), g.fresh
)) FROM generation g WHERE id = ?

-- name: vectors_unsettled
-- Those of the digests that are among the vectors of the next rows that are gone, and not settled as that yet.
SELECT c.digest, c.embedding FROM (
    SELECT {jkeys} FROM {journal} j INDEXED BY {journal_deleted} CROSS JOIN {rows} r ON {r_is_j}
    WHERE j.deleted AND j.seq > ? AND r.seq < j.seq AND r.chunks > 0 ORDER BY j.seq LIMIT ?
) j CROSS JOIN {chunks} c ON {c_is_j} WHERE c.digest IN (SELECT unhex(value) FROM json_each(?))

-- name: rows_waiting
-- Whether there are live rows that are not settled among the next entries above a seq, but for the range that is about to be.
SELECT EXISTS (
    SELECT 1 FROM (
        SELECT * FROM {journal} WHERE seq > :above AND NOT (seq > :lo AND seq <= :hi) ORDER BY seq LIMIT :limit
    ) j LEFT JOIN {rows} r ON {r_is_j}
    WHERE NOT j.deleted AND r.seq IS NOT j.seq
)

-- name: vectors_leaving
-- The digests and vectors of a row that has left the table.
SELECT digest, embedding FROM {chunks} WHERE {j_is_given} AND NOT EXISTS (SELECT 1 FROM {table} t WHERE {t_is_given})

-- name: vectors_donors
-- Whose vectors serve a generation too, since the same model made them of the same table's rows: the other generations of its
-- source, then those that a detach has left, newest first.
SELECT id FROM (
    SELECT o.id, o.state = 'active' AS active, 1 AS attached
    FROM generation g JOIN generation o ON o.source_id = g.source_id AND o.id <> g.id AND o.model_id = g.model_id
    WHERE g.id = :generation AND o.identity ->> '$.precision' IS g.identity ->> '$.precision'
    UNION ALL
    SELECT d.id, 0, 0
    FROM generation g JOIN source s ON s.id = g.source_id
    JOIN donor d ON d.table_name = s.table_name AND d."key" = s."key" AND d.model_id = g.model_id
    WHERE g.id = :generation AND d.precision IS g.identity ->> '$.precision'
) ORDER BY attached DESC, active DESC, id DESC

-- name: digests_prepaid
-- Which digests are paid for.
SELECT digest FROM prepaid WHERE generation_id = ? AND digest = ?

-- name: digests_donors
-- Whose vectors are of a model and a precision, over a source's table.
SELECT g.id FROM generation g JOIN model m ON m.id = g.model_id
WHERE g.source_id = :source AND g.identity ->> '$.precision' = :precision
  AND m.name = :name AND m.version = :version AND m.dimension = :dimension AND m.document_prefix = :document_prefix
  AND m.query_prefix = :query_prefix AND m.normalised = :normalised
UNION ALL
SELECT d.id FROM source s JOIN donor d ON d.table_name = s.table_name AND d."key" = s."key" JOIN model m ON m.id = d.model_id
WHERE s.id = :source AND d.precision = :precision
  AND m.name = :name AND m.version = :version AND m.dimension = :dimension AND m.document_prefix = :document_prefix
  AND m.query_prefix = :query_prefix AND m.normalised = :normalised

-- name: digests_find
-- The digests of a row's chunks.
SELECT digest FROM {chunks} WHERE {keys_given}

-- name: digests_kept
-- Those that are put by of a row.
SELECT digest FROM {kept} WHERE {keys_given}

-- name: vectors_prepaid
-- Vectors that are paid for, by their digests.
SELECT digest, embedding FROM prepaid WHERE generation_id = ? AND digest = ?

-- name: prepaid_any
-- Whether there are any.
SELECT EXISTS (SELECT 1 FROM prepaid WHERE generation_id = ?)

-- name: prepaid_insert
-- Put a vector by that is paid for.
INSERT INTO prepaid (generation_id, digest, embedding, stored_at) SELECT id, ?, ?, ? FROM generation WHERE id = ?
ON CONFLICT (generation_id, digest) DO UPDATE SET stored_at = excluded.stored_at

-- name: prepaid_trim
-- Drop what was put by a while ago for generations that are not being built any more.
DELETE FROM prepaid WHERE stored_at < ? AND generation_id NOT IN (SELECT id FROM generation WHERE state = 'building')

-- name: batch_insert
-- Plan a batch, unless one is open or nothing is left to backfill.
INSERT OR IGNORE INTO batch (generation_id, tag, state, "after", upto, requests, answered, expires_at, created_at)
SELECT id, :tag, 'planned', :after, :after, 0, 0, 0, :now FROM generation WHERE id = :generation AND backfill > :after

-- name: batches
-- The batches of a generation, oldest first.
SELECT id, generation_id, tag, state, "after", upto, requests, answered, provider_id, error, created_at FROM batch
WHERE generation_id = ? ORDER BY id

-- name: batch_take
-- Take an open batch on, unless somebody else has it.
UPDATE batch SET owner = :owner, expires_at = :expires_at
WHERE generation_id = :generation AND state IN ('planned', 'sending', 'submitted') AND (owner = :owner OR expires_at <= :now OR :force)
RETURNING id, generation_id, tag, state, "after", upto, requests, answered, provider_id, error, created_at

-- name: batch_write
-- Write what has become of a batch that is ours.
UPDATE batch SET state = :state, upto = :upto, requests = :requests, answered = :answered, provider_id = :provider_id,
    error = :error, expires_at = CASE WHEN :state IN ('done', 'failed') THEN 0 ELSE expires_at END
WHERE id = :id AND owner = :owner AND expires_at > :now
RETURNING 1

-- name: batch_hold
-- Hold the backfill lane.
UPDATE generation SET held_until = ? WHERE id = ?

-- name: spend_add
-- Add to what a generation has cost, if it is still there.
INSERT INTO spend (generation_id, worker, calls, texts, tokens)
SELECT id, ?, ?, ?, ? FROM generation WHERE id = ?
ON CONFLICT (generation_id, worker) DO UPDATE SET calls = calls + excluded.calls, texts = texts + excluded.texts,
    tokens = tokens + excluded.tokens

-- name: spends
-- What each generation of a source has cost.
SELECT s.generation_id, sum(s.calls), sum(s.texts), sum(s.tokens)
FROM spend s JOIN generation g ON g.id = s.generation_id WHERE g.source_id = ? GROUP BY s.generation_id

-- name: postings_insert
-- One term's postings; small settles share a block, so that a trickle of writes does not leave one block for each.
INSERT INTO {postings} (term, block, docs, lengths, data) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (term, block) DO UPDATE SET docs = docs + excluded.docs, lengths = lengths + excluded.lengths,
    data = CAST(data || excluded.data AS BLOB)

-- name: next_id_write
-- The ids below are given out.
UPDATE generation SET next_id = ? WHERE id = ?

-- name: failures_any
-- Whether there are failures at all.
SELECT EXISTS (SELECT 1 FROM {failures})

-- name: failures_delete
-- A row has been done.
DELETE FROM {failures} WHERE {keys_given}

-- name: failures_write
-- A row could not be done.
INSERT INTO {failures} ({keys}, seq, attempts, kind, error, retry_at, failed_at, lease) VALUES ({marks}, ?, ?, ?, ?, ?, ?, NULL)
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, attempts = excluded.attempts, kind = excluded.kind,
    error = excluded.error, retry_at = excluded.retry_at, failed_at = excluded.failed_at, lease = NULL

-- name: failures_let_go
-- Failures that a lease has taken and not settled.
UPDATE {failures} SET lease = NULL WHERE lease = ?

-- name: lease_retire
-- The lease is done.
DELETE FROM lease WHERE id = ?

-- === failures ======================================================================================================

-- name: failures
-- Failures of rows whose seq is still the journal's, newest first.
SELECT {fkeys_raw}, f.seq, f.kind, f.error, f.attempts, f.retry_at, f.failed_at
FROM {failures} f JOIN {journal} j ON j.seq = f.seq
ORDER BY f.failed_at DESC, f.seq DESC LIMIT ?

-- name: failures_retry
-- Make all failures due now.
UPDATE {failures} SET retry_at = :now, attempts = 0
WHERE lease IS NULL AND seq IN (SELECT j.seq FROM {failures} f JOIN {journal} j ON j.seq = f.seq)
RETURNING 1

-- name: failures_retry_keys
-- Make one failure due now.
UPDATE {failures} SET retry_at = ?, attempts = 0
WHERE {keys_given} AND lease IS NULL AND EXISTS (SELECT 1 FROM {journal} j WHERE j.seq = {failures}.seq)
RETURNING 1

-- === coverage and trimming =========================================================================================

-- name: coverage_cursors
-- The cursors that coverage counts by.
SELECT fresh, backfill, confirmed, swept, origin FROM generation WHERE id = ?

-- name: coverage_leases
-- The ranges under way; what a retry holds is counted as failed.
SELECT lo, hi, lane = 'retry' FROM lease WHERE generation_id = ?

-- name: coverage_journal
-- How many entries there are, tombstones included: counted by the page, not by the row.
SELECT count(*) FROM {journal}

-- name: coverage_deleted
-- How many of them are tombstones.
SELECT count(*) FROM {journal} INDEXED BY {journal_deleted} WHERE deleted

-- name: coverage_rows
-- Current rows without chunks: phantoms (live by the journal, found gone), and blank ones.
SELECT coalesce(sum(r.chunks = -1), 0), coalesce(sum(r.chunks = 0), 0)
FROM {rows} r JOIN {journal} j ON j.seq = r.seq AND NOT j.deleted WHERE r.chunks <= 0

-- name: coverage_truncated
-- Current rows whose text was longer than is indexed.
SELECT count(*) FROM {rows} r JOIN {journal} j ON j.seq = r.seq AND NOT j.deleted WHERE r.truncated AND r.chunks > 0

-- name: coverage_failed
-- Failures of live rows at their present version, and those of them that will be tried again.
SELECT count(*), count(f.retry_at) FROM {failures} f JOIN {journal} j ON j.seq = f.seq AND NOT j.deleted

-- name: coverage_unclaimed
-- Live entries of a range that nobody has claimed, and the oldest change among them.
SELECT count(*), min(changed_at) FROM {journal} WHERE seq > ? AND seq <= ? AND NOT deleted

-- name: coverage_unsettled
-- Live entries of a range neither done nor in failures, and the oldest change among them.
SELECT count(*), min(j.changed_at) FROM {journal} j
LEFT JOIN {rows} r ON {r_is_j}
LEFT JOIN {failures} f ON {f_is_j}
WHERE j.seq > ? AND j.seq <= ? AND NOT j.deleted AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq

-- name: pending_unclaimed
-- Whether nobody has claimed an entry of a range, that of a row that is gone included.
SELECT EXISTS (SELECT 1 FROM {journal} WHERE seq > ? AND seq <= ?)

-- name: pending_unsettled
-- Whether an entry of a range is neither done nor in failures, that of a row that is gone included.
SELECT EXISTS (
    SELECT 1 FROM {journal} j LEFT JOIN {rows} r ON {r_is_j} LEFT JOIN {failures} f ON {f_is_j}
    WHERE j.seq > ? AND j.seq <= ? AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq
)

-- name: failures_pending
-- Whether a live row at or below a seq has failed and will be tried again.
SELECT EXISTS (SELECT 1 FROM {failures} f JOIN {journal} j ON j.seq = f.seq AND NOT j.deleted
               WHERE f.retry_at IS NOT NULL AND f.seq <= ?)

-- name: journal_trim_bound
-- Up to where a generation has confirmed everything and no open lease begins below; -1 while it is being built.
SELECT min(CASE WHEN backfill = 0 AND swept >= origin THEN confirmed ELSE -1 END,
           coalesce((SELECT min(lo) FROM lease WHERE generation_id = g.id), confirmed))
FROM generation g WHERE id = ?

-- name: journal_trim_find
-- Tombstones that may go, but for the journal's last entry, whose seq would be given out again.
SELECT seq FROM {journal} INDEXED BY {journal_deleted}
WHERE deleted AND seq <= ? AND seq < (SELECT max(seq) FROM {journal}) ORDER BY seq LIMIT ?

-- name: journal_trim_settled
-- Of these tombstones, those that the generation has settled.
SELECT j.seq FROM carray(?) a CROSS JOIN {journal} j ON j.seq = a.value CROSS JOIN {rows} r ON {r_is_j} AND r.seq = j.seq

-- name: journal_trim
-- Drop one tombstone.
DELETE FROM {journal_here} WHERE seq = ? AND deleted RETURNING 1

-- name: journal_trim_forgotten
-- Rows that are gone, and whose tombstone has been dropped.
DELETE FROM {rows} AS r WHERE r.chunks < 0 AND NOT EXISTS (SELECT 1 FROM {journal} j WHERE {j_is_r})

-- === workers =======================================================================================================

-- name: worker_beat
-- A worker is alive.
INSERT INTO worker (id, host, pid, started_at, beat_at, rates) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at, rates = excluded.rates

-- name: workers_expire
-- Forget workers not heard of for long.
DELETE FROM worker WHERE beat_at < ?

-- name: worker_forget
-- A worker has stopped.
DELETE FROM worker WHERE id = ?

-- name: workers
-- Workers heard of since then.
SELECT id, host, pid, started_at, beat_at, rates FROM worker WHERE beat_at >= ? ORDER BY id

-- === search ========================================================================================================

-- name: terms_statistics
-- How often a term occurs.
SELECT ?1, count(*), sum(docs), sum(lengths) FROM {postings} WHERE term = ?1

-- name: postings_read
-- A term's postings, oldest block first.
SELECT data FROM {postings} WHERE term = ? ORDER BY block

-- name: postings_read_newest
-- A term's postings, newest block first.
SELECT docs, data FROM {postings} WHERE term = ? ORDER BY block DESC

-- name: documents_keys
-- The keys of those documents that are current.
SELECT r.doc, {rkeys} FROM carray(?) a CROSS JOIN {rows} r ON r.doc = a.value

-- name: documents_resolve
-- Those of the documents that are current and whose row is live and satisfies the filter.
SELECT r.doc, {rkeys} FROM carray(?) a
CROSS JOIN {rows} r ON r.doc = a.value
CROSS JOIN {table} t ON {t_is_r}
WHERE {live} AND {filter}

-- name: documents_matching
-- Documents of live rows that satisfy the filter.
SELECT r.doc, {rkeys} FROM {table} t CROSS JOIN {rows} r ON {r_is_t}
WHERE {live} AND {filter} AND r.doc IS NOT NULL LIMIT ?

-- name: chunks_find
-- Chunks by their ids.
SELECT c.id, c.ordinal, c.start, c.stop, c.embedding, {ckeys} FROM carray(?) a CROSS JOIN {chunks} c ON c.id = a.value

-- name: chunks_scan
-- Ids and vectors of the next n chunks of a range of ids.
SELECT id, embedding FROM {chunks} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?

-- name: chunks_end
-- The highest id, 0 when there is none.
SELECT coalesce(max(id), 0) FROM {chunks}

-- name: chunks_outside
-- How many chunks there are in a range of ids.
SELECT count(*) FROM {chunks} WHERE id > ? AND id <= ?

-- name: chunks_matching
-- Chunks of live rows that satisfy the filter.
SELECT c.id, c.embedding FROM {table} t CROSS JOIN {chunks} c ON {c_is_t} WHERE {live} AND {filter}

-- name: keys_live
-- Whether a row is live and satisfies the filter.
SELECT {table_keys} FROM {table} t WHERE {t_is_given} AND {live} AND {filter}

-- name: rows_live
-- A live row with its text, its journal's seq, and the versions held of it.
SELECT j.seq, {indexed}{table_keys}, {texts} FROM {table} t JOIN {journal} j ON {j_is_t} WHERE {t_is_given} AND {live}

-- name: rows_live_indexed
-- Part of `rows_live`, for each generation: the version held.
(SELECT r.seq FROM {rows} r WHERE {r_is_j} AND r.chunks >= 0),

-- === adoption ======================================================================================================

-- name: generation_set_aside
-- Let nobody work at a generation, and whatever it does not hold up to its origin be found by the sweep.
UPDATE generation SET state = 'retired', retired_at = :now, backfill = 0, swept = -1 WHERE id = :generation AND state <> 'active'

-- name: adopt_look
-- A live row by its place in the list, with its journal's seq, whether the generation holds that version, and its text.
SELECT {place}, j.seq, r.seq IS j.seq, {texts}
FROM {table} t JOIN {journal} j ON {j_is_t} AND NOT j.deleted LEFT JOIN {rows} r ON {r_is_j} WHERE {t_is_given} AND {live}

-- name: adopt_look_numbered
-- The same, of all keys at once, where a key is one integer. Differs by necessity: PostgreSQL always takes all at once.
SELECT a.rowid, j.seq, r.seq IS j.seq, {texts}
FROM carray(?) a CROSS JOIN {table} t ON {t_is_numbered} CROSS JOIN {journal} j ON {j_is_t} AND NOT j.deleted
LEFT JOIN {rows} r ON {r_is_j} WHERE {live}

-- name: adopt_read
-- The next live rows that a generation does not hold, in order of key, with the vector that the user keeps of each.
SELECT {table_keys}, j.seq, CAST({vector} AS BLOB), {digest}, {texts}
FROM {table} t JOIN {journal} j ON {j_is_t} AND NOT j.deleted LEFT JOIN {rows} r ON {r_is_j} {foreign}
WHERE {live} AND {after} AND r.seq IS NOT j.seq AND {vector} IS NOT NULL ORDER BY {table_keys} LIMIT ?

-- name: adopt_replace
-- Drop the chunks of older versions of the rows that are about to be written.
DELETE FROM {chunks} WHERE ({keys}) IN (
    SELECT {rkeys} FROM carray(?) a CROSS JOIN {journal} j ON j.seq = a.value CROSS JOIN {rows} r ON {r_is_j} AND r.seq < j.seq
) RETURNING id

-- name: adopt_chunks
-- The chunks of those of the rows whose version is still the journal's and of which the generation holds an older one or none.
INSERT OR REPLACE INTO {chunks} (id, {keys}, ordinal, start, stop, digest, embedding)
SELECT :first + a.rowid - 1, {jkeys}, 0, CAST(substr(:spans, 1 + :digits * (2 * a.rowid - 2), :digits) AS INTEGER),
    CAST(substr(:spans, 1 + :digits * (2 * a.rowid - 1), :digits) AS INTEGER), substr(:digests, 1 + 16 * (a.rowid - 1), 16),
    substr(:embeddings, 1 + :width * (a.rowid - 1), :width)
FROM carray(:seqs) a CROSS JOIN {journal} j ON j.seq = a.value LEFT JOIN {rows} r ON {r_is_j}
WHERE r.seq IS NULL OR r.seq < j.seq

-- name: adopt_rows
-- The same rows' new state.
INSERT INTO {rows} ({keys}, seq, chunks, truncated, embedded_at, worker)
SELECT {jkeys}, j.seq, 1, 0, :now, 'adopt' FROM carray(:seqs) a CROSS JOIN {journal} j ON j.seq = a.value WHERE 1
ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq, chunks = excluded.chunks, truncated = excluded.truncated,
    embedded_at = excluded.embedded_at, worker = excluded.worker
WHERE seq < excluded.seq

-- name: adopt_written
-- The keys of the rows that the generation now holds in these versions.
SELECT {rkeys} FROM carray(?) a CROSS JOIN {journal} j ON j.seq = a.value CROSS JOIN {rows} r ON {r_is_j} AND r.seq = j.seq

-- === stamps ========================================================================================================

-- name: stamp_generation
-- The vector generation that search reads, with its model.
SELECT g.id, m.name, m.version FROM generation g JOIN model m ON m.id = g.model_id
WHERE g.source_id = ? AND g.kind = 'vector' AND g.state <> 'retired' ORDER BY g.state <> 'active', g.id LIMIT 1

-- name: stamp_unfit
-- Those of the columns that cannot be emptied, by names as SQLite compares them.
SELECT name FROM pragma_table_xinfo(?, 'app')
WHERE name COLLATE NOCASE IN ({names}) AND (hidden <> 0 OR ("notnull" AND name <> 'has_embedding' COLLATE NOCASE))

-- name: stamp_add
-- Add a column to the user's table.
ALTER TABLE {table_here} ADD COLUMN {column}

-- name: stamp_remove
-- Take it away again.
ALTER TABLE {table_here} DROP COLUMN {column}

-- name: stamp_columns
-- The columns that the user's table has.
SELECT name FROM pragma_table_xinfo(?)

-- name: stamps_marked
-- The definition of the user's table, where a comment says which columns were added by any attach.
SELECT sql FROM app.sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE

-- name: stamps_made
-- The columns that were added.
SELECT stamps_made FROM source WHERE id = ?

-- name: stamps_made_write
-- Remember them, before they are added.
UPDATE source SET stamps_made = ? WHERE id = ?

-- name: stamp_empty
-- Empty the stamp of a row, in a trigger. None of our own fires for it: their conditions are about other columns.
UPDATE {table_here} SET {empty} WHERE {row_is} AND ({stamped});

-- name: stamp_held
-- Part of what follows: whether the generation holds the row's present text.
coalesce(r.seq = j.seq AND NOT j.deleted AND r.chunks > 0, 0)

-- name: stamp_moment
-- Part of what follows: when it was embedded.
strftime('%Y-%m-%dT%H:%M:%fZ', r.embedded_at / 1000000.0, 'unixepoch')

-- name: stamp_read
-- What is true of a row: its entry in the journal, whether it is held, and since when.
SELECT coalesce(j.seq, 0), {held}, {moment} FROM (SELECT 1) LEFT JOIN {journal} j ON {j_is_given} LEFT JOIN {rows} r ON {r_is_j}

-- name: stamp_write
-- Write that into the row, where something else stands there and the journal has not gone on.
UPDATE {table_here} AS t SET {stamps} WHERE {t_is_given} AND ({differs})
    AND coalesce((SELECT j.seq FROM {journal_here} j WHERE {j_is_given}), 0) = {seq}

-- name: stamp_next
-- The next rows in order of key, and whether something else stands there than what is true.
SELECT {table_keys_raw}, {differs}, coalesce(j.seq, 0) FROM {table} t LEFT JOIN {journal} j ON {j_is_t} LEFT JOIN {rows} r ON {r_is_j}
WHERE {after} ORDER BY {table_keys} LIMIT ?

-- name: stamp_holding
-- The next live rows of the journal, by `seq`, and whether a generation holds them.
SELECT {jkeys_raw}, j.seq, {held} FROM (SELECT * FROM {journal} WHERE NOT deleted AND seq > ? ORDER BY seq LIMIT ?) j
LEFT JOIN {rows} r ON {r_is_j} ORDER BY j.seq

-- name: stamp_rows_none
-- Stands for the rows of a generation where there is none.
(SELECT {keys} FROM {journal} WHERE 0)

-- name: stamp_state
-- Where the pass over the table stands, and whether the last one is long ago.
SELECT stamped_by, stamped_to, stamped_at IS NULL, stamped_at < ? FROM source WHERE id = ?

-- name: stamp_state_write
-- Remember where it stands.
UPDATE source SET stamped_by = ?, stamped_to = ?, stamped_at = ? WHERE id = ?

-- name: owed_create
-- The table of the rows whose stamp is still to be written.
CREATE TABLE IF NOT EXISTS {owed} ({keys}, seq INTEGER NOT NULL, PRIMARY KEY ({keys})) WITHOUT ROWID

-- name: owed_drop
-- Drop it.
DROP TABLE IF EXISTS {owed}

-- name: owed_add
-- Remember that a row's stamp is still to be written.
INSERT INTO {owed} ({keys}, seq) VALUES ({marks}, ?) ON CONFLICT ({keys}) DO UPDATE SET seq = excluded.seq

-- name: owed_take
-- Some of them, in no order, so that those that cannot be written do not keep the others back.
SELECT {keys}, seq FROM {owed} ORDER BY random() LIMIT ?

-- name: owed_count
-- How many rows are owed their stamp.
SELECT count(*) FROM {owed}

-- name: owed_remove
-- It has been written, unless the row was settled again.
DELETE FROM {owed} WHERE {keys_given} AND seq = ?

-- === views for SQL users: run by other programs' SQLite, which has the user's file as main, ours as seamark ========

-- name: views_attach
-- Attach our file.
ATTACH {sidecar} AS seamark

-- name: journal_there
-- Whether the user's file holds this journal, asked on a connection to ours.
SELECT EXISTS (SELECT 1 FROM app.sqlite_schema WHERE type = 'table' AND name = ?)

-- name: views_generations
-- What the views have to know of the generations.
SELECT g.source_id, g.id, g.kind, m.name, m.version FROM generation g LEFT JOIN model m ON m.id = g.model_id ORDER BY g.id

-- name: sql_columns
-- The columns of a user's query.
SELECT * FROM ({query}
) LIMIT 0

-- name: sql_raw
-- What a user's query finds: of each value whether it is text, and the value, text as bytes.
WITH found ({columns}) AS ({query}
) SELECT {columns_raw} FROM found

-- name: view_write
-- A view of that connection alone: one that is kept cannot look into another file.
CREATE TEMP VIEW {view} AS {select}

-- name: view_none
-- Part of a view that has no other part.
SELECT {columns} WHERE 0

-- name: view_group
-- Part of the view of jobs: the parts of one source, counted as one; SQLite takes 500.
SELECT * FROM ({select})

-- name: view_embeddings
-- Part of a source's view: the chunks of one generation. Its model is written out, so that SQLite passes over the parts that a
-- condition on it cannot be true of.
SELECT {keys_c}, c.ordinal AS ordinal, c.start AS start, c.stop AS stop, {model_id} AS model_id,
    {model_version} AS model_version, strftime('%Y-%m-%dT%H:%M:%fZ', r.embedded_at / 1000000.0, 'unixepoch') AS embedded_at,
    coalesce(j.seq = r.seq AND NOT j.deleted, 0) AS current, {generation} AS generation, {state} AS state
FROM seamark.{chunks} c JOIN seamark.{rows} r ON {r_is_c} LEFT JOIN {journal_seen} j ON {j_is_c}

-- name: view_state
-- Part of the views: the state of a generation, looked up once.
(SELECT g.state FROM seamark.generation g WHERE g.id = {generation})

-- name: view_jobs_done
-- Part of the view of jobs: live rows whose present version a generation holds.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'done' AS status,
    0 AS attempts, NULL AS last_error, {changed_at} AS inserted_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.embedded_at / 1000000.0, 'unixepoch') AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM seamark.{rows} r JOIN {journal_seen} j ON j.seq = r.seq
WHERE r.chunks >= 0 AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_failed
-- Part of the view of jobs: live rows that failed in their present version, and that nobody is at.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'failed' AS status,
    f.attempts AS attempts, f.error AS last_error, {changed_at} AS inserted_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', f.failed_at / 1000000.0, 'unixepoch') AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM seamark.{failures} f JOIN {journal_seen} j ON j.seq = f.seq LEFT JOIN seamark.lease l ON l.id = f.lease AND {held}
WHERE l.id IS NULL AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_retried
-- Part of the view of jobs: live rows that failed, and that are being tried again.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'running' AS status,
    f.attempts AS attempts, f.error AS last_error, {changed_at} AS inserted_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', f.failed_at / 1000000.0, 'unixepoch') AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM seamark.lease l JOIN seamark.{failures} f ON f.lease = l.id JOIN {journal_seen} j ON j.seq = f.seq
WHERE l.generation_id = {generation} AND {held} AND NOT j.deleted AND {state} <> 'retired'

-- name: view_jobs_running
-- Part of the view of jobs: live rows in the ranges that workers have in hand, not done yet.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'running' AS status,
    0 AS attempts, NULL AS last_error, {changed_at} AS inserted_at, {changed_at} AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM seamark.lease l CROSS JOIN {journal_seen} j ON j.seq > l.lo AND j.seq <= l.hi
WHERE l.generation_id = {generation} AND l.lane <> 'retry' AND {held} AND NOT j.deleted AND {open} AND {state} <> 'retired'

-- name: view_jobs_pending
-- Part of the view of jobs: live rows that are ahead of a cursor, in what is still to be swept, or under a lease that has
-- expired, and that nobody is at. The ranges do not overlap: of a lease only what is in none of the windows is taken.
SELECT {source_name} AS source, {key} AS key, {model_id} AS model_id, {model_version} AS model_version, 'pending' AS status,
    0 AS attempts, NULL AS last_error, {changed_at} AS inserted_at, {changed_at} AS updated_at, {kind} AS kind,
    {generation} AS generation
FROM (
    SELECT fresh AS lo, 9223372036854775807 AS hi, id, state FROM seamark.generation
    UNION ALL SELECT 0, backfill, id, state FROM seamark.generation
    UNION ALL SELECT confirmed, fresh, id, state FROM seamark.generation
    UNION ALL SELECT max(swept, backfill), origin, id, state FROM seamark.generation
    UNION ALL SELECT max(l.lo, CASE WHEN l.hi <= g.origin THEN g.backfill ELSE g.origin END),
        min(l.hi, CASE WHEN l.hi <= g.origin THEN g.swept ELSE g.confirmed END), g.id, g.state
    FROM seamark.generation g JOIN seamark.lease l ON l.generation_id = g.id AND l.lane <> 'retry'
) w CROSS JOIN {journal_seen} j ON j.seq > w.lo AND j.seq <= w.hi
WHERE w.id = {generation} AND w.state <> 'retired' AND NOT j.deleted AND {open} AND NOT EXISTS (
    SELECT 1 FROM seamark.lease l
    WHERE l.generation_id = {generation} AND l.lane <> 'retry' AND {held} AND j.seq > l.lo AND j.seq <= l.hi
)

-- name: view_open
-- Part of the view of jobs: the journal's row is neither done nor recorded as failed.
(SELECT r.seq FROM seamark.{rows} r WHERE {r_is_j}) IS NOT j.seq
    AND (SELECT f.seq FROM seamark.{failures} f WHERE {f_is_j}) IS NOT j.seq

-- name: view_held
-- Part of the view of jobs: the lease has not expired.
l.expires_at > CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000

-- name: view_changed_at
-- Part of the view of jobs: when the row was changed last.
strftime('%Y-%m-%dT%H:%M:%fZ', j.changed_at, 'unixepoch')

-- === upkeep ========================================================================================================

-- name: upkeep_begin
-- Take a generation's upkeep, unless somebody else is at it.
INSERT INTO upkeep (generation_id, owner, expires_at) VALUES (:generation, :owner, :expires_at)
ON CONFLICT (generation_id) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at WHERE upkeep.expires_at <= :now
RETURNING 1

-- name: upkeep_renew
-- Keep it, if it is still ours.
UPDATE upkeep SET expires_at = :expires_at WHERE generation_id = :generation AND owner = :owner
RETURNING 1

-- name: upkeep_end
-- Leave it to others.
DELETE FROM upkeep WHERE generation_id = ? AND owner = ?

-- name: shard_list
-- A generation's shards in order.
SELECT shard, first_id, last_id, chunks, bytes, checksum, dead FROM ann_shard WHERE generation_id = ? ORDER BY first_id

-- name: shard_write
-- A shard's file has been written, and so many of the dead are not in it any more.
INSERT INTO ann_shard (generation_id, shard, first_id, last_id, chunks, bytes, checksum)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (generation_id, shard) DO UPDATE SET first_id = excluded.first_id, last_id = excluded.last_id,
    chunks = excluded.chunks, bytes = excluded.bytes, checksum = excluded.checksum, dead = dead - ?8

-- name: shard_bury
-- Count deleted chunks as dead where their shards are.
UPDATE ann_shard SET dead = dead + (SELECT count(*) FROM carray(:chunks) a WHERE a.value BETWEEN first_id AND last_id)
WHERE generation_id = :generation AND last_id >= :lowest

-- name: shard_begin
-- A shard answers for its chunks from this id on: those before are in another.
UPDATE ann_shard SET first_id = ? WHERE generation_id = ? AND shard = ?

-- name: shard_delete
-- A shard answers for nothing any more.
DELETE FROM ann_shard WHERE generation_id = ? AND shard = ?

-- name: postings_upkeep
-- What is to be known about a lexical generation's postings.
SELECT blocks, added, superseded, term FROM postings_upkeep WHERE generation_id = ?

-- name: postings_upkeep_create
-- A generation without postings.
INSERT INTO postings_upkeep (generation_id) VALUES (?)

-- name: postings_upkeep_add
-- A settle has added blocks, and made documents dead.
UPDATE postings_upkeep SET added = added + ?, superseded = superseded + ? WHERE generation_id = ?

-- name: postings_upkeep_write
-- Where a pass stands.
UPDATE postings_upkeep SET blocks = ?, added = ?, superseded = ?, term = ? WHERE generation_id = ?

-- name: blocks_list
-- The next blocks in order of term, without what is in them.
SELECT term, block, docs FROM {postings} WHERE term > ?1 OR (term = ?1 AND ?2) ORDER BY term, block LIMIT ?3

-- name: blocks_count
-- How many blocks there are.
SELECT count(*) FROM {postings}

-- name: blocks_read
-- One block.
SELECT data FROM {postings} WHERE term = ? AND block = ?

-- name: blocks_delete
-- Drop a block.
DELETE FROM {postings} WHERE term = ? AND block = ?

-- name: documents_current
-- The documents that are current.
SELECT doc FROM {rows} WHERE doc IS NOT NULL ORDER BY doc

-- name: next_id
-- The next id to be given out.
SELECT next_id FROM generation WHERE id = ?

-- === audit =========================================================================================================

-- name: audit_page
-- Rows of the user's table in key order, with their journal's entries, and how many bytes of text each has.
SELECT coalesce({live}, 0), coalesce(j.seq, -1), coalesce(j.deleted, 1), {size}, {keys_read}
FROM {table} t LEFT JOIN {journal} j ON {j_is_t}
WHERE {after} AND {keys_present} ORDER BY {table_keys} LIMIT ?

-- name: audit_texts
-- The texts of the rows of a page, column by column: how long each is, and all of them together. Here and below they are joined in
-- the order of the subquery: SQLite merges no subquery that has one into a query with an aggregate, nor leaves its order out.
SELECT {texts_joined} FROM (
    SELECT {texts_named} FROM {table} t WHERE {after} AND {until} AND {keys_present} ORDER BY {table_keys}
)

-- name: audit_held_vector
-- What a vector generation holds of the rows of a page, column by column: the first chunk with it, since most have only one.
SELECT group_concat(seq), group_concat(chunks), group_concat(truncated), group_concat(start), group_concat(stop),
    {digest_joined}, {embedding_joined}
FROM (
    SELECT coalesce(r.seq, -1) AS seq, coalesce(r.chunks, -1) AS chunks, coalesce(r.truncated, 0) AS truncated,
        coalesce(c.start, -1) AS start, coalesce(c.stop, -1) AS stop,
        CASE octet_length(c.digest) WHEN 16 THEN c.digest ELSE zeroblob(16) END AS digest,
        CASE octet_length(c.embedding) WHEN {size} THEN c.embedding ELSE zeroblob({size}) END AS embedding
    FROM {table} t LEFT JOIN {rows} r ON {r_is_t} LEFT JOIN {chunks} c ON {c_is_t} AND c.ordinal = 0 AND r.chunks > 0
    WHERE {after} AND {until} AND {keys_present} ORDER BY {table_keys}
)

-- name: audit_held_lexical
-- What a lexical generation holds of the rows of a page, column by column.
SELECT group_concat(seq), group_concat(chunks), group_concat(truncated), group_concat(doc) FROM (
    SELECT coalesce(r.seq, -1) AS seq, coalesce(r.chunks, -1) AS chunks, coalesce(r.truncated, 0) AS truncated,
        coalesce(r.doc, -1) AS doc
    FROM {table} t LEFT JOIN {rows} r ON {r_is_t}
    WHERE {after} AND {until} AND {keys_present} ORDER BY {table_keys}
)

-- name: audit_passages
-- The further chunks of the rows of a page.
SELECT c.start, c.stop, c.digest, CASE octet_length(c.embedding) WHEN {size} THEN c.embedding ELSE zeroblob({size}) END, {ckeys}
FROM {table} t CROSS JOIN {rows} r ON {r_is_t} AND r.chunks > 1
CROSS JOIN {chunks} c ON {c_is_t} AND c.ordinal > 0 AND c.ordinal < r.chunks
WHERE {after} AND {until} AND {keys_present} ORDER BY {table_keys}, c.ordinal

-- name: audit_gone
-- Live entries of a range whose row is not live.
SELECT {jkeys_raw} FROM {journal} j LEFT JOIN {table} t ON {t_is_j} AND ({live})
WHERE j.seq > ? AND j.seq <= ? AND NOT j.deleted AND NOT ({t_found}) ORDER BY j.seq

-- name: audit_tombstones
-- Tombstones of a range.
SELECT {jkeys_raw} FROM {journal} j INDEXED BY {journal_deleted} WHERE j.seq > ? AND j.seq <= ? AND j.deleted ORDER BY j.seq

-- name: audit_missing
-- Whether an entry is neither done nor failed in a generation, behind its cursors and sweeps, and under no lease; or of a
-- number below the first, which no lane goes to.
SELECT {jkeys} FROM generation g CROSS JOIN {journal} j ON {j_is_asked}
LEFT JOIN {rows} r ON {r_is_j}
LEFT JOIN {failures} f ON {f_is_j}
WHERE g.id = {generation} AND r.seq IS NOT j.seq AND f.seq IS NOT j.seq
  AND CASE WHEN j.seq < 1 THEN 1 WHEN j.seq > g.origin THEN j.seq <= g.confirmed ELSE j.seq > g.backfill AND j.seq <= g.swept END
  AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.generation_id = g.id AND j.seq > l.lo AND j.seq <= l.hi)

-- name: rows_outdate
-- Let a version be old that is held and that the journal has never given out.
UPDATE {rows} SET seq = 0 WHERE {j_is_given} AND seq > (SELECT j.seq FROM {journal} j WHERE {j_is_asked}) RETURNING 1

-- name: audit_rows_end
-- The key of the n-th row beyond one.
SELECT {rkeys_raw} FROM {rows} r WHERE {after} ORDER BY {rkeys} LIMIT 1 OFFSET ?

-- name: audit_rows
-- Rows held of which the journal has no entry.
SELECT {rkeys_raw} FROM {rows} r
WHERE {after} AND {until} AND r.chunks >= 0 AND NOT EXISTS (SELECT 1 FROM {journal} j WHERE {j_is_r}) ORDER BY {rkeys}

-- name: audit_chunks_end
-- The key of the n-th chunk beyond one.
SELECT {ckeys_raw} FROM {chunks} c WHERE {after} ORDER BY {ckeys} LIMIT 1 OFFSET ?

-- name: audit_chunks
-- Chunks of rows that are not held, or held with fewer.
SELECT DISTINCT {ckeys_raw} FROM {chunks} c LEFT JOIN {rows} r ON {r_is_c}
WHERE {after} AND {until} AND (r.seq IS NULL OR c.ordinal >= r.chunks) ORDER BY {ckeys}

-- name: audit_postings
-- All postings, by term.
SELECT term, data FROM {postings} ORDER BY term

-- name: audit_documents
-- The highest document that is current.
SELECT coalesce(max(doc), 0) FROM {rows}

-- name: audit_begin
-- Take an audit on, if it is time for one and nobody is at it.
INSERT INTO audit_run (source_id, owner, expires_at)
SELECT :source, :worker, :expires_at WHERE EXISTS (
    SELECT 1 FROM generation g LEFT JOIN audit a ON a.generation_id = g.id
    WHERE g.source_id = :source AND g.state = 'active'
      AND max(coalesce(a.audited_at, 0), coalesce(g.activated_at, g.created_at)) <= :before
)
ON CONFLICT (source_id) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at WHERE audit_run.expires_at <= :now
RETURNING 1

-- name: audit_renew
-- Go on with an audit that is ours.
UPDATE audit_run SET expires_at = ? WHERE source_id = ? AND owner = ? RETURNING 1

-- name: audit_release
-- Let an audit that is ours go.
DELETE FROM audit_run WHERE source_id = ? AND owner = ? RETURNING 1

-- name: audit_record
-- What came of an audit, of a generation that is there.
INSERT INTO audit (generation_id, audited_at, rows, findings, repaired)
SELECT g.id, ?2, ?3, ?4, ?5 FROM generation g WHERE g.id = ?1
ON CONFLICT (generation_id) DO UPDATE SET audited_at = excluded.audited_at, rows = excluded.rows, findings = excluded.findings,
    repaired = excluded.repaired

-- name: audits
-- The last audits of a source's generations.
SELECT a.generation_id, a.audited_at, a.rows, a.findings, a.repaired
FROM audit a JOIN generation g ON g.id = a.generation_id WHERE g.source_id = ?

-- name: poll_state
-- How far a polled table has been looked at; from where the enrolment ended, if never.
SELECT CASE WHEN p.source_id IS NULL THEN s.enrolled ELSE p.seen END, p.confirmed, p.mark, coalesce(p.horizon, 0), coalesce(p.marked_at, 0)
FROM source s LEFT JOIN poll p ON p.source_id = s.id WHERE s.id = ?

-- name: poll_write
-- Remember how far it has been looked at.
INSERT INTO poll (source_id, seen, confirmed, mark, horizon, marked_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (source_id) DO UPDATE SET seen = excluded.seen, confirmed = excluded.confirmed, mark = excluded.mark,
    horizon = excluded.horizon, marked_at = excluded.marked_at

-- name: poll_found
-- The next rows beyond a key, in its order, and whether they are live.
SELECT coalesce({live}, 0), {table_keys_raw} FROM {table} t WHERE {after} AND {keys_present} ORDER BY {table_keys} LIMIT ?

-- name: poll_missed
-- Live rows of a range of keys that the journal does not have.
SELECT {table_keys_raw} FROM {table} t
WHERE {after} AND {until} AND {keys_present} AND ({live}) AND NOT EXISTS (SELECT 1 FROM {journal} j WHERE {j_is_t})
ORDER BY {table_keys} LIMIT ?

-- name: poll_passed
-- Whether a row's key is not beyond one.
SELECT {table_keys} FROM {table} t WHERE {t_is_given} AND {until}

-- name: journal_floor
-- The highest seq that a generation has met with, as far as the cursors tell.
SELECT coalesce(max(max(fresh, origin)), 0) FROM generation WHERE source_id = ?

-- name: journal_renew
-- Give an entry a new seq, and say whether its row is live.
UPDATE {journal_here} SET seq = max((SELECT max(seq) FROM {journal_here}), {floor}) + 1,
    deleted = NOT EXISTS (SELECT 1 FROM {table_here} t WHERE {t_is_given} AND ({live})),
    changed_at = CAST(strftime('%s', 'now') AS INTEGER)
WHERE {j_is_given}
RETURNING 1

-- name: journal_enter
-- Enter a live row that the journal does not have.
INSERT INTO {journal_here} (seq, {keys}, deleted, changed_at)
SELECT max(coalesce((SELECT max(seq) FROM {journal_here}), 0), {floor}) + 1, {given}, 0, CAST(strftime('%s', 'now') AS INTEGER)
WHERE EXISTS (SELECT 1 FROM {table_here} t WHERE {t_is_given} AND ({live}))
  AND NOT EXISTS (SELECT 1 FROM {journal_here} WHERE {j_is_given})
RETURNING 1

-- name: journal_lift
-- Give the last entry a seq above what a generation has met with, so that whatever comes is above it, too.
UPDATE {journal_here} SET seq = :floor + 1, changed_at = CAST(strftime('%s', 'now') AS INTEGER)
WHERE seq = (SELECT max(seq) FROM {journal_here}) AND seq < :floor

-- name: journal_lift_empty
-- Do the same where there is no entry, with the tombstone of no row.
INSERT INTO {journal_here} (seq, {keys}, deleted, changed_at)
SELECT :floor, {nothing}, 1, CAST(strftime('%s', 'now') AS INTEGER)
WHERE :floor > 0 AND NOT EXISTS (SELECT 1 FROM {journal_here})

-- name: strays_drop_rows
-- What is held of a row that the journal has no entry of.
DELETE FROM {rows} AS r
WHERE {keys_given} AND NOT EXISTS (SELECT 1 FROM {journal} j WHERE {j_is_r}) RETURNING 1

-- name: strays_drop_chunks
-- A row's chunks too many.
DELETE FROM {chunks} AS c
WHERE {keys_given} AND NOT EXISTS (SELECT 1 FROM {rows} r WHERE {r_is_c} AND c.ordinal < r.chunks) RETURNING id

-- name: tables_gone
-- Those of our tables that are not there.
SELECT a.value FROM json_each(?) a
WHERE NOT EXISTS (SELECT 1 FROM {schema}.sqlite_master m WHERE m.type = 'table' AND m.name = a.value)

-- name: shards_forget
-- Shards of chunks that are gone with their table.
DELETE FROM ann_shard WHERE generation_id = ?
