-- A sequence that was set back must not fail a user's write: it hands out a number again, which an audit finds and mends. So the
-- index of the journal by `seq` is not unique any more. Writes to the attached tables wait while it is built anew, some seconds for
-- a million rows.
DO $$
DECLARE
    journal name;
BEGIN
    FOR journal IN
        SELECT relname FROM pg_class WHERE relnamespace = 'seamark'::regnamespace AND relname ~ '^journal_\d+$' AND relkind = 'r'
    LOOP
        EXECUTE format('DROP INDEX seamark.%I', journal || '_seq_idx');
        EXECUTE format('CREATE INDEX %I ON seamark.%I (seq)', journal || '_seq_idx', journal);
    END LOOP;
END
$$;
