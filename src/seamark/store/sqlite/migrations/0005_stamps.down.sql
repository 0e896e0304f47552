ALTER TABLE source DROP COLUMN stamped_at;
ALTER TABLE source DROP COLUMN stamped_to;
ALTER TABLE source DROP COLUMN stamped_by;
ALTER TABLE source DROP COLUMN stamps_made;
