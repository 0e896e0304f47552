DROP TABLE seamark.prepaid;
DROP TABLE seamark.batch;
ALTER TABLE seamark.generation DROP COLUMN held_until;
