"""Uses that count only if they are committed: a purchase, a webhook that is delivered twice, a form that fails.

Run it: python examples/purchases.py
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import usage_instrument as usage
from usage_instrument import queries
from usage_instrument.schema import create_all

engine = sa.create_engine(os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///purchases.db"))


@sa.event.listens_for(engine, "connect")
def _leave_transactions_to_sqlalchemy(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    connection.isolation_level = None  # else SQLite's driver begins none before a savepoint


@sa.event.listens_for(engine, "begin")
def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """A payment has one order."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    payment: Mapped[str] = mapped_column(sa.String(40), unique=True)


@usage.tracks("purchase", commit="session", user_arg="customer")
def purchase(session: Session, customer: str, payment: str) -> None:
    """The caller commits."""
    session.add(Order(payment=payment))


def receive(session: Session, customer: str, payments: list[str]) -> None:
    """A webhook: an event that was delivered before is skipped with its savepoint."""
    for payment in payments:
        try:
            with session.begin_nested():
                usage.track("payment_received", commit=session, user=customer, metadata={"payment": payment})
                session.add(Order(payment=payment))
        except IntegrityError:
            pass
    session.commit()


@usage.tracks("order_form_saved", commit="session", user_arg="customer")
def save(session: Session, customer: str, payment: str) -> str:
    """A form: an answer, whether or not it could be saved."""
    session.add(Order(payment=payment))
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        return "This payment has an order already."
    return "Thank you."


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    create_all(engine, user_id_type="string")
    usage.configure(engine, user_id_type="string")
    with Session(engine) as session:
        purchase(session, "ada", "pay_1")
        session.commit()
        purchase(session, "ada", "pay_2")
        session.rollback()  # the card was declined
        receive(session, "ada", ["pay_3", "pay_4", "pay_3"])
        print(save(session, "bob", "pay_5"))
        print(save(session, "bob", "pay_5"))
        usage.flush()
        for feature in session.execute(queries.top_features()):
            print(f"{feature.feature_name}: {feature.total_usage}")
