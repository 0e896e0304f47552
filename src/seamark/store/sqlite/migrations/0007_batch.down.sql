DROP TABLE prepaid;
DROP TABLE batch;
ALTER TABLE generation DROP COLUMN held_until;
