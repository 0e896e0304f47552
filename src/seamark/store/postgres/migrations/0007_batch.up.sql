-- Until when the backfill lane of a generation is held, for a batch that is under way.
ALTER TABLE seamark.generation ADD COLUMN held_until bigint NOT NULL DEFAULT 0;

-- Passages given to a provider's batch interface: those of the rows `after < seq <= upto`, recognised there by `tag`. Who is at
-- it says so with `owner`, until `expires_at`.
CREATE TABLE seamark.batch (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation_id integer NOT NULL REFERENCES seamark.generation (id) ON DELETE CASCADE,
    tag text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('planned', 'sending', 'submitted', 'done', 'failed')),
    after bigint NOT NULL,
    upto bigint NOT NULL,
    requests integer NOT NULL,
    answered integer NOT NULL,
    provider_id text,
    error text,
    owner text,
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL
);
CREATE UNIQUE INDEX batch_open ON seamark.batch (generation_id) WHERE state IN ('planned', 'sending', 'submitted');

-- Vectors that are paid for and not settled yet, as they are stored: little-endian numbers of the generation's precision.
CREATE TABLE seamark.prepaid (
    generation_id integer NOT NULL REFERENCES seamark.generation (id) ON DELETE CASCADE,
    digest bytea NOT NULL,
    embedding bytea STORAGE EXTERNAL NOT NULL,
    stored_at bigint NOT NULL,
    PRIMARY KEY (generation_id, digest)
);
