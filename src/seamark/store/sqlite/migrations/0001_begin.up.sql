-- Everything that Seamark keeps about a database, in the sidecar file. Times are microseconds UTC.

CREATE TABLE model (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    document_prefix TEXT NOT NULL,
    query_prefix TEXT NOT NULL,
    normalised INTEGER NOT NULL,
    UNIQUE (name, version, dimension, document_prefix, query_prefix, normalised)
);

-- `spec`, `columns` and `key` are JSON. `enrolled` is the last key that the enrolment has passed, JSON too. `witness` describes
-- the journal's last row, of `witness_seq`, as the last claim saw it.
CREATE TABLE source (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    table_name TEXT NOT NULL UNIQUE,
    columns TEXT NOT NULL,
    key TEXT NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('enrolling', 'ready')),
    enrolled TEXT,
    witness_seq INTEGER,
    witness TEXT
);

-- `next_id` is the next chunk's id, or the next document's number: neither is ever given out twice.
CREATE TABLE generation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER NOT NULL REFERENCES source (id),
    kind TEXT NOT NULL CHECK (kind IN ('lexical', 'vector')),
    fingerprint TEXT NOT NULL,
    identity TEXT NOT NULL,
    model_id INTEGER REFERENCES model (id),
    locator TEXT,
    state TEXT NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    origin INTEGER NOT NULL,
    fresh INTEGER NOT NULL,
    backfill INTEGER NOT NULL,
    confirmed INTEGER NOT NULL,
    mark INTEGER,
    horizon INTEGER NOT NULL DEFAULT 0,
    swept INTEGER NOT NULL DEFAULT 0,
    origin_horizon INTEGER NOT NULL DEFAULT 0,
    backoff_until INTEGER NOT NULL DEFAULT 0,
    backoff_error TEXT,
    created_at INTEGER NOT NULL,
    activated_at INTEGER,
    next_id INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX generation_active ON generation (source_id, kind) WHERE state = 'active';
CREATE UNIQUE INDEX generation_fingerprint ON generation (source_id, kind, fingerprint) WHERE state <> 'retired';

-- The id is never given out again, so that a worker back from the dead cannot take another lease for its own.
CREATE TABLE lease (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation_id INTEGER NOT NULL REFERENCES generation (id),
    lane TEXT NOT NULL CHECK (lane IN ('fresh', 'backfill', 'retry', 'sweep')),
    lo INTEGER NOT NULL,
    hi INTEGER NOT NULL,
    worker TEXT NOT NULL,
    fence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX lease_generation ON lease (generation_id);

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    beat_at INTEGER NOT NULL,
    rates TEXT NOT NULL
) WITHOUT ROWID;

-- Who is at the upkeep of a generation. It expires, so that one who died does not keep it.
CREATE TABLE upkeep (
    generation_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);

-- The HNSW files of a vector generation: which chunks each was built from, what it must contain byte for byte, and how many of its
-- chunks have been deleted since, so that it is known when a file is worth clearing out.
CREATE TABLE ann_shard (
    generation_id INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    dead INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (generation_id, shard)
) WITHOUT ROWID;

-- What the upkeep of a lexical generation has to know. `term` is where a pass stands, null between passes.
CREATE TABLE postings_upkeep (
    generation_id INTEGER PRIMARY KEY,
    blocks INTEGER NOT NULL DEFAULT 0,
    added INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    term TEXT
);
