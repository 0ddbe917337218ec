"""What the host says about its users: their names for people, a search by these, their pages, and their groups."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import Any, Protocol
from urllib.parse import quote

from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .access import checked_address, is_async

KEPT = 60.0
"""Seconds that a label is kept, and so is shown after the user is renamed or deleted."""
SIZE = 10_000
"""Labels that are kept. The oldest go first."""
LONGEST = 200
"""Characters of a label that are shown."""
FOUND = 50
"""Users of a search."""


class UserLabel(Protocol):
    """The names of users for people, for the ids of one page; users without a name may be left out."""

    def __call__(self, ids: Sequence[Any], /) -> Mapping[Any, str | None]: ...


class UserSearch(Protocol):
    """The ids of the users whose name contains a text, the best first."""

    def __call__(self, text: str, /) -> Iterable[Any]: ...


class People:
    """The users of a host, as its options of the dashboard describe them."""

    def __init__(
        self,
        label: UserLabel | None = None,
        search: UserSearch | None = None,
        url: str | None = None,
        groups: Sequence[Any] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = _checked(label, "user_label", "from a list of user ids to a dict of their names")
        self._search = _checked(search, "user_search", "from a text to the ids of users")
        self._url = checked_address(url, "user_url", "/admin/users/{user}/")
        if url is not None and "{user}" not in url:
            raise ConfigurationError(f"user_url has {{user}} where the id of a user goes, and {url!r} has none")
        self.groups = _checked_groups(groups)
        """The columns of the users table by which users are grouped, by their names in addresses."""
        self._clock = clock
        self._labels: dict[str, tuple[str | None, float]] = {}
        self._lock = Lock()

    @property
    def has_search(self) -> bool:
        """Whether users are found by their names."""
        return self._search is not None

    def labels_of(self, ids: Iterable[UserId]) -> dict[str, str]:
        """The names of these users by their ids as text, of those who have one. Asks the host once, if at all."""
        if self._label is None:
            return {}
        texts = {str(each): each for each in ids if each is not None}
        now = self._clock()
        with self._lock:
            known = {text: self._labels[text] for text in texts if text in self._labels}
        found = {text: label for text, (label, until) in known.items() if now < until}
        unknown = [each for text, each in texts.items() if text not in found]
        if unknown:
            found.update(self._asked(unknown))
        return {text: label for text, label in found.items() if label}

    def _asked(self, ids: Sequence[UserId]) -> dict[str, str | None]:
        try:
            answer = _settled(self._label(ids)) if self._label is not None else {}
            given = {str(each): label for each, label in answer.items()}
        except Exception as error:
            _log_failure("user_label", "users are shown by their ids", error)
            return {}
        labels = {str(each): _shown(given.get(str(each))) for each in ids}
        until = self._clock() + KEPT
        with self._lock:
            for text, label in labels.items():
                self._labels.pop(text, None)
                self._labels[text] = label, until
            for text in list(islice(self._labels, max(len(self._labels) - SIZE, 0))):
                del self._labels[text]
        return labels

    def found(self, text: str) -> list[Any]:
        """The ids that the host finds for a text, the first ones."""
        if self._search is None:
            return []
        try:
            return list(islice(_settled(self._search(text)), FOUND))
        except Exception as error:
            _log_failure("user_search", "users are found by their ids alone", error)
            return []

    def url_of(self, user: UserId) -> str | None:
        """The address of a user in the host's own admin."""
        return None if self._url is None else self._url.replace("{user}", quote(str(user), safe=""))


class PageUsers:
    """The users of one page. The page names all of them before it is rendered, so that the host is asked once."""

    def __init__(self, people: People) -> None:
        self.people = people
        self._wanted: dict[UserId, None] = {}
        self._labels: dict[str, str] | None = None

    def want(self, ids: Iterable[UserId]) -> None:
        """Name users who are on the page."""
        self._wanted.update(dict.fromkeys(ids))
        self._labels = None

    def label(self, user: UserId) -> str | None:
        """The name of a user; None for a user who is shown by the id."""
        if user not in self._wanted:
            self.want([user])
        if self._labels is None:
            self._labels = self.people.labels_of(self._wanted)
        return self._labels.get(str(user))


def _checked(function: Any, name: str, what: str) -> Any:
    if function is None or (callable(function) and not is_async(function)):
        return function
    if callable(function):
        raise ConfigurationError(
            f"{name} is called in a thread: make it an ordinary function, not a coroutine function"
        )
    raise ConfigurationError(f"{name} is a callable {what}, not {function!r}")


def _checked_groups(groups: Any) -> dict[str, Any]:
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise ConfigurationError(f"user_groups is a list of columns of the users table, not {groups!r}")
    found = {}
    for column in groups:
        name = column.rpartition(".")[2] if isinstance(column, str) else getattr(column, "key", None)
        if not name or not isinstance(name, str):
            raise ConfigurationError(f"user_groups has columns of the users table, such as 'plan', not {column!r}")
        found[name] = column
    return found


def _settled(answer: Any) -> Any:
    """The answer itself. Raises TypeError for an awaitable, which would never run."""
    if inspect.isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError("it returned an awaitable: make it an ordinary function")
    return answer


def _shown(label: object) -> str | None:
    text = "" if label is None else " ".join(str(label).split())
    return text[:LONGEST] or None


def _log_failure(name: str, effect: str, error: Exception) -> None:
    kind = type(error).__name__
    log.limited(logging.ERROR, (name, kind), "the dashboard's %s failed, so %s", name, effect, exc_info=True)
