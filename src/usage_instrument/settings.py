"""The frozen settings of a tracker, from the defaults, the environment and the caller."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import os
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from .errors import ConfigurationError
from .events import Use, text_of
from .typing import Bucket, FlushStatements, UserIdType, WriterKind

__all__ = ["SettingOptions", "Settings"]

ENVIRONMENT_PREFIX = "USAGE_INSTRUMENT_"
DATABASE_VARIABLE = ENVIRONMENT_PREFIX + "DATABASE_URL"
READ_VARIABLE = ENVIRONMENT_PREFIX + "READ_URL"
"""The database of what only reads, such as a hot standby; unset, that of DATABASE_VARIABLE."""
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_KEY_LENGTH = 32
LEAST_MONTHS_AFTER = 90 * 86400.0
"""Seconds. Questions about four weeks that compare with the eight weeks before always have their days."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


Duration: TypeAlias = "float | dt.timedelta | str"
"""Seconds, a timedelta, or text such as `10m`."""


class SettingOptions(TypedDict, total=False):
    """The fields of Settings with the types that callers may pass. Settings converts them."""

    flush_interval: Duration
    flush_rows: int
    flush_statements: FlushStatements
    max_pending: int
    max_pending_bytes: int
    shutdown_timeout: Duration
    lock_timeout: Duration
    statement_timeout: Duration
    users: object
    user_id_type: UserIdType
    schema: str | None
    history: Bucket | None
    history_retention: Duration
    history_months_after: Duration | None
    journal: str | os.PathLike[str] | None
    journal_max_bytes: int
    writer: WriterKind
    metadata_max_bytes: int
    dimension_values: int
    user_retry: Duration
    read_timeout: Duration | None
    resend_max_bytes: int
    strict: bool
    enabled: bool
    before_track: Callable[[Use], Use | None] | str | None
    service: str
    audit_timeout: Duration
    audit_key: str | None
    privacy_key: str | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of a tracker. Each is also read from `$USAGE_INSTRUMENT_<NAME>`.

    Durations are seconds, a timedelta, or text such as `10m`. Raises ConfigurationError for a value out of range or of
    a wrong type.
    """

    flush_interval: float = 5.0
    """Seconds between two flushes. The first comes at a random phase."""
    flush_rows: int = 5_000
    """Keys in one batch."""
    flush_statements: FlushStatements = "auto"
    """On PostgreSQL: `"single"` writes a batch by one statement, `"portable"` by plain ones, which distributed servers
    also run; `"auto"` recognises Citus, CockroachDB and YugabyteDB."""
    max_pending: int = 100_000
    """Keys (pairs of user and feature) kept in memory while the database is away."""
    max_pending_bytes: int = 64 * 2**20
    """Bytes of metadata and accesses kept in memory; beyond it, uses are kept without their metadata."""
    shutdown_timeout: float = 5.0
    """Seconds an exit may take to write the pending uses."""
    lock_timeout: float = 0.5
    """Seconds a flush waits for a lock of the host. MariaDB rounds up to whole seconds; 0 is the shortest wait."""
    statement_timeout: float = 10.0
    """Seconds one statement of a flush may take; 0 is no limit."""
    users: object = "auto"
    """The host's users table: `"auto"`, a Table, `"schema.table.column"`, or None for no foreign key."""
    user_id_type: UserIdType = "uuid"
    """The type of a user's id: `"uuid"`, `"integer"` or `"string"`."""
    schema: str | None = None
    """The database schema of the tables; None is the default schema of the connection."""
    history: Bucket | None = "day"
    """The grain of the history: `"day"` or `"hour"`; None writes no history."""
    history_retention: float = 400 * 86400.0
    """Seconds the history is kept."""
    history_months_after: float | None = None
    """Seconds after which the days of a whole month are summed up to one row; at least 90 days. None keeps the days."""
    journal: str | None = None
    """The directory of the journal, which survives kill -9; None is no journal. A relative one is made absolute."""
    journal_max_bytes: int = 2**30
    """The largest size of the journal, in bytes."""
    writer: WriterKind = "process"
    """What writes to the database: `"process"`, or `"collector"` for all processes of a host, from their journals."""
    metadata_max_bytes: int = 4_096
    """The largest size of the metadata of a row, in bytes of JSON."""
    dimension_values: int = 100
    """The number of different values of a dimension of a feature, at most 500; further ones count as `(other)`."""
    user_retry: float = 600.0
    """Seconds a use of an unknown user waits for that user's row."""
    read_timeout: float | None = None
    """Seconds one statement of a page or command that only reads may take. None is 30 for a page, 600 for a command."""
    resend_max_bytes: int = 16 * 2**20
    """Bytes of the latest acknowledged batches kept in memory, for a server that takes over without them."""
    strict: bool = False
    """Whether a mistake in a capture raises. For development."""
    enabled: bool = True
    """Whether uses are captured."""
    before_track: Callable[[Use], Use | None] | None = None
    """A callable from each use to the use to keep, or to None; or its place, such as `"myapp.privacy:scrub"`."""
    service: str = ""
    """The name of this program, for several programs that share a database."""
    audit_timeout: float = 2.0
    """Seconds a call audited as `"required"` waits for its row."""
    audit_key: str | None = dataclasses.field(default=None, repr=False)
    """A secret that signs the links of the audit trail; None is a chain of plain hashes."""
    privacy_key: str | None = dataclasses.field(default=None, repr=False)
    """A secret, equal in all processes. `forget` and `opt_out` store users as hashes with it."""

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[SettingOptions]) -> None: ...

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = _CHECKS.get(field.name)
            if check is not None:
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))
        months_after, kept = self.history_months_after, self.history_retention
        if months_after is not None and months_after >= kept:
            raise ConfigurationError(
                f"history_months_after ({months_after / 86400:g}d) is less than history_retention ({kept / 86400:g}d): "
                "keep the history for longer, or its days for a shorter time"
            )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, /, **explicit: Unpack[SettingOptions]
    ) -> Settings:
        """Settings from explicit values, else `$USAGE_INSTRUMENT_<NAME>`, else the defaults.

        Raises TypeError for an unknown name, ConfigurationError for a wrong value.
        """
        environ = os.environ if environ is None else environ
        known = {field.name for field in dataclasses.fields(cls)}
        for name in explicit:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; the settings are {', '.join(sorted(known))}"
                raise TypeError(f"{name!r} is no setting{hint}")
        return cls(**{**values_in(environ, known - explicit.keys()), **explicit})


def values_in(environ: Mapping[str, Any], names: Collection[str], *, place: str = "$") -> dict[str, Any]:
    """The values of the named settings in the environment, or in the configuration of a framework.

    `place` is the prefix of a variable in messages. Raises ConfigurationError.
    """
    values: dict[str, Any] = {}
    for name in names:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            value = environ[variable]
            value = _parse(name, value) if isinstance(value, str) else value
            try:
                values[name] = _CHECKS[name](name, value) if name in _CHECKS else value
            except ConfigurationError as error:
                raise ConfigurationError(f"{place}{variable}: {error}") from None
    return values


def misspelt(environ: Iterable[str], *, place: str = "$") -> list[str]:
    """One message for each variable with our prefix that is no setting; `place` as in `values_in`."""
    known = [*(field.name.upper() for field in dataclasses.fields(Settings)), "DATABASE_URL", "READ_URL"]
    complaints = []
    for variable in sorted(environ):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {place}{ENVIRONMENT_PREFIX}{near[0]}?" if near else ""
            complaints.append(f"{place}{variable} is no setting{hint}")
    return complaints


def _parse(name: str, text: str) -> object:
    """The value of a setting from its text in the environment. Empty and `none` are None where None is a value."""
    if name in _NULLABLE and text.strip().lower() in {"", "none"}:
        return None
    return text.strip()


def _duration(name: str, value: object) -> float:
    given = repr(value)
    if isinstance(value, dt.timedelta):
        value = seconds = value.total_seconds()
        given = next(
            f"{seconds / _UNITS[unit]:g}{unit}" for unit in "dhms" if seconds % _UNITS[unit] == 0 or unit == "s"
        )
    if isinstance(value, str):
        number, unit = (value[:-1], value[-1].lower()) if value[-1:].lower() in _UNITS else (value, "s")
        try:
            value = float(number) * _UNITS[unit]
        except ValueError:
            raise ConfigurationError(f"{name} is a number of seconds (or 10m, 2h, 30d), not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigurationError(f"{name} is a duration in seconds or a timedelta, 0 or more, not {given}")
    return float(value)


def _integer(name: str, value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise ConfigurationError(f"{name} is a whole number, not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is a whole number of at least 1, not {value!r}")
    return value


def _dimension_values(name: str, value: object) -> int:
    number = _integer(name, value)
    if number > _MOST_VALUES:
        raise ConfigurationError(f"{name} is at most {_MOST_VALUES}, not {number}: a dimension has few values")
    return number


_MOST_VALUES = 500


def _read_timeout(name: str, value: object) -> float | None:
    if value is None:
        return None
    seconds = _duration(name, value)
    if seconds < 1:
        raise ConfigurationError(f"{name} is at least a second, or None, not {value!r}")
    return seconds


def _months_after(name: str, value: object) -> float | None:
    if value is None:
        return None
    seconds = _duration(name, value)
    if seconds < LEAST_MONTHS_AFTER:
        raise ConfigurationError(f"{name} is at least {LEAST_MONTHS_AFTER / 86400:g}d, or None, not {value!r}")
    return seconds


def _flag(name: str, value: object) -> bool:
    if isinstance(value, str):
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
    elif isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} is true or false, not {value!r}")


def _choice(*choices: str | None) -> Callable[[str, object], object]:
    def check(name: str, value: object) -> object:
        if value not in choices:
            raise ConfigurationError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")
        return choices[choices.index(value)]  # not an enum that equals it

    return check


def _text(name: str, value: object) -> str:
    text = text_of(value) if isinstance(value, str) else None
    if text is None or len(text) > 100 or "\0" in text:
        raise ConfigurationError(f"{name} is a str of at most 100 characters, not {value!r}")
    return text


def _optional_text(name: str, value: object) -> str | None:
    return None if value is None else _text(name, value)


def _secret(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(text_of(value).strip()) < _KEY_LENGTH:  # the message leaves the secret out
        raise ConfigurationError(
            f"{name} is a secret of at least {_KEY_LENGTH} characters; "
            "`python -c 'import secrets; print(secrets.token_hex(32))'` makes one"
        )
    return text_of(value)


def _path(name: str, value: object) -> str | None:
    if value is None:
        return None
    path = text_of(os.fsdecode(value)) if isinstance(value, str | os.PathLike) else ""
    if not path:
        raise ConfigurationError(f"{name} is a directory, not {value!r}")
    return os.path.abspath(path)  # noqa: PTH100 - links stay; a relative one would follow a later chdir


def _users(name: str, value: object) -> object:
    return text_of(value) if isinstance(value, str) else value


def _callable(name: str, value: object) -> object:
    if isinstance(value, str):
        try:
            value = pkgutil.resolve_name(value)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"{name} is {value!r}, which cannot be imported: {error}") from None
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name} is a callable, or 'module:name' of one, not {value!r}")
    return value


_NULLABLE = {
    "history_months_after",
    "read_timeout",
    "users",
    "schema",
    "history",
    "journal",
    "before_track",
    "audit_key",
    "privacy_key",
}
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(
        (
            "flush_interval",
            "shutdown_timeout",
            "lock_timeout",
            "statement_timeout",
            "history_retention",
            "user_retry",
            "audit_timeout",
        ),
        _duration,
    ),
    **dict.fromkeys(
        (
            "flush_rows",
            "max_pending",
            "max_pending_bytes",
            "journal_max_bytes",
            "metadata_max_bytes",
            "resend_max_bytes",
        ),
        _integer,
    ),
    **dict.fromkeys(("strict", "enabled"), _flag),
    "dimension_values": _dimension_values,
    "flush_statements": _choice("auto", "single", "portable"),
    "history_months_after": _months_after,
    "read_timeout": _read_timeout,
    "user_id_type": _choice("uuid", "integer", "string"),
    "writer": _choice("process", "collector"),
    "history": _choice("day", "hour", None),
    "schema": _optional_text,
    "users": _users,
    "service": _text,
    "before_track": _callable,
    "journal": _path,
    "audit_key": _secret,
    "privacy_key": _secret,
}
