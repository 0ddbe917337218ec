"""Pages in the making: whoever asks for one that takes long soon hears so, and comes back for it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Hashable
from threading import BoundedSemaphore, Event, Lock, Thread

from .http import Response

SOON = 0.7
"""Seconds after which a visitor gets word instead of the page."""
KEPT = 10.0
"""Seconds that a page waits for those who were told to come back."""
AT_ONCE = 8
"""So many pages are made at a time; the others wait for their turn."""


class Making:
    """The pages that are being made, each once for all who ask for it, by threads that no exit waits for."""

    def __init__(self) -> None:
        self._pages: dict[Hashable, _Page] = {}
        self._turns = BoundedSemaphore(AT_ONCE)
        self._lock = Lock()

    def page(self, key: Hashable, make: Callable[[], Response]) -> Response | float:
        """What `make` returns, which raises nothing; or, if that takes longer, the seconds that it has taken so far."""
        page = self._page((os.getpid(), key), make)  # a forked child has none of its parent's threads
        if page.is_made.wait(SOON):
            return page.response
        page.is_awaited = True
        return time.monotonic() - page.begun

    def _page(self, key: Hashable, make: Callable[[], Response]) -> _Page:
        with self._lock:
            now = time.monotonic()
            self._pages = {known: page for known, page in self._pages.items() if now < page.until}
            page = self._pages.get(key)
            if page is None:
                page = self._pages[key] = _Page(now)
                Thread(target=self._make, args=(page, make), name="usage-instrument-page", daemon=True).start()
            return page

    def _make(self, page: _Page, make: Callable[[], Response]) -> None:
        with self._turns:
            page.response = make()
        page.until = time.monotonic() + KEPT if page.is_awaited else 0.0
        page.is_made.set()


class _Page:
    response: Response

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.until = math.inf
        self.is_made = Event()
        self.is_awaited = False
