"""A real HTTP server that bills as a provider does: OpenAI's /embeddings with its `usage`, over certified vectors."""

from __future__ import annotations

import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast

from seamark.testing.oracle import oracle_vector

if TYPE_CHECKING:
    from types import TracebackType

_token = re.compile(r"\w{1,5}|[^\w\s]").findall


def billed(text: str) -> int:
    """Return how many tokens the server bills for a text: five letters to a token, which no estimate of ours supposes."""
    return len(_token(text)) + 1


class BillingServer(ThreadingHTTPServer):
    """Listens on a free port of this machine from construction on, and serves while it is entered.

    `calls` and `tokens` are what it has billed. With `tells` false its replies have no `usage`.
    """

    daemon_threads = True

    def __init__(self, *, dimension: int = 32, tells: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dimension = dimension
        self.tells = tells
        self.calls: list[tuple[str, ...]] = []
        self.tokens = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def locator(self) -> str:
        """The model of this server, as users name it; its vectors' length is told, so that nothing is asked at the start."""
        return f"openai:oracle?base_url=http://127.0.0.1:{self.server_address[1]}/v1&dimensions={self.dimension}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def embed(self, texts: tuple[str, ...], model: str, dimension: int | None) -> dict[str, Any]:
        """Bill a call, and return its reply."""
        tokens = sum(map(billed, texts))
        with self.lock:
            self.calls.append(texts)
            self.tokens += tokens
        vectors = (oracle_vector(text, model, dimension or self.dimension).tolist() for text in texts)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if self.tells else {}
        return {"object": "list", "data": data, "model": model, **usage}

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BillingServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name it has there
        """Say nothing on stderr."""

    def do_POST(self) -> None:
        """Serve /v1/embeddings."""
        body = cast("dict[str, Any]", json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.path != "/v1/embeddings":
            self._send(HTTPStatus.NOT_FOUND, {"error": {"message": "there is nothing here"}})
            return
        self._send(HTTPStatus.OK, self.server.embed(tuple(body["input"]), body["model"], body.get("dimensions")))

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
