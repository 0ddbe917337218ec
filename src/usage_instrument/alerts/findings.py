"""What a rule finds in the database now."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select, union

from usage_instrument.audit.anomalies import anomalies
from usage_instrument.database import outbox
from usage_instrument.database.inspection import audit_problem
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.reflection import is_readable
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.events import STRING_ID_LENGTH
from usage_instrument.pipeline.journal import status
from usage_instrument.queries.questions import Question

from .rules import LOSSES, ROWS, TRAIL, Limit, Rule, search_of

_FACTS = frozenset({"change", "count", "share", "day", "time", "status"})
"""The kinds of columns that a report shows beside the subject. None of them names a person."""
_KEYS = frozenset({"feature", "user", "variant"})


@dataclass(frozen=True)
class Finding:
    """Something that is worth an alert."""

    label: str | None
    """What it is about; without users."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    user_id: str | None = field(default=None, repr=False)


def findings(connection: Connection, tables: Tables, rule: Rule) -> dict[str, Finding]:
    """What the rule finds, by subject. Raises UsageInstrumentError, and errors of the database."""
    question, limit = rule.question, rule.limit
    if isinstance(question, Question):
        given = question.decided(connection, tables, rule.given)
        question.check_history(connection, tables, given)
        rows = [dict(row) for row in connection.execute(question.query(given, tables)).mappings()]
        if limit is not None and limit.column == ROWS:
            return {"": Finding(None, {ROWS: len(rows)})} if limit.is_passed(len(rows)) else {}
        found: dict[str, Finding] = {}
        for row in rows:
            if limit is None or _is_passed(limit, question, row):
                subject, finding = _finding(rule, question, row)
                found.setdefault(subject, finding)
        return found
    if question == TRAIL:
        return _of_trail(connection, tables, rule)
    numbers = _losses(connection, tables, rule) if question == LOSSES else _pending(connection, tables, rule)
    return {
        label or "": Finding(label, {"uses": uses}) for label, uses in numbers if limit is None or limit.is_passed(uses)
    }


def unknown_feature(connection: Connection, tables: Tables, rule: Rule) -> str | None:
    """The feature of a rule that was neither used nor declared, and so is probably misspelt."""
    names = rule.given.get("features") or [rule.given.get("feature")]
    for name in names:
        if name is not None:
            known = union(
                *(
                    select(each.c.feature_name).where(each.c.feature_name == name)
                    for each in (tables.usage, tables.catalog)
                )
            )
            if connection.execute(known).first() is None:
                return str(name)
    return None


def _is_passed(limit: Limit, question: Question, row: Mapping[str, Any]) -> bool:
    value = row[limit.column]
    is_running = any(row[name] for name in question.names_of("running"))
    if value is None or (is_running and limit.below is not None):  # what has not ended may still grow
        return False
    return limit.is_passed(float(value))


def _finding(rule: Rule, question: Question, row: Mapping[str, Any]) -> tuple[str, Finding]:
    """A row as what an alert is about, by which the next run finds it again."""
    kinds = {column.name: column.kind for column in question.columns_of(rule.given.get("compare"))}
    # What no column describes is the group that `adoption --by` asks for.
    keys = {name: value for name, value in row.items() if name not in kinds or kinds[name] in _KEYS}
    users = {name for name in keys if kinds.get(name) == "user"}
    shown = [str(value) for name, value in keys.items() if name not in users and value is not None]
    subject = "\x1f".join(str(value) for value in keys.values()) if keys else ""
    if users or len(subject) > STRING_ID_LENGTH:
        # So the table of alerts holds no user ids, and there is nothing to erase.
        subject = hashlib.sha256(f"{rule.name}\x1f{subject}".encode()).hexdigest()
    user_id = next((str(keys[name]) for name in users if keys[name] is not None), None)
    facts = {name: _json(value) for name, value in row.items() if kinds.get(name) in _FACTS and value is not None}
    return subject, Finding(" ".join(shown) or None, facts, user_id if rule.identities else None)


def _of_trail(connection: Connection, tables: Tables, rule: Rule) -> dict[str, Finding]:
    """What stands out in the audit trail, each kind, person and feature once. Raises SchemaError."""
    problem = audit_problem(connection, tables)
    if problem is not None:
        raise SchemaError(problem)
    found: dict[str, Finding] = {}
    for each in anomalies(connection, tables, search_of(rule.given)):
        if rule.given["what"] in (None, each.what):
            about = f"{each.what} {each.feature_name or ''}".strip()
            subject = hashlib.sha256(f"{rule.name}\x1f{about}\x1f{each.user_id}".encode()).hexdigest()
            facts = {name: getattr(each, name) for name in ("day", "accesses", "usual", "score")}
            user_id = str(each.user_id) if rule.identities and each.user_id is not None else None
            shown = {name: _json(value) for name, value in facts.items() if value is not None}
            found.setdefault(subject, Finding(about, shown, user_id))
    return found


def _losses(connection: Connection, tables: Tables, rule: Rule) -> Iterator[tuple[str | None, float]]:
    """Lost uses by reason."""
    losses, since = tables.losses, rule.given["since"]
    first = (utcnow() - since + dt.timedelta(days=1)).date()
    query = select(losses.c.reason, func.sum(losses.c.uses)).where(losses.c.day >= first).group_by(losses.c.reason)
    for name in ("reason", "service"):
        if rule.given[name] is not None:
            query = query.where(losses.c[name] == rule.given[name])
    for reason, uses in connection.execute(query):
        yield reason, int(uses)


def _pending(connection: Connection, tables: Tables, rule: Rule) -> Sequence[tuple[str | None, float]]:
    """Uses in the outbox, and in the journals of this machine if the rule names their directory."""
    waiting = outbox.waiting(connection, tables) if is_readable(connection, tables.outbox) else 0
    root = rule.given["journal"]
    try:
        journals = [] if root is None else [*status(root)]
    except OSError as error:
        raise ConfigurationError(f"the journals in {root} cannot be read: {error.strerror}") from None
    return [(None, waiting + sum(each.pending + each.in_batches for each in journals))]


def _json(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return f"{value.isoformat(timespec='seconds')}Z"
    if isinstance(value, dt.date):
        return value.isoformat()
    return value if isinstance(value, bool | int | str) else float(value)
