"""Which rights each command takes, and that those that only look change nothing, even where nothing was ever attached."""

import uuid
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import seamark
from seamark.errors import StorePermissionError, UnknownSourceError
from seamark.testing.oracle import OracleEmbedder

READER = (
    "GRANT USAGE ON SCHEMA seamark TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA seamark TO {role}",
    "GRANT SELECT ON ALL SEQUENCES IN SCHEMA seamark TO {role}",
    "GRANT SELECT ON notes TO {role}",
)


@pytest.fixture
def administrator(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def role(administrator):
    """Return a function that makes a role and returns its name."""
    roles = []

    def made():
        name = f"role_{uuid.uuid4().hex[:8]}"
        administrator.execute(f"CREATE ROLE {name} LOGIN")
        roles.append(name)
        return name

    yield made
    for name in roles:
        administrator.execute(f"DROP OWNED BY {name} CASCADE")
    for name in roles:
        administrator.execute(f"DROP ROLE {name}")


@pytest.fixture
def opened(postgres_url):
    """Return a function that opens the database as a role."""

    def opened(name):
        parts = conninfo_to_dict(postgres_url) | {"user": name}
        return seamark.open(f"postgresql:///?{urlencode(parts)}", embedder=OracleEmbedder())

    return opened


@pytest.fixture
def owner(administrator, role, opened):
    """A role that has attached its table `notes` with no more rights than that takes."""
    administrator.execute("CREATE EXTENSION vector")
    [(database,)] = administrator.execute("SELECT current_database()").fetchall()
    name = role()
    administrator.execute(f"GRANT CREATE ON DATABASE {database} TO {name}")
    administrator.execute("CREATE TABLE notes (id integer PRIMARY KEY, body text)")
    administrator.execute("INSERT INTO notes VALUES (1, 'a dog'), (2, 'a cat')")
    administrator.execute(f"GRANT SELECT, TRIGGER ON notes TO {name}")
    with opened(name) as service:
        service.attach("notes", text="body")
    return name


def test_a_database_that_knows_nothing_of_seamark_is_only_looked_at(postgres_backend):
    application = postgres_backend.application()
    application.run("CREATE TABLE notes (id integer PRIMARY KEY, body text)")
    before = postgres_backend.writes()
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        assert service.status() == ()
        assert service.work(until="current") == 0
        assert [check.name for check in service.doctor() if not check.ok] == []
        assert "first attach" in " ".join(check.detail for check in service.doctor())
        with pytest.raises(UnknownSourceError):
            service.source("notes")
        with pytest.raises(UnknownSourceError):
            service.detach("notes")
        assert postgres_backend.writes() == before
        with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as other:
            other.attach("notes", text="body")
        assert [status.source.name for status in service.status()] == ["notes"]


def test_a_role_may_read_a_database_that_nothing_was_attached_in(role, opened):
    with opened(role()) as service:
        assert service.status() == ()
        [check] = [check for check in service.doctor() if check.name == "rights"]
        assert "GRANT CREATE ON DATABASE" in check.detail


def test_a_reader_searches_and_asks_how_it_stands(administrator, owner, role, opened):
    with opened(owner) as service:
        service.work(until="current")
    reader = role()
    for grant in READER:
        administrator.execute(grant.format(role=reader))
    with opened(reader) as service:
        assert [hit.key for hit in service.source("notes").search("a dog", limit=1)] == [1]
        [status] = service.status()
        assert [each.coverage.embedded for each in status.generations] == [2, 2]
        assert status.problems == ()
        assert service.source("notes").failures() == ()
        assert [check for check in service.doctor() if not check.ok] == []
        with pytest.raises(StorePermissionError):
            service.detach("notes")
        administrator.execute("CREATE TABLE other (id integer PRIMARY KEY, body text)")
        with pytest.raises(StorePermissionError):
            service.attach("other", text="body")


def test_a_worker_is_a_member_of_the_role_that_attached(administrator, owner, role, opened):
    worker = role()
    administrator.execute(f"GRANT {owner} TO {worker}")
    with opened(worker) as service:
        service.work(until="current")
        assert service.source("notes").coverage().embedded == 2
        assert [check for check in service.doctor() if not check.ok] == []
        service.detach("notes")


def test_a_role_without_any_is_told_what_to_grant(owner, role, opened):
    with pytest.raises(StorePermissionError, match="schema seamark; grant"):
        opened(role())
