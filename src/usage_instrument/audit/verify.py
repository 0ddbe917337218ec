"""Whether the trail is what its writers wrote; if not, the first row of each chain that is not theirs, or not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, select

from . import admin_chain
from .chain import PARTS, Row, first_link, has_seal, is_erased, link
from .checkpoint import Checkpoint, Head

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

Kind: TypeAlias = Literal["changed", "removed", "inserted", "reordered"]
_ROWS = 2_000  # that are read at a time


class Finding(NamedTuple):
    """Where a chain does not hold."""

    kind: Kind
    chain_id: UUID
    number: int
    """The place in the chain."""
    detail: str


class Verified(NamedTuple):
    """What a look at the whole trail found."""

    rows: int
    chains: int
    findings: tuple[Finding, ...]
    """The first of each chain; none, if the trail holds."""


def verify(
    connection: Connection, tables: Tables, key: str | None = None, checkpoint: Checkpoint | None = None
) -> Verified:
    """Read the whole trail, in one pass. `key` is the setting `audit_key`; with a checkpoint, what it has seen has to
    be there still. Beside writers, in a transaction that sees one state of the database."""
    stewards = list(_read(connection, tables, admin_chain.STEWARD))
    cuts, erasures = _cuts(stewards), _erasures(stewards)
    heads = dict(checkpoint.heads) if checkpoint is not None else {}
    findings = _unknown(checkpoint, stewards)
    wrong: list[tuple[_Chain, Finding]] = []
    rows = chains = 0
    seen: set[UUID] = set()
    for chain, members in itertools.groupby(_read(connection, tables), lambda row: UUID(int=row["chain_id"].int)):
        chains += 1
        seen.add(chain)
        look = _Chain(chain, key, cuts.get(chain), heads.get(chain), erasures.get(chain, ()))
        found = look.check(members)
        rows += look.rows
        wrong += [(look, found)] if found is not None else []
    # Now, as some drivers take no other question while they stream an answer.
    for look, found in wrong:
        if found.kind == "changed":
            found = look.told_apart(found, list(_read(connection, tables, found.chain_id, found.number)))
        findings.append(found)
    for chain in heads.keys() - seen:
        if chain not in cuts or cuts[chain].number < heads[chain].number:
            detail = "the checkpoint has seen this chain, and no row of it is left"
            findings.append(Finding("removed", chain, 1, detail))
    return Verified(rows, chains, tuple(findings))


def _read(
    connection: Connection, tables: Tables, chain: UUID | None = None, since: int = 0
) -> Iterator[Mapping[str, Any]]:
    access = tables.access
    asked = select(access).order_by(access.c.chain_id, access.c.number)
    if chain is not None:
        asked = asked.where(access.c.chain_id == chain, access.c.number >= since)
    for row in connection.execute(asked, execution_options={"yield_per": _ROWS}).mappings():
        yield {str(name): value for name, value in row.items()}


def _cuts(stewards: Sequence[Row]) -> dict[UUID, Head]:
    """Where the chains were cut last. Whether the records hold is looked at with all other chains."""
    found: dict[UUID, Head] = {}
    for record in admin_chain.records(iter(stewards), admin_chain.CUT):
        for chain, (number, end) in record["cuts"].items():
            found[UUID(hex=chain)] = Head(number, end)
    return found


def _erasures(stewards: Sequence[Row]) -> dict[UUID, list[_Erasure]]:
    """Which rows tell of somebody no more, as recorded, the first record first."""
    found: dict[UUID, list[_Erasure]] = {}
    for record in admin_chain.records(iter(stewards), admin_chain.ERASURE):
        for part in PARTS:
            for chain, spans in record[part].items():
                mine = found.setdefault(UUID(hex=chain), [])
                mine += (_Erasure(first, len(mine), last, part, record["name"]) for first, last in spans)
    return found


def _unknown(checkpoint: Checkpoint | None, stewards: Sequence[Row]) -> list[Finding]:
    if checkpoint is None:
        return []
    wanted = admin_chain.digest(checkpoint.in_lines())
    if any(record["digest"] == wanted for record in admin_chain.records(iter(stewards), admin_chain.CHECKPOINT)):
        return []
    detail = "the trail does not know this checkpoint: its record was removed, or the file is another database's"
    return [Finding("removed", admin_chain.STEWARD, len(stewards) + 1, detail)]


class _Erasure(NamedTuple):
    """What was recorded of a stretch of rows."""

    first: int
    record: int
    """The place among those of the chain: of two that speak of one part, the later one holds."""
    last: int
    part: str
    name: str


class _Chain:
    """One chain, looked at from its front."""

    def __init__(
        self, chain: UUID, key: str | None, cut: Head | None, head: Head | None, erasures: Sequence[_Erasure]
    ) -> None:
        self._chain = chain
        self._erasures = sorted(erasures, reverse=True)  # those to come, the next one last
        self._erased: list[_Erasure] = []
        self._key = key
        self._head = head
        self._before = cut.link if cut is not None else first_link(key, chain)
        self._next = cut.number + 1 if cut is not None else 1
        self.rows = 0

    def check(self, rows: Iterator[Row]) -> Finding | None:
        """The first row that does not hold; all are counted."""
        found = None
        for row in rows:
            self.rows += 1
            found = found or self._check(row)
        if found is None and self._head is not None and self._next <= self._head.number:
            return self._finding("removed", self._next, f"the checkpoint has seen rows up to {self._head.number}")
        return found

    def _check(self, row: Row) -> Finding | None:
        number = row["number"]
        if number < self._next:
            return self._finding("inserted", number, "it stands before the place where the chain was cut")
        if number > self._next:
            last = number - 1
            missing = f"row {last} is" if last == self._next else f"rows {self._next} to {last} are"
            return self._finding("removed", self._next, f"{missing} missing")
        if not self._holds(row):
            return self._finding("changed", number, "its link is not that of its content and of the row before")
        if is_erased(row) and not has_seal(row, self._names(number)):
            return self._finding("changed", number, "whom it told of was erased otherwise than the trail has recorded")
        if self._head is not None and number == self._head.number and row["link"] != self._head.link:
            return self._finding("changed", number, "the checkpoint has seen another row here: it was rewritten")
        self._before, self._next = row["link"], number + 1
        return None

    def _names(self, number: int) -> dict[str, str]:
        """The pseudonyms in a row, by part, as recorded; it is asked for one row after the other."""
        while self._erasures and self._erasures[-1].first <= number:
            self._erased.append(self._erasures.pop())
        self._erased = sorted((one for one in self._erased if number <= one.last), key=lambda one: one.record)
        return {erasure.part: erasure.name for erasure in self._erased}

    def told_apart(self, found: Finding, rows: Sequence[Row]) -> Finding:
        """A row that does not hold, by what stands behind it: changed itself, or in the place of another one."""
        by_number = {row["number"]: row for row in rows}
        wrong = rows[0]
        if self._holds(wrong):  # as it is, it holds: so it is the checkpoint that knows better
            return found
        for row in rows[1:]:
            at_home = link(self._key, self._before, row, found.number)
            if at_home == row["link"]:
                before = by_number.get(row["number"] - 1)
                previous = row if before is wrong or before is None else before
                if link(self._key, previous["link"], wrong, row["number"]) == wrong["link"]:
                    return found._replace(kind="reordered", detail=f"it has changed places with row {row['number']}")
                return found._replace(kind="inserted", detail=f"what belongs here stands in row {row['number']}")
            if at_home == wrong["link"]:
                return found._replace(kind="reordered", detail=f"what belongs here stands in row {row['number']}")
        return found

    def _holds(self, row: Row) -> bool:
        return bool(link(self._key, self._before, row) == row["link"])

    def _finding(self, kind: Kind, number: int, detail: str) -> Finding:
        return Finding(kind, self._chain, number, detail)
