"""The mixin as hosts use it: with Declarative and with Flask-SQLAlchemy, whose users table is called `user`."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declarative_base, mapped_column

from conftest import Database
from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import FeatureUsageMixin, Tables, define_tables


def used_by_a_model(engine: sa.Engine, base: Any, user: Any, model: Any, user_id: Any) -> None:
    """A round trip through the ORM, and the rules that the tables keep."""
    base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(user)
        session.flush()
        session.add(model(user_id=user_id or user.id, feature_name="search", metadata_={"page": 2}))
        session.commit()
    with Session(engine) as session:
        found = session.scalars(sa.select(model)).one()
        assert (found.feature_name, found.metadata_, found.usage_count) == ("search", {"page": 2}, 1)
        assert found.last_used is not None
        session.add(model(user_id=found.user_id, feature_name="search"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()


def test_serves_declarative(database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)

    class FeatureUsage(FeatureUsageMixin, Base):
        pass

    assert Tables.of(FeatureUsage).users == "users.id"
    assert set(Base.metadata.tables) > {table.name for table in Tables.of(FeatureUsage)}
    user_id = uuid.UUID(int=5)
    used_by_a_model(database.engine(), Base, User(id=user_id), FeatureUsage, user_id)


def test_serves_classes_of_declarative_base(sqlite: Database) -> None:
    base: Any = declarative_base()

    class User(base):  # type: ignore[misc]
        __tablename__ = "people"
        id = sa.Column(sa.Integer, primary_key=True)

    class FeatureUsage(FeatureUsageMixin, base):  # type: ignore[misc]
        __usage_users__ = User
        __usage_user_id_type__ = "integer"

    assert Tables.of(FeatureUsage).users == "people.id"
    used_by_a_model(sqlite.engine(), base, User(id=1), FeatureUsage, 1)


@pytest.mark.parametrize("style", ["legacy", "declarative"])
def test_serves_flask_sqlalchemy(sqlite: Database, style: str) -> None:
    class Base(DeclarativeBase):
        pass

    db: Any = SQLAlchemy() if style == "legacy" else SQLAlchemy(model_class=Base)

    class User(db.Model):  # type: ignore[misc]
        id = sa.Column(sa.Integer, primary_key=True)

    class FeatureUsage(FeatureUsageMixin, db.Model):  # type: ignore[misc]
        __usage_users__ = "user.id"
        __usage_user_id_type__ = "integer"

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = sqlite.url
    db.init_app(app)
    assert Tables.of(FeatureUsage).users == "user.id"
    with app.app_context():
        db.create_all()
        db.session.add(User(id=3))
        db.session.add(FeatureUsage(user_id=3, feature_name="search", metadata_={"page": 2}))
        db.session.commit()
        found = db.session.scalars(db.select(FeatureUsage).where(FeatureUsage.user_id == 3)).one()
        assert (found.usage_count, found.metadata_) == (1, {"page": 2})
        names = set(sa.inspect(db.engine).get_table_names())
        db.session.remove()  # its connection is not the pool's to close
        db.engine.dispose()
    assert names == {"user", *(table.name for table in Tables.of(FeatureUsage))}


@pytest.mark.parametrize("style", ["legacy", "declarative"])
def test_follows_a_bind_of_flask_sqlalchemy(sqlite: Database, tmp_path: Any, style: str) -> None:
    class Base(DeclarativeBase):
        pass

    db: Any = SQLAlchemy() if style == "legacy" else SQLAlchemy(model_class=Base)

    class FeatureUsage(FeatureUsageMixin, db.Model):  # type: ignore[misc]
        __bind_key__ = "analytics"
        __usage_users__ = None

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = sqlite.url
    app.config["SQLALCHEMY_BINDS"] = {"analytics": f"sqlite:///{tmp_path / 'analytics.db'}"}
    db.init_app(app)
    with app.app_context():
        db.create_all()
        db.session.add(FeatureUsage(feature_name="search"))
        db.session.commit()
        assert sa.inspect(db.engine).get_table_names() == []
        assert "feature_usage_history" in sa.inspect(db.engines["analytics"]).get_table_names()
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()


def test_refers_to_users_that_are_defined_later() -> None:
    class Base(DeclarativeBase):
        pass

    class FeatureUsage(FeatureUsageMixin, Base):
        __usage_users__ = "accounts.id"

    class Account(Base):
        __tablename__ = "accounts"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)

    (key,) = FeatureUsage.__table__.c.user_id.foreign_keys
    assert key.column is Account.__table__.c.id


def test_takes_a_schema_and_string_ids() -> None:
    class Base(DeclarativeBase):
        pass

    class FeatureUsage(FeatureUsageMixin, Base):
        __usage_schema__ = "analytics"
        __usage_user_id_type__ = "string"

    assert Tables.of(FeatureUsage).usage.fullname == "analytics.feature_usage"
    assert isinstance(FeatureUsage.__table__.c.user_id.type, sa.String)


def test_maps_tables_that_are_defined_already() -> None:
    class Base(DeclarativeBase):
        pass

    tables = define_tables(Base.metadata)

    class FeatureUsage(FeatureUsageMixin, Base):
        pass

    assert Tables.of(FeatureUsage) is tables


def test_serves_an_abstract_base_and_a_subclass() -> None:
    class Base(DeclarativeBase):
        pass

    class Common(FeatureUsageMixin, Base):
        __abstract__ = True
        __usage_user_id_type__ = "integer"

    class FeatureUsage(Common):
        pass

    class Special(FeatureUsage):
        pass

    assert Tables.of(FeatureUsage).user_id_type == "integer"
    assert Tables.of(Special) is Tables.of(FeatureUsage)


def test_says_that_it_needs_a_base() -> None:
    with pytest.raises(ConfigurationError, match="before a declarative base"):
        type("FeatureUsage", (FeatureUsageMixin,), {})
