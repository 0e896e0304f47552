"""How two rankings of the same rows differ, and which of them is better where somebody has judged: plain arithmetic.

Sources: overlap at k is the share of the first k that both have. RBO is Webber, Moffat and Zobel, A Similarity Measure for
Indefinite Rankings (ACM TOIS 28(4), 2010), extrapolated, equation 32: unlike Kendall's tau it takes lists that do not hold
the same rows, and the first ranks count most. nDCG is Järvelin and Kekäläinen (ACM TOIS 20(4), 2002) as trec_eval computes
it: the gain is the judgement, the discount log2(rank + 1).
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import TYPE_CHECKING, cast

from seamark.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from seamark.model import Key, KeyValue

    Qrels = Mapping[str, Mapping[str, int]]
    """Query → row's key as text → judgement, 0 for not relevant."""

PERSISTENCE = 0.9
"""RBO's p: the first ten ranks have 86 % of the weight."""
NDCG_RANKS = 10
_TREC_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """Two rankings for one query. `ndcg` and `recall` are of the first and of the second, None where nothing is judged."""

    id: str
    query: str
    overlap: float
    rbo: float
    ndcg: tuple[float, float] | None = None
    recall: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two generations compared by what they find for some queries: the means, and each query.

    `overlap` and `recall` are of the first `limit` ranks, `ndcg` of the first ten; the latter two are means over the `judged`
    queries, None when there are none.
    """

    generations: tuple[int, int]
    limit: int
    queries: tuple[QueryComparison, ...]
    overlap: float
    rbo: float
    judged: int
    ndcg: tuple[float, float] | None
    recall: tuple[float, float] | None


def comparison(
    generations: tuple[int, int],
    queries: Mapping[str, str],
    ranked: Callable[[int, str], Sequence[str]],
    qrels: Qrels | None,
    limit: int,
) -> Comparison:
    """Compare two generations; `ranked` returns the keys that one of them finds for a query, best first."""
    if not queries:
        raise InvalidRequestError("there is no query to compare by")
    first, second = generations
    found = tuple(
        _compared(name, query, ranked(first, query), ranked(second, query), (qrels or {}).get(name, {}), limit)
        for name, query in queries.items()
    )
    judged = [one for one in found if one.ndcg is not None]
    return Comparison(
        generations,
        limit,
        found,
        fmean(one.overlap for one in found),
        fmean(one.rbo for one in found),
        len(judged),
        _means(one.ndcg for one in judged),
        _means(one.recall for one in judged),
    )


def _compared(
    name: str, query: str, first: Sequence[str], second: Sequence[str], judged: Mapping[str, int], limit: int
) -> QueryComparison:
    relevant = any(grade > 0 for grade in judged.values())
    return QueryComparison(
        name,
        query,
        overlap(first, second, limit),
        rbo(first[:limit], second[:limit]),
        (ndcg(first, judged), ndcg(second, judged)) if relevant else None,
        (recall(first, judged, limit), recall(second, judged, limit)) if relevant else None,
    )


def _means(pairs: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    there = [pair for pair in pairs if pair is not None]
    return (fmean(first for first, _ in there), fmean(second for _, second in there)) if there else None


def overlap(first: Sequence[str], second: Sequence[str], limit: int) -> float:
    """Return the share of the first so many ranks, or of as many as the longer one has, that both rankings have."""
    ranks = min(limit, max(len(first), len(second)))
    return len(set(first[:limit]) & set(second[:limit])) / ranks if ranks else 1.0


def rbo(first: Sequence[str], second: Sequence[str], persistence: float = PERSISTENCE) -> float:
    """Return rank-biased overlap, 1 for equal rankings, extrapolated from what is seen of them."""
    shorter, longer = sorted((first, second), key=len)
    if not shorter:
        return 1.0 if not longer else 0.0
    agreed = _agreements(shorter, longer)
    short, long = len(shorter), len(longer)
    seen = sum(agreed[depth - 1] / depth * persistence**depth for depth in range(1, long + 1))
    unseen = sum(
        agreed[short - 1] * (depth - short) / (short * depth) * persistence**depth for depth in range(short + 1, long + 1)
    )
    rest = (agreed[long - 1] - agreed[short - 1]) / long + agreed[short - 1] / short
    return (1 - persistence) / persistence * (seen + unseen) + rest * persistence**long


def _agreements(shorter: Sequence[str], longer: Sequence[str]) -> list[int]:
    """Return, for each depth of the longer one, how many both have down to there."""
    return [len(set(shorter[:depth]) & set(longer[:depth])) for depth in range(1, len(longer) + 1)]


def ndcg(ranking: Sequence[str], judged: Mapping[str, int], ranks: int = NDCG_RANKS) -> float:
    """Return the discounted gain of the first ranks as a share of the best that there could be."""
    ideal = _gain(sorted(judged.values(), reverse=True)[:ranks])
    return _gain([judged.get(key, 0) for key in ranking[:ranks]]) / ideal if ideal else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def recall(ranking: Sequence[str], judged: Mapping[str, int], limit: int) -> float:
    """Return the share of the relevant rows that are among the first so many ranks."""
    relevant = {key for key, grade in judged.items() if grade > 0}
    return len(relevant & set(ranking[:limit])) / len(relevant) if relevant else 0.0


def key_text(key: KeyValue | Key) -> str:
    """Return a row's key as judgements name it: plain, or a JSON list of its members."""
    if isinstance(key, tuple):
        return json.dumps([member if isinstance(member, int) else key_text(member) for member in key])
    return key.hex() if isinstance(key, bytes) else str(key)


# --- what is given as text ----------------------------------------------------------------------------------------


def queries_parse(text: str) -> dict[str, str]:
    """Return id → query from text: a JSON object, JSON lines with `id` and `text`, id and query by tab, or a query a line.

    Without an id it is the number of the line. InvalidRequestError for what is none of these.
    """
    if (document := _json(text)) is not None:
        if isinstance(document, dict):
            fields = cast("dict[str, object]", document)
            if not {"text", "query"} & fields.keys():
                return {name: str(query) for name, query in fields.items()}
        elif isinstance(document, list):
            return dict(_query(number, entry) for number, entry in enumerate(cast("list[object]", document), start=1))
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return dict(_query(number, _json(line) if line.startswith("{") else line) for number, line in lines)


def _query(number: int, entry: object) -> tuple[str, str]:
    if isinstance(entry, dict):
        fields = cast("dict[str, object]", entry)
        text, name = fields.get("text", fields.get("query")), fields.get("_id", fields.get("id", number))
        if isinstance(text, str):
            return str(name), text
    if isinstance(entry, str):
        name, tab, text = entry.partition("\t")
        return (name.strip(), text.strip()) if tab else (str(number), entry.strip())
    raise InvalidRequestError(f"query {number}: write a query a line, its id and it by tab, or JSON with `id` and `text`")


def qrels_parse(text: str) -> dict[str, dict[str, int]]:
    """Return judgements from text: a JSON object (query → key → grade), TREC's four columns, or three columns by tab.

    InvalidRequestError for what is none of these.
    """
    found: dict[str, dict[str, int]] = {}
    for query, key, grade in _judgements(text):
        found.setdefault(query, {})[key] = grade
    return found


def _judgements(text: str) -> Iterator[tuple[str, str, int]]:
    document = _json(text)
    if isinstance(document, dict):
        for query, rows in cast("dict[str, object]", document).items():
            for key, grade in _grades(query, rows).items():
                yield query, key, _grade(grade, f"query {query!r}")
        return
    rows = csv.reader(text.splitlines(), delimiter="\t") if "\t" in text else (line.split() for line in text.splitlines())
    for number, row in enumerate(rows, start=1):
        columns = [column.strip() for column in row]
        if not any(columns) or (number == 1 and not columns[-1].lstrip("-").isdigit()):
            continue  # a blank line, or the names of the columns
        if len(columns) not in (_TREC_COLUMNS - 1, _TREC_COLUMNS):
            raise InvalidRequestError(f"line {number} of the judgements: query, 0, key and grade are wanted, or without the 0")
        yield columns[0], columns[-2], _grade(columns[-1], f"line {number}")


def _grades(query: str, rows: object) -> dict[str, object]:
    if isinstance(rows, dict):
        return cast("dict[str, object]", rows)
    raise InvalidRequestError(f"judgements of query {query!r}: an object from key to grade is wanted")


def _grade(value: object, where: str) -> int:
    try:
        return int(cast("str", value))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{where} of the judgements: {value!r} is no grade, which is a whole number") from error


def _json(text: str) -> object:
    try:
        return cast("object", json.loads(text))
    except ValueError:
        return None
