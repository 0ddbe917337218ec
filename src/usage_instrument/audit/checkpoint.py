"""A checkpoint: the ends of all chains at one moment, to be kept where who may change the database may not."""

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
    """The end of a chain."""

    number: int
    link: str


class Checkpoint(NamedTuple):
    """What cannot change any more without being noticed by whoever has it."""

    made_at: dt.datetime
    """UTC, naive."""
    heads: Mapping[UUID, Head]

    def to_json(self) -> str:
        """As it is exported."""
        return json.dumps(
            {"version": VERSION, "made_at": f"{self.made_at.isoformat()}Z", "heads": self.in_lines()}, indent=1
        )

    def in_lines(self) -> dict[str, list[Any]]:
        """The heads as JSON has them."""
        return {chain.hex: [head.number, head.link] for chain, head in sorted(self.heads.items())}

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        """One that was exported. Raises AuditError."""
        try:
            said = json.loads(text)
            if said["version"] != VERSION:
                raise AuditError(f"the checkpoint is of version {said['version']}, this release reads {VERSION}")
            heads = {UUID(hex=chain): Head(int(number), str(link)) for chain, (number, link) in said["heads"].items()}
            return cls(dt.datetime.fromisoformat(said["made_at"].removesuffix("Z")), heads)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AuditError(f"this is no checkpoint of usage-instrument: {error!r}") from None


def make_checkpoint(connection: Connection, tables: Tables, key: str | None = None) -> Checkpoint:
    """The ends of all chains by now, noted in the trail; the caller commits, and keeps what is returned elsewhere."""
    access = tables.access
    last = select(access.c.chain_id, func.max(access.c.number).label("number")).group_by(access.c.chain_id).subquery()
    ends = connection.execute(
        select(access.c.chain_id, access.c.number, access.c.link).join(
            last, and_(last.c.chain_id == access.c.chain_id, last.c.number == access.c.number)
        )
    )
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)
    made = Checkpoint(now, {UUID(int=row.chain_id.int): Head(row.number, row.link) for row in ends})
    record = {"chains": len(made.heads), "digest": admin_chain.digest(made.in_lines())}
    admin_chain.append(connection, tables, key, admin_chain.CHECKPOINT, record)
    return made
