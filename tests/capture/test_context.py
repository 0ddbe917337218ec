"""Who the user of a capture is, by order of statements, and that no object's code runs to find out."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import enum
import threading
import types
import typing
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
import wrapt
from sqlalchemy import orm
from werkzeug.local import LocalProxy

from conftest import Database
from usage_instrument.capture import context
from usage_instrument.capture.context import Override, Request, holder
from usage_instrument.capture.user_ids import loaded_user, user_id_of
from usage_instrument.errors import DeclarationError, UserIdError
from usage_instrument.typing import UNSET

ANNE, BOB = uuid.UUID(int=1), uuid.UUID(int=2)


@pytest.fixture
def request_() -> typing.Iterator[Request]:
    """An open request, as a middleware makes it."""
    request = Request("http", "POST")
    token = holder.set(request)
    yield request
    holder.reset(token)


def user_here() -> object:
    """The user of a capture made here; UNSET if nothing is captured."""
    held = holder.get()
    return None if held is None else held.capture_user()


def innermost() -> Override:
    held = holder.get()
    assert isinstance(held, Override)
    return held


# ---- outside of a request


def test_outside_everyone_is_anonymous() -> None:
    assert user_here() is None
    assert context.current_request() is None
    assert context.identify(ANNE) is False
    assert user_here() is None


def test_as_user_outside_a_request() -> None:
    with context.as_user(ANNE):
        assert innermost().ready
        assert user_here() == ANNE
        with context.as_user(None):
            assert user_here() is None
        assert user_here() == ANNE
    assert user_here() is None


def test_as_user_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), context.as_user(ANNE):
        raise ZeroDivisionError
    assert holder.get() is None


def test_paused() -> None:
    with context.paused():
        assert user_here() is UNSET
        with context.as_user(ANNE):
            assert innermost().silent
            assert not innermost().ready
            assert user_here() is UNSET
    with context.as_user(ANNE), context.paused():
        assert user_here() is UNSET
    assert user_here() is None


def test_paused_keeps_no_statement_of_its_own() -> None:
    with context.as_user(ANNE), context.paused():
        held = holder.get()
        assert held is not None
        assert held.user == ANNE


# ---- in a request


def test_the_order_of_users(request_: Request) -> None:
    assert user_here() is None
    assert context.identify(ANNE) is True
    assert user_here() == ANNE
    with context.as_user(BOB):
        assert user_here() == BOB
        context.identify(None)
        assert user_here() == BOB
    assert user_here() is None


def test_a_statement_goes_before_the_lookup() -> None:
    asked: list[int] = []

    def lookup() -> int:
        asked.append(1)
        return 7

    request = Request("http", "GET", lookup)
    assert request.capture_user() == 7
    assert not request.ready, "a login in the middle of the request must be seen"
    request.identify(None)
    assert request.capture_user() is None
    assert request.ready
    assert len(asked) == 1


def test_a_lookup_that_knows_nobody_is_anonymous() -> None:
    assert Request("http", "GET", lambda: UNSET).capture_user() is None


def test_identify_inside_as_user_is_the_requests(request_: Request) -> None:
    with context.as_user(ANNE):
        context.identify(BOB)
    assert user_here() == BOB


def test_identify_is_seen_in_threads_and_copied_contexts(request_: Request) -> None:
    copied = contextvars.copy_context()
    thread = threading.Thread(target=lambda: copied.run(context.identify, ANNE))
    thread.start()
    thread.join()
    assert user_here() == ANNE


def test_as_user_is_not_seen_in_another_task(request_: Request) -> None:
    async def inner() -> object:
        with context.as_user(ANNE):
            await asyncio.sleep(0)
            return user_here()

    async def main() -> tuple[object, object]:
        task = asyncio.create_task(inner())
        await asyncio.sleep(0)
        return user_here(), await task

    assert asyncio.run(main()) == (None, ANNE)


@pytest.mark.parametrize(
    "bad", [object(), 1.5, True, b"x", [], LocalProxy(lambda: ANNE)], ids=lambda b: type(b).__name__
)
def test_a_refused_identify_rejects_instead_of_crediting_anybody(request_: Request, bad: object) -> None:
    context.identify(ANNE)
    with pytest.raises(UserIdError):
        context.identify(bad)
    assert not request_.ready
    with pytest.raises(UserIdError):
        user_here()
    with context.as_user(BOB):
        assert user_here() == BOB
    with context.paused():
        assert user_here() is UNSET
    context.identify(ANNE)
    assert user_here() == ANNE
    assert request_.ready


def test_a_refused_as_user_rejects(request_: Request) -> None:
    context.identify(ANNE)
    with context.as_user(object()):
        assert not innermost().ready
        with pytest.raises(UserIdError):
            user_here()
        with context.paused():
            assert user_here() is UNSET
        with context.as_user(BOB):
            assert user_here() == BOB
    assert user_here() == ANNE


def test_a_refusal_goes_through_an_inner_pause_only() -> None:
    with context.as_user(object()):
        inner = Override(holder.get())
        with pytest.raises(UserIdError):
            inner.capture_user()


def test_discard(request_: Request) -> None:
    context.identify(ANNE)
    request_.discard()
    assert request_.silent
    assert not request_.ready
    assert user_here() is UNSET
    context.identify(BOB)
    assert not request_.ready
    assert user_here() is UNSET
    with context.as_user(ANNE):
        assert innermost().silent
        assert user_here() is UNSET


def test_silent_methods_never_count() -> None:
    for method in ("HEAD", "OPTIONS"):
        request = Request("http", method)
        request.identify(ANNE)
        assert request.silent
        assert request.capture_user() is UNSET
        assert not request.ready


def test_a_closed_request_is_nobodys(request_: Request) -> None:
    context.identify(ANNE)
    request_.close()
    assert context.current_request() is None
    assert context.identify(BOB) is False
    assert user_here() is None
    assert not request_.ready
    request_.identify(BOB)  # by whoever kept it
    assert user_here() is None
    assert not request_.ready


def test_a_closed_request_asks_no_lookup_and_forgets_a_refusal() -> None:
    request = Request("http", "GET", lambda: ANNE)
    with pytest.raises(UserIdError):
        request.identify(object())
    request.close()
    assert request.capture_user() is None


def test_a_background_task_after_the_response_is_anonymous(request_: Request) -> None:
    async def main() -> tuple[object, object]:
        ended = asyncio.Event()

        async def background() -> object:
            await ended.wait()
            return user_here()

        context.identify(ANNE)
        task = asyncio.create_task(background())
        during = user_here()
        request_.close()
        ended.set()
        return during, await task

    assert asyncio.run(main()) == (ANNE, None)


@pytest.mark.parametrize(
    ("status", "method", "verdict"),
    [
        (200, "GET", True),
        (204, "DELETE", True),
        (299, "GET", True),
        (302, "GET", None),
        (303, "POST", True),
        (307, "PUT", True),
        (304, "GET", None),
        (400, "POST", False),
        (404, "GET", False),
        (500, "GET", False),
        (101, "GET", None),
    ],
)
def test_statuses(status: int, method: str, verdict: bool | None) -> None:
    assert context.judge(status, method) is verdict
    assert Request("http", method).judge(status) is verdict


def test_only_an_open_http_request_judges_an_integer() -> None:
    assert Request("websocket").judge(500) is True
    assert Request("task").judge(500) is True
    assert Request("http", "GET").judge("500") is True
    assert Request("http", "GET").judge(True) is True
    closed = Request("http", "GET")
    closed.close()
    assert closed.judge(500) is True


# ---- the id of what the host passes


class Text(str):
    __slots__ = ()


class Ident(uuid.UUID):
    pass


class Role(enum.IntEnum):
    ADMIN = 3


class Plan(str, enum.Enum):
    PRO = "pro"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ANNE, ANNE),
        (5, 5),
        (0, 0),
        ("x", "x"),
        ("", ""),
        (None, None),
        (Text("x"), "x"),
        (Ident(int=5), uuid.UUID(int=5)),
        (Role.ADMIN, 3),
        (Plan.PRO, "pro"),
    ],
)
def test_ids_become_exactly_the_four_types(given: object, expected: object) -> None:
    found = user_id_of(given)
    assert found == expected
    assert type(found) in {uuid.UUID, int, str, type(None)}


def test_an_exact_id_is_passed_by_reference() -> None:
    text = "user-" + str(5)
    assert user_id_of(text) is text
    assert user_id_of(ANNE) is ANNE


class Plain:
    def __init__(self, id_: object) -> None:
        self.id = id_


class Slots:
    __slots__ = ("id",)

    def __init__(self, id_: object) -> None:
        self.id = id_


class InheritedSlots(Slots):
    __slots__ = ("name",)


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    id: object


class Tuple(typing.NamedTuple):
    id: Any
    name: str = ""


OldTuple = collections.namedtuple("OldTuple", "name id")
MAKERS: list[Any] = [
    Plain,
    Slots,
    InheritedSlots,
    Data,
    Tuple,
    lambda id_: OldTuple("x", id_),
    lambda id_: {"id": id_},
    lambda id_: types.SimpleNamespace(id=id_),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_loaded_id_is_read(make: Any) -> None:
    for id_ in (ANNE, 5, "x", Text("x")):
        assert user_id_of(make(id_)) == id_


@pytest.mark.parametrize("make", MAKERS)
def test_an_object_whose_id_is_none_is_not_anonymous(make: Any) -> None:
    for id_ in (None, True, 1.5, b"x", object(), Plain(5)):
        with pytest.raises(UserIdError):
            user_id_of(make(id_))


def test_an_id_that_leads_back_is_refused() -> None:
    plain, mapping = Plain(None), dict[str, object]()
    plain.id = plain
    mapping["id"] = mapping
    for loop in (plain, mapping):
        with pytest.raises(UserIdError):
            user_id_of(loop)


def test_an_unset_slot_is_no_id() -> None:
    with pytest.raises(UserIdError):
        user_id_of(Slots.__new__(Slots))


class Trap:
    """Whatever runs code of the host's, fails the test."""

    @property
    def id(self) -> int:
        raise AssertionError("the property ran")

    @property
    def __class__(self) -> Any:
        raise AssertionError("__class__ ran")

    @__class__.setter
    def __class__(self, _: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"__getattr__({name!r}) ran")

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"__getattribute__({name!r}) ran")

    def __bool__(self) -> bool:
        raise AssertionError("__bool__ ran")

    def __str__(self) -> str:
        raise AssertionError("__str__ ran")

    def __repr__(self) -> str:
        raise AssertionError("__repr__ ran")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("__eq__ ran")

    def __hash__(self) -> int:
        raise AssertionError("__hash__ ran")


class DictTrap:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise AssertionError("__dict__ ran")


class MetaTrap(type):
    def __getattr__(cls, name: str) -> Any:
        raise AssertionError(f"the metaclass' __getattr__({name!r}) ran")


class MetaTrapped(metaclass=MetaTrap):
    pass


@pytest.mark.parametrize("make", [Trap, DictTrap, MetaTrapped])
def test_no_code_of_the_hosts_runs(make: Any) -> None:
    with pytest.raises(UserIdError):
        user_id_of(make())
    with pytest.raises(UserIdError):
        user_id_of(Plain(make()))


def test_a_lazy_proxy_is_never_triggered() -> None:
    loads: list[object] = []

    def load() -> Plain:
        loads.append(1)
        return Plain(5)

    for proxy in (LocalProxy(load), wrapt.LazyObjectProxy(load)):
        assert loaded_user(proxy) is UNSET
        with pytest.raises(UserIdError):
            user_id_of(proxy)
    assert loads == []


# ---- SQLAlchemy instances


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "people"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


class Admin(User):
    __tablename__ = "admins"
    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey(User.id), primary_key=True)


class Account(Base):
    """Its key is not its id."""

    __tablename__ = "accounts"
    email: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    id: orm.Mapped[int]


class Person(Base):
    """It has no `id` but a key."""

    __tablename__ = "persons"
    uid: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class Member(Base):
    __tablename__ = "members"
    team: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


@pytest.fixture
def session(sqlite: Database) -> typing.Iterator[orm.Session]:
    engine = sqlite.engine()
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all(
            [
                User(id=5, name="x"),
                Admin(id=6, name="y"),
                Account(email="a@b.c", id=8),
                Person(uid=9),
                Member(team=1, id=10),
            ]
        )
        session.commit()
        yield session


def _statements(session: orm.Session) -> list[str]:
    said: list[str] = []
    engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    return said


@pytest.mark.parametrize(("model", "expected"), [(User, 5), (Admin, 6), (Account, 8), (Member, 10)])
def test_a_loaded_instance(session: orm.Session, model: Any, expected: object) -> None:
    instance = session.scalars(sa.select(model).where(model.id == expected)).one()
    said = _statements(session)
    assert user_id_of(instance) == expected
    assert said == []


@pytest.mark.parametrize(("model", "expected"), [(User, 5), (Admin, 6), (Person, 9)])
def test_an_expired_or_detached_instance_still_knows_its_key(
    session: orm.Session, model: Any, expected: object
) -> None:
    instance = session.get(model, expected)
    session.commit()
    said = _statements(session)
    assert "id" not in vars(instance)
    assert user_id_of(instance) == expected
    session.expunge(instance)
    assert user_id_of(instance) == expected
    assert said == []


@pytest.mark.parametrize(("model", "key"), [(Account, "a@b.c"), (Member, (1, 10))])
def test_an_expired_instance_whose_key_is_not_its_id_is_refused(session: orm.Session, model: Any, key: object) -> None:
    instance = session.get(model, key)
    session.commit()
    said = _statements(session)
    with pytest.raises(UserIdError):
        user_id_of(instance)
    assert said == []


def test_a_new_instance_has_no_id_yet(session: orm.Session) -> None:
    said = _statements(session)
    with pytest.raises(UserIdError):
        user_id_of(User(name="z"))
    assert said == []


def test_a_deferred_id_is_not_loaded(session: orm.Session) -> None:
    account = session.scalars(sa.select(Account).options(orm.defer(Account.id))).one()
    said = _statements(session)
    with pytest.raises(UserIdError):
        user_id_of(account)
    assert said == []


STATEMENTS = pytest.mark.parametrize("statement", [lambda: context.as_user(ANNE), context.paused])


def pieces(statement: Any) -> typing.Iterator[object]:
    with statement():
        yield user_here()
        yield user_here()


@STATEMENTS
def test_a_statement_that_ends_in_another_context_ends(statement: Any) -> None:
    generator, first = pieces(statement), contextvars.copy_context()
    assert first.run(next, generator) == first.run(user_here) != None  # noqa: E711
    contextvars.copy_context().run(list, generator)
    assert first.run(user_here) is None, "the context in which it began is not left with it"
    assert user_here() is None


@STATEMENTS
def test_a_statement_that_a_copy_of_its_context_ends(statement: Any) -> None:
    generator, first = pieces(statement), contextvars.copy_context()
    first.run(next, generator)
    copied = first.copy()
    copied.run(list, generator)
    assert (first.run(user_here), copied.run(user_here)) == (None, None)


def test_statements_that_overlap_end_each_for_itself() -> None:
    anne, bob = pieces(lambda: context.as_user(ANNE)), pieces(lambda: context.as_user(BOB))
    assert (next(anne), next(bob)) == (ANNE, BOB)
    anne.close()  # type: ignore[attr-defined]
    assert user_here() == BOB
    bob.close()  # type: ignore[attr-defined]
    assert user_here() is None


def test_one_statement_may_be_entered_by_many_threads() -> None:
    statement, entered, found = context.as_user(ANNE), threading.Barrier(2, timeout=10), []

    def work() -> None:
        with statement:
            entered.wait()
            found.append(user_here())
        found.append(user_here())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted(map(str, [ANNE, ANNE, None, None]))


def test_a_statement_decorates_functions_of_each_kind() -> None:
    @context.as_user(ANNE)
    def function() -> object:
        return user_here()

    @context.as_user(ANNE)
    async def coroutine() -> object:
        await asyncio.sleep(0)
        return user_here()

    @context.as_user(ANNE)
    def generator() -> typing.Iterator[object]:
        yield user_here()

    assert (function(), asyncio.run(coroutine()), list(generator())) == (ANNE, ANNE, [ANNE])
    assert function() == ANNE, "each call is inside anew"
    with pytest.raises(DeclarationError, match="async generator"):

        @context.as_user(ANNE)
        async def asynchronous() -> typing.AsyncIterator[int]:
            yield 1


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET"])
def test_what_a_request_started_counts_once_the_request_is_over(method: str) -> None:
    request = Request("http", method)
    request.discard()
    assert request.silent
    request.close()
    assert not request.silent
    assert request.capture_user() is None
