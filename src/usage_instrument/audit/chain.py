"""The links of a chain: each is a hash over its row and the link before, so that nothing changes unseen.

What identifies a person is in the hash by salted digests of its own. To forget somebody is then to replace the id and
to keep its digest: the links still hold, and the digest tells nobody who it was.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any
from uuid import UUID, uuid4

from usage_instrument.events import Use
from usage_instrument.typing import UserId

PARTS = ("user", "actor", "details")
"""What of a row tells of persons: each has a digest of its own, by a salt of its own."""

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are
_FIRST = b"usage-instrument audit trail 1"

_encoders: dict[type, Callable[[Any], str]] = {str: encode_basestring_ascii, int: str}

Row = Mapping[str, Any]
"""The columns of `feature_usage_access` by their names."""


class Chain:
    """What one writer appends to, alone: so processes never wait for each other."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self.chain_id = uuid4()
        self.number = 0
        """The last row that is known to be committed."""
        self.link = first_link(key, self.chain_id)

    def rows(self, uses: Sequence[Use], service: str) -> list[dict[str, Any]]:
        """The rows that these accesses are, if nothing else is appended before."""
        number, before, rows = self.number, self.link, []
        for use in uses:
            number += 1
            row = row_of(use, service, self.chain_id, number)
            before = row["link"] = link(self._key, before, row)
            rows.append(row)
        return rows

    def appended(self, rows: Sequence[Row]) -> None:
        """These rows, made here, are committed."""
        if rows:
            self.number, self.link = rows[-1]["number"], rows[-1]["link"]


def row_of(use: Use, service: str, chain_id: UUID, number: int) -> dict[str, Any]:
    """An access as a row without its link. Raises ValueError for a use that is none."""
    access = use.access
    if access is None:
        raise ValueError(f"{use.feature!r} was not audited")
    return {
        "chain_id": chain_id,
        "number": number,
        "occurred_at": _EPOCH + dt.timedelta(microseconds=access.occurred_at),
        "access_id": access.id,
        "user_id": use.user,
        "actor_id": access.actor,
        "feature_name": use.feature,
        "outcome": access.outcome,
        "request_id": access.request_id,
        "service": service,
        "metadata": use.metadata,
        "seal": secrets.token_hex(16),
    }


def first_link(key: str | None, chain_id: UUID) -> str:
    """What stands before the first row of a chain."""
    return _hash(key, _FIRST + chain_id.bytes)


def link(key: str | None, before: str, row: Row, number: int | None = None) -> str:
    """The link of a row behind another link; with `number`, as if it were in that place."""
    content = [
        before,
        row["chain_id"].hex,
        row["number"] if number is None else number,
        row["occurred_at"].isoformat(),
        row["access_id"].hex,
        row["feature_name"],
        row["outcome"],
        row["service"],
        *_digests(row).values(),
    ]
    return _hash(key, _encoded(content).encode("ascii"))


def is_erased(row: Row) -> bool:
    """Whether the row has a digest where it had told of somebody."""
    return str(row["seal"]).startswith("{")


def erased(row: Row, parts: Collection[str], pseudonym: str) -> dict[str, Any]:
    """The columns that a row has instead, to tell of these parts no more. Its link still holds: the digests stay, and
    what they were salted with is gone."""
    salts, digests = _seal_of(row)
    made = _digests(row)
    digests = {**digests, **{part: made[part] for part in parts}}
    names = {**_names_of(row), **dict.fromkeys(parts, pseudonym)}
    return {
        "user_id": None if "user" in digests else row["user_id"],
        "actor_id": None if "actor" in digests else row["actor_id"],
        "request_id": None if "details" in digests else row["request_id"],
        "metadata": None if "details" in digests else row["metadata"],
        "seal": _seal(salts, digests, names),
    }


def has_seal(row: Row, names: Mapping[str, str]) -> bool:
    """Whether an erased row's seal is to the letter what these pseudonyms, by part, make it: no link holds them."""
    salts, digests = _seal_of(row)
    return digests.keys() == names.keys() and row["seal"] == _seal(salts, digests, names)


def pseudonym_of(row: Row, part: str) -> str | None:
    """What stands for a person whom a part of the row does not name any more."""
    return _names_of(row).get(part)


def _seal(salts: Mapping[str, str], digests: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Parts in one order, whichever of them was erased first."""
    seal = {
        "salts": {part: salts.get(part, "") for part in PARTS if part not in digests},
        "digests": {part: digests[part] for part in PARTS if part in digests},
        "names": {part: names[part] for part in PARTS if part in names},
    }
    return json.dumps(seal, separators=(",", ":"))


def _names_of(row: Row) -> dict[str, str]:
    if not is_erased(row):
        return {}
    try:
        return dict(json.loads(row["seal"])["names"])
    except (ValueError, KeyError, TypeError):  # no writer's: `verify` says so
        return {}


def _seal_of(row: Row) -> tuple[dict[str, str], dict[str, str]]:
    """The salts of a row's parts, and the digests of those that it does not tell any more."""
    if not is_erased(row):
        return {part: hashlib.sha256(f"{row['seal']} {part}".encode()).hexdigest() for part in PARTS}, {}
    try:
        seal = json.loads(row["seal"])
        return dict(seal["salts"]), dict(seal["digests"])
    except (ValueError, KeyError, TypeError):  # no writer's; then no link holds
        return {}, {}


def _digests(row: Row) -> dict[str, str]:
    values: dict[str, Sequence[str | None] | None] = {
        "user": _identity(row["user_id"]),
        "actor": _identity(row["actor_id"]),
        "details": [row["request_id"], row["metadata"]],
    }
    salts, digests = _seal_of(row)
    found = {}
    for part, value in values.items():
        is_told = value not in (None, [None, None])
        # What has a digest tells nothing, so that nothing can be put in its place.
        found[part] = _digest(salts.get(part, ""), value) if is_told or part not in digests else str(digests[part])
    return found


def _hash(key: str | None, content: bytes) -> str:
    if key is None:
        return hashlib.sha256(content).hexdigest()
    return hmac.digest(key.encode(), content, "sha256").hex()


def _encoded(values: Sequence[str | int | None]) -> str:
    """These as JSON, compact and in ASCII; json.dumps makes an encoder each time, and this is done four times a row."""
    return f"[{','.join(['null' if value is None else _encoders[type(value)](value) for value in values])}]"


def _digest(salt: str, value: Sequence[str | None] | None) -> str:
    text = "null" if value is None else _encoded(value)
    return hashlib.sha256(f"{salt} {text}".encode()).hexdigest()


def _identity(user: UserId) -> list[str] | None:
    """An id that tells its type: 7 and "7" are different people."""
    if user is None:
        return None
    kind = "uuid" if isinstance(user, UUID) else "integer" if isinstance(user, int) else "string"
    return [kind, str(user)]
