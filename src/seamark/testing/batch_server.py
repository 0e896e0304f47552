"""A real HTTP server that bills as a provider does: OpenAI's /embeddings with its `usage`, over certified vectors.

And its batch interface, /files and /batches: a batch has ended when `finish` says so.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np

from seamark.core.registry import PROBES
from seamark.testing.local_http import LocalHandler, LocalServer
from seamark.testing.oracle import oracle_vector

_token = re.compile(r"\w{1,5}|[^\w\s]").findall


def billed(text: str) -> int:
    """Return how many tokens the server bills for a text: five letters to a token, which no estimate of ours supposes."""
    return len(_token(text)) + 1


@dataclass
class ServedBatch:
    """A batch as the server has it: the lines of its file, and those of its results, of which a text is sent as it is."""

    id: str
    tag: str
    lines: list[dict[str, Any]]
    status: str = "in_progress"
    looks: int = 0
    answers: list[dict[str, Any] | str] = field(default_factory=list["dict[str, Any] | str"])

    def shown(self) -> dict[str, Any]:
        """Return what is said of it."""
        errors = {"object": "list", "data": [{"code": "bad", "message": "the file will not do", "line": 1}]}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/embeddings",
            "status": self.status,
            "metadata": {"seamark": self.tag},
            "errors": errors if self.status == "failed" else None,
            "output_file_id": f"out-{self.id}" if self.answers else None,
        }


class BillingServer(LocalServer):
    """Bills, and keeps batches.

    `calls` and `tokens` are what it has billed. With `tells` false its replies have no `usage`. With `looks` a batch ends by
    itself when it has been looked at so often.
    """

    def __init__(self, *, dimension: int = 32, tells: bool = True, looks: int | None = None) -> None:
        super().__init__(_Handler)
        self.dimension = dimension
        self.tells = tells
        self.looks = looks
        self.calls: list[tuple[str, ...]] = []
        self.tokens = 0
        self.batches: list[ServedBatch] = []
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.refused: set[str] = set()
        self.dropped: set[str] = set()
        """Requests that are done and whose reply is then lost: `/files` or `/batches`, once each."""
        self.behind: str | None = None
        """The model that is behind every name by now, where that is another one than is asked for."""
        self.unreachable = False
        """What has to do with batches is answered with 503."""

    @property
    def locator(self) -> str:
        """The model of this server, as users name it; its vectors' length is told, so that nothing is asked at the start."""
        return f"openai:oracle?base_url={self.url}/v1&dimensions={self.dimension}"

    def asked(self) -> list[str]:
        """Return the texts of ordinary calls, but for the sentences that a model is recognised by."""
        return [text for texts in self.calls if texts != PROBES for text in texts]

    def embed(self, texts: tuple[str, ...], model: str, dimension: int | None, *, called: bool = True) -> dict[str, Any]:
        """Bill a call, and return its reply."""
        tokens = sum(map(billed, texts))
        with self.lock:
            if called:
                self.calls.append(texts)
            self.tokens += tokens
        vectors = (oracle_vector(text, self.behind or model, dimension or self.dimension).tolist() for text in texts)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if self.tells else {}
        return {"object": "list", "data": data, "model": model, **usage}

    def finish(
        self, status: Literal["completed", "expired", "failed", "cancelled"] = "completed", answered: int | None = None
    ) -> None:
        """End every batch that has not ended, with so many of its requests answered; those with a text in `refused` are not."""
        with self.lock:
            open_batches = [batch for batch in self.batches if batch.status == "in_progress"]
        for batch in open_batches:
            for line in batch.lines[:answered]:
                batch.answers.append(self._answered(line))
            batch.status = status

    def looked(self, name: str) -> ServedBatch:
        """Return a batch that somebody looks at; it may end by that."""
        batch = next(batch for batch in self.batches if batch.id == name)
        batch.looks += 1
        if batch.looks == self.looks:
            self.finish()
        return batch

    def _answered(self, line: dict[str, Any]) -> dict[str, Any]:
        body = line["body"]
        if body["input"] in self.refused:
            refusal = {"error": {"message": "this text cannot be embedded"}}
            return {"custom_id": line["custom_id"], "response": {"status_code": 400, "body": refusal}, "error": None}
        reply = self.embed((body["input"],), body["model"], body.get("dimensions"), called=False)
        for item in reply["data"]:
            numbers = np.array(item["embedding"], "<f4").tobytes()
            item["embedding"] = (
                base64.b64encode(numbers).decode() if body.get("encoding_format") == "base64" else item["embedding"]
            )
        return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": reply}, "error": None}


def _sent(line: dict[str, Any] | str) -> bytes:
    return (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"


class _Handler(LocalHandler):
    server: BillingServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def get(self) -> None:
        """Serve /v1/batches, a batch, and the content of a file."""
        address = urlsplit(self.path)
        if self.server.unreachable:
            self.send_json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": {"message": "try again"}})
            return
        match address.path.removeprefix("/v1").split("/")[1:]:
            case ["batches"]:
                self._list(parse_qs(address.query))
            case ["batches", name]:
                self.send_json(HTTPStatus.OK, self.server.looked(name).shown())
            case ["files", name, "content"]:
                batch = next(batch for batch in self.server.batches if f"out-{batch.id}" == name)
                self.send_whole(HTTPStatus.OK, b"".join(map(_sent, reversed(batch.answers))))
            case _:
                self.send_json(HTTPStatus.NOT_FOUND, {"error": {"message": "there is nothing here"}})

    def _list(self, query: dict[str, list[str]]) -> None:
        """Return a page of two batches, newest first."""
        found = [batch.shown() for batch in reversed(self.server.batches)]
        after = query.get("after", [""])[0]
        start = next((place + 1 for place, batch in enumerate(found) if batch["id"] == after), 0)
        self.send_json(HTTPStatus.OK, {"object": "list", "data": found[start : start + 2], "has_more": start + 2 < len(found)})

    def post(self) -> None:
        """Serve /v1/embeddings, /v1/files and /v1/batches."""
        raw = self.body()
        match self.path.split("/")[2:]:
            case ["files"]:
                self._file(raw)
                return
            case ["batches", name, "cancel"]:
                self._cancel(name)
                return
            case _:
                pass
        body = cast("dict[str, Any]", json.loads(raw))
        if self.path == "/v1/batches":
            self._batch(body)
        elif self.path == "/v1/embeddings":
            texts = tuple(body["input"])
            if not self.server.refused.isdisjoint(texts):
                self.send_json(HTTPStatus.BAD_REQUEST, {"error": {"message": "this text cannot be embedded"}})
                return
            self.send_json(HTTPStatus.OK, self.server.embed(texts, body["model"], body.get("dimensions")))
        else:
            self.send_json(HTTPStatus.NOT_FOUND, {"error": {"message": "there is nothing here"}})

    def _file(self, raw: bytes) -> None:
        """Take a file: of a form, the part that is one JSON object a line."""
        assert b'name="purpose"' in raw
        assert b"batch" in raw
        lines = [json.loads(line) for line in raw.splitlines() if line.startswith(b"{")]
        name = f"file-{len(self.server.files)}"
        self.server.files[name] = lines
        self._done("/files", {"id": name, "object": "file", "purpose": "batch"})

    def _batch(self, body: dict[str, Any]) -> None:
        assert (body["endpoint"], body["completion_window"]) == ("/v1/embeddings", "24h")
        with self.server.lock:
            name = f"batch_{len(self.server.batches)}"
            made = ServedBatch(name, body["metadata"]["seamark"], self.server.files[body["input_file_id"]])
            self.server.batches.append(made)
        self._done("/batches", made.shown())

    def _cancel(self, name: str) -> None:
        batch = next(batch for batch in self.server.batches if batch.id == name)
        if batch.status != "in_progress":
            self.send_json(HTTPStatus.CONFLICT, {"error": {"message": f"a batch that is {batch.status} cannot be cancelled"}})
            return
        batch.status = "cancelled"
        self.send_json(HTTPStatus.OK, batch.shown())

    def _done(self, path: str, content: dict[str, Any]) -> None:
        """Answer, or break off as if the reply were lost on its way."""
        if path in self.server.dropped:
            self.server.dropped.discard(path)
            self.send_json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": {"message": "try again"}})
            return
        self.send_json(HTTPStatus.OK, content)
