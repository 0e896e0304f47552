"""The part of a store's contract that an audit uses: reading everything page by page, and mending what is wrong.

The rules of `seamark.store.contract` hold here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Audited, Key, Source
    from seamark.model.findings import AuditEntries, AuditPage, AuditPostings, AuditStrays


class Auditing(Protocol):
    """What an audit asks of a store."""

    def audit_page(
        self, source: Source, generation_ids: Sequence[int], after: Key | None, limit: int, characters: int
    ) -> AuditPage:
        """Read the next rows of the user's table in key order, after `after` (None: the first), in one snapshot.

        Those outside the source's `where` are among them, with `live` false. The page is narrower than `limit` when the sum of
        the rows' text passes `characters` (in bytes), and has one row at least, if there are any. Rows whose key has a null, or
        is text that is not well-formed, are left out. Of vectors it is said here whether each is one: finite, not zero, and of
        the generation's dimension. A text that is not well-formed has U+FFFD where it is not.
        """
        ...

    def audit_journal(self, source: Source, after: int, limit: int) -> AuditEntries:
        """Look at the next `limit` entries of the journal above the `seq` `after`: return those without a live row."""
        ...

    def audit_missing(self, source: Source, generation_id: int, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those keys whose entry a generation has not done, and that no lane will come by (I3 is broken).

        It has neither done the entry's `seq` nor recorded it as failed, though both cursors and both sweeps have passed it and
        no lease, expired or not, covers it.
        """
        ...

    def audit_rows(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """Look at the next `limit` rows that a generation holds, in key order: return those that the journal has no entry of.

        Not those held as gone, which outlive their tombstone by an instant.
        """
        ...

    def audit_chunks(self, source: Source, generation_id: int, after: Key | None, limit: int) -> AuditStrays:
        """Look at the next `limit` chunks of a vector generation, in key order: return the keys of those too many.

        The generation holds no such row, or holds the row with fewer chunks.
        """
        ...

    def audit_postings(self, generation_id: int, first: int, documents: int) -> AuditPostings:
        """Sum up all postings of a range of document numbers of a lexical generation, in one snapshot."""
        ...

    def audit_documents(self, generation_id: int) -> int:
        """Return the highest number of a document that is current, 0 when there is none."""
        ...

    def journal_renew(self, source: Source, keys: Sequence[Key]) -> int:
        """Give rows a new `seq`, higher than any that a generation has met with, and say in the journal whether each is live.

        A key that is neither in the journal nor live is left out, as is, on PostgreSQL, an entry that somebody is writing at
        that moment. Returns how many entries were written; in short transactions.
        """
        ...

    def strays_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Drop what a generation holds of rows that the journal has no entry of, and chunks too many; return how many."""
        ...

    def chunks_drop(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Drop all chunks that a vector generation holds of some rows, so that they serve nobody; return how many."""
        ...

    def rows_outdate(self, source: Source, generation_id: int, keys: Sequence[Key]) -> int:
        """Let a version of these rows that a generation holds, and that is above the journal's, count as an old one.

        The journal has never given it out, and what it gives out next would lose against it. Returns how many there were.
        """
        ...

    def source_mend(self, source: Source) -> Sequence[str]:
        """Make good what can be of what feeds a source and of its tables; return what was done, nothing if all was well.

        Triggers that are gone, switched off or changed are made anew; tables of ours that are gone are made again, empty; a
        sequence that stands behind what was given out is set forward. Of rows that were written meanwhile nothing is known:
        an audit has to compare everything afterwards, and then to call `source_trust`.
        """
        ...

    def source_trust(self, source: Source) -> None:
        """Take the journal as it stands for the one to go by: every row has been compared, and given a new `seq` if need be.

        What `source_faults` told of writes let pass, or of a file older than what was indexed, is over.
        """
        ...

    # --- tables without triggers ------------------------------------------------------------------------------

    def source_poll(self, source: Source, limit: int) -> int:
        """Enter rows that have come since the last time into the journal of a polled source; return how many were looked at.

        Fewer than `limit` when there are no more. Live rows whose key is above all that were looked at before are entered at
        once. A row may be committed after one with a higher key: what was passed is gone through once more when every
        transaction that was open then has ended, and a moment has gone by for those who had drawn a key and not begun one.
        """
        ...

    def keys_polled(self, source: Source, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those keys of rows that the poller has passed for good: it will not enter them any more."""
        ...

    # --- when it is time for an audit -------------------------------------------------------------------------

    def audit_begin(self, source_id: int, worker: str, seconds: float, interval_seconds: float) -> bool:
        """Take the audit of a source on for so many seconds, if it is time for one.

        It is time when an active generation was last audited, or became active, an interval ago. False when it is not, and
        when another worker is at it whose time has not passed.
        """
        ...

    def audit_renew(self, source_id: int, worker: str, seconds: float) -> bool:
        """Go on for so many seconds; False when another worker has taken the audit over."""
        ...

    def audit_end(self, source_id: int, worker: str, audited: Sequence[Audited]) -> None:
        """Let the audit go, if it is still ours, and record what came of it.

        `audited_at` is set by the database. With nothing recorded it is as if the audit had not been begun.
        """
        ...

    def audits(self, source_id: int) -> Mapping[int, Audited]:
        """Return the last audit of each generation of a source that was ever audited."""
        ...
