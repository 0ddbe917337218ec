"""The gate as a state machine: every transition of its table, and random sequences of faults on a real database."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reading import all_of, made
from usage_instrument import AuditUnavailable, Settings
from usage_instrument.audit.gate import TRANSITIONS, Event, Gate, State
from usage_instrument.audit.verify import verify
from usage_instrument.database.engines import connect_committing
from usage_instrument.events import Access, Use, canonical_user

PATIENT, IMPATIENT = Settings(audit_timeout=30), Settings(audit_timeout=0.1)


class Lost(Exception):
    """What a driver raises whose connection ended before the answer came."""


def lost() -> sa.exc.OperationalError:
    return sa.exc.OperationalError("INSERT", {}, Lost("the connection has ended"))


class Faulty:
    """A connector that injects faults into the runs that insert; `faults` holds one for each attempt, in order."""

    def __init__(self, real: Any, faults: list[Callable[[Callable[[], None]], None]]) -> None:
        self._real = real
        self._faults = faults
        self.dialect_name = real.dialect_name

    def run(self, work: Callable[[sa.Connection], Any]) -> Any:
        if getattr(work, "keywords", {}).get("rows") is None or not self._faults:
            return self._real.run(work)
        return self._faults.pop(0)(lambda: self._real.run(work))

    def dispose(self) -> None:
        self._real.dispose()


def applied_in_doubt(insert: Callable[[], None]) -> None:
    insert()
    raise lost()


def not_applied_in_doubt(insert: Callable[[], None]) -> None:
    raise lost()


def forbidden(insert: Callable[[], None]) -> None:
    raise sa.exc.StatementError("a column is missing", "INSERT", {}, None)


class GateMachine(RuleBasedStateMachine):
    """Calls with faults in between: a call goes through only with its row, no row is there twice, the chains hold."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self._url = f"sqlite:///{Path(self._directory.name) / 'usage.db'}"
        self._engine = sa.create_engine(self._url)
        self._tables = made(self._engine)
        self._faults: list[Callable[[Callable[[], None]], None]] = []
        self._admitted: set[uuid.UUID] = set()
        self._refused: set[uuid.UUID] = set()
        self._in_doubt: set[uuid.UUID] = set()
        """Refused calls whose row may be there: `attempted` rows without a call."""
        self._gate = self._made()

    def _made(self) -> Gate:
        def connect() -> Any:
            return Faulty(connect_committing(sa.make_url(self._url), 5), self._faults)

        return Gate(PATIENT, canonical_user("uuid"), connect, lambda: self._tables)

    def _call(self, *, may_stand: bool = False) -> bool:
        access = Access(uuid.uuid4(), "attempted", 1_700_000_000_000_000)
        try:
            self._gate.admit(Use("open_vault", uuid.UUID(int=7), None, 0, access))
        except AuditUnavailable:
            (self._in_doubt if may_stand else self._refused).add(access.id)
            return False
        self._admitted.add(access.id)
        return True

    @rule()
    def call(self) -> None:
        assert self._call()

    @rule(faults=st.lists(st.sampled_from([applied_in_doubt, not_applied_in_doubt]), min_size=1, max_size=3))
    def lose_answers(self, faults: list[Any]) -> None:
        self._faults += faults
        assert self._call()
        self._faults.clear()  # the second attempt at a row that is there ends the call

    @rule(was_in_doubt=st.booleans())
    def refuse(self, was_in_doubt: bool) -> None:
        self._faults += [*([not_applied_in_doubt] if was_in_doubt else []), forbidden]
        assert not self._call()

    @rule()
    def refuse_after_it_was_applied(self) -> None:
        self._faults += [applied_in_doubt, forbidden]
        assert not self._call(may_stand=True)

    @rule()
    def find_a_duplicate(self) -> None:
        """Another process has continued the chain, as only an attacker does."""
        assert self._call()
        chain = self._gate._chain
        assert chain is not None
        used = Use("open_vault", None, None, 0, Access(uuid.uuid4(), "attempted", 1_700_000_000_000_000))
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self._tables.access), chain.rows([used], ""))
        assert not self._call()

    @rule(applied=st.booleans())
    def time_out(self, applied: bool) -> None:
        """The answer comes after the caller has left, so all later attempts fail as well."""
        self._faults += [*([applied_in_doubt] if applied else []), *[not_applied_in_doubt] * 1000]
        self._gate._settings = IMPATIENT
        try:
            assert not self._call(may_stand=True)
        finally:
            self._gate._settings = PATIENT
        assert self._gate.close().wait(30)  # the group is abandoned
        self._faults.clear()
        self._gate = self._made()

    @rule(number=st.integers(2, 5))
    def call_together(self, number: int) -> None:
        callers = [threading.Thread(target=self._call) for _ in range(number)]
        before = len(self._admitted)
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(self._admitted) == before + number

    @rule()
    def call_in_a_signal_handler(self) -> None:
        main, handled = threading.main_thread(), []

        def handle(*_: object) -> None:
            handled.append(self._call())

        def interrupting(insert: Callable[[], None]) -> None:
            signal.pthread_kill(main.ident or 0, signal.SIGUSR1)
            insert()

        old = signal.signal(signal.SIGUSR1, handle)
        try:
            self._faults.append(interrupting)
            assert self._call()
            assert handled == [True]
        finally:
            signal.signal(signal.SIGUSR1, old)

    @rule(applied=st.booleans())
    def close_while_a_caller_waits(self, applied: bool) -> None:
        inserting, going_on = threading.Event(), threading.Event()

        def waiting(insert: Callable[[], None]) -> None:
            inserting.set()
            going_on.wait(30)
            (applied_in_doubt if applied else not_applied_in_doubt)(insert)

        self._faults.append(waiting)
        caller = threading.Thread(target=self._call)
        before = len(self._admitted)
        caller.start()
        assert inserting.wait(30)
        closed = self._gate.close()
        assert not closed.is_given
        going_on.set()
        caller.join()
        assert closed.wait(30)
        assert len(self._admitted) == before + 1
        assert not self._gate._thread.is_asked
        self._gate = self._made()

    @rule()
    def call_after_it_was_closed(self) -> None:
        assert self._gate.close().wait(30)
        assert self._call()
        assert self._gate.close().wait(30)
        self._gate = self._made()

    @invariant()
    def calls_have_their_rows(self) -> None:
        if self._faults:
            return
        with self._engine.connect() as connection:
            assert verify(connection, self._tables).findings == ()
        rows = [row.access_id for row in all_of(self._engine, self._tables.access)]
        assert len(rows) == len(set(rows))
        assert self._admitted <= set(rows)
        assert not self._refused & set(rows)

    def teardown(self) -> None:
        with contextlib.suppress(Exception):
            self._gate.close().wait(30)
        self._engine.dispose()
        self._directory.cleanup()


GateMachine.TestCase.settings = hypothesis_settings(max_examples=12, stateful_step_count=10, deadline=None)
TestGate = GateMachine.TestCase


def test_the_docstring_shows_every_transition() -> None:
    text = "\n".join(line for line in (_documentation() or "").splitlines() if line.startswith("|"))
    shown = set()
    for line in text.splitlines()[2:]:
        states, events, target = (cell.strip() for cell in line.strip("|").split("|"))
        shown |= {
            (State[state.strip()], event, State[target])
            for state in states.split(",")
            for event in Event
            if event.name in events
        }
    assert shown == {(state, event, target) for (state, event), target in TRANSITIONS.items()}


def test_a_state_that_is_not_final_has_a_transition_for_every_event() -> None:
    assert set(TRANSITIONS) == {(state, event) for state in (State.NEW, State.IN_DOUBT) for event in Event}


def _documentation() -> str | None:
    from usage_instrument.audit import gate

    return gate.__doc__
