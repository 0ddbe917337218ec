"""The traffic of the demo: users with different habits, over real HTTP connections."""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import random
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

from .database import EVENTS

THREADS = 4
PAGE_TIMEOUT = 30
"""Seconds that one response may take."""

_FIRST = ("Ada", "Ben", "Chloe", "Dan", "Eve", "Finn", "Grace", "Hugo", "Ines", "Jo", "Kim", "Lea", "Max", "Nora")
_LAST = ("Abbott", "Baker", "Castro", "Diaz", "Evans", "Fox", "Garcia", "Hill", "Ito", "Jones", "Khan", "Lopez")

# The habits of each kind of person, in percent. Nobody prints: most apps have such a feature.
_HABITS: dict[str, dict[str, int]] = {
    "visitor": {"browse": 55, "open": 25, "search": 15, "follow": 5},
    "reader": {"browse": 45, "open": 30, "search": 13, "follow": 9, "share": 2, "export": 1},
    "organiser": {"browse": 25, "open": 25, "search": 10, "follow": 20, "share": 15, "export": 5},
    "archivist": {"browse": 30, "search": 30, "export": 40},
}


@dataclass(frozen=True)
class Person:
    """A user of the calendar."""

    id: UUID
    name: str
    plan: str
    habit: str

    @property
    def row(self) -> dict[str, object]:
        """The person in the table of users."""
        return {"id": self.id, "name": self.name, "plan": self.plan}


@dataclass(frozen=True)
class Step:
    """One request, and the feature that it uses if it succeeds."""

    method: str
    path: str
    feature: str


@dataclass
class Outcome:
    """The responses that the clients got: successful uses by (user, feature), and all by status."""

    uses: collections.Counter[tuple[UUID | None, str]] = field(default_factory=collections.Counter)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)

    def most_active(self, persons: list[Person]) -> Person:
        """The person with the most uses."""
        uses = collections.Counter[UUID | None]()
        for (user, _), count in self.uses.items():
            uses[user] += count
        return max(persons, key=lambda person: uses[person.id])


def people(count: int, dice: random.Random) -> list[Person]:
    """A number of people, the most active first."""
    made = []
    for number, (last, first) in enumerate(itertools.islice(_names(), count)):
        habit = dice.choices(("reader", "organiser", "archivist"), (75, 20, 5))[0]
        plan = dice.choices(("free", "pro"), (4, 1))[0]
        id_ = uuid.UUID(int=dice.getrandbits(128), version=4)
        made.append(Person(id_, f"{first}-{last}", plan, "organiser" if number == 0 else habit))
    return made


def _names() -> Iterator[tuple[str, str]]:
    yield from itertools.product(_LAST, _FIRST)
    for number in itertools.count(2):
        for last, first in itertools.product(_LAST, _FIRST):
            yield f"{last}-{number}", first


def plan(persons: list[Person], requests: int, dice: random.Random) -> dict[Person | None, list[Step]]:
    """A number of requests by person, most of them by a few; None is the anonymous visitors."""
    crowd: list[Person | None] = [None, *persons]
    weights = [len(persons) / 12, *(1 / rank for rank in range(1, len(persons) + 1))]
    weights[0] = sum(weights[1:]) / 8
    steps: dict[Person | None, list[Step]] = {}
    planned = 0
    while planned < requests:
        person = dice.choices(crowd, weights)[0]
        mine = steps.setdefault(person, [])
        if person is not None and not mine:
            mine.append(Step("POST", f"/sign-in/{person.name}", "calendar_sign_in"))
        else:
            mine.append(_step("visitor" if person is None else person.habit, dice))
        planned += 1
    return steps


def _step(habit: str, dice: random.Random) -> Step:
    habits = _HABITS[habit]
    # Some links are stale: one in twelve events does not exist.
    event = dice.randint(1, EVENTS + EVENTS // 12)
    match dice.choices(list(habits), list(habits.values()))[0]:
        case "open":
            return Step("GET", f"/events/{event}", "calendar_open_event")
        case "search":
            return Step("GET", f"/search?q={dice.choice(('chess', 'yoga', 'room', 'quiz', ''))}", "calendar_search")
        case "follow":
            return Step("POST", f"/events/{event}/follow", "calendar_follow_event")
        case "share":
            return Step("POST", f"/events/{event}/share", "calendar_share_event")
        case "export":
            return Step("GET", f"/export?format={dice.choice(('ics', 'ics', 'csv', 'pdf'))}", "calendar_export")
    return Step("GET", "/events", "calendar_browse")


class Interrupt:
    """Whether Ctrl-C was pressed. A plain attribute, as a signal handler may take no lock."""

    came = False


@contextlib.contextmanager
def interrupt_at_end() -> Iterator[Interrupt]:
    """Raise the KeyboardInterrupt of a Ctrl-C when the block ends, not where the signal arrives.

    Within the thread pool it would leave a lock locked, for which the pool's threads then wait for ever, and within a
    finalizer Python would ignore it.
    """
    interrupt = Interrupt()

    def note(*_: object) -> None:
        interrupt.came = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupt.came:
        raise KeyboardInterrupt


def drive(
    port: int, steps: dict[Person | None, list[Step]], interrupt: Interrupt, advance: Callable[[], object]
) -> Outcome:
    """Send all requests, each person's in order, and call `advance` after each, until an interrupt comes.

    Raises OSError, HTTPException.
    """
    outcome = Outcome()
    lock = threading.Lock()
    stop = threading.Event()

    def visit(person: Person | None, mine: list[Step]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PAGE_TIMEOUT)
        headers: dict[str, str] = {}
        try:
            for step in mine:
                if stop.is_set() or interrupt.came:
                    return
                connection.request(step.method, step.path, headers=headers)
                response = connection.getresponse()
                response.read()
                cookie = response.getheader("Set-Cookie")
                if cookie is not None:
                    headers["Cookie"] = cookie.partition(";")[0]
                with lock:
                    outcome.statuses[response.status] += 1
                    if response.status < 400:
                        outcome.uses[None if person is None else person.id, step.feature] += 1
                    advance()
        finally:
            connection.close()

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for future in [pool.submit(visit, person, mine) for person, mine in steps.items()]:
                future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return outcome
