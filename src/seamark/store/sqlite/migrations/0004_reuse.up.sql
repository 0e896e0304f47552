-- What a detach leaves: `chunks_<id>` and `kept_<id>` of what was generation `id`. `key` is that of the source's row.
CREATE TABLE donor (
    id INTEGER PRIMARY KEY,
    table_name TEXT NOT NULL,
    "key" TEXT NOT NULL,
    model_id INTEGER NOT NULL REFERENCES model (id),
    precision TEXT,
    detached_at INTEGER NOT NULL
);
CREATE INDEX donor_table ON donor (table_name);

-- What indexing has cost, by generation and worker. `tokens` is what the model's provider says that it bills.
CREATE TABLE spend (
    generation_id INTEGER NOT NULL,
    worker TEXT NOT NULL,
    calls INTEGER NOT NULL,
    texts INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (generation_id, worker)
) WITHOUT ROWID;
