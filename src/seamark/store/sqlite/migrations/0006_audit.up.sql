-- When each generation was audited last and what came of it, and who is at an audit just now.

CREATE TABLE audit (
    generation_id INTEGER PRIMARY KEY,
    audited_at INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    findings INTEGER NOT NULL,
    repaired INTEGER NOT NULL
);

-- One whose time has passed was left by a worker that died.
CREATE TABLE audit_run (
    source_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);
