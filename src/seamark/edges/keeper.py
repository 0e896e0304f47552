"""The leases that a worker process holds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seamark.model import Lease
    from seamark.store.contract import Store


class Keeper:
    """The leases of this process, renewed from one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, Lease] = {}
        self._lock = threading.Lock()

    def hold(self, lease: Lease) -> None:
        """Begin to renew."""
        with self._lock:
            self._held[lease.id] = lease

    def drop(self, lease: Lease) -> None:
        """Stop renewing."""
        with self._lock:
            self._held.pop(lease.id, None)

    def holding(self) -> bool:
        """Say whether there is any."""
        with self._lock:
            return bool(self._held)

    def renew(self, seconds: float) -> None:
        """Put their expiry off to so long from now."""
        with self._lock:
            held = tuple(self._held.values())
        if held:
            self._store.lease_renew(held, seconds)
