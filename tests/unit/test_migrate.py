"""Which migrations run, for both databases."""

import pytest

from seamark.errors import StoreIncompatibleError
from seamark.store.migrate import migrations, shared, steps


@pytest.fixture
def folder(tmp_path):
    for number, name in ((1, "begin"), (2, "more"), (3, "most")):
        for direction in ("up", "down"):
            (tmp_path / f"{number:04}_{name}.{direction}.sql").write_text(f"{name} {direction}")
    (tmp_path / "readme.txt").write_text("not a migration")
    return tmp_path


def test_up_down_and_nowhere(folder):
    known = migrations(folder)
    assert [(step.version, step.script) for step in steps(known, 1)] == [(2, "more up"), (3, "most up")]
    assert [(step.version, step.script) for step in steps(known, 3, 1)] == [(2, "most down"), (1, "more down")]
    assert [step.version for step in steps(known, 2, 0)] == [1, 0]
    assert steps(known, 3) == ()


def test_a_newer_database_is_refused(folder):
    with pytest.raises(StoreIncompatibleError, match="version 4"):
        steps(migrations(folder), 4)


@pytest.mark.parametrize("missing", ["0002_more.down.sql", "0001_begin.up.sql"])
def test_a_half_that_is_missing(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=r"no (down|up) script"):
        migrations(folder)


def test_a_number_that_is_missing(folder):
    (folder / "0002_more.down.sql").unlink()
    (folder / "0002_more.up.sql").unlink()
    with pytest.raises(ValueError, match="not numbered"):
        migrations(folder)


def test_what_all_sources_share_is_known_with_what_makes_it_anew(folder):
    (folder / "0001_begin.up.sql").write_text(
        "CREATE TABLE seamark.kept (\n    id int -- in words\n);\nCREATE UNIQUE INDEX kept_id ON seamark.kept (id);\n\n"
        "CREATE TABLE grown (id int);\nCREATE FUNCTION seamark.f() AS $$ BEGIN; END; $$;\nCOMMENT ON FUNCTION f IS 'f';\n"
    )
    (folder / "0002_more.up.sql").write_text(
        "ALTER TABLE grown ADD COLUMN n int;\nDO $$\nBEGIN; CREATE TABLE inner (id int);\n$$;"
    )
    assert shared(migrations(folder)) == {
        "kept": "CREATE TABLE seamark.kept (\n    id int -- in words\n);\nCREATE UNIQUE INDEX kept_id ON seamark.kept (id);\n",
        "grown": "",
        "f": "CREATE FUNCTION seamark.f() AS $$ BEGIN; END; $$;\n",
    }
