-- Those of the sources are found by their schema: it holds no others.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT viewname FROM pg_catalog.pg_views WHERE schemaname = 'seamark' LOOP
        EXECUTE format('DROP VIEW seamark.%I', name);
    END LOOP;
END
$$;
