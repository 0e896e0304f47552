"""What the HTTP servers of the tests have in common: they listen on this machine, serve from a thread, and keep quiet."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


_CUT = "the client was killed, or hung up, in the middle of its request"


class LocalServer(ThreadingHTTPServer):
    """Listens on a free port of this machine, or a given one, from construction on, and serves while it is entered."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[LocalHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about clients that hang up; anything else is a defect of this server and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(cast("Any", request), client_address)


class LocalHandler(BaseHTTPRequestHandler):
    """Reads a request's whole body, and sends replies of a known length. What it serves is for `get` and `post` to say."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name it has there
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        """Serve it."""
        self.get()

    def do_POST(self) -> None:
        """Serve it."""
        self.post()

    def get(self) -> None:
        """Answer a GET."""
        raise NotImplementedError

    def post(self) -> None:
        """Answer a POST."""
        raise NotImplementedError

    def body(self) -> bytes:
        """Return what was sent; ConnectionError where the client was killed, or hung up, in the middle of it."""
        length = self.headers["content-length"]
        if length is not None:
            return self._read(int(length))
        pieces: list[bytes] = []
        while size := int(self._line(), 16):
            pieces.append(self._read(size))
            self._line()
        self._line()
        return b"".join(pieces)

    def _line(self) -> bytes:
        line = self.rfile.readline()
        if not line:
            raise ConnectionError(_CUT)
        return line

    def _read(self, length: int) -> bytes:
        sent = self.rfile.read(length)
        if len(sent) < length:
            raise ConnectionError(_CUT)
        return sent

    def send_json(self, status: int, content: object) -> None:
        """Send a reply of JSON."""
        self.send_whole(status, json.dumps(content).encode())

    def send_whole(
        self, status: int, body: bytes, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a reply."""
        self.send_head(status, len(body), kind, headers or {})
        self.wfile.write(body)

    def send_head(
        self, status: int, length: int, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """Promise a reply's body, which is for the caller to send."""
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
