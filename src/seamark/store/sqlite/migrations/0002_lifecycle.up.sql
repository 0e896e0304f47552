-- Generations that come and go, and models that are recognised.

-- `manual`: only activated when somebody asks for it. `due` is what the journal held when the generation had to catch up with it.
ALTER TABLE generation ADD COLUMN manual INTEGER NOT NULL DEFAULT 0;
ALTER TABLE generation ADD COLUMN retired_at INTEGER;
ALTER TABLE generation ADD COLUMN due INTEGER;
UPDATE generation SET retired_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000 WHERE state = 'retired';

-- `probe` is what the model made of fixed sentences when it was registered, as float32; `drift` in what it is another one by now.
ALTER TABLE model ADD COLUMN probe BLOB;
ALTER TABLE model ADD COLUMN drift TEXT;
