"""A proxy before a PostgreSQL server that swallows the answer to a chosen request and then cuts the connection.

The server has done what it was asked to, and the client cannot know: a COMMIT may be done or not, for all it sees. It speaks
just enough of the protocol to see where requests and answers end.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_SOCKET = ".s.PGSQL.5432"
_READ = 65_536


class Proxy:
    """Listens on a Unix socket in `folder` from construction on, for the server and database of `url`.

    Counts the requests of connections that call themselves `seamark`: all of them, and as `commits` those that hold a COMMIT.
    The one `of` these with the number `cut_at`, from 1, is the one whose answer is swallowed; 0: none is.
    """

    def __init__(self, url: str, folder: Path, *, cut_at: int = 0, of: Literal["requests", "commits"] = "requests") -> None:
        self._target = conninfo_to_dict(url)
        self._folder = folder
        self.cut_at, self.of = cut_at, of
        self.counts: Counter[str] = Counter()
        self.cut = 0
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET))
        self._listener.listen(64)
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """Where clients reach the database through the proxy."""
        return f"postgresql://{self._target['user']}@/{self._target['dbname']}?host={quote(str(self._folder), safe='')}"

    def __enter__(self) -> Self:
        self._begin(self._listen)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each in self._sockets:
            _hang_up(each)
        for thread in self._threads:
            thread.join(10)

    def struck(self, request: bytes) -> bool:
        """Count a request; say whether it is the one whose answer is to be swallowed."""
        with self._lock:
            kinds = {"requests", "commits"} if b"COMMIT" in request else {"requests"}
            self.counts.update(kinds)
            hit = self.of in kinds and self.counts[self.of] == self.cut_at
            self.cut += hit
            return hit

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self._target['host']}/{_SOCKET}")
                self._sockets += [client, server]
                line = _Line(self, client, server)
                self._begin(line.requests)
                self._begin(line.answers)


class _Line:
    """One connection, each direction in a thread of its own."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._ours = False
        self._swallowing = threading.Event()

    def requests(self) -> None:
        """Pass on what the client asks, request by request."""
        with suppress(OSError):
            start = _exactly(self._client, 4)
            start += _exactly(self._client, struct.unpack("!I", start)[0] - 4)
            self._ours = b"application_name\0seamark\0" in start
            self._server.sendall(start)
            request = b""
            while True:
                message = _message(self._client)
                request += message
                # A request ends with a simple query, with Sync, or with the Terminate that needs no answer.
                if message[:1] in b"QS":
                    if self._ours and self._proxy.struck(request):
                        self._swallowing.set()
                    self._server.sendall(request)
                    request = b""
                elif message[:1] not in b"PBDECH" or message[:1] == b"H":
                    self._server.sendall(request)
                    request = b""
        self._end()

    def answers(self) -> None:
        """Pass on what the server answers; of a swallowed answer see the end, then cut the connection."""
        with suppress(OSError):
            while True:
                message = _message(self._server)
                if not self._swallowing.is_set():
                    self._client.sendall(message)
                elif message[:1] in b"ZG":  # ready for the next query, or for the data of a COPY
                    break
        self._end()

    def _end(self) -> None:
        _hang_up(self._client)
        _hang_up(self._server)


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, 5)
    return head + _exactly(source, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = source.recv(min(size - len(found), _READ))
        if not piece:
            raise ConnectionError("the other side has hung up")
        found += piece
    return found


def _hang_up(which: socket.socket) -> None:
    with suppress(OSError):
        which.shutdown(socket.SHUT_RDWR)
    which.close()
