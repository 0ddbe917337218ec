"""`commit="request"`: with Flask-SQLAlchemy and FastAPI, a request counts beside the rows that it wrote."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask, Response, request, stream_with_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.capture import request_transactions
from usage_instrument.errors import ConfigurationError
from usage_instrument.integrations.flask import UsageInstrument
from usage_instrument.testing import capture_usage


@pytest.fixture
def captured():
    with capture_usage() as captured:
        yield captured


class Shop:
    """An app of Flask-SQLAlchemy, counted by the middleware or by decorators."""

    def __init__(self, url, decorated=False):
        app = self.app = Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        db = self.db = SQLAlchemy(app)

        class Order(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            payment = db.Column(db.String(40), unique=True)
            n = db.Column(db.Integer)

        self.Order = Order
        with app.app_context():
            db.create_all()

        def view(method, path):
            def add(function):
                name = function.__name__
                tracked = usage.tracks(name, commit="request")(function) if decorated else function
                return app.route(path, methods=[method], endpoint=name)(tracked)

            return add

        @view("POST", "/save/<payment>")
        def save(payment):
            order = Order(payment=payment)
            db.session.add(order)
            try:
                db.session.commit()
            except IntegrityError:
                db.session.rollback()
                return f"{payment} has an order: {db.session.scalar(sa.select(sa.func.count()).select_from(Order))}"
            return order.payment  # read again, in a transaction that never commits

        @view("POST", "/forgets/<payment>")
        def forgets(payment):
            db.session.add(Order(payment=payment))
            db.session.flush()
            return "not committed"

        @view("POST", "/core/<payment>")
        def core(payment):
            db.session.execute(sa.insert(Order.__table__).values(payment=payment))
            if "commit" in request.args:
                db.session.commit()
            return "core"

        @view("POST", "/text/<payment>")
        def text(payment):
            db.session.execute(sa.text('INSERT INTO "order" (payment) VALUES (:payment)'), {"payment": payment})
            return "not committed"

        @view("POST", "/bulk/<method>/<payment>")
        def bulk(method, payment):
            some = [Order(id=int(payment), payment=payment)] if "objects" in method else [{"id": payment, "n": 1}]
            getattr(db.session, method)(*([] if "objects" in method else [Order]), some)
            if "commit" in request.args:
                db.session.commit()
            return "bulk"

        @view("POST", "/same/<payment>")
        def same(payment):
            order = db.session.scalars(sa.select(Order).filter_by(payment=payment)).one()
            order.payment = payment
            db.session.flush()
            return "nothing changed"

        @view("POST", "/retry/<payment>")
        def retry(payment):
            for number in range(2):
                db.session.add(Order(payment=payment))
                db.session.flush()
                db.session.commit() if number else db.session.rollback()
            return "retried"

        @view("GET", "/list")
        def orders():
            return str([order.payment for order in db.session.scalars(sa.select(Order))])

        @view("POST", "/login")
        def login():
            db.session.execute(sa.text('SELECT payment AS updated_at FROM "order"'))
            return "logged in"

        @view("GET", "/static-page")
        def page():
            return "page"

        @view("POST", "/stream/<payment>")
        def stream(payment):
            db.session.add(Order(payment=payment))
            db.session.commit()
            return Response(stream_with_context(iter(["a", "b"])))

        @view("POST", "/fails/<payment>")
        def fails(payment):
            db.session.add(Order(payment=payment))
            db.session.flush()
            raise ZeroDivisionError

        self.post = app.test_client().post
        self.get = app.test_client().get

    @property
    def payments(self):
        with self.app.app_context():
            return sorted(self.db.session.scalars(sa.select(self.Order.payment)))


@pytest.fixture(params=["middleware", "decorator", "decorator and middleware"])
def shop(request, sqlite):
    shop = Shop(sqlite.url, decorated="decorator" in request.param)
    if "middleware" in request.param:
        UsageInstrument(shop.app, commit="request")
    yield shop
    with shop.app.app_context():
        shop.db.engine.dispose()


def test_a_request_counts_if_what_it_wrote_is_committed(shop, captured):
    assert shop.post("/save/pay_1").text == "pay_1"
    assert shop.post("/save/pay_1").text == "pay_1 has an order: 1"
    assert shop.post("/save/pay_2").text == "pay_2"
    assert captured.names == ["save"]
    assert captured.count("save") == len(shop.payments) == 2


def test_what_reads_counts_as_ever(shop, captured):
    shop.post("/save/pay_1")
    assert shop.get("/list").text == "['pay_1']"
    assert shop.post("/login").status_code == 200
    assert shop.get("/static-page").status_code == 200
    assert captured.names == ["save", "orders", "login", "page"]


def test_what_is_not_committed_does_not_count(shop, captured):
    shop.post("/forgets/pay_1")
    shop.post("/core/pay_2")
    shop.post("/text/pay_3")
    with pytest.raises(ZeroDivisionError):
        shop.app.testing = True
        shop.post("/fails/pay_4")
    assert captured.uses == []
    assert shop.payments == []
    shop.post("/core/pay_2?commit=1")
    shop.post("/retry/pay_5")
    assert shop.post("/stream/pay_6").text == "ab"
    assert captured.names == ["core", "retry", "stream"]
    assert shop.payments == ["pay_2", "pay_5", "pay_6"]


@pytest.mark.parametrize("method", ["bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"])
def test_the_bulk_methods_of_a_session_write(shop, captured, method):
    shop.post("/save/pay_1")
    shop.post(f"/bulk/{method}/7")
    assert shop.payments == ["pay_1"]
    assert captured.names == ["save"]
    shop.post(f"/bulk/{method}/{1 if 'update' in method else 7}?commit")
    assert captured.names == ["save", "bulk"]


def test_a_flush_of_objects_with_their_old_values_writes_nothing(shop, captured):
    shop.post("/save/pay_1")
    shop.post("/same/pay_1")
    assert captured.names == ["save", "same"]


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_commit_at_the_end_of_the_request(sqlite, captured, ends_well):
    shop = Shop(sqlite.url)
    UsageInstrument(shop.app, commit="request")

    @shop.app.teardown_appcontext
    def end(error):
        shop.db.session.commit() if ends_well else shop.db.session.rollback()

    shop.post("/forgets/pay_1")
    assert captured.names == ["forgets"] * ends_well
    assert shop.payments == ["pay_1"] * ends_well


def test_fastapi_commits_in_a_dependency_after_the_answer_has_begun(sqlite, captured):
    engine = sqlite.engine()
    metadata = sa.MetaData()
    orders = sa.Table("orders", metadata, sa.Column("payment", sa.String(40), primary_key=True))
    metadata.create_all(engine)
    app = FastAPI()
    app.add_middleware(UsageMiddleware, commit="request")
    ends_well = True

    def session():
        with Session(engine) as session:
            yield session
            session.commit() if ends_well else session.rollback()

    @app.post("/buy/{payment}")
    def buy(payment: str, session: Session = Depends(session)) -> None:  # noqa: B008
        session.execute(sa.insert(orders).values(payment=payment))

    with TestClient(app) as client:
        client.post("/buy/pay_1")
        ends_well = False
        client.post("/buy/pay_2")
    assert captured.count("buy") == 1
    with engine.connect() as connection:
        assert connection.scalars(sa.select(orders.c.payment)).all() == ["pay_1"]


def test_the_option_of_a_middleware_is_the_word(sqlite):
    with pytest.raises(ConfigurationError, match="commit= of a middleware is 'request', not 'default'"):
        UsageInstrument(Shop(sqlite.url).app, commit="default")


def test_without_a_request_it_counts_at_once_and_the_log_says_so(captured):
    @usage.tracks("refund", commit="request")
    def refund():
        return "refunded"

    usage.track("purchase", commit="request")
    assert refund() == "refunded"
    assert captured.names == ["purchase", "refund"]
    assert [str(complaint) for complaint in captured.complaints] == [
        f"commit='request' of '{name}' finds no request, so the use counts at once: add the middleware to the app, or"
        " pass the session"
        for name in captured.names
    ]


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("SELECT updated_at FROM orders WHERE is_deleted = 0", True),
        ("  /* shop:list, which merges */ -- insert\n (SELECT inserted_at FROM orders)", True),
        ("WITH gone AS (SELECT deleted FROM updates) SELECT 1 FROM gone FOR UPDATE", True),
        ("EXPLAIN DELETE FROM orders", True),
        ("with new as (select 1) INSERT  INTO orders SELECT * FROM new", False),
        ("WITH old AS (SELECT 1) UPDATE ONLY orders AS o SET a = 1", False),
        ("WITH gone AS (DELETE\nFROM orders RETURNING *) SELECT * FROM gone", False),
        ("/* shop:save */ UPDATE orders SET a = 1", False),
        ("CALL purge()", False),
    ],
)
def test_textual_sql_is_read_by_its_verb_and_not_by_its_columns(statement, reads):
    state = SimpleNamespace(statement=sa.text(statement))
    assert request_transactions._is_writing_text(state) is not reads


def test_a_request_within_a_transaction_of_a_test_follows_that(sqlite, captured):
    app, engine = Flask("shop"), sa.create_engine(sqlite.url)
    UsageInstrument(app, commit="request")

    @app.post("/save/<int:number>")
    def save(number):
        with Session(connection) as session:
            session.execute(sa.text("INSERT INTO orders VALUES (:number)"), {"number": number})
            session.commit()
        return "saved"

    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id INTEGER)"))
        connection.commit()
        for end in ("rollback", "commit"):
            outer = connection.begin()
            assert app.test_client().post("/save/1").status_code == 200
            assert captured.uses == []
            getattr(outer, end)()
    assert captured.names == ["save"]
