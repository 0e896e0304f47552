"""A real HTTP server that speaks the OpenAI, Ollama and TEI shapes, certifies its vectors, and fails on request.

In process: `with EmbeddingServer(log=path) as server: server.fail(Fault("status", status=503)); … server.openai_url …`.
As a process: `python -m seamark.testing.embedding_server --log calls.jsonl`; it prints its URL, and a `POST /faults` with
a JSON list of faults scripts it.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, cast

from seamark.testing.local_http import LocalHandler, LocalServer
from seamark.testing.oracle import oracle_vector

FaultKind = Literal[
    "status",
    "delay",
    "drip",
    "nan",
    "infinity",
    "null",
    "zeros",
    "dimension",
    "fewer",
    "more",
    "permuted",
    "duplicate",
    "out_of_range",
    "base64",
    "html",
    "bad_json",
    "reset",
    "huge",
    "echo_headers",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, `times` times or, when that is None, from now on.

    `text` limits it to calls with a text that contains it; `path` to calls whose path ends so. `status` and `retry_after` go
    with "status" and "echo_headers" (an error that repeats the request's headers), `seconds` with "delay" and "drip".
    """

    kind: FaultKind
    times: int | None = 1
    text: str | None = None
    path: str = ""
    status: int = 500
    retry_after: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call as the log has it. `texts` is empty for calls that embed nothing; `request` is the body's other members."""

    path: str
    texts: tuple[str, ...]
    fault: str | None
    request: dict[str, Any]
    authorised: bool


class EmbeddingServer(LocalServer):
    """Embeds, and fails as it is told to.

    Args:
        dimension: the length of the vectors, unless a call asks for shorter ones.
        key: the key that calls must bring; none: any call is served.
        token_limit: texts of more words are cut, in silence as servers do, or refused with 400 when `truncate` is false.
        models: the models that Ollama's /api/tags lists; any is served.
        digest: what it says of each of them.
        model: the one model that TEI's /info names, and that /embed is answered by.
        sha: the commit that /info says the model is of.
        items_max: the texts that /embed takes at once; a call with more is refused with 413.
        log: a file that every call is appended to as one JSON line, before it is answered.
        port: the port to listen on; 0: any free one.
    """

    def __init__(
        self,
        *,
        dimension: int = 32,
        key: str | None = None,
        token_limit: int | None = None,
        models: tuple[str, ...] = ("m:latest", "m:tagged"),
        digest: str = "sha256:0123456789abcdef",
        model: str = "m",
        sha: str | None = "89abcdef0123456789abcdef0123456789abcdef",
        items_max: int = 32,
        log: Path | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(_Handler, port)
        self.dimension = dimension
        self.key = key
        self.token_limit = token_limit
        self.models = models
        self.digest = digest
        self.model = model
        self.sha = sha
        self.items_max = items_max
        self.silent = False
        """TEI's replies do not say how many tokens they are for; else it is that of their words."""
        self.weights: str | None = None
        """The model that vectors are really made by, whichever is asked for; None: that one."""
        self.calls: list[Call] = []
        self._log = log
        self._faults: list[Fault] = []

    @property
    def openai_url(self) -> str:
        """Where its OpenAI side is."""
        return f"{self.url}/v1"

    def fail(self, *faults: Fault) -> None:
        """Script faults; the first of them that fits a call and is not used up yet strikes."""
        with self.lock:
            self._faults.extend(faults)

    def heal(self) -> None:
        """Forget all faults that are left."""
        with self.lock:
            self._faults.clear()

    def struck(self, path: str, texts: tuple[str, ...]) -> Fault | None:
        """Return the fault for a call, and count it as used."""
        with self.lock:
            for position, fault in enumerate(self._faults):
                if path.endswith(fault.path) and (fault.text is None or any(fault.text in text for text in texts)):
                    if fault.times is not None:
                        left = replace(fault, times=fault.times - 1)
                        self._faults[position : position + 1] = [left] if left.times else []
                    return fault
        return None

    def record(self, call: Call) -> None:
        """Log a call: one line with one write, so that a killed server leaves whole lines."""
        with self.lock:
            self.calls.append(call)
            if self._log is not None:
                with self._log.open("a", encoding="ascii") as file:
                    file.write(json.dumps(asdict(call)) + "\n")

    def vector(self, text: str, model: str, dimension: int | None = None) -> list[float]:
        """Return the vector that proves the text and the model."""
        return cast("list[float]", oracle_vector(text, self.weights or model, dimension or self.dimension).tolist())


class _Handler(LocalHandler):
    """Answers one connection's calls."""

    server: EmbeddingServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def get(self) -> None:
        """Serve /api/tags and /info."""
        fault = self._recorded((), {})
        if not self._admitted() or (fault is not None and self._broken(fault)):
            return
        match self.path:
            case "/api/tags":
                self._json({"models": [{"name": name, "digest": self.server.digest} for name in self.server.models]})
            case "/info":
                self._json(self._info())
            case _:
                self.send_whole(HTTPStatus.NOT_FOUND, b"404 page not found")

    def _info(self) -> dict[str, object]:
        return {
            "model_id": self.server.model,
            "model_sha": self.server.sha,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_input_length": self.server.token_limit or 512,
            "max_batch_tokens": 16384,
            "max_client_batch_size": self.server.items_max,
        }

    def post(self) -> None:
        """Serve /v1/embeddings, /api/embed, /embed, and /faults, which scripts this server."""
        body = json.loads(self.body())
        path = self.path.partition("?")[0]
        if path == "/faults":
            self.server.heal()
            self.server.fail(*(Fault(**fault) for fault in body))
            self._json({})
            return
        given: str | list[str] = body.pop("inputs", None) or body.pop("input", None) or []
        texts = (given,) if isinstance(given, str) else tuple(given)
        fault = self._recorded(texts, body)
        if self._admitted() and not (fault is not None and self._broken(fault)):
            self._embed(path, texts, body, fault)

    def _admitted(self) -> bool:
        if self.server.key is None or self.headers["authorization"] == f"Bearer {self.server.key}":
            return True
        self._error(HTTPStatus.UNAUTHORIZED, "Incorrect API key provided")
        return False

    def _recorded(self, texts: tuple[str, ...], request: dict[str, Any]) -> Fault | None:
        fault = self.server.struck(self.path, texts)
        authorised = "authorization" in self.headers
        self.server.record(Call(self.path, texts, fault.kind if fault else None, dict(request), authorised))
        return fault

    # --- what is right --------------------------------------------------------------------------------------------

    def _embed(self, path: str, texts: tuple[str, ...], request: dict[str, Any], fault: Fault | None) -> None:
        if path == "/embed" and len(texts) > self.server.items_max:
            self._error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"batch size {len(texts)} > maximum allowed batch size")
            return
        limit = self.server.token_limit
        if limit is not None and any(len(text.split()) > limit for text in texts):
            if request.get("truncate") is False:
                refused = HTTPStatus.UNPROCESSABLE_ENTITY if path == "/embed" else HTTPStatus.BAD_REQUEST
                self._error(refused, "the input length exceeds the context length")
                return
            texts = tuple(" ".join(text.split()[:limit]) for text in texts)
        model = str(request.get("model", self.server.model))
        vectors: list[Any] = [self.server.vector(text, model, request.get("dimensions")) for text in texts]
        kind = fault.kind if fault else None
        vectors = _spoilt(vectors, kind)
        if path.endswith("/embeddings"):
            encoded = [_base64(vector) for vector in vectors] if kind == "base64" else vectors
            items = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(encoded)]
            self._json({"data": _shuffled(items, kind), "model": "oracle"}, drip=fault)
        elif path == "/api/embed":
            self._json({"embeddings": vectors, "model": "oracle"}, drip=fault)
        elif path == "/embed":
            tokens = sum(len(text.split()) for text in texts)
            self._json(vectors, drip=fault, headers={} if self.server.silent else {"x-compute-tokens": str(tokens)})
        else:
            self.send_whole(HTTPStatus.NOT_FOUND, b"404 page not found")

    # --- what goes wrong ------------------------------------------------------------------------------------------

    def _broken(self, fault: Fault) -> bool:
        """Answer in the way of a fault of the whole reply; false for faults that leave a reply to be made."""
        match fault.kind:
            case "status":
                self._error(fault.status, f"scripted {fault.status}", fault.retry_after)
            case "echo_headers":
                self._error(fault.status, f"bad request: {dict(self.headers.items())}", fault.retry_after)
            case "html":
                self.send_whole(HTTPStatus.OK, b"<!doctype html><title>Sign in</title>", "text/html")
            case "bad_json":
                self.send_whole(HTTPStatus.OK, b'{"data": [{"index": 0, "embedd')
            case "reset":
                self._reset()
            case "huge":
                self._huge()
            case "delay":
                time.sleep(fault.seconds)
                return False
            case _:
                return False
        return True

    def _reset(self) -> None:
        """Promise a body, send half of it, and drop the connection without a good-bye."""
        self.send_head(HTTPStatus.OK, 1000)
        self.wfile.write(b'{"data": [')
        self.wfile.flush()
        # Closing with zero linger sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _huge(self) -> None:
        """Send a gigabyte, or as much of it as the client takes."""
        self.send_head(HTTPStatus.OK, 2**30)
        piece = b" " * 2**20
        for _ in range(2**10):
            self.wfile.write(piece)

    # --- sending --------------------------------------------------------------------------------------------------

    def _json(self, reply: object, drip: Fault | None = None, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(reply).encode()
        if drip is None or drip.kind != "drip":
            self.send_whole(HTTPStatus.OK, body, headers=headers)
            return
        self.send_head(HTTPStatus.OK, len(body), headers=headers)
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(drip.seconds)

    def _error(self, status: int, message: str, retry_after: str | None = None) -> None:
        headers = {} if retry_after is None else {"retry-after": retry_after}
        tei = self.path.partition("?")[0] in {"/embed", "/info"}
        told = {"error": message, "error_type": "scripted"} if tei else {"error": {"message": message}}
        self.send_whole(status, json.dumps(told).encode(), headers=headers)


def _spoilt(vectors: list[Any], kind: FaultKind | None) -> list[Any]:
    """Return the vectors with the last of them, or their number, wrong in the way of the fault."""
    *others, last = vectors
    spoilt: dict[FaultKind | None, list[Any]] = {
        "nan": [*others, [float("nan"), *last[1:]]],
        "infinity": [*others, [float("inf"), *last[1:]]],
        "null": [*others, [None, *last[1:]]],
        "zeros": [*others, [0.0] * len(last)],
        "dimension": [vector[:-1] for vector in vectors],
        "fewer": others,
        "more": [*vectors, last],
    }
    return spoilt.get(kind, vectors)


def _shuffled(items: list[dict[str, Any]], kind: FaultKind | None) -> list[dict[str, Any]]:
    match kind:
        case "permuted":
            return items[::-1]
        case "duplicate":
            return [{**item, "index": 0} for item in items]
        case "out_of_range":
            return [{**item, "index": item["index"] + 1} for item in items]
        case _:
            return items


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def main(arguments: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m seamark.testing.embedding_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--key")
    parser.add_argument("--token-limit", type=int)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args(arguments)
    server = EmbeddingServer(
        dimension=given.dimension, key=given.key, token_limit=given.token_limit, log=given.log, port=given.port
    )
    sys.stdout.write(server.url + "\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
