ALTER TABLE seamark.model
    DROP COLUMN drift,
    DROP COLUMN probe;
ALTER TABLE seamark.generation
    DROP COLUMN due,
    DROP COLUMN retired_at,
    DROP COLUMN manual;
