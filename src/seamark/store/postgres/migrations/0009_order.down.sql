-- Makes the index of the journal by `seq` unique again. It fails while a number is there twice: `seamark verify --repair` first.
DO $$
DECLARE
    journal name;
BEGIN
    FOR journal IN
        SELECT relname FROM pg_class WHERE relnamespace = 'seamark'::regnamespace AND relname ~ '^journal_\d+$' AND relkind = 'r'
    LOOP
        EXECUTE format('DROP INDEX seamark.%I', journal || '_seq_idx');
        EXECUTE format('CREATE UNIQUE INDEX %I ON seamark.%I (seq)', journal || '_seq_idx', journal);
    END LOOP;
END
$$;
