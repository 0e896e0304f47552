"""The store's operations for an audit; see `seamark.store.auditing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.store.postgres import audit, audits, mend, poll
from seamark.store.postgres.names import generation_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Audited, Generation, Key, Source
    from seamark.model.findings import AuditEntries, AuditPage, AuditPostings, AuditStrays
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Database
    from seamark.store.postgres.names import Words


class PostgresAuditing:
    """The part of a `PostgresStore` that audits ask for."""

    _database: Database
    _catalog: Catalog

    def _words(self, source: Source, generation_id: int) -> Words:
        raise NotImplementedError

    def generations(self, source_id: int | None = None) -> Sequence[Generation]:
        """See the contract."""
        raise NotImplementedError

    def audit_page(
        self, source: Source, generation_ids: Sequence[int], after: Key | None, limit: int, characters: int
    ) -> AuditPage:
        """See the contract."""
        known = {one.id: one for one in self.generations(source.id)}
        asked = [(known[number], self._words(source, number)) for number in generation_ids if number in known]
        words = self._catalog.words(source.id)
        return audit.audit_page(self._database, words, source, asked, after, limit, characters)

    def audit_journal(self, source: Source, after: int, limit: int) -> AuditEntries:
        """See the contract."""
        return audit.audit_journal(self._database, self._catalog.words(source.id), after, limit)

    def audit_missing(self, source: Source, generation_id: int, keys: Sequence[Key]) -> Sequence[Key]:
        """See the contract."""
        return audit.audit_missing(self._database, self._words(source, generation_id), generation_id, keys)

    def audit_rows(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """See the contract."""
        return audit.audit_rows(self._database, self._words(source, generation_id), after, limit)

    def audit_chunks(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """See the contract."""
        return audit.audit_chunks(self._database, self._words(source, generation_id), after, limit)

    def audit_postings(self, generation_id: int, first: int, documents: int) -> AuditPostings:
        """See the contract."""
        return audit.audit_postings(self._database, generation_words(generation_id), first, documents)

    def audit_documents(self, generation_id: int) -> int:
        """See the contract."""
        return audit.audit_documents(self._database, generation_words(generation_id))

    def journal_renew(self, source: Source, keys: Sequence[Key]) -> int:
        """See the contract."""
        return mend.journal_renew(self._database, self._catalog.words(source.id), keys)

    def strays_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """See the contract."""
        vector = any(one.model for one in self.generations(source.id) if one.id == generation_id)
        width = len(source.table.key)
        return audit.strays_drop(self._database, self._words(source, generation_id), keys, width, vector=vector)

    def chunks_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """See the contract."""
        return audit.chunks_drop(self._database, self._words(source, generation_id), keys)

    def rows_outdate(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """See the contract."""
        return audit.rows_outdate(self._database, self._words(source, generation_id), keys)

    def source_mend(self, source: Source) -> Sequence[str]:
        """See the contract."""
        return mend.source_mend(self._database, self._catalog, source)

    def source_trust(self, source: Source) -> None:
        """See the contract."""
        mend.source_trust(self._database, self._catalog.words(source.id))

    def source_poll(self, source: Source, limit: int) -> int:
        """See the contract."""
        return poll.source_poll(self._database, self._catalog.words(source.id), source, limit)

    def keys_polled(self, source: Source, keys: Sequence[Key]) -> Sequence[Key]:
        """See the contract."""
        return poll.keys_polled(self._database, self._catalog.words(source.id), source, keys)

    def audit_begin(self, source_id: int, worker: str, seconds: float, interval_seconds: float) -> bool:
        """See the contract."""
        return audits.audit_begin(self._database, source_id, worker, seconds, interval_seconds)

    def audit_renew(self, source_id: int, worker: str, seconds: float) -> bool:
        """See the contract."""
        return audits.audit_renew(self._database, source_id, worker, seconds)

    def audit_end(self, source_id: int, worker: str, audited: Sequence[Audited]) -> None:
        """See the contract."""
        audits.audit_end(self._database, source_id, worker, audited)

    def audits(self, source_id: int) -> Mapping[int, Audited]:
        """See the contract."""
        return audits.audits(self._database, source_id)
