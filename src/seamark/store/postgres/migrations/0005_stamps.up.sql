-- Columns of the user's table that say what is embedded: which of them are ours, and where the pass stands that compares them.
ALTER TABLE seamark.source
    ADD COLUMN stamps_made text[] NOT NULL DEFAULT '{}',
    ADD COLUMN stamped_by integer,
    ADD COLUMN stamped_to jsonb,
    ADD COLUMN stamped_at bigint;
COMMENT ON COLUMN seamark.source.stamped_by IS 'the generation that the last pass compared with; stamped_at is null while it is under way';
