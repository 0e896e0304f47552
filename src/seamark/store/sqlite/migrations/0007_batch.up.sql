-- Until when the backfill lane of a generation is held, for a batch that is under way.
ALTER TABLE generation ADD COLUMN held_until INTEGER NOT NULL DEFAULT 0;

-- Passages given to a provider's batch interface: those of the rows `after < seq <= upto`, recognised there by `tag`. Who is at
-- it says so with `owner`, until `expires_at`.
CREATE TABLE batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation_id INTEGER NOT NULL,
    tag TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('planned', 'sending', 'submitted', 'done', 'failed')),
    "after" INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    answered INTEGER NOT NULL,
    provider_id TEXT,
    error TEXT,
    owner TEXT,
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX batch_open ON batch (generation_id) WHERE state IN ('planned', 'sending', 'submitted');

-- Vectors that are paid for and not settled yet, as they are stored.
CREATE TABLE prepaid (
    generation_id INTEGER NOT NULL,
    digest BLOB NOT NULL,
    embedding BLOB NOT NULL,
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (generation_id, digest)
) WITHOUT ROWID;
