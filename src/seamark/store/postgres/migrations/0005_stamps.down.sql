ALTER TABLE seamark.source
    DROP COLUMN stamped_at,
    DROP COLUMN stamped_to,
    DROP COLUMN stamped_by,
    DROP COLUMN stamps_made;
