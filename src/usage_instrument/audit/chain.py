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
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from ..events import Use
from ..typing import UserId

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are
_FIRST = b"usage-instrument audit trail 1"

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
    salt = row["seal"]
    content = [
        before,
        row["chain_id"].hex,
        row["number"] if number is None else number,
        row["occurred_at"].isoformat(),
        row["access_id"].hex,
        row["feature_name"],
        row["outcome"],
        row["service"],
        _digest(salt, "user", _identity(row["user_id"])),
        _digest(salt, "actor", _identity(row["actor_id"])),
        _digest(salt, "details", [row["request_id"], row["metadata"]]),
    ]
    return _hash(key, json.dumps(content, separators=(",", ":")).encode("ascii"))


def _hash(key: str | None, content: bytes) -> str:
    if key is None:
        return hashlib.sha256(content).hexdigest()
    return hmac.digest(key.encode(), content, "sha256").hex()


def _digest(salt: str, part: str, value: object) -> str:
    return hashlib.sha256(f"{salt} {part} {json.dumps(value, separators=(',', ':'))}".encode()).hexdigest()


def _identity(user: UserId) -> list[str] | None:
    """An id that tells its type: 7 and "7" are different people."""
    if user is None:
        return None
    kind = "uuid" if isinstance(user, UUID) else "integer" if isinstance(user, int) else "string"
    return [kind, str(user)]
