"""The value types on their way to a row: a use, a count, a batch; and the folding of uses into counts."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from .errors import ConfigurationError, FeatureNameError, MetadataError, UserIdError
from .typing import Audit, Bucket, Outcome, UserId, UserIdType

NAME_LENGTH = 100
"""The longest feature name, in characters."""
STRING_ID_LENGTH = 255
"""The longest user id of type `string`, in characters."""
MAX_COUNT = 2**31 - 1
"""Where `usage_count` saturates: the largest INT."""
NIL: dict[UserIdType, UserId] = {"uuid": UUID(int=0), "integer": -(2**63) + 1, "string": ""}
"""Stands in for NULL in the unique index, so it is no user's id."""

_KEYS = frozenset({str})
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Access(NamedTuple):
    """What the audit trail says of a use, besides its feature, its user and its metadata."""

    id: UUID
    """The same in all that is recorded of one access."""
    outcome: Outcome
    occurred_at: int
    """Microseconds since 1970."""
    actor: UserId = None
    """Who really acted, where somebody acts as the user; None is the user."""
    request_id: str | None = None


class Use(NamedTuple):
    """A use that is more than its user: metadata (flat scalars, or JSON text), a number, a name made at run time."""

    feature: str
    user: UserId
    metadata: dict[str, Any] | str | None = None
    uses: int = 1
    """0 is an access that is no use, such as a denial."""
    access: Access | None = None
    """What the audit trail is to hold of it, if the feature is audited."""

    @property
    def weight(self) -> int:
        """How many uses wait with it: an access that is no use is to be written as well."""
        return max(self.uses, 1)

    @property
    def users(self) -> tuple[UserId, ...]:
        """Whom it tells of: the user, and who acted as them."""
        return (self.user,) if self.access is None else (self.user, self.access.actor)


class Count(NamedTuple):
    """The uses of one feature by one user, folded: what one row of `feature_usage` gains."""

    feature: str
    user: UserId
    uses: int
    last_used: dt.datetime
    """UTC, naive, as the column is."""
    metadata: str | None = None
    """A JSON object as text."""
    history: tuple[tuple[dt.datetime, int], ...] = ()
    """Uses by the start of their bucket; they add up to `uses`."""


class Loss(NamedTuple):
    """Uses that were dropped or rejected on one day (UTC), and why."""

    day: dt.date
    reason: str
    uses: int


class Batch(NamedTuple):
    """What one transaction applies, once: frozen before its first attempt."""

    number: int
    counts: tuple[Count, ...]
    losses: tuple[Loss, ...] = ()
    accesses: tuple[Use, ...] = ()
    """For the audit trail: their users are canonical, their metadata is text. No batch has counts and accesses."""

    @property
    def uses(self) -> int:
        """How many uses the batch carries."""
        return sum(count.uses for count in self.counts)

    def meets(self, is_silenced: Callable[[UserId], bool], is_forgotten: Callable[[UserId], bool]) -> bool:
        """Whether it counts somebody who is silenced, or tells of an access of somebody who is forgotten."""
        counted = any(is_silenced(count.user) for count in self.counts)
        return counted or any(is_forgotten(user) for use in self.accesses for user in use.users)


def in_words(uses: int) -> str:
    """`1 use`, `2,000 uses`."""
    return "1 use" if uses == 1 else f"{uses:,} uses"


def check_feature(name: object) -> str:
    """The name itself, if it can be a feature's; raises FeatureNameError."""
    if not isinstance(name, str):
        raise FeatureNameError(f"a feature name is a str, not {type(name).__name__}")
    if not 1 <= len(name) <= NAME_LENGTH:
        raise FeatureNameError(f"a feature name has 1 to {NAME_LENGTH} characters, not {len(name)}: {name[:40]!r}")
    if "\0" in name or not _encodable(name):
        raise FeatureNameError(f"a feature name holds no NUL and no lone surrogate: {name[:40]!r}")
    return str(name)


def check_audit(audit: object) -> Audit:
    """The value itself, if it can be that of `audit=`. Raises ConfigurationError."""
    if audit is True or audit is False or audit == "required":
        return audit
    raise ConfigurationError(f"audit= is True, False or 'required', not {audit!r}")


def canonical_user(kind: UserIdType) -> Callable[[UserId], UserId]:
    """The lossless coercion to a column's type (`"42"` to 42, text to UUID); what it returns raises UserIdError."""
    return {"uuid": _as_uuid, "integer": _as_integer, "string": _as_string}[kind]


def _as_uuid(user: UserId) -> UserId:
    if isinstance(user, str):
        text = user.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
        try:
            user = UUID(user)
        except ValueError:
            user = UUID(int=0)
            text = ""
        # UUID() reads its digits as int() does, which takes "+1", "1_0" and other scripts' digits as well.
        if user.hex != text:
            raise UserIdError("a user id of type uuid is a UUID or its text; this str is neither")
    if isinstance(user, UUID):
        if not user.int:
            raise UserIdError("the nil UUID is no user")
        return user
    if user is None:
        return None
    raise UserIdError(f"the user id is of type {type(user).__name__}, the column holds UUIDs (user_id_type='uuid')")


def _as_integer(user: UserId) -> UserId:
    if isinstance(user, str):
        digits = user.removeprefix("-")
        # str.isdecimal knows other scripts' digits, and int() takes "1_0" and " 7": neither reads back as written.
        if not (digits.isascii() and digits.isdecimal() and str(number := int(user[:20])) == user):
            raise UserIdError("a user id of type integer is an int or its decimal digits; this str is neither")
        user = number
    if isinstance(user, int):
        if not -(2**63) + 1 < user < 2**63:
            raise UserIdError("the user id is outside of what BIGINT holds")
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
        text = str(user)
    except ValueError:  # an int of more digits than Python writes
        text = ""
    if not 1 <= len(text) <= STRING_ID_LENGTH or "\0" in text or not _encodable(text):
        raise UserIdError(f"a user id of type string has 1 to {STRING_ID_LENGTH} characters and no NUL")
    return text


def keep_metadata(metadata: object) -> dict[str, Any] | str | None:
    """Metadata as it may wait: a copy when it is flat, JSON text otherwise, None when empty.

    The host may change a nested value right after the call, so that is encoded at once; a flat one is
    encoded later, off the host's thread. Raises MetadataError for what is no JSON object.
    """
    if metadata is None:
        return None
    if type(metadata) is not dict and not isinstance(metadata, Mapping):
        raise MetadataError(f"metadata is a mapping, not {type(metadata).__name__}")
    kept = dict(metadata)
    if not _KEYS.issuperset(map(type, kept)):
        raise MetadataError("the keys of metadata are str")
    if _SCALARS.issuperset(map(type, kept.values())):
        return kept or None
    return encode_metadata(kept)


def fitting_metadata(metadata: dict[str, Any] | str, max_bytes: int) -> str:
    """Kept metadata as JSON text. Raises MetadataError for what JSON cannot carry and for more than `max_bytes`."""
    text = metadata if isinstance(metadata, str) else encode_metadata(metadata)
    if len(text.encode()) > max_bytes:
        raise MetadataError(f"metadata is larger than metadata_max_bytes ({max_bytes})")
    return text


def encode_metadata(metadata: Mapping[str, Any]) -> str:
    """JSON text that every database takes; raises MetadataError for NaN, NUL, lone surrogates and the like."""
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


_MAX_DEPTH = 30  # MariaDB's limit is 32, and merging wraps a level


def _plain(value: object) -> object:
    """What JSON lacks but every web app passes around."""
    if isinstance(value, UUID | decimal.Decimal):
        return str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _storable(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and _encodable(value)
    if isinstance(value, Mapping):
        return all(_storable(key) and _storable(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_storable, value))
    if isinstance(value, enum.Enum):
        return _storable(value.value)
    return True


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bucket_start(moment: dt.datetime, bucket: Bucket) -> dt.datetime:
    """The start of the hour or the day that a moment (UTC, naive) lies in."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour if bucket == "hour" else hour.replace(hour=0)
