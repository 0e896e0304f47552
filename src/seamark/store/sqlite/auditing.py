"""The store's operations for an audit; see `seamark.store.auditing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.store.sqlite import audit, audits, catalog, mend, poll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Audited, Key, Source
    from seamark.model.findings import AuditEntries, AuditPage, AuditPostings, AuditStrays
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words


class SqliteAuditing:
    """The part of a `SqliteStore` that audits ask for."""

    _connections: Connections

    def _words_for(self, source: Source, generation_id: int = 0) -> Words:
        raise NotImplementedError

    def _words_of(self, connection: Connection, source: Source, generation_id: int) -> Words:
        raise NotImplementedError

    def _words_by_generation(self, connection: Connection, generation_id: int) -> Words:
        raise NotImplementedError

    def audit_page(
        self, source: Source, generation_ids: Sequence[int], after: Key | None, limit: int, characters: int
    ) -> AuditPage:
        """Read the next rows of the user's table in key order, with what the journal and the generations hold of them."""
        with self._connections.use() as connection:
            known = {one.id: one for one in catalog.generations_list(connection, source.id)}
        asked = [(known[number], self._words_for(source, number)) for number in generation_ids if number in known]
        return audit.audit_page(self._connections, self._words_for(source), asked, after, limit, characters)

    def audit_journal(self, source: Source, after: int, limit: int) -> AuditEntries:
        """Look at the next entries of the journal above a `seq`."""
        return audit.audit_journal(self._connections, self._words_for(source), after, limit)

    def audit_missing(self, source: Source, generation_id: int, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those keys whose entry no lane will come by."""
        return audit.audit_missing(self._connections, self._words_for(source, generation_id), keys)

    def audit_rows(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """Look at the next rows that a generation holds."""
        return audit.audit_rows(self._connections, self._words_for(source, generation_id), after, limit)

    def audit_chunks(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """Look at the next chunks of a vector generation."""
        return audit.audit_chunks(self._connections, self._words_for(source, generation_id), after, limit)

    def audit_postings(self, generation_id: int, first: int, documents: int) -> AuditPostings:
        """Sum up all postings of a range of documents."""
        with self._connections.use() as connection:
            words = self._words_by_generation(connection, generation_id)
        return audit.audit_postings(self._connections, words, first, documents)

    def audit_documents(self, generation_id: int) -> int:
        """Return the highest number of a document that is current."""
        with self._connections.use() as connection:
            words = self._words_by_generation(connection, generation_id)
        return audit.audit_documents(self._connections, words)

    def journal_renew(self, source: Source, keys: Sequence[Key]) -> int:
        """Give rows a new `seq`, and say in the journal whether each is live."""
        return mend.journal_renew(self._connections, self._words_for(source), keys)

    def strays_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Drop what a generation holds of rows that are not entered, and chunks too many."""
        with self._connections.use() as connection:
            vector = any(one.model for one in catalog.generations_list(connection, source.id) if one.id == generation_id)
        return audit.strays_drop(self._connections, self._words_for(source, generation_id), keys, vector=vector)

    def chunks_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Drop all chunks that a vector generation holds of some rows."""
        return audit.chunks_drop(self._connections, self._words_for(source, generation_id), keys)

    def rows_outdate(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Let a version that a generation holds, and that is above the journal's, count as an old one."""
        return audit.rows_outdate(self._connections, self._words_for(source, generation_id), keys)

    def source_mend(self, source: Source) -> Sequence[str]:
        """Make good what can be of what feeds a source and of its tables."""
        return mend.source_mend(self._connections, self._words_for(source), self._words_of)

    def source_trust(self, source: Source) -> None:
        """Take the journal as it stands for the one to go by."""
        mend.source_trust(self._connections, self._words_for(source))

    def source_poll(self, source: Source, limit: int) -> int:
        """Enter rows that have come since the last time into the journal of a polled source."""
        return poll.source_poll(self._connections, self._words_for(source), limit)

    def keys_polled(self, source: Source, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those keys of rows that the poller has passed for good."""
        return poll.keys_polled(self._connections, self._words_for(source), keys)

    def audit_begin(self, source_id: int, worker: str, seconds: float, interval_seconds: float) -> bool:
        """Take the audit of a source on, if it is time for one."""
        return audits.audit_begin(self._connections, source_id, worker, seconds, interval_seconds)

    def audit_renew(self, source_id: int, worker: str, seconds: float) -> bool:
        """Go on with an audit."""
        return audits.audit_renew(self._connections, source_id, worker, seconds)

    def audit_end(self, source_id: int, worker: str, audited: Sequence[Audited]) -> None:
        """Let the audit go, and record what came of it."""
        audits.audit_end(self._connections, source_id, worker, audited)

    def audits(self, source_id: int) -> Mapping[int, Audited]:
        """Return the last audit of each generation of a source."""
        return audits.audits(self._connections, source_id)
