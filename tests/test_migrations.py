"""Alembic owns the tables: revisions that a default env.py makes, upgraded for real."""

from __future__ import annotations

import io
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa

import forked
from conftest import Database
from usage_instrument.database.inspection import check
from usage_instrument.schema import Tables, create_all, define_tables

MODELS = """
import sqlalchemy as sa
from usage_instrument.schema import define_tables

metadata = sa.MetaData()
users = sa.Table("users", metadata, sa.Column("id", {type}, primary_key=True), sa.Column("name", sa.String(50)))
tables = define_tables(metadata, {options})
"""


RUN = "import sys, alembic.config as c; [c.main(line.split()) for line in sys.argv[1:]]"
LOADED = "alembic.config", "alembic.autogenerate", "usage_instrument.migrations", "usage_instrument.schema"


class Project:
    """A host's directory with Alembic set up as `alembic init` does it."""

    def __init__(self, path: Path, url: str, *, type_: str = "sa.Uuid", options: str = "", configure: str = "") -> None:
        self._path = path
        alembic.command.init(
            alembic.config.Config(path / "alembic.ini", stdout=io.StringIO()), str(path / "migrations")
        )
        (path / "models.py").write_text(MODELS.format(type=type_, options=options))
        ini = path / "alembic.ini"
        lines = [
            f"sqlalchemy.url = {url}" if line.startswith("sqlalchemy.url") else line
            for line in ini.read_text().splitlines()
        ]
        ini.write_text("\n".join(lines))
        env = path / "migrations" / "env.py"
        text = env.read_text()
        assert "target_metadata = None" in text
        text = text.replace("target_metadata = None", "from models import metadata as target_metadata")
        if configure:
            text = text.replace("target_metadata=target_metadata", f"target_metadata=target_metadata, {configure}")
        env.write_text(text)

    def run(self, *commands: str) -> None:
        """Run Alembic's commands in one process."""
        done = forked.run(RUN, *commands, cwd=self._path, loaded=LOADED)
        assert done.returncode == 0, done.stderr[-900:]

    def revision(self, name: str) -> str:
        """The source of the revision of that name."""
        (found,) = (self._path / "migrations" / "versions").glob(f"*_{name}.py")
        return found.read_text()

    def is_empty(self, name: str) -> bool:
        source = self.revision(name)
        upgrade = source[source.index("def upgrade") : source.index("def downgrade")]
        assert "pass" in upgrade, upgrade
        return "op." not in upgrade


def autogenerate(name: str) -> str:
    """The command that makes a new revision."""
    return f"revision --autogenerate -m {name}"


FIRST = autogenerate("first"), "upgrade head"


def refuses_duplicates(engine: sa.Engine, tables: Tables) -> bool:
    """Whether all unique indexes hold, for the anonymous user."""
    now: sa.ColumnElement[str] = sa.literal_column("'2026-01-01 00:00:00'")
    value = {"dimension": "format", "dimension_value": "csv", "bucket_start": now}
    for table, more in ((tables.usage, {}), (tables.history, {"bucket_start": now}), (tables.dimensions, value)):
        row = {"user_id": None, "feature_name": "search", **more}
        with engine.begin() as connection:
            connection.execute(table.insert().values(row))
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(table.insert().values(row))
    return True


@pytest.mark.parametrize(
    "configure",
    ["", "compare_server_default=True, render_as_batch=True"],
    ids=["default", "thorough"],
)
def test_owns_the_tables(database: Database, tmp_path: Path, configure: str) -> None:
    project = Project(tmp_path, database.url, configure=configure)
    project.run(*FIRST, autogenerate("second"))
    assert project.is_empty("second")
    engine = database.engine()
    tables = define_tables(sa.MetaData())
    with engine.connect() as connection:
        assert check(connection, tables) == []
        keys = sa.inspect(connection).get_foreign_keys("feature_usage")
    assert [(key["referred_table"], key["options"]["ondelete"]) for key in keys] == [("users", "CASCADE")]
    assert refuses_duplicates(engine, tables)
    if engine.dialect.name == "postgresql":
        filled = sa.text("SELECT relname FROM pg_class WHERE reloptions = ARRAY['fillfactor=85'] ORDER BY relname")
        with engine.connect() as connection:
            assert connection.scalars(filled).all() == [
                "feature_usage", "feature_usage_dimensions", "feature_usage_exposures", "feature_usage_history"
            ]  # fmt: skip
    project.run("upgrade head", "downgrade base")
    assert [name for name in sa.inspect(engine).get_table_names() if name.startswith("feature_usage")] == []


def test_lives_in_a_schema(postgresql: Database, tmp_path: Path) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
    project = Project(
        tmp_path, postgresql.url, options="schema='analytics', users=users, history_partitions='month'",
        configure="include_schemas=True",
    )  # fmt: skip
    project.run(*FIRST, autogenerate("second"))
    assert project.is_empty("second")
    tables = define_tables(sa.MetaData(), schema="analytics", history_partitions="month")
    with engine.connect() as connection:
        assert check(connection, tables) == []
        keys = sa.inspect(connection).get_foreign_keys("feature_usage", schema="analytics")
    assert [key["referred_table"] for key in keys] == ["users"]
    assert refuses_duplicates(engine, tables)
    project.run("downgrade base")
    assert sa.inspect(engine).get_table_names("analytics") == []


@pytest.mark.parametrize(
    ("type_", "options"),
    [("sa.Integer", "user_id_type='integer'"), ("sa.String(36)", "user_id_type='string'"), ("sa.Uuid", "users=None")],
)
def test_owns_tables_of_every_kind(database: Database, tmp_path: Path, type_: str, options: str) -> None:
    project = Project(tmp_path, database.url, type_=type_, options=options)
    project.run(*FIRST, autogenerate("second"))
    assert project.is_empty("second")


def test_states_the_collation_of_string_ids(mariadb: Database, tmp_path: Path) -> None:
    project = Project(tmp_path, mariadb.url, options="user_id_type='string', users=None")
    project.run("revision --autogenerate -m first", "upgrade head", "revision --autogenerate -m second")
    assert project.revision("first").count("collation='utf8mb4_nopad_bin'") == 15
    assert project.is_empty("second")
    tables = define_tables(sa.MetaData(), user_id_type="string", users=None)
    with mariadb.engine().connect() as connection:
        assert check(connection, tables) == []


def test_takes_over_tables_that_lost_their_unique_index(database: Database, tmp_path: Path) -> None:
    engine = database.engine()
    project = Project(tmp_path, database.url)
    project.run(*FIRST)
    with engine.begin() as connection:
        for statement in DROPS[database.name]:
            connection.exec_driver_sql(statement)
    project.run(autogenerate("repair"), "upgrade head", autogenerate("last"))
    assert project.is_empty("last")
    assert refuses_duplicates(engine, define_tables(sa.MetaData()))
    project.run("downgrade -1")


DROPS = {
    "sqlite": ["DROP INDEX uq_feature_usage_user_feature"],
    "postgresql": ["DROP INDEX uq_feature_usage_user_feature"],
    "mariadb": [
        "ALTER TABLE feature_usage DROP INDEX uq_feature_usage_user_feature",
        "ALTER TABLE feature_usage DROP COLUMN user_key, DROP COLUMN feature_key",
    ],
}


def test_leaves_tables_alone_that_the_host_does_not_define(database: Database, tmp_path: Path) -> None:
    project = Project(tmp_path, database.url)
    models = tmp_path / "models.py"
    models.write_text(models.read_text().partition("tables = ")[0])
    project.run(*FIRST)
    create_all(database.engine(), history_rollups=database.name == "postgresql")
    project.run(autogenerate("second"))
    assert project.is_empty("second")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_gives_an_older_history_its_primary_key(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    engine = database.engine()
    project = Project(tmp_path, database.url)
    project.run(*FIRST)
    history = define_tables(sa.MetaData()).history
    role = f"role_of_{engine.url.database}"
    with engine.begin() as connection:
        if kind == "postgresql":
            connection.exec_driver_sql(f"CREATE ROLE {role}")
            connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE feature_usage_id_seq TO {role}")
        connection.exec_driver_sql("ALTER TABLE feature_usage_history DROP COLUMN id")
        connection.exec_driver_sql("INSERT INTO feature_usage_history (bucket_start) VALUES ('2026-01-01 00:00:00')")
    project.run(autogenerate("key"), "upgrade head", autogenerate("last"))
    assert sa.inspect(engine).get_pk_constraint(history.name)["constrained_columns"] == ["id"]
    assert project.is_empty("last")
    with engine.connect() as connection:
        assert connection.scalars(sa.select(history.c.id)).all() == [1]
        if kind == "postgresql":  # a role that numbered rows before does so here too
            may = f"SELECT has_sequence_privilege('{role}', 'feature_usage_history_id_seq', 'USAGE')"
            assert connection.exec_driver_sql(may).scalar()
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
            connection.commit()
    project.run("downgrade -1")


def test_leaves_other_tables_alone(mariadb: Database, tmp_path: Path) -> None:
    project = Project(tmp_path, mariadb.url)
    project.run(*FIRST)
    with mariadb.engine().begin() as connection:
        connection.exec_driver_sql("ALTER TABLE users ADD COLUMN user_key INT, ADD INDEX by_name (name)")
    project.run(autogenerate("second"))
    source = project.revision("second")
    assert "op.drop_column('users', 'user_key')" in source
    assert "op.drop_index(" in source


def test_is_a_plugin_to_every_alembic_that_has_plugins() -> None:
    (point,) = [point for point in entry_points(group="alembic.plugins") if "usage_instrument" in point.name]
    module = point.load()
    assert isinstance(module, ModuleType)  # what 1.20 asks for
    assert list(module) == [module]  # what 1.18 asks for
    assert fnmatch(point.name, "alembic.autogenerate.*")  # what is active where nothing is configured
