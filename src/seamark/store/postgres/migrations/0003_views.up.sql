-- What SQL users read: docs/sql.md has the columns. A source's own view is made with it, and this one is made anew whenever a
-- generation comes or goes, which keeps the rights granted on it.
CREATE VIEW seamark.embedding_jobs AS
SELECT NULL::text AS source, NULL::text AS key, NULL::text AS model_id, NULL::text AS model_version, NULL::text AS status,
    NULL::integer AS attempts, NULL::text AS last_error, NULL::timestamptz AS inserted_at, NULL::timestamptz AS updated_at,
    NULL::text AS kind, NULL::integer AS generation
WHERE false;
