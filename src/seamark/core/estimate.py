"""What embedding a source would cost, told before anything is spent on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.core.chunking import render
from seamark.embed.tokens import Metered, TokenCounter, embed_metered, tokens_count
from seamark.embed.validation import embedder_errors
from seamark.model.cost import Estimate, Spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from seamark.core.chunking import Chunker
    from seamark.embed.contract import Embedder
    from seamark.model import Precision, Source, SourceRow
    from seamark.model.cost import Measure
    from seamark.store.contract import Store

EXACT_ROWS = 100_000
"""Of a larger table a sample is looked at: all of this many rows take some ten seconds."""
SAMPLE_WINDOWS = 100
SAMPLE_ROWS = 200
"""Windows spread evenly over the journal, and the rows of each: what is true of neighbours is looked at in many places."""
WINDOW_CHARACTERS = 4_000_000
CALIBRATION_TEXTS = 128
CALIBRATION_TEXTS_MIN = 32
CALIBRATION_SHARE = 0.1
"""Passages that a provider is asked the price of: one may differ by a quarter from what is estimated, 128 of them by 2 %. Of a
few passages no more than a tenth is paid for only to know what they cost, if that is enough to tell anything by."""
_CONFIDENCE = 1.96
"""Standard errors within which the truth is 19 times out of 20."""


def estimate(
    store: Store,
    source: Source,
    embedder: Embedder,
    slot: AbstractContextManager[object],
    chunker: Chunker,
    precision: Precision,
    window_rows: int,
    *,
    calibrate: bool,
    exact_rows: int = EXACT_ROWS,
) -> Estimate:
    """Estimate what embedding the live rows costs, and what of it is there already.

    `window_rows` are embedded together, so that equal passages among them are paid for once. With `calibrate`, a model whose
    tokens are not known here is asked for the vectors of a few passages, for what it bills.
    """
    live = _live(store, source)
    whole = live <= exact_rows
    looking = _Looking(store, source, embedder, chunker, precision)
    windows = [
        looking.window(rows) for rows in (_all(store, source, window_rows) if whole else _sample(store, source, window_rows))
    ]
    seen = _total(windows)
    scale = 1.0 if whole or not seen.rows else live / seen.rows
    measure, ratio, spread, calibration = _calibrated(
        embedder, slot, looking.sample, round(seen.texts * scale), calibrate=calibrate
    )
    error = None if spread is None else _CONFIDENCE * math.hypot(spread, 0.0 if whole else _spread(windows))
    return Estimate(
        rows=seen.rows if whole else live,
        chunks=round(seen.chunks * scale),
        texts=round(seen.texts * scale),
        tokens=round(seen.tokens * scale * ratio),
        measure=measure,
        sampled=None if whole else seen.rows,
        error=error,
        calibration=calibration,
    )


def _live(store: Store, source: Source) -> int:
    generations = [one.id for one in store.generations(source.id) if one.state != "retired"]
    counted = store.coverage(source, generations[:1])
    return sum(found.live for found in counted.values())


def _all(store: Store, source: Source, limit: int) -> Iterator[Sequence[SourceRow]]:
    seq = 0
    while rows := store.rows_scan(source, seq, limit, WINDOW_CHARACTERS):
        yield rows
        seq = rows[-1].seq


def _sample(store: Store, source: Source, limit: int) -> Iterator[Sequence[SourceRow]]:
    end = store.journal_end(source)
    for window in range(SAMPLE_WINDOWS):
        yield store.rows_scan(source, end * window // SAMPLE_WINDOWS, min(limit, SAMPLE_ROWS), WINDOW_CHARACTERS)


@dataclass(frozen=True, slots=True)
class _Window:
    rows: int
    chunks: int
    texts: int
    tokens: int


def _total(windows: Sequence[_Window]) -> _Window:
    return _Window(
        sum(window.rows for window in windows),
        sum(window.chunks for window in windows),
        sum(window.texts for window in windows),
        sum(window.tokens for window in windows),
    )


class _Looking:
    """Counts rows, window by window, and keeps some passages that are spread over all of them."""

    def __init__(self, store: Store, source: Source, embedder: Embedder, chunker: Chunker, precision: Precision) -> None:
        self._store, self._source, self._embedder, self._chunker = store, source, embedder, chunker
        self._precision = precision
        self._met = 0
        self._stride = 1
        self.sample: list[str] = []

    def window(self, rows: Sequence[SourceRow]) -> _Window:
        """Count what a lease over these rows would take."""
        passages: dict[bytes, str] = {}
        live = [row for row in rows if row.live]
        chunks = 0
        for row in live:
            text = render(row.texts)
            found = self._chunker.split(text, self._embedder.token_excess).chunks
            chunks += len(found)
            passages |= {chunk.digest: text[chunk.start : chunk.stop] for chunk in found}
        model, keys = self._embedder.identity, [row.key for row in live]
        known = self._store.digests_known(self._source, model, self._precision, keys, passages)
        texts = [passage for digest, passage in passages.items() if digest not in known]
        self._keep(texts)
        return _Window(len(live), chunks, len(texts), tokens_count(self._embedder, texts))

    def _keep(self, texts: Iterable[str]) -> None:
        """Keep each so many-th text, fewer of them the more there are."""
        for text in texts:
            if self._met % self._stride == 0:
                self.sample.append(text)
                if len(self.sample) == 2 * CALIBRATION_TEXTS:
                    self.sample = self.sample[::2]
                    self._stride *= 2
            self._met += 1


def _calibrated(
    embedder: Embedder, slot: AbstractContextManager[object], sample: Sequence[str], total: int, *, calibrate: bool
) -> tuple[Measure, float, float | None, Spent]:
    """Return how tokens are known, what to multiply those counted by, its relative standard error, and what that cost.

    `sample` is of `total` passages.
    """
    if isinstance(embedder, TokenCounter):
        return "exact", 1.0, 0.0, Spent()
    if not calibrate or not isinstance(embedder, Metered) or not sample:
        return "rough", 1.0, None, Spent()
    wanted = min(CALIBRATION_TEXTS, max(CALIBRATION_TEXTS_MIN, round(CALIBRATION_SHARE * total)))
    texts = sample[:: max(1, len(sample) // wanted)][:wanted]
    # A few calls rather than one, so that they can be compared.
    size = max(1, -(-len(texts) // 8))
    counted: list[int] = []
    billed: list[int] = []
    for start in range(0, len(texts), size):
        batch = texts[start : start + size]
        with slot, embedder_errors(embedder.identity.name):
            _, tokens = embed_metered(embedder, batch)
        if tokens is None:
            return "rough", 1.0, None, Spent(len(billed) + 1, start + len(batch), sum(billed))
        counted.append(tokens_count(embedder, batch))
        billed.append(tokens)
    ratio = sum(billed) / sum(counted)
    return "calibrated", ratio, _ratio_error(billed, counted), Spent(len(billed), len(texts), sum(billed))


def _spread(windows: Sequence[_Window]) -> float:
    """Return the relative standard error of tokens a row, from a sample of windows."""
    return _ratio_error([window.tokens for window in windows], [window.rows for window in windows])


def _ratio_error(values: Sequence[int], sizes: Sequence[int]) -> float:
    """Return the relative standard error of the ratio of two sums over a sample (Cochran, Sampling Techniques, 6.4)."""
    count, total, size = len(values), sum(values), sum(sizes)
    if count < 2 or not total:  # noqa: PLR2004 one says nothing of the spread
        return 0.0
    ratio = total / size
    squares = sum((value - ratio * each) ** 2 for value, each in zip(values, sizes, strict=True))
    return math.sqrt(squares * count / (count - 1)) / total
