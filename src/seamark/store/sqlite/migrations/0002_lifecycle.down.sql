ALTER TABLE model DROP COLUMN drift;
ALTER TABLE model DROP COLUMN probe;
ALTER TABLE generation DROP COLUMN due;
ALTER TABLE generation DROP COLUMN retired_at;
ALTER TABLE generation DROP COLUMN manual;
