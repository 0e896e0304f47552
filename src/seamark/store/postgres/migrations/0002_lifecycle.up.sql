-- Generations that come and go, and models that are recognised.
ALTER TABLE seamark.generation
    ADD COLUMN manual boolean NOT NULL DEFAULT false,
    ADD COLUMN retired_at bigint,
    ADD COLUMN due bigint;
COMMENT ON COLUMN seamark.generation.manual IS 'only activated when somebody asks for it';
COMMENT ON COLUMN seamark.generation.due IS 'what the journal held when the generation had to catch up with it';
UPDATE seamark.generation SET retired_at = seamark.clock() WHERE state = 'retired';

ALTER TABLE seamark.model
    ADD COLUMN probe bytea,
    ADD COLUMN drift text;
COMMENT ON COLUMN seamark.model.probe IS 'what the model made of fixed sentences when it was registered, as float32';
COMMENT ON COLUMN seamark.model.drift IS 'in what it is another model by now; null when all is well';
