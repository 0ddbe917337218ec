"""What stands between a tracker and a real server, and breaks: cuts connections, refuses them, or swallows all."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import sqlalchemy as sa

from conftest import Database

_COMMIT = re.compile(rb"\bCOMMIT\b")  # every driver sends it alone, and after an answer: it is never split
_PIECE = 2**16

Place: TypeAlias = Literal["byte", "before commit", "during commit", "after commit"]


class Cut(NamedTuple):
    """Where a connection ends: after so many bytes, both ways together, or at the so-many-th COMMIT of the client.

    That is not forwarded (before), or forwarded and nothing more (during), or its answer is kept back (after).
    """

    place: Place
    number: int
    silently: bool = False
    """Whether neither side hears of it: what they say from then on is swallowed."""


def anywhere(dice: random.Random) -> Iterator[Cut]:
    """Cuts without end: each kind, and bytes of the greeting as often as those of a late batch."""
    while True:
        reach = dice.choice((500, 5_000, 50_000, 200_000))
        places: list[Place] = ["byte", "before commit", "during commit", "after commit"]
        place = dice.choice(places)
        yield Cut(place, dice.randrange(reach) if place == "byte" else dice.randint(1, 4))


class Proxy:
    """Forwards a loopback port to another, until it is told to do worse."""

    def __init__(self, target: int) -> None:
        self.target = target
        """The port of the server for connections to come."""
        self._lock = threading.Lock()
        self._listener = _listening(0)
        self.port = int(self._listener.getsockname()[1])
        self._links: set[_Link] = set()
        self._cuts: Iterator[Cut] = iter(())
        self.swallows = False
        self.connections = 0
        """How many clients came."""
        self.swallowed = 0
        """How many bytes of clients went nowhere."""
        self.made: Counter[Place] = Counter()
        """The cuts that happened, by place."""
        self._accept(self._listener)

    def cut(self, cuts: Iterable[Cut]) -> None:
        """From now on, each new connection ends by the next of these; those beyond the last are left alone."""
        with self._lock:
            self._cuts = iter(cuts)

    def cut_now(self) -> None:
        """End the connections that there are."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.end()

    def refuse(self) -> None:
        """No server is there any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        self.cut_now()

    def blackhole(self) -> None:
        """Take connections and what they say, and answer nothing."""
        self.swallows = True

    def mend(self) -> None:
        """Forward again, and cut nothing more. What was swallowed is not made good: those connections end."""
        self.cut(())
        with self._lock:
            for link in self._links:
                link.spare()
                if link.silent:
                    link.end()
        if self.swallows:
            self.swallows = False
            self.cut_now()
        if self._listener.fileno() < 0:
            self._listener = _listening(self.port)
            self._accept(self._listener)

    def close(self) -> None:
        """Leave nothing behind."""
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                link = _Link(self, client, next(self._cuts, None))
                self._links.add(link)
            threading.Thread(target=self._forward, args=(link,), daemon=True).start()

    def count(self, place: Place) -> None:
        """A cut has happened."""
        with self._lock:
            self.made[place] += 1

    def _forward(self, link: _Link) -> None:
        try:
            link.run(self.target)
        except OSError:  # either side has gone
            pass
        finally:
            link.close()
            with self._lock:
                self._links.discard(link)


class _Link:
    """One client, and the connection made for it."""

    def __init__(self, proxy: Proxy, client: socket.socket, cut: Cut | None) -> None:
        self._proxy = proxy
        self._cut = cut
        self._client = client
        self._server = socket.socket()
        self._bytes = self._commits = 0
        self._ended = threading.Event()
        self.silent = False
        """Whether this one forwards nothing any more."""

    def run(self, target: int) -> None:
        """Forward until a side ends, or the cut is due. Raises OSError."""
        self._server.connect(("127.0.0.1", target))
        for side in (self._client, self._server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._ended.is_set():  # which may be before there was anything to shut down
            for source in select.select([self._client, self._server], [], [])[0]:
                data = source.recv(_PIECE)
                if self.silent or self._proxy.swallows:
                    self._swallow(source, data)
                elif not data:
                    return
                elif self._is_cut(source, data) and self._cut is not None:
                    self._proxy.count(self._cut.place)
                    self.silent = self._cut.silently
                    if not self.silent:
                        return

    def _swallow(self, source: socket.socket, data: bytes) -> None:
        self._proxy.swallowed += len(data) if source is self._client else 0
        if not data:
            self._ended.wait()  # nor does the other side hear that this one has gone

    def _is_cut(self, source: socket.socket, data: bytes) -> bool:
        """Forward this, as far as the cut admits."""
        to, cut = self._server if source is self._client else self._client, self._cut
        if cut is None:
            to.sendall(data)
            return False
        if cut.place == "byte":
            left = cut.number - self._bytes
            to.sendall(data[:left])
            self._bytes += len(data)
            return len(data) > left
        self._commits += source is self._client and _COMMIT.search(data) is not None
        due = self._commits == cut.number
        if not due or cut.place != "before commit":
            to.sendall(data)
        if due and cut.place == "after commit":
            self._server.recv(_PIECE)
        return due

    def spare(self) -> None:
        """Cut this one nowhere."""
        self._cut = None

    def end(self) -> None:
        """Wake the thread that runs this, with the end of both sides."""
        self._ended.set()
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Of both sides; as often as not with a reset, which takes back what was not read yet."""
        for side in (self._client, self._server):
            if random.random() < 0.5:
                with contextlib.suppress(OSError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.close()


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


@contextlib.contextmanager
def through(database: Database) -> Iterator[Proxy]:
    """A proxy before a database's server."""
    proxy = Proxy(sa.make_url(database.url).port or 0)
    try:
        yield proxy
    finally:
        proxy.close()


def url_through(proxy: Proxy, url: str) -> str:
    """A database's URL by way of the proxy."""
    return sa.make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
