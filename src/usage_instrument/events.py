"""The values on their way to a row: use, count, batch. And the checks of names, user ids and metadata."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import hashlib
import ipaddress
import json
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, cast
from uuid import UUID

from .errors import (
    ConfigurationError,
    DeclarationError,
    DimensionError,
    FeatureNameError,
    MetadataError,
    UserIdError,
)
from .typing import Audit, Bucket, Outcome, UserId, UserIdType

__all__ = ["Access", "Use"]

NAME_LENGTH = 100
"""The longest feature name, in characters."""
STRING_ID_LENGTH = 255
"""The longest user id of type `string`, and the longest unit of an experiment, in characters."""
MAX_COUNT = 2**31 - 1
"""Where `usage_count` saturates: the largest INT."""
NIL: dict[UserIdType, UserId] = {"uuid": UUID(int=0), "integer": -(2**63) + 1, "string": ""}
"""The values that stand for NULL in the unique index. They are no user ids."""

_KEYS = frozenset({str})
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Access(NamedTuple):
    """The columns of the audit trail besides feature, user and metadata."""

    id: UUID
    """The same in all rows of one access."""
    outcome: Outcome
    occurred_at: int
    """Microseconds since 1970."""
    actor: UserId = None
    """The user who acted as the user; None if nobody did."""
    request_id: str | None = None


class Use(NamedTuple):
    """A use with more than a user. Metadata is a dict of scalars, or JSON text."""

    feature: str
    user: UserId
    metadata: dict[str, Any] | str | None = None
    uses: int = 1
    """0 for an access that is no use, such as a denial."""
    access: Access | None = None
    """For the audit trail, if the feature is audited."""
    at: int | None = None
    """The time of the use in microseconds since 1970, if a transaction kept it until its commit; None is now."""
    dimensions: dict[str, str] | None = None
    """The values that the use is counted by, by the names of their dimensions."""
    value: float | None = None
    """The number that is added up beside the count: an amount, a duration."""

    @property
    def weight(self) -> int:
        """The uses, at least 1: an access that is no use has to be written as well."""
        return max(self.uses, 1)

    @property
    def users(self) -> tuple[UserId, ...]:
        """The user, and the user who acted as them."""
        return (self.user,) if self.access is None else (self.user, self.access.actor)

    def respelled(self, of: Callable[[UserId], UserId]) -> Use:
        """The same with another spelling of the users."""
        access = self.access and self.access._replace(actor=of(self.access.actor))
        return self._replace(user=of(self.user), access=access)


_EXPOSURE = "\0"  # begins the key of an exposure, and divides it: no name of a feature or an experiment holds it


class Exposure(NamedTuple):
    """Which variant of an experiment a unit saw. On its way to its row, an exposure is a use of the feature `key`."""

    experiment: str
    variant: str
    unit: str | None = None
    """None: the user is the unit."""

    @property
    def key(self) -> str:
        """The text that stands in the place of a feature's name."""
        return _EXPOSURE + _EXPOSURE.join(part for part in self if part is not None)

    @classmethod
    def of(cls, key: str) -> Exposure:
        """The exposure with this key. Raises TypeError."""
        return cls(*key[1:].split(_EXPOSURE, 2))


def is_exposure(feature: str) -> bool:
    """Whether the name of a feature is the key of an exposure."""
    return feature.startswith(_EXPOSURE)


class Slice(NamedTuple):
    """The uses of a count on one day with one value of a dimension, to be added to one row of
    `feature_usage_dimensions`.

    The uses with a number are a slice too, of the dimension NUMBERS with the value "": whatever their dimensions.
    """

    start: dt.datetime
    """The start of the day, UTC, naive."""
    dimension: str
    value: str
    uses: int
    numbers: int = 0
    """The uses with a number, of which the sum, the sum of the squares, the least and the greatest follow."""
    total: float = 0.0
    squares: float = 0.0
    least: float | None = None
    greatest: float | None = None

    @property
    def key(self) -> tuple[dt.datetime, str, str]:
        """What tells the slices of a count apart."""
        return self[:3]

    def plus(self, other: Slice) -> Slice:
        """This one with the uses of another of the same key."""
        return self._replace(
            uses=self.uses + other.uses,
            numbers=self.numbers + other.numbers,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            least=min((each for each in (self.least, other.least) if each is not None), default=None),
            greatest=max((each for each in (self.greatest, other.greatest) if each is not None), default=None),
        )


NUMBERS = ""
"""The dimension of all uses with a number. A dimension of the host's has a name."""
OTHER = "(other)"
"""The value for those beyond the limit of different values (`dimension_values`)."""


def slices_of(use: Use, start: dt.datetime) -> list[Slice]:
    """A use as slices of its count, on the day that begins at `start`. Each of its uses has its number."""
    found = [Slice(start, name, value, use.uses) for name, value in (use.dimensions or {}).items()]
    number = use.value
    if number is None:
        return found
    total, squares = use.uses * number, use.uses * number * number
    found.append(Slice(start, NUMBERS, "", use.uses))
    return [
        each._replace(numbers=use.uses, total=total, squares=squares, least=number, greatest=number) for each in found
    ]


def added_slices(slices: Iterable[Slice]) -> tuple[Slice, ...]:
    """Slices of one count, each key once, in their first order."""
    found: dict[tuple[dt.datetime, str, str], Slice] = {}
    for each in slices:
        known = found.get(each.key)
        found[each.key] = each if known is None else known.plus(each)
    return tuple(found.values())


class Count(NamedTuple):
    """The uses of one feature by one user, to be added to one row of `feature_usage`.

    Of an exposure, `history` holds all exposures at the time of the first one.
    """

    feature: str
    user: UserId
    uses: int
    last_used: dt.datetime
    """UTC, naive, as the column is."""
    metadata: str | None = None
    """A JSON object as text."""
    history: tuple[tuple[dt.datetime, int], ...] = ()
    """Uses by the start of their bucket. Their sum is `uses`."""
    slices: tuple[Slice, ...] = ()
    """The uses with dimensions or a number, each key once."""


def in_row_order(counts: Iterable[Count]) -> tuple[Count, ...]:
    """The counts in the order of rows: all writers lock their common rows in one order. The anonymous user's rows,
    which every process writes, come last and are locked for the shortest time."""
    by_feature = sorted(counts, key=_FEATURE)
    named = [count for count in by_feature if count.user is not None]
    # Stable, so the features of a user stay in order. A UUID compares by its number, and in Python code.
    named.sort(key=_NUMBER if named and isinstance(named[0].user, UUID) else _USER)
    return (*named, *(count for count in by_feature if count.user is None))


_FEATURE, _USER, _NUMBER = operator.attrgetter("feature"), operator.attrgetter("user"), operator.attrgetter("user.int")


class Loss(NamedTuple):
    """Uses that were dropped or rejected for one reason on one day (UTC)."""

    day: dt.date
    reason: str
    uses: int


class Batch(NamedTuple):
    """The content of one transaction. It changes only after a confirmed rollback."""

    number: int
    counts: tuple[Count, ...]
    losses: tuple[Loss, ...] = ()
    accesses: tuple[Use, ...] = ()
    """Rows of the audit trail, with canonical users and JSON text. A batch has either counts or accesses."""

    @property
    def users(self) -> set[UserId]:
        """All users of counts and accesses."""
        return {count.user for count in self.counts} | {user for use in self.accesses for user in use.users}

    @property
    def uses(self) -> int:
        """The number of uses in the batch."""
        return sum(count.uses for count in self.counts)

    @property
    def exposures(self) -> tuple[Count, ...]:
        """The counts that are exposures."""
        keys = set(filter(is_exposure, {count.feature for count in self.counts}))
        return tuple(count for count in self.counts if count.feature in keys) if keys else ()

    @property
    def has_slices(self) -> bool:
        """Whether a count has dimensions or numbers."""
        return any(count.slices for count in self.counts)

    def without_exposures(self) -> Batch:
        """The batch with the counts that are uses."""
        if not self.exposures:
            return self
        return self._replace(counts=tuple(count for count in self.counts if not is_exposure(count.feature)))

    def meets(self, is_silenced: Callable[[UserId], bool], is_forgotten: Callable[[UserId], bool]) -> bool:
        """Whether a count has a silenced user, or an access a forgotten one."""
        counted = any(is_silenced(count.user) for count in self.counts)
        return counted or any(is_forgotten(user) for use in self.accesses for user in use.users)


def uses_text(uses: int) -> str:
    """`1 use`, `2,000 uses`."""
    return "1 use" if uses == 1 else f"{uses:,} uses"


def text_of(text: str) -> str:
    """The value of a str. `str()` of a `str` subclass, such as an enum, may return another text."""
    return text if type(text) is str else str.__str__(text)


def check_display(text: object) -> str:
    """The value of a feature's name for people. Raises DeclarationError."""
    if not isinstance(text, str):
        raise DeclarationError(f"display= is a str, not {type(text).__name__}")
    text = text_of(text)
    if not 1 <= len(text) <= NAME_LENGTH or not text.isprintable() or not is_encodable(text):
        raise DeclarationError(f"display= is 1 to {NAME_LENGTH} characters that can be printed, not {text[:40]!r}")
    return text


def check_feature(name: object) -> str:
    """The value of a feature name. Raises FeatureNameError."""
    if type(name) is not str:
        if not isinstance(name, str):
            raise FeatureNameError(f"a feature name is a str, not {type(name).__name__}")
        name = text_of(name)
    if not 1 <= len(name) <= NAME_LENGTH:
        raise FeatureNameError(f"a feature name has 1 to {NAME_LENGTH} characters, not {len(name)}: {name[:40]!r}")
    if "\0" in name or not (name.isascii() or is_encodable(name)):
        raise FeatureNameError(f"a feature name holds no NUL and no lone surrogate: {name[:40]!r}")
    return name


def shortened(name: str) -> str:
    """A name that fits: its first characters and a hash of all of it, the same in every process and release."""
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.blake2s(name.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()
    return f"{name[: NAME_LENGTH - len(digest) - 1]}~{digest}"


def check_dimension(name: object) -> str:
    """The value of the name of a dimension. Raises DimensionError."""
    if not isinstance(name, str):
        raise DimensionError(f"the name of a dimension is a str, not {type(name).__name__}")
    name = text_of(name)
    if not 1 <= len(name) <= NAME_LENGTH or "\0" in name or not is_encodable(name):
        raise DimensionError(
            f"the name of a dimension has 1 to {NAME_LENGTH} characters, no NUL and no lone surrogate: {name[:40]!r}"
        )
    return name


def check_audit(audit: object) -> Audit:
    """The value of `audit=`. Raises ConfigurationError."""
    if audit is True or audit is False:
        return audit
    if audit == "required":
        return "required"
    raise ConfigurationError(f"audit= is True, False or 'required', not {audit!r}")


def canonical_user(kind: UserIdType) -> Callable[[UserId], UserId]:
    """A function that converts a user id to a column's type without loss (`"42"` to 42), or raises UserIdError."""
    return {"uuid": _as_uuid, "integer": _as_integer, "string": _as_string}[kind]


def _as_uuid(user: UserId) -> UserId:
    if isinstance(user, str):
        text = user.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
        try:
            user = UUID(user)
        except ValueError:
            user = UUID(int=0)
            text = ""
        # UUID() reads digits as int() does: it accepts "+1", "1_0" and the digits of other scripts.
        if user.hex != text:
            raise UserIdError("a user id of type uuid is a UUID or its text; this str is neither")
    if isinstance(user, UUID):
        if not user.int:
            raise UserIdError("the nil UUID is no user id")
        return user
    if user is None:
        return None
    raise UserIdError(f"the user id is of type {type(user).__name__}, the column holds UUIDs (user_id_type='uuid')")


def _as_integer(user: UserId) -> UserId:
    if isinstance(user, str):
        digits = user.removeprefix("-")
        # str.isdecimal accepts the digits of other scripts, int() accepts "1_0" and " 7". None reads back as written.
        if not (digits.isascii() and digits.isdecimal() and str(number := int(user[:20])) == user):
            raise UserIdError("a user id of type integer is an int or its decimal digits; this str is neither")
        user = number
    if isinstance(user, int):
        if not -(2**63) + 1 < user < 2**63:
            raise UserIdError("the user id is out of the range of BIGINT")
        return user
    if user is None:
        return None
    raise UserIdError(
        f"the user id is of type {type(user).__name__}, the column holds integers (user_id_type='integer')"
    )


def _as_string(user: UserId) -> UserId:
    if user is None:
        return None
    try:
        text = text_of(user) if isinstance(user, str) else str(user)
    except ValueError:  # an int of more digits than Python writes
        text = ""
    if not 1 <= len(text) <= STRING_ID_LENGTH or "\0" in text or not is_encodable(text):
        raise UserIdError(f"a user id of type string has 1 to {STRING_ID_LENGTH} characters and no NUL")
    return text


KeyLost: TypeAlias = Callable[[str, MetadataError], object]
"""Takes the key and the error of a value that is left out of metadata."""


def _ignore(key: str, error: MetadataError) -> None: ...


def keep_metadata(metadata: object, lost: KeyLost = _ignore) -> dict[str, Any] | str | None:
    """Metadata to keep: a copy of flat metadata, JSON text of nested metadata, None if it is empty.

    The host may change a nested value after the call, so nested metadata is encoded at once. Flat metadata is encoded
    later, off the host's thread. Raises MetadataError as encode_metadata does, and for other types than mappings.
    """
    if metadata is None:
        return None
    if not issubclass(type(metadata), Mapping):
        raise MetadataError(f"metadata is a mapping, not {type(metadata).__name__}")
    kept = dict(cast("Mapping[Any, Any]", metadata))
    if _SCALARS.issuperset(map(type, kept.values())) and _KEYS.issuperset(map(type, kept)):
        return kept or None
    return encode_metadata(kept, lost)


def fitting_metadata(metadata: dict[str, Any] | str, max_bytes: int, lost: KeyLost = _ignore) -> str:
    """Kept metadata as JSON text. Raises MetadataError as encode_metadata does, and for more than `max_bytes`."""
    text = metadata if isinstance(metadata, str) else encode_metadata(metadata, lost)
    if len(text.encode()) > max_bytes:
        raise MetadataError(f"metadata is larger than metadata_max_bytes ({max_bytes})")
    return text


def encode_metadata(metadata: Mapping[Any, Any], lost: KeyLost = _ignore) -> str:
    """JSON text that every database accepts.

    A value that cannot be stored is left out with its key, and goes to `lost`. Raises MetadataError if no key is left.
    """
    try:
        return _encode(metadata)
    except MetadataError as error:
        first = error
    kept = {}
    for key, value in metadata.items():
        try:
            name = _key_text(key)
            _encode({name: value})
        except MetadataError as error:
            lost(repr(key)[:40] if type(key) in _SCALARS else type(key).__name__, error)
        else:
            kept[name] = value
    if not kept:
        raise first
    return _encode(kept)


def _encode(metadata: Mapping[Any, Any]) -> str:
    try:
        text = json.dumps(metadata, default=_plain, allow_nan=False, separators=(",", ":"))
        deep = text.count("[") + text.count("{") > _MAX_DEPTH and _depth(json.loads(text)) > _MAX_DEPTH
        # json.dumps writes both as escapes, which PostgreSQL's jsonb refuses.
        storable = deep or not ("\\u0000" in text or "\\ud" in text) or _storable(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise MetadataError(f"metadata is no JSON: {error}") from None
    if deep:
        raise MetadataError(f"metadata is nested deeper than {_MAX_DEPTH} levels")
    if not storable:
        raise MetadataError("metadata holds a NUL character or a lone surrogate")
    return text


_MAX_DEPTH = 30  # MariaDB's limit is 32, and a merge adds a level


def _plain(value: Any) -> object:
    """A value of JSON for a value of a common type that JSON lacks."""
    kind = type(value)  # not isinstance: a lazy proxy would load its object
    if issubclass(kind, dt.date | dt.time):
        return value.isoformat()
    if issubclass(kind, enum.Enum):
        return value.value
    if issubclass(kind, set | frozenset):
        return sorted(value)
    if issubclass(kind, _TEXTUAL):
        return str(value)
    if issubclass(kind, os.PathLike):
        return os.fspath(value)
    if issubclass(kind, bytes | bytearray):
        return value.decode()  # or a UnicodeDecodeError, a ValueError
    if issubclass(kind, numbers.Integral):  # numpy's
        return operator.index(value)
    if issubclass(kind, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def plain_scalar(value: Any) -> str | int | float:
    """A number or text for a scalar of a common type. Raises DimensionError."""
    if type(value) in (int, float):
        return value  # type: ignore[no-any-return]
    if not issubclass(type(value), set | frozenset | bytes | bytearray):
        try:
            plain = _plain(value)
        except (TypeError, ValueError):
            plain = None
        if isinstance(plain, str | int | float):
            return plain
    raise DimensionError(f"a value of a dimension is a text, a number or a time, not {type(value).__name__}")


_TEXTUAL = (
    *(UUID, decimal.Decimal, dt.timedelta, ipaddress.IPv4Address, ipaddress.IPv6Address),
    *(ipaddress.IPv4Network, ipaddress.IPv6Network, ipaddress.IPv4Interface, ipaddress.IPv6Interface),
)


def _key_text(key: Any) -> str:
    kind = type(key)
    if issubclass(kind, str):
        return text_of(key)
    if key is None or issubclass(kind, bool | int | float):
        return json.dumps(key)
    plain = _plain(key) if issubclass(kind, enum.Enum | numbers.Integral | UUID | dt.date) else None
    if plain is None:
        raise MetadataError(f"a key of metadata is a str, not {type(key).__name__}")
    return _key_text(plain)


def _storable(value: Any) -> bool:
    kind = type(value)
    if issubclass(kind, str):
        return "\0" not in value and is_encodable(value)
    if issubclass(kind, Mapping):
        return all(_storable(key) and _storable(item) for key, item in value.items())
    if issubclass(kind, list | tuple | set | frozenset):
        return all(map(_storable, value))
    if issubclass(kind, enum.Enum):
        return _storable(value.value)
    return not issubclass(kind, bytes | os.PathLike) or _storable(_plain(value))


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def is_encodable(text: str) -> bool:
    """Whether a text has no lone surrogate, which databases refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bucket_start(moment: dt.datetime, bucket: Bucket | Literal["month"]) -> dt.datetime:
    """The start of the hour, day or month of a moment (UTC, naive)."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if bucket == "hour":
        return hour
    return hour.replace(hour=0, day=1) if bucket == "month" else hour.replace(hour=0)
