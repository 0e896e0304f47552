-- When each generation was audited last and what came of it, and who is at an audit just now.

CREATE TABLE seamark.audit (
    generation_id integer PRIMARY KEY REFERENCES seamark.generation (id) ON DELETE CASCADE,
    audited_at bigint NOT NULL,
    rows bigint NOT NULL,
    findings bigint NOT NULL,
    repaired bigint NOT NULL
);

CREATE TABLE seamark.audit_run (
    source_id integer PRIMARY KEY REFERENCES seamark.source (id) ON DELETE CASCADE,
    owner text NOT NULL,
    expires_at bigint NOT NULL
);
COMMENT ON TABLE seamark.audit_run IS 'an audit under way; one whose time has passed was left by a worker that died';
