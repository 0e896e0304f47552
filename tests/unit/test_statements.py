"""The named statements of both stores, kept side by side; and the migrations, up and down."""

import re
from contextlib import ExitStack
from importlib.resources import files

import apsw
import psycopg
import pytest

from seamark.errors import StoreIncompatibleError
from seamark.store.migrate import migrations, steps
from seamark.store.statements import load

STORES = ("sqlite", "postgres")
NECESSITY = "Differs by necessity: "


def folder(store):
    return files(f"seamark.store.{store}")


def comments(store):
    """Return name → the comment lines under it."""
    text = folder(store).joinpath("queries.sql").read_text(encoding="utf-8")
    pieces = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    found = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = body.strip().splitlines()
        end = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
        found[name] = [line.removeprefix("--").strip() for line in lines[:end]]
    return found


def python(store):
    return "\n".join(file.read_text(encoding="utf-8") for file in folder(store).iterdir() if file.name.endswith(".py"))


@pytest.mark.parametrize("store", STORES)
def test_every_statement_says_its_purpose(store):
    names = load(folder(store).joinpath("queries.sql"))
    assert len(names) > 20
    assert [name for name, lines in comments(store).items() if not " ".join(lines).endswith(".")] == []
    assert comments(store).keys() == names.keys()


@pytest.mark.parametrize("store", STORES)
def test_every_statement_is_run(store):
    """By its name, as a string in the Python beside it, or as one that ends in what the generation is."""
    code = python(store)
    patterns = re.findall(r'f"([a-z_]*)\{[^}"]+\}([a-z_]*)"', code)
    composed = {before + kind + after for before, after in patterns for kind in ("vector", "lexical")}
    assert [name for name in comments(store) if f'"{name}"' not in code and name not in composed] == []


@pytest.mark.parametrize("store", STORES)
def test_no_other_sql_is_in_the_python(store):
    """But identifiers, filters, triggers and pragmas, which cannot be bound."""
    found = re.findall(r'"(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH) [^"]*"', python(store))
    assert [sql for sql in found if " FROM " in sql and "sqlite_schema" not in sql and "{" not in sql] == []


@pytest.mark.parametrize(("store", "other"), [STORES, STORES[::-1]])
def test_statements_have_the_same_names(store, other):
    """Or say why the other database does not need them: under their own name, or in a list of several."""
    theirs = comments(other)
    excused = set(re.findall(r"\w+", " ".join(necessities(store))))
    alone = {name for name, lines in comments(store).items() if name not in theirs and NECESSITY not in " ".join(lines)}
    assert sorted(alone - excused) == []


def necessities(store):
    """Return the text of each comment from its "Differs by necessity" on."""
    text = folder(store).joinpath("queries.sql").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^--.*\n)+", text, flags=re.MULTILINE)
    plain = [" ".join(line.removeprefix("--").strip() for line in block.splitlines()) for block in blocks]
    return [block.split(NECESSITY, 1)[1] for block in plain if NECESSITY in block]


@pytest.mark.parametrize("store", STORES)
def test_necessities_are_explained(store):
    """In a few words at least."""
    assert [reason for reason in necessities(store) if len(reason) < 10] == []


# --- migrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_every_migration_has_both_halves(store):
    found = migrations(folder(store).joinpath("migrations"))
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert all(one.up.strip() and one.down.strip() for one in found)


class Sqlite:
    """Scripts in a fresh sidecar, as the store runs them."""

    def __init__(self, teardown, path):
        self.connection = apsw.Connection(str(path))
        teardown.callback(self.connection.close)

    def run(self, script):
        self.connection.execute(script)

    def schema(self):
        rows = self.connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
        return [row for row in rows if not row[1].startswith("sqlite_")]


class Postgres:
    """Scripts in a fresh database, as the store runs them."""

    def __init__(self, teardown, url):
        self.connection = teardown.enter_context(psycopg.connect(url, autocommit=True))

    def run(self, script):
        with self.connection.transaction():
            self.connection.execute(script)

    def schema(self):
        queries = (
            (
                "SELECT c.relkind::text, c.relname, coalesce(pg_get_indexdef(c.oid), '') FROM pg_class c"
                " WHERE relnamespace = to_regnamespace('seamark') ORDER BY 1, 2"
            ),
            (
                "SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
                " pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
                " WHERE c.relnamespace = to_regnamespace('seamark') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2"
            ),
            (
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = to_regnamespace('seamark') ORDER BY 1, 2"
            ),
            (
                "SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p"
                " WHERE pronamespace = to_regnamespace('seamark') ORDER BY 1, 2"
            ),
        )
        return [self.connection.execute(query).fetchall() for query in queries]


@pytest.fixture(params=STORES)
def scratch(request, tmp_path, postgres_database):
    """A database without Seamark's schema, and that store's migrations."""
    known = migrations(folder(request.param).joinpath("migrations"))
    with ExitStack() as teardown:
        if request.param == "sqlite":
            yield Sqlite(teardown, tmp_path / "scratch"), known
        else:
            database = Postgres(teardown, teardown.enter_context(postgres_database()))
            yield database, known


def test_migrations_go_up_and_down_and_up(scratch):
    """Each one takes back exactly what it brought, and the second time up ends where the first did."""
    database, known = scratch
    schemas = [database.schema()]
    for step in steps(known, 0):
        database.run(step.script)
        schemas.append(database.schema())
    assert schemas[0] != schemas[-1]
    for version in reversed(range(len(known))):
        for step in steps(known, version + 1, version):
            database.run(step.script)
        assert database.schema() == schemas[version]
    for step in steps(known, 0):
        database.run(step.script)
    assert database.schema() == schemas[-1]


def test_a_migrated_schema_equals_a_fresh_one(scratch, backend_open, tmp_path):
    """What the store makes of an empty database is what its migrations make one after the other."""
    database, known = scratch
    for step in steps(known, 0):
        database.run(step.script)
    with ExitStack() as teardown:
        backend = backend_open("sqlite" if isinstance(database, Sqlite) else "postgres", tmp_path, teardown)
        backend.store().collection_create("library")
        fresh = Sqlite(teardown, backend.sidecar) if isinstance(database, Sqlite) else Postgres(teardown, backend.url)
        assert fresh.schema() == database.schema()


def test_opening_again_changes_nothing(backend):
    """The second open finds everything done."""
    backend.store().close()
    before = backend.writes()
    store = backend.store()
    assert list(store.sources()) == []
    assert backend.writes() == before


def test_a_schema_from_the_future_is_refused(backend):
    """One line that says what to do, and nothing changed."""
    store = backend.store()
    store.collection_create("library")
    store.close()
    if backend.name == "sqlite":
        connection = apsw.Connection(str(backend.sidecar))
        connection.execute("PRAGMA user_version = 9999")
        connection.close()
    else:
        with psycopg.connect(backend.url) as connection:
            connection.execute("UPDATE seamark.schema_version SET version = 9999")
    with pytest.raises(StoreIncompatibleError, match="upgrade"):
        backend.store().sources()
