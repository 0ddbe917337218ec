"""Imports run one way, packages by stage; each rule is one test that reports every offender."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import usage_instrument

ROOT = Path(usage_instrument.__file__).parent
FRONT = "usage_instrument"
"""The package itself, as its users import it."""

_VALUES = "errors typing events settings stats"
_STAGES = f"{_VALUES} runtime database capture audit pipeline privacy"
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "typing": "",
    "events": "errors typing",
    "settings": "errors typing events",
    "stats": "",
    "runtime": _VALUES,
    "database": f"{_VALUES} runtime",
    "capture": f"{_VALUES} runtime",
    "web": f"{_VALUES} runtime capture",
    "experiments": f"{_VALUES} capture",
    "audit": f"{_VALUES} runtime database",
    "pipeline": f"{_VALUES} runtime database capture audit",
    "privacy": f"{_VALUES} runtime database capture audit pipeline",
    "queries": f"{_VALUES} database",
    "tracker": _STAGES,
    "_default": f"{_STAGES} tracker",
    FRONT: "errors stats settings capture pipeline privacy tracker _default",
    "tracking": "capture",
    "asgi": f"{_VALUES} runtime capture web",
    "wsgi": f"{_VALUES} runtime capture web",
    "exclusions": f"{_VALUES} capture",
    "schema": "database",
    "migrations": "database",
    "alerts": f"{_VALUES} runtime database audit pipeline queries",
    "views": f"{_VALUES} database queries",
    "upgrade": f"{_VALUES} database views",
    "testing": f"{_VALUES} capture",
    "pytest_plugin": "",
    "dashboard": f"{_VALUES} runtime capture web audit experiments database queries views {FRONT}",
    "cli": f"{_STAGES} web experiments queries alerts views upgrade schema asgi dashboard {FRONT}",
    "integrations": f"{_STAGES} web tracker _default asgi wsgi schema dashboard queries cli {FRONT}",
}
"""Each package and top-level module by what it may import; what is named stands further up. The modules of a package
may import each other, without a cycle."""

THIRD_PARTY = {
    "cli": {"alembic", "anyio", "pyarrow", "jsonschema", "mcp", "mcp_types", "rich", "starlette", "typer", "uvicorn"},
    "dashboard": {"anyio", "jinja2", "markupsafe", "starlette"},
    "integrations": {
        *("asgiref", "celery", "click", "django", "fastapi", "flask", "flask_admin", "flask_login", "opentelemetry"),
        *("ariadne", "arq", "graphql", "sqladmin", "strawberry"),
        *("dramatiq", "huey", "openfeature", "prometheus_client", "rq", "starlette", "taskiq", "werkzeug"),
    },
    "experiments": {"numpy", "scipy"},
    "database.alembic_operations": {"alembic"},
    "database.engines": {"greenlet"},
    "web.graphql": {"graphql"},
    "migrations": {"alembic"},
    "upgrade": {"alembic"},
    "pytest_plugin": {"usage_instrument_pytest"},
    "database.dialects.postgresql.arrays": {"psycopg"},
}
"""What a package or module imports beside the core's two."""
CORE = {"sqlalchemy", "wrapt"}
NEWER = {"annotationlib"}
"""Modules of a newer Python's standard library."""


@dataclass(frozen=True)
class Module:
    """A source file of the package."""

    path: Path

    @property
    def name(self) -> str:
        """`tracker`, `database.dialects.sqlite`; a package's own name for its `__init__`."""
        parts = [*self.path.relative_to(ROOT).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts) or FRONT

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @functools.cached_property
    def imports(self) -> frozenset[tuple[str, str]]:
        """All imports, lazy and type-only ones included: ("own", a module's name) or ("other", a top-level name)."""
        return frozenset(self._imports())

    def _imports(self) -> Iterator[tuple[str, str]]:
        package = [*self.path.parent.relative_to(ROOT).parts]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from _resolved(alias.name.split("."), [])
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names]
                parts = (node.module or "").split(".") if node.module else []
                base = [FRONT, *package[: len(package) - node.level + 1]] if node.level else []
                yield from _resolved([*base, *parts], names)


def _resolved(parts: list[str], names: list[str]) -> Iterator[tuple[str, str]]:
    if parts[0] != FRONT:
        yield "other", parts[0]
        return
    within = parts[1:]
    place = ROOT.joinpath(*within)
    modules = {name for name in names if (place / f"{name}.py").exists() or (place / name / "__init__.py").exists()}
    for name in modules:
        yield "own", ".".join([*within, name])
    if not names or set(names) - modules:
        yield "own", ".".join(within) or FRONT


MODULES = {module.name: module for module in map(Module, sorted(ROOT.rglob("*.py")))}


def test_the_table_runs_one_way() -> None:
    layers = list(MAY_IMPORT)
    offenders = [
        f"{layer} may not import {name}, which does not stand further up"
        for position, (layer, allowed) in enumerate(MAY_IMPORT.items())
        for name in allowed.split()
        if name not in layers[:position]
    ]
    offenders += [
        f"{layer} has no row" for layer in sorted({module.layer for module in MODULES.values()} - set(layers))
    ]
    assert offenders == []


def test_imports_follow_the_table() -> None:
    offenders = [
        f"{module.name} imports {name}"
        for module in MODULES.values()
        for kind, name in sorted(module.imports)
        if kind == "own" and name.partition(".")[0] not in {module.layer, *MAY_IMPORT.get(module.layer, "").split()}
    ]
    assert offenders == []


def test_third_parties_are_imported_only_where_they_belong() -> None:
    offenders = [
        f"{module.name} imports {name}"
        for module in MODULES.values()
        for kind, name in sorted(module.imports)
        if kind == "other"
        and name
        not in CORE
        | NEWER
        | sys.stdlib_module_names
        | THIRD_PARTY.get(module.layer, set())
        | THIRD_PARTY.get(module.name, set())
    ]
    assert offenders == []


def test_there_is_no_cycle() -> None:
    # A package's `__init__` runs before its modules, for any importer: naming it is no import of theirs.
    graph = {
        module.name: sorted(
            name for kind, name in module.imports if kind == "own" and not f"{module.name}.".startswith(f"{name}.")
        )
        for module in MODULES.values()
    }
    cycles: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            cycles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert cycles == []


def test_modules_are_well_formed() -> None:
    offenders = []
    for module in MODULES.values():
        offenders += [
            f"{module.name}:{node.lineno}: assert does not run under -O"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Assert)
        ]
        if module.tree.body and not ast.get_docstring(module.tree):
            offenders.append(f"{module.name}: no docstring")
        futures = [n for n in module.tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        if len(module.tree.body) > 1 and not futures:
            offenders.append(f"{module.name}: no `from __future__ import annotations`")
    assert offenders == []


HEAVY = {
    *("sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "sqlalchemy.ext.asyncio", "alembic", "pytest"),
    *("starlette", "fastapi", "flask", "werkzeug", "django", "typer", "rich", "numpy", "scipy"),
}


def test_light_modules_load_nothing_heavy() -> None:
    for name in ("", ".testing", ".asgi", ".wsgi", ".errors", ".settings", ".schema", ".experiments"):
        script = f"import sys, usage_instrument{name}; print(*sorted({HEAVY!r} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert (name, done.returncode, done.stdout.split(), done.stderr) == (name, 0, [], "")
