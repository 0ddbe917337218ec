"""The walls of a fleet, in the order in which it meets them: the arithmetic of `usage-instrument doctor --plan`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from usage_instrument.errors import ConfigurationError
from usage_instrument.queries.windows import span_of
from usage_instrument.settings import Settings

# Measured by `python bench/fleet.py --page` on PostgreSQL 15 and two shared cores, where runs differ by up to a half.
# Sizes are those of tables that have been updated for a while.
FLUSH_CPU = 1.3e-3
"""Seconds of the database's processor for each flush, whatever its keys."""
KEY_CPU = 13e-6
"""Seconds for each key of a flush."""
HISTORY_CPU = 10e-6
"""Seconds more for each key with history."""
READ_CPU = 1.3e-6
"""Seconds for each row of the history that a question reads."""
USAGE_BYTES = 230
"""Bytes of a row of feature_usage, indexes included."""
HISTORY_BYTES = 210
"""Bytes of a row of feature_usage_history, indexes included."""
CONNECTION_BYTES = 7e6
"""Bytes of memory of a writer's session in the database."""

LAST_INT = 2**31 - 1
PAGE_TIMEOUT = 30.0
"""Seconds that a page of the dashboard waits for a statement."""
PAGE_DAYS = 28
NEAR = 0.5
"""The share of a limit from which a remedy is named."""
PROCESSES_A_HOST = 16
"""Where `hosts=` is not given."""
_DAY = 86400.0
_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_MOST = 1e15


@dataclass(frozen=True)
class Plan:
    """A fleet and its database."""

    users: float
    features: float
    """That each user uses."""
    processes: float
    hosts: float
    active: float
    """The share of the users who are active on a day."""
    uses_per_day: float
    """Of an active user."""
    peak: float
    """The load of the busiest hour, in times of the mean."""
    flush_interval: float
    """Seconds."""
    history: str
    """`day`, `hour` or `off`."""
    keep: float
    """Days of history."""
    id_type: str
    connections: float
    """That the database takes."""
    cores: float
    """Of the database."""
    disk: float
    """Bytes for the tables."""

    @property
    def uses(self) -> float:
        """Uses a second at the peak."""
        return self.users * self.active * self.uses_per_day * self.peak / _DAY

    @property
    def keys_a_flush(self) -> float:
        """Uses of one process in one interval. Each is a key of its own: processes share their users."""
        return self.uses * self.flush_interval / self.processes

    @property
    def flushes(self) -> float:
        """Flushes a second of all processes. A process without a use in the interval sends none."""
        return self.processes / self.flush_interval * -math.expm1(-self.keys_a_flush)

    @property
    def rows(self) -> float:
        """Rows of feature_usage."""
        return self.users * self.features

    @property
    def history_rows(self) -> float:
        """Rows of feature_usage_history a day, at most."""
        buckets = {"day": 1, "hour": 24, "off": 0}[self.history]
        return self.users * self.active * min(self.features * buckets, self.uses_per_day)


class Wall(NamedTuple):
    """How near a fleet is to one limit."""

    wall: str
    share_of_limit: float
    """1 is the limit."""
    finding: str
    what_to_do: str


# ---- the plan of a command


def parsed(words: Iterable[str]) -> tuple[Plan, str]:
    """The plan of words such as `users=10M`, and all of its values as such words. Raises ConfigurationError."""
    given: dict[str, str] = {}
    for word in words:
        name, has_value, text = word.partition("=")
        if name not in _KEYS or not has_value:
            near = difflib.get_close_matches(name, _KEYS, 1)
            hint = f"; did you mean {near[0]}=?" if near else "."
            raise ConfigurationError(f"a plan has no {word!r}{hint} It takes {'=, '.join(_KEYS)}=")
        if name in given:
            raise ConfigurationError(f"a plan has one {name}=, not {given[name]!r} and {text!r}")
        given[name] = text
    if "users" not in given:
        raise ConfigurationError("a plan has users=, such as: usage-instrument doctor --plan users=10M processes=2000")
    texts = {name: given.get(name, default) for name, (_, default) in _KEYS.items()}
    if "hosts" not in given:
        texts["hosts"] = str(math.ceil(_number("processes", texts["processes"]) / PROCESSES_A_HOST))
    values: dict[str, Any] = {name: read(name, texts[name]) for name, (read, _) in _KEYS.items()}
    if values["hosts"] > values["processes"]:
        raise ConfigurationError(f"hosts={texts['hosts']} have a process each, not {texts['processes']} in all")
    return Plan(**values), " ".join(f"{name}={text}" for name, text in texts.items())


def _number(name: str, text: str) -> float:
    """A number, also in thousands (`50k`), millions (`10M`) or the next units (`2G`, `1T`)."""
    unit = _UNITS.get(text[-1:].lower())
    value = _real(text[:-1] if unit else text) * (unit or 1.0)
    if not 0 < value < _MOST:
        raise ConfigurationError(f"{name}= is a number above 0 such as 2000, 50k or 10M, not {text!r}")
    return value


def _share(name: str, text: str) -> float:
    value = _real(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise ConfigurationError(f"{name}= is a share such as 20% or 0.2, not {text!r}")
    return value


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(name: str, text: str) -> float:
    value = float(Settings(flush_interval=text).flush_interval)
    if not value:
        raise ConfigurationError(f"{name}= is above 0 for a plan, not {text!r}")
    return value


def _days(name: str, text: str) -> float:
    span = span_of(text)
    if span is None:
        raise ConfigurationError(f"{name}= is 90d or 52w, not {text!r}")
    return span.total_seconds() / _DAY


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in choices:
            raise ConfigurationError(f"{name}= is {' or '.join(choices)}, not {text!r}")
        return text

    return read


_KEYS: dict[str, tuple[Callable[[str, str], object], str]] = {
    "users": (_number, ""),
    "features": (_number, "10"),
    "processes": (_number, "16"),
    "hosts": (_number, ""),
    "active": (_share, "20%"),
    "uses_per_day": (_number, "20"),
    "peak": (_number, "3"),
    "flush_interval": (_seconds, "5s"),
    "history": (_one_of("day", "hour", "off"), "day"),
    "keep": (_days, "400d"),
    "id_type": (_one_of("integer", "bigint"), "integer"),
    "connections": (_number, "100"),
    "cores": (_number, "8"),
    "disk": (_number, "100G"),
}
"""How a value is read, and the one that is assumed, by name."""


# ---- the walls


def walls(plan: Plan) -> list[Wall]:
    """All walls. The first is the one that the fleet meets first as it grows. Far ones have no remedy yet."""
    found = [wall(plan) for wall in (_connections, _reads, _size, _flushes, _ids, _writes)]
    near = [each if each.share_of_limit >= NEAR else each._replace(what_to_do="") for each in found]
    return sorted(near, key=lambda wall: -wall.share_of_limit)


def summary(found: list[Wall]) -> str:
    """The first wall, in a sentence."""
    first = found[0]
    if first.share_of_limit < 1:
        return f"No wall: {first.wall} comes first, at {first.share_of_limit:.0%} of its limit."
    return f"The first wall is {first.wall}, at {first.share_of_limit:,.3g} times its limit: {first.what_to_do}."


def _connections(plan: Plan) -> Wall:
    pooler = "a pooler in transaction mode, such as PgBouncer"
    joint = "and" if plan.hosts > plan.connections else "or"
    collector = f"a collector on each host (writer=collector), so {plan.hosts:,.0f} connections; {joint} {pooler}"
    memory = _size_text(plan.processes * CONNECTION_BYTES)
    return Wall(
        "connections",
        plan.processes / plan.connections,
        f"{plan.processes:,.0f}, one a process, take {memory} of the database's memory; it takes "
        f"{plan.connections:,.0f} at most",
        collector if plan.hosts < plan.processes else f"{pooler}; fewer and larger processes",
    )


def _reads(plan: Plan) -> Wall:
    rows = plan.history_rows * min(PAGE_DAYS, plan.keep) or plan.rows
    seconds = rows * READ_CPU
    return Wall(
        "dashboard reads",
        seconds / PAGE_TIMEOUT,
        f"a question over {PAGE_DAYS} days reads {_count_text(rows)} rows in some {seconds:,.3g} s; a page waits "
        f"{PAGE_TIMEOUT:g} s",
        "a hot standby (USAGE_INSTRUMENT_READ_URL) with a longer read_timeout; shorter periods",
    )


def _size(plan: Plan) -> Wall:
    history = plan.history_rows * plan.keep
    size = plan.rows * USAGE_BYTES + history * HISTORY_BYTES
    return Wall(
        "size of history",
        size / plan.disk,
        f"{_count_text(history)} rows of history and {_count_text(plan.rows)} of counts are {_size_text(size)}; there "
        f"is room for {_size_text(plan.disk)}",
        "history_months_after, which keeps months instead of days; a shorter history_retention (keep=); "
        "history_partitions=month, which drops old months whole",
    )


def _flushes(plan: Plan) -> Wall:
    cores = plan.flushes * FLUSH_CPU
    return Wall(
        "small flushes",
        cores / plan.cores,
        f"{plan.flushes:,.3g} flushes a second, of {max(plan.keys_a_flush, 1):,.3g} keys, take {cores:,.2g} of "
        f"{plan.cores:g} cores beside their keys",
        f"a longer flush_interval than {plan.flush_interval:g} s; a collector on each host (writer=collector)",
    )


def _ids(plan: Plan) -> Wall:
    last = LAST_INT if plan.id_type == "integer" else 2**63 - 1
    return Wall(
        "INT ids" if plan.id_type == "integer" else "BIGINT ids",
        plan.rows / last,
        f"{_count_text(plan.rows)} rows of feature_usage; the last id is {last:,}",
        "create the tables with id_type=bigint, or run `usage-instrument db upgrade --id-type bigint`",
    )


def _writes(plan: Plan) -> Wall:
    cores = plan.uses * (KEY_CPU + (HISTORY_CPU if plan.history != "off" else 0.0))
    return Wall(
        "writes",
        cores / plan.cores,
        f"{_count_text(plan.uses)} keys a second at the peak take {cores:,.2g} of {plan.cores:g} cores",
        "history=off or a longer flush_interval; then shards, such as those of Citus",
    )


def _count_text(number: float) -> str:
    unit, size = next(((name, each) for name, each in reversed(_UNITS.items()) if number >= each), ("", 1.0))
    return f"{number / size:,.3g}{unit if unit == 'k' else unit.upper()}"


def _size_text(number: float) -> str:
    return f"{_count_text(number)}B"
