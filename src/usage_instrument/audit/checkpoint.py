"""A checkpoint: the last rows of all chains at one moment. Stored elsewhere, it reveals every later change of them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, and_, func, select

from usage_instrument.errors import AuditError

from . import admin_chain

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

VERSION = 1


class Head(NamedTuple):
    """The last row of a chain."""

    number: int
    link: str


class Checkpoint(NamedTuple):
    """The heads of all chains. A later change of any row before them shows in `verify`."""

    made_at: dt.datetime
    """UTC, naive."""
    heads: Mapping[UUID, Head]

    def to_json(self) -> str:
        """The exported form."""
        made_at = f"{self.made_at.isoformat()}Z"
        return json.dumps({"version": VERSION, "made_at": made_at, "heads": self.heads_as_json()}, indent=1)

    def heads_as_json(self) -> dict[str, list[Any]]:
        """Number and link by chain."""
        return {chain.hex: [head.number, head.link] for chain, head in sorted(self.heads.items())}

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        """A checkpoint from its exported form. Raises AuditError."""
        try:
            values = json.loads(text)
            if values["version"] != VERSION:
                raise AuditError(f"the checkpoint has version {values['version']}, this release reads {VERSION}")
            heads = {UUID(hex=chain): Head(int(number), str(link)) for chain, (number, link) in values["heads"].items()}
            return cls(dt.datetime.fromisoformat(values["made_at"].removesuffix("Z")), heads)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AuditError(f"this is no checkpoint of usage-instrument: {error!r}") from None


def make_checkpoint(connection: Connection, tables: Tables, key: str | None = None) -> Checkpoint:
    """The heads of all chains, also recorded in the trail. The caller commits, and stores the checkpoint elsewhere."""
    access = tables.access
    last = select(access.c.chain_id, func.max(access.c.number).label("number")).group_by(access.c.chain_id).subquery()
    heads = connection.execute(
        select(access.c.chain_id, access.c.number, access.c.link).join(
            last, and_(last.c.chain_id == access.c.chain_id, last.c.number == access.c.number)
        )
    )
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)
    made = Checkpoint(now, {UUID(int=row.chain_id.int): Head(row.number, row.link) for row in heads})
    record = {"chains": len(made.heads), "digest": admin_chain.digest(made.heads_as_json())}
    admin_chain.append(connection, tables, key, admin_chain.CHECKPOINT, record)
    return made
