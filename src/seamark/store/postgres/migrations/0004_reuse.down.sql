DO $$
DECLARE
    id integer;
BEGIN
    FOR id IN SELECT g.id FROM seamark.generation g WHERE g.kind = 'vector' LOOP
        EXECUTE 'DROP TABLE seamark.kept_' || id;
    END LOOP;
    FOR id IN SELECT d.id FROM seamark.donor d LOOP
        EXECUTE 'DROP TABLE seamark.chunks_' || id || ', seamark.kept_' || id;
    END LOOP;
END
$$;
DROP TABLE seamark.spend;
DROP TABLE seamark.donor;
