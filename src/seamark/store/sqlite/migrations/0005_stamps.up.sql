-- Columns of the user's table that say what is embedded: which of them are ours (JSON), and where the pass stands that compares
-- them: with which generation (stamped_at is null while it is under way), and the last key that it has passed.
ALTER TABLE source ADD COLUMN stamps_made TEXT NOT NULL DEFAULT '[]';
ALTER TABLE source ADD COLUMN stamped_by INTEGER;
ALTER TABLE source ADD COLUMN stamped_to TEXT;
ALTER TABLE source ADD COLUMN stamped_at INTEGER;
