"""Verifies the audit trail. Reports the first changed, missing, inserted or reordered row of each chain."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, select

from . import admin_chain
from .chain import MALFORMED, Row, first_links, has_seal, is_linked, link
from .checkpoint import Checkpoint, Head
from .trail import trail_id

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

FindingKind: TypeAlias = Literal["changed", "removed", "inserted", "reordered"]
_FETCH_ROWS = 2_000


class Finding(NamedTuple):
    """A place where a chain is inconsistent."""

    kind: FindingKind
    chain_id: UUID
    number: int
    detail: str


class Verification(NamedTuple):
    """The result of `verify`."""

    rows: int
    chains: int
    findings: tuple[Finding, ...]
    """The first of each chain; empty if the trail is consistent."""


def verify(
    connection: Connection, tables: Tables, key: str | None = None, checkpoint: Checkpoint | None = None
) -> Verification:
    """Read the whole trail in one pass. `key` is the setting `audit_key`; a checkpoint also reveals missing ends.

    While writers run, the transaction needs a snapshot of the database.
    """
    trail = trail_id(connection, tables)
    admin_rows = list(_read(connection, tables, admin_chain.ADMIN_CHAIN))
    records = admin_chain.Records(admin_rows, key, trail)
    truncations = {chain: Head(number, end) for chain, number, end in records.cuts}
    erasures = _erasures(records)
    heads = dict(checkpoint.heads) if checkpoint is not None else {}
    findings = [
        Finding("inserted", admin_chain.ADMIN_CHAIN, number, "its metadata is no record of an action")
        for number in records.malformed[:1]
    ]
    if checkpoint is not None and admin_chain.digest(checkpoint.heads_as_json()) not in records.checkpoints:
        detail = "the trail has no record of this checkpoint: it was removed, or the file belongs to another database"
        findings.append(Finding("removed", admin_chain.ADMIN_CHAIN, len(admin_rows) + 1, detail))
    inconsistent: list[tuple[_ChainCheck, Finding]] = []
    rows = 0
    seen: set[UUID] = set()
    for chain, members in itertools.groupby(_read(connection, tables), lambda row: UUID(int=row["chain_id"].int)):
        seen.add(chain)
        check = _ChainCheck(chain, key, trail, truncations.get(chain), heads.get(chain), erasures.get(chain, ()))
        found = check.run(members)
        rows += check.rows
        inconsistent += [(check, found)] if found is not None else []
    # Only now: some drivers take no other query while they stream a result.
    for check, found in inconsistent:
        if found.kind == "changed":
            found = check.classified(found, list(_read(connection, tables, found.chain_id, found.number)))
        findings.append(found)
    for chain in heads.keys() - seen:
        if chain not in truncations or truncations[chain].number < heads[chain].number:
            detail = "the checkpoint has rows of this chain, and the trail has none"
            findings.append(Finding("removed", chain, 1, detail))
    return Verification(rows, len(seen), tuple(findings))


def _read(connection: Connection, tables: Tables, chain: UUID | None = None, first: int = 0) -> Iterator[Row]:
    access = tables.access
    query = select(access).order_by(access.c.chain_id, access.c.number)
    if chain is not None:
        query = query.where(access.c.chain_id == chain, access.c.number >= first)
    for row in connection.execute(query, execution_options={"yield_per": _FETCH_ROWS}).mappings():
        yield {str(name): value for name, value in row.items()}


def _erasures(records: admin_chain.Records) -> dict[UUID, list[_Erasure]]:
    """The recorded erasures of each chain, the first record first."""
    found: dict[UUID, list[_Erasure]] = {}
    for name, part, chain, first, last in records.erasures:
        erasures = found.setdefault(chain, [])
        erasures.append(_Erasure(first, len(erasures), last, part, name))
    return found


class _Erasure(NamedTuple):
    """A recorded erasure of consecutive rows."""

    first: int
    record: int
    """Its position among those of the chain. The last one of a part decides."""
    last: int
    part: str
    name: str


class _ChainCheck:
    """The check of one chain, from its front."""

    def __init__(
        self,
        chain: UUID,
        key: str | None,
        trail: UUID | None,
        truncation: Head | None,
        head: Head | None,
        erasures: Sequence[_Erasure],
    ) -> None:
        self._chain = chain
        self._key = key
        self._head = head
        self._coming = sorted(erasures, reverse=True)  # the next one last
        self._current: list[_Erasure] = []
        self._before, self._legacy = first_links(key, chain, trail)
        if truncation is not None:
            self._before = self._legacy = truncation.link
        self._next = truncation.number + 1 if truncation is not None else 1
        self.rows = 0

    def run(self, rows: Iterator[Row]) -> Finding | None:
        """The first inconsistent row. Counts all rows."""
        found = None
        for row in rows:
            self.rows += 1
            found = found or self._check(row)
        if found is None and self._head is not None and self._next <= self._head.number:
            return self._finding("removed", self._next, f"the checkpoint has rows up to {self._head.number}")
        return found

    def _check(self, row: Row) -> Finding | None:
        number = row["number"]
        if self._before != self._legacy and number == self._next and is_linked(self._key, self._legacy, row):
            self._before = self._legacy  # of the release before
        if number < self._next:
            return self._finding("inserted", number, "it stands before the recorded start of the truncated chain")
        if number > self._next:
            last = number - 1
            missing = f"row {last} is" if last == self._next else f"rows {self._next} to {last} are"
            return self._finding("removed", self._next, f"{missing} missing")
        if not self._is_linked(row):
            return self._finding("changed", number, "its link does not match its content and the row before")
        if not has_seal(row, self._names(number)):
            return self._finding("changed", number, "its erased parts differ from the recorded erasures")
        if self._head is not None and number == self._head.number and row["link"] != self._head.link:
            return self._finding("changed", number, "the checkpoint has another row here: the chain was rewritten")
        self._before = self._legacy = row["link"]
        self._next = number + 1
        return None

    def _names(self, number: int) -> dict[str, str]:
        """The recorded pseudonyms of a row by part. Called for increasing numbers."""
        while self._coming and self._coming[-1].first <= number:
            self._current.append(self._coming.pop())
        self._current = sorted((one for one in self._current if number <= one.last), key=lambda one: one.record)
        return {erasure.part: erasure.name for erasure in self._current}

    def classified(self, found: Finding, rows: Sequence[Row]) -> Finding:
        """A finding of a changed row as what it is: changed, reordered, or inserted before its place."""
        by_number = {row["number"]: row for row in rows}
        wrong = rows[0]
        if self._is_linked(wrong):  # the checkpoint or the seal contradicts it
            return found
        for row in rows[1:]:
            try:
                link_here = link(self._key, self._before, row, found.number)
            except MALFORMED:
                continue
            if link_here == row["link"]:
                before = by_number.get(row["number"] - 1)
                previous = row if before is wrong or before is None else before
                if is_linked(self._key, previous["link"], {**wrong, "number": row["number"]}):
                    return found._replace(kind="reordered", detail=f"it has changed places with row {row['number']}")
                return found._replace(kind="inserted", detail=f"the row of this place is row {row['number']}")
            if link_here == wrong["link"]:
                return found._replace(kind="reordered", detail=f"the row of this place is row {row['number']}")
        return found

    def _is_linked(self, row: Row) -> bool:
        return is_linked(self._key, self._before, row)

    def _finding(self, kind: FindingKind, number: int, detail: str) -> Finding:
        return Finding(kind, self._chain, number, detail)
