-- How far polled tables have been looked at, by keys as JSON: `seen` are those looked at once; up to `confirmed` nothing can have
-- come afterwards; `mark` is what is to be confirmed next, when all transactions below `horizon` have ended.
CREATE TABLE poll (
    source_id INTEGER PRIMARY KEY,
    seen TEXT,
    confirmed TEXT,
    mark TEXT,
    horizon INTEGER NOT NULL DEFAULT 0,
    marked_at INTEGER NOT NULL DEFAULT 0
);
