"""A table for audits: attached, with everything indexed, its application beside it, and a hand in Seamark's own tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import apsw

import seamark
from seamark.testing.backends import SqliteBackend
from seamark.testing.judgement import judge
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import application_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from seamark.core.service import Seamark
    from seamark.core.tracked import Tracked
    from seamark.model import Generation, GenerationKind, KeyValue
    from seamark.model.findings import Finding, Findings, Reason
    from seamark.testing.backend import Application
    from seamark.testing.backends import PostgresBackend

    Found = tuple[KeyValue, Reason, GenerationKind | None]

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while"),
    *("seven", "wise", "owls", "watch", "from", "old", "oak", "trees"),
)
LONG = 20
"""The row of several chunks."""
TEXTS: Mapping[int, str | None] = {
    **{number: " ".join(WORDS[(number + place) % len(WORDS)] for place in range(3 + number % 5)) for number in range(1, 40)},
    LONG: "\n\n".join(" ".join(WORDS[(at + place) % len(WORDS)] for place in range(90)) for at in range(8)),
    5: "",
    6: None,
}


def both(number: int, reason: Reason) -> dict[Found, int]:
    """Return what is found of a row that is wrong in both of its indexes."""
    return {(number, reason, "vector"): 1, (number, reason, "lexical"): 1}


@dataclass
class Audited:
    """The table `notes`; `texts` are those of its rows, by id, and `findings` what the last look at it came to."""

    backend: SqliteBackend | PostgresBackend
    application: Application
    service: Seamark
    embedder: OracleEmbedder
    texts: dict[int, str | None]
    findings: Findings = field(init=False)

    @classmethod
    def of(cls, backend: SqliteBackend | PostgresBackend, texts: Mapping[int, str | None] = TEXTS, **words: Any) -> Self:
        """Make the table with these texts, attach it in these words, and index it."""
        application = application_with(backend, notes=texts)
        embedder = OracleEmbedder()
        service = seamark.open(backend.url, embedder=embedder)
        attached: dict[str, Any] = {"text": "body", **words}
        service.attach("notes", **attached)
        service.work(until="current")
        return cls(backend, application, service, embedder, dict(texts))

    @property
    def tracked(self) -> Tracked:
        """The attached table."""
        return self.service.source("notes")

    def generation(self, kind: GenerationKind) -> Generation:
        """Return the active index of a kind."""
        source = self.tracked.source
        [found] = [one for one in self.service.store.generations(source.id) if (one.kind, one.state) == (kind, "active")]
        return found

    def inside(self, statement: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """Run a statement on Seamark's own tables; `{rows}` are the vector generation's, `{words}` the other's."""
        vector, lexical = self.generation("vector").id, self.generation("lexical").id
        schema = "" if self.backend.name == "sqlite" else "seamark."
        names = {"rows": f"rows_{vector}", "chunks": f"chunks_{vector}", "words": f"rows_{lexical}"}
        names |= {"postings": f"postings_{lexical}", "lease": "lease", "generation": "generation"}
        statement = statement.format(**{word: schema + name for word, name in names.items()})
        if not isinstance(self.backend, SqliteBackend):
            cascade = " CASCADE" if statement.startswith("DROP TABLE") else ""  # the views for SQL users look into it
            return self.application.run(statement + cascade, *values)
        connection: Any = apsw.Connection(str(self.backend.sidecar))
        connection.set_busy_timeout(10_000)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def found(self) -> Counter[Found]:
        """Return what `verify` finds, as (key, reason, kind of the index or None), each as often as it is found."""
        source = self.tracked.source
        kinds: dict[int | None, GenerationKind | None] = {None: None}
        kinds |= {one.id: one.kind for one in self.service.store.generations(source.id)}
        every: list[Finding] = []
        self.findings = self.tracked.verify(found=every.append)
        assert self.findings.total == len(every)
        assert sum(self.findings.counts.values()) == len(every)
        return Counter((one.key[0], one.reason, kinds[one.generation]) for one in every)

    def mend(self) -> Findings:
        """Repair, work, and prove that all is as it should be."""
        mended = self.tracked.verify(repair=True)
        assert mended.unmended == ()
        self.service.work(until="current")
        after = self.tracked.verify()
        assert after.clean, after
        assert after.rows == len(self.texts)
        judge(self.backend, {(number,): text or "" for number, text in self.texts.items()}, "zebra")
        return mended

    def insert(self, number: int, text: str | None) -> None:
        """Insert a row."""
        self.application.run("INSERT INTO notes (id, body) VALUES (?, ?)", number, text)
        self.texts[number] = text

    def update(self, number: int, text: str | None) -> None:
        """Edit a row."""
        self.application.run("UPDATE notes SET body = ? WHERE id = ?", text, number)
        self.texts[number] = text

    def delete(self, number: int) -> None:
        """Delete a row."""
        self.application.run("DELETE FROM notes WHERE id = ?", number)
        del self.texts[number]

    def blindly(self, work: Callable[[], object]) -> None:
        """Do something without triggers."""
        if self.backend.name == "postgres":
            self.application.run("SET session_replication_role = replica")
            work()
            self.application.run("SET session_replication_role = DEFAULT")
            return
        triggers = self.application.run("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        with self.application.transaction():
            for name, _ in triggers:
                self.application.run(f'DROP TRIGGER "{name}"')
            work()
            for _, sql in triggers:
                self.application.run(sql)

    def triggers(self) -> list[str]:
        """Return the names of the triggers that the table has."""
        listed = {
            "sqlite": "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'notes'",
            "postgres": "SELECT tgname FROM pg_trigger WHERE tgrelid = 'notes'::regclass AND NOT tgisinternal",
        }
        return [name for (name,) in self.application.run(listed[self.backend.name])]

    def triggers_drop(self) -> None:
        """Drop them."""
        for name in self.triggers():
            self.application.run(f"DROP TRIGGER {name}" + (" ON notes" if self.backend.name == "postgres" else ""))

    def hits(self, text: str) -> set[object]:
        """Return the keys whose text, or a passage of it, is exactly that one, as far as search knows."""
        found = self.tracked.search(text, mode="vector", limit=100)
        return {hit.key for hit in found if hit.vector is not None and hit.vector.score > 0.999}
