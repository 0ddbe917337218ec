"""Processes that buy until they are killed, each use bound to a transaction that commits, is rolled back, or loses a
savepoint. Each line on stdin starts one, and its pid is the answer."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys

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


def _live(shop: str, url: str, journal: str) -> None:
    engine = begin_by_hand(sa.create_engine(shop))
    usage.configure(url, journal=journal, user_id_type="integer", flush_interval=0.02)
    dice = random.Random(os.getpid())
    for number in itertools.count(os.getpid() * MOST):
        place: Session | sa.Connection = Session(engine) if dice.random() < 0.5 else engine.connect()
        with place:
            try:
                _buy(place, number, dice)
            except sa.exc.OperationalError:  # SQLite, locked for long
                place.rollback()


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


def main() -> None:
    shop, url, journal = sys.argv[1:]
    usage.configure(url, journal=journal, user_id_type="integer", flush_interval=0.02)  # loads what there is to load
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _live(shop, url, journal)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
