"""Processes that buy until they are killed, each use bound to a transaction that commits, is rolled back, or loses a
savepoint, of SQLAlchemy, in two phases, or of Django. Each line on stdin starts one, and its pid is the answer."""
# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

import usage_instrument as usage

PURCHASES = sa.Table("purchases", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False))
MOST = 10**6
"""Purchases of one process, whose ids begin with its pid."""


def begin_by_hand(engine: sa.Engine) -> sa.Engine:
    """Have SAVEPOINT work on SQLite: its driver begins no transaction before one."""
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def connected(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine, "begin")
        def begun(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _live(buyer: Callable[[str], Callable[[int, random.Random], None]], shop: str, url: str, journal: str) -> None:
    buy = buyer(shop)
    usage.configure(url, journal=journal, user_id_type="integer", flush_interval=0.02)
    dice = random.Random(os.getpid())
    for number in itertools.count(os.getpid() * MOST):
        buy(number, dice)


def of_sqlalchemy(shop: str) -> Callable[[int, random.Random], None]:
    """What buys by Sessions and Connections."""
    engine = begin_by_hand(sa.create_engine(shop))

    def buy(number: int, dice: random.Random) -> None:
        place: Session | sa.Connection = Session(engine) if dice.random() < 0.5 else engine.connect()
        with place:
            try:
                _buy(place, number, dice)
            except sa.exc.OperationalError:  # SQLite, locked for long
                place.rollback()

    return buy


def _buy(place: Session | sa.Connection, number: int, dice: random.Random) -> None:
    outcome = dice.choice(("commit", "commit", "rollback", "savepoint"))
    savepoint = place.begin_nested() if outcome == "savepoint" else None
    place.execute(PURCHASES.insert().values(id=number))
    usage.track("purchase", commit=place, user=number)
    if savepoint is not None:
        savepoint.rollback()
    if outcome == "rollback":
        place.rollback()
    else:
        place.commit()


def in_two_phases(shop: str) -> Callable[[int, random.Random], None]:
    """What buys by transactions that are prepared before they commit."""
    engine = sa.create_engine(shop)

    def buy(number: int, dice: random.Random) -> None:
        ends_well = dice.random() < 0.7
        if dice.random() < 0.5:
            with Session(engine, twophase=True) as session:
                session.execute(PURCHASES.insert().values(id=number))
                usage.track("purchase", commit=session, user=number)
                session.prepare()
                _linger(dice)
                session.commit() if ends_well else session.rollback()
        else:
            with engine.connect() as connection, connection.begin_twophase() as transaction:
                connection.execute(PURCHASES.insert().values(id=number))
                usage.track("purchase", commit=connection, user=number)
                transaction.prepare()
                _linger(dice)
                transaction.commit() if ends_well else transaction.rollback()

    return buy


def _linger(dice: random.Random) -> None:
    """Be killed here, sometimes."""
    time.sleep(0.02 * dice.random())


def of_django(shop: str) -> Callable[[int, random.Random], None]:
    """What buys within atomic()."""
    from django.conf import settings
    from django.db import DatabaseError, connection, transaction

    url = sa.make_url(shop)
    name = {"sqlite": "sqlite3", "postgresql": "postgresql", "mariadb": "mysql"}[url.get_backend_name()]
    if name == "mysql":
        import pymysql

        pymysql.install_as_MySQLdb()
    place = {"USER": url.username, "PASSWORD": url.password, "HOST": url.host, "PORT": url.port}
    known = {key: str(value) for key, value in place.items() if value is not None}
    settings.configure(DATABASES={"default": {"ENGINE": f"django.db.backends.{name}", "NAME": url.database, **known}})

    def buy(number: int, dice: random.Random) -> None:
        outcome = dice.choice(("commit", "commit", "rollback", "savepoint"))
        with contextlib.suppress(DatabaseError), transaction.atomic():  # SQLite, locked for long
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO purchases VALUES (%s)", [number])
                usage.track("purchase", commit="default", user=number)
                if outcome == "savepoint":
                    transaction.set_rollback(True)
            if outcome == "rollback":
                transaction.set_rollback(True)

    return buy


def main() -> None:
    way, shop, url, journal = sys.argv[1:]
    usage.configure(url, journal=journal, user_id_type="integer", flush_interval=0.02)  # loads what there is to load
    buyer = {"django": of_django, "two phases": in_two_phases}.get(way, of_sqlalchemy)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _live(buyer, shop, url, journal)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
