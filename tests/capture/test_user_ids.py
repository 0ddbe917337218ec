"""The id of a user from what the host passes, without a query, a lazy load or code of the host."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib
import types
import typing
import uuid
from typing import Any
from unittest.mock import MagicMock, Mock

import flask
import flask_login
import numpy as np
import pytest
import sqlalchemy as sa
import wrapt
from django.utils.functional import SimpleLazyObject
from sqlalchemy import orm
from werkzeug.local import LocalProxy

import django_site  # noqa: F401 - configures Django
import usage_instrument as usage
from conftest import Database
from usage_instrument.capture.context import Request, holder
from usage_instrument.capture.loaded_attributes import attributes_of, loaded_attribute
from usage_instrument.capture.user_ids import loaded_user, user_id_of
from usage_instrument.errors import UserIdError
from usage_instrument.testing import capture_usage
from usage_instrument.typing import UNSET

ANNE = uuid.UUID(int=1)
AnonymousUser: Any = importlib.import_module("django.contrib.auth.models").AnonymousUser


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


class Property:
    """As a wrapper around an entry of LDAP or the claims of OpenID Connect."""

    def __init__(self, id_: object) -> None:
        self.claims = {"sub": id_}

    @property
    def id(self) -> object:
        return self.claims["sub"]


class InheritedProperty(Property):
    pass


class CachedProperty(Property):
    @functools.cached_property
    def id(self) -> object:
        return self.claims["sub"]


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
    Property,
    InheritedProperty,
    CachedProperty,
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


@pytest.mark.parametrize("value", [True, np.bool_(True), Plain(np.bool_(False)), Plain(True)], ids=range(4))
def test_a_bool_is_no_id_and_the_message_says_so(value: object) -> None:
    """That of numpy was "bool is another type, without a loaded `id`"."""
    with pytest.raises(UserIdError, match=r"^a user id is not a bool$"):
        user_id_of(value)


def test_a_property_that_fails_is_rejected_with_its_type_alone() -> None:
    user = Property(5)
    user.claims = {}
    for find in (user_id_of, loaded_user):
        with pytest.raises(UserIdError, match=r"^`id` of the user failed: KeyError raised$"):
            find(user)


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


class Renamed(Base):
    """Its `id` is a property over a column that may have to be loaded."""

    __tablename__ = "renamed"
    team: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    @property
    def id(self) -> int:
        return self.number


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
                Renamed(team=1, number=11),
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


def test_a_property_of_an_orms_class_never_runs(session: orm.Session) -> None:
    renamed = session.scalars(sa.select(Renamed)).one()
    session.commit()
    said = _statements(session)
    with pytest.raises(UserIdError):
        user_id_of(renamed)
    assert said == []


class Wrapper:
    """A user of the app's own around a row, as many logins have one."""

    def __init__(self, row: Any) -> None:
        self.row = row

    @property
    def is_authenticated(self) -> bool:
        return self.row.named() is not None

    @property
    def id(self) -> int:
        return self.row.id  # type: ignore[no-any-return]


class SlottedWrapper:
    __slots__ = ("row",)
    is_authenticated = True

    def __init__(self, row: Any) -> None:
        self.row = row

    @property
    def id(self) -> int:
        return self.row.named()  # type: ignore[no-any-return]


class Named(Base):
    __tablename__ = "named"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(default="")

    def named(self) -> int:
        return self.id


@pytest.mark.parametrize("wrapper", [Wrapper, SlottedWrapper])
def test_the_property_of_a_wrapper_around_an_expired_row_loads_nothing(session: orm.Session, wrapper: Any) -> None:
    row = Named(id=7)
    session.add(row)
    session.commit()  # which expires it
    said, user = _statements(session), wrapper(row)
    assert user_id_of(user) == 7
    assert (said, user.row) == ([], row)


def test_the_property_of_a_wrapper_that_only_a_query_could_answer_is_refused(session: orm.Session) -> None:
    class Holder(Wrapper):
        is_authenticated = True

    row = session.get(Account, "a@b.c")
    session.commit()
    said = _statements(session)
    with pytest.raises(UserIdError, match="'id' of a row is not loaded"):
        user_id_of(Holder(row))
    assert said == []
    assert (Holder(row).id, user_id_of(Holder(row))) == (8, 8), "once it is loaded"


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


# ---- proxies, rows and anonymous objects, in every statement


def refuse() -> typing.NoReturn:
    raise AssertionError("a query")


def lazy(user: object, *, loaded: bool = True) -> Any:
    """Django's `request.user`, before or after something in the request has read it."""
    proxy = SimpleLazyObject(lambda: user if loaded else refuse())
    if loaded:
        str(proxy)
    return proxy


class Signed(flask_login.UserMixin):  # type: ignore[misc]
    def __init__(self, id_: int) -> None:
        self.id = id_


class SignedByProperty(Property, flask_login.UserMixin):  # type: ignore[misc]
    pass


def rows() -> list[Any]:
    with sa.create_engine("sqlite://", poolclass=sa.StaticPool).connect() as connection:
        row = connection.execute(sa.text("SELECT 'x' AS name, 5 AS id")).one()
    return [row, row._mapping]


FOUND: list[tuple[object, object]] = [
    *((row, 5) for row in rows()),
    (np.int64(5), 5),
    (np.uint8(5), 5),
    (np.str_("x"), "x"),
    (Plain(np.int64(5)), 5),
    (wrapt.ObjectProxy(5), 5),
    (wrapt.ObjectProxy(Plain(5)), 5),
    (lazy(Plain(5)), 5),
    (lazy(AnonymousUser()), None),
    (AnonymousUser(), None),
    (flask_login.AnonymousUserMixin(), None),
    (Signed(5), 5),
    (SignedByProperty(5), 5),
    (Property(5), 5),
    (Mock(id=5, is_authenticated=True), 5),
]


@pytest.mark.parametrize(("user", "expected"), FOUND, ids=range(len(FOUND)))
def test_track_identify_and_as_user_take_the_same(user: Any, expected: object) -> None:
    request = Request("http", "POST")
    token = holder.set(request)
    try:
        with capture_usage(user_id_type="string") as captured:
            usage.track("export", user=user)
            with usage.as_user(user):
                usage.track("export")
            usage.identify(user)
            usage.track("export")
            usage.tracks("export", user_arg="who")(lambda who: None)(user)
    finally:
        holder.reset(token)
    assert [use.user for use in captured.uses] == [None if expected is None else str(expected)] * 4
    assert (captured.rejected, captured.complaints) == ([], [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: lazy(Plain(5), loaded=False),
        lambda: wrapt.LazyObjectProxy(refuse),
        lambda: LocalProxy(refuse),
        MagicMock,
        Mock,
        lambda: np.float64(5.0),
        lambda: np.bool_(True),
    ],
    ids=range(7),
)
def test_what_is_not_loaded_or_no_id_is_rejected_without_a_query(make: Any) -> None:
    with capture_usage() as captured:
        usage.track("export", user=make())
        with usage.as_user(make()):
            usage.track("export")
    assert captured.uses == []
    assert [type(rejected.error) for rejected in captured.rejected] == [UserIdError, UserIdError]


def test_the_current_user_of_flask_login_is_read_where_it_is_loaded() -> None:
    app = flask.Flask("app")
    app.secret_key = "x"
    manager = flask_login.LoginManager(app)
    loads: list[str] = []

    @manager.user_loader  # type: ignore[untyped-decorator]
    def load(id_: str) -> Signed:
        loads.append(id_)
        return Signed(int(id_))

    with app.test_request_context(), capture_usage() as captured:
        flask.session["_user_id"] = "5"
        usage.track("export", user=flask_login.current_user)
        assert (loads, len(captured.rejected)) == ([], 1), "nothing has loaded the user yet"
        assert flask_login.current_user.id == 5
        usage.track("export", user=flask_login.current_user)
        flask_login.logout_user()
        usage.track("export", user=flask_login.current_user)
    assert [use.user for use in captured.uses] == [5, None]
    assert loads == ["5"]


def test_a_failing_is_authenticated_is_rejected() -> None:
    class Failing:
        id = 5

        @property
        def is_authenticated(self) -> bool:
            raise ValueError

    request = Request("http", "POST")
    with pytest.raises(UserIdError, match="is_authenticated"):
        request.identify(Failing())
    assert not request.ready


def test_a_user_whose_class_has_no_hash_is_refused() -> None:
    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            return cls is other

    class User(metaclass=Unhashable):
        id = uuid.UUID(int=7)

    for find in (user_id_of, loaded_user):
        with pytest.raises(UserIdError, match="pass the user's id"):
            find(User())


# ---- attributes in memory


def test_attributes_are_read_without_code_of_the_host() -> None:
    class Both:
        plain = 1

        @property
        def computed(self) -> int:
            return 2

        @property
        def failing(self) -> int:
            raise ValueError

    both = Both()
    assert loaded_attribute(both, "plain") == 1
    assert loaded_attribute(both, "computed") is UNSET
    assert loaded_attribute(both, "computed", run_property=True) == 2
    assert loaded_attribute(both, "other") is UNSET
    with pytest.raises(ValueError):
        loaded_attribute(both, "failing", run_property=True)
    vars(both)["plain"] = 3
    assert loaded_attribute(both, "plain") == 3
    assert loaded_attribute(Slots.__new__(Slots), "id") is UNSET
    assert attributes_of(ValueError("x")) == {}
    for proxy in (wrapt.LazyObjectProxy(refuse), LocalProxy(refuse), wrapt.ObjectProxy(both)):
        assert attributes_of(proxy) == {}
        assert loaded_attribute(proxy, "plain", run_property=True) is UNSET
