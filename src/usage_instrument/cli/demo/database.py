"""The database of the demo's app: users, events and follows."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from usage_instrument.database.schema import create_all

EVENTS = 40
"""The number of events; their ids begin with 1."""
_TOPICS = ("Standup", "Planning", "Choir", "Book club", "Chess night", "Yoga", "Retro", "Pub quiz")
_PLACES = ("Lisbon room", "Library", "Old gym", "Roof", "Room 12")

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(50), unique=True, nullable=False),
    sa.Column("plan", sa.String(10), nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.String(100), nullable=False),
    sa.Column("starts", sa.DateTime, nullable=False),
)
follows = sa.Table(
    "follows",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("event_id", sa.ForeignKey("events.id"), primary_key=True),
)


def create_database(engine: sa.Engine, people: list[dict[str, object]]) -> None:
    """Create the tables of the app with their rows, then those of usage-instrument."""
    metadata.create_all(engine)
    day = dt.datetime.fromisoformat("2030-01-01T18:00")
    with engine.begin() as connection:
        if people:
            connection.execute(users.insert(), people)
        for number in range(EVENTS):
            title = f"{_TOPICS[number % len(_TOPICS)]}, {_PLACES[number % len(_PLACES)]}"
            connection.execute(events.insert().values(title=title, starts=day + dt.timedelta(days=number)))
    create_all(engine)
