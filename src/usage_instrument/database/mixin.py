"""A mixin that maps `feature_usage` to an ORM model, for Declarative and Flask-SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import MetaData

from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import HistoryPartitions, IdType, UserIdType

from .schema import define_tables

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy.orm import Mapped


class FeatureUsageMixin:
    """Put it before the base: `class FeatureUsage(FeatureUsageMixin, db.Model): ...`.

    It maps the table `feature_usage` and defines the other tables in the same MetaData; `Tables.of(FeatureUsage)`
    returns them. The column `metadata` is the attribute `metadata_`, because Declarative reserves the name. It refers
    to a table `users` that is already defined and has an `id` of a fitting type, unless `__usage_users__` names
    another. Raises ConfigurationError when the class is created.
    """

    __usage_users__: ClassVar[object] = "auto"
    """The users table: a model, a Table, a Column, `"table.column"`, None for no foreign key, or `"auto"`."""
    __usage_user_id_type__: ClassVar[UserIdType] = "uuid"
    """The type of a user's id: `"uuid"`, `"integer"` or `"string"`."""
    __usage_id_type__: ClassVar[IdType] = "integer"
    """The type of `id`: `"integer"` or `"bigint"`."""
    __usage_history_partitions__: ClassVar[HistoryPartitions | None] = None
    """`"month"`: on PostgreSQL, the history has a partition for each month."""
    __usage_history_rollups__: ClassVar[bool | None] = None
    """True: on PostgreSQL, the history has rollups."""
    __usage_schema__: ClassVar[str | None] = None
    """The database schema of the tables; None is the connection's default."""

    if TYPE_CHECKING:  # the mapper reads them from the table
        id: Mapped[int]
        user_id: Mapped[Any]
        feature_name: Mapped[str | None]
        metadata_: Mapped[dict[str, Any] | None]
        usage_count: Mapped[int | None]
        last_used: Mapped[dt.datetime]

    def __init_subclass__(cls, **options: Any) -> None:
        # The bases that map the class run later, or in its metaclass: they then find its `__table__`.
        if not cls.__dict__.get("__abstract__") and not hasattr(cls, "__table__"):
            tables = define_tables(
                _metadata(cls),
                schema=cls.__usage_schema__,
                users=cls.__usage_users__,
                user_id_type=cls.__usage_user_id_type__,
                id_type=cls.__usage_id_type__,
                history_partitions=cls.__usage_history_partitions__,
                history_rollups=cls.__usage_history_rollups__,
            )
            mapped: Any = cls
            mapped.__table__, mapped.metadata_ = tables.usage, tables.usage.c.metadata
        super().__init_subclass__(**options)


def _metadata(model: Any) -> MetaData:
    key, extension = getattr(model, "__bind_key__", None), getattr(model, "__fsa__", None)
    if key is not None and extension is not None:
        # Flask-SQLAlchemy has one MetaData per bind, and sets it on the class only after this.
        found: MetaData = extension.metadatas.setdefault(key, MetaData(info={"bind_key": key}))
        return found
    metadata = getattr(model, "metadata", None)
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(
            f"{model.__name__} has no MetaData: put FeatureUsageMixin before a declarative base or db.Model"
        )
    return metadata
