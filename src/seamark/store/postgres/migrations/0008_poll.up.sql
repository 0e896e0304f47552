-- How far polled tables have been looked at, by keys as JSON: `seen` are those looked at once; up to `confirmed` nothing can have
-- come afterwards; `mark` is what is to be confirmed next, when all transactions below `horizon` have ended.
CREATE TABLE seamark.poll (
    source_id integer PRIMARY KEY REFERENCES seamark.source (id) ON DELETE CASCADE,
    seen jsonb,
    confirmed jsonb,
    mark jsonb,
    horizon bigint NOT NULL DEFAULT 0,
    marked_at bigint NOT NULL DEFAULT 0
);
