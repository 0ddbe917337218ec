"""The package's imports run one way: down the table below. A module may import what its row names, and no more."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import usage_instrument

ROOT = Path(usage_instrument.__file__).parent
MAX_LINES = 320
ABOVE_ALL = "usage_instrument"
"""The package itself, as its users import it."""

_VALUES = "errors typing"
_USES = f"{_VALUES} events"
_TABLES = f"{_USES} dialects schema"
_HTTP = f"{_USES} identity context carrier catalog access loaded routes rules middleware"
ROWS: dict[str, str] = {
    # values
    "errors": "",
    "typing": "",
    "events": _VALUES,
    "settings": _USES,
    "stats": "",
    "place": "",
    "rejects": _USES,
    "lifecycle": "",
    # who and what
    "identity": _VALUES,
    "context": f"{_USES} identity",
    "loaded": f"{_VALUES} identity",
    "carrier": f"{_VALUES} identity",
    "catalog": f"{_USES} place",
    "arguments": f"{_USES} identity context",
    "outcome": f"{_USES} context arguments lifecycle",
    "access": f"{_USES} context carrier rejects outcome",
    "capture": f"{_USES} identity context access",
    "exclusions": f"{_USES} context carrier",
    # what is kept in memory
    "buffer": _USES,
    "pending": _USES,
    "ticket": "",
    # the tables and the databases
    "ledger": _VALUES,
    "dialects": f"{_USES} ledger",
    "columns": f"{_USES} dialects",
    "expressions": f"{_USES} dialects",
    "suppressions": f"{_USES} columns expressions",
    "audit": f"{_USES} lifecycle ticket dialects columns expressions suppressions",
    "target": f"{_USES} dialects columns",
    "schema": f"{_USES} dialects columns target suppressions audit",
    "mixin": f"{_TABLES} columns target",
    "inspection": f"{_TABLES} columns target",
    "discovery": f"{_TABLES} target",
    "queries": f"{_TABLES} expressions",
    "views": f"{_TABLES} columns target discovery expressions queries",
    "references": f"{_TABLES} columns target inspection",
    "merging": f"{_TABLES} columns target inspection",
    "upgrade": f"{_TABLES} columns target inspection views references merging",
    "revisions": f"{_TABLES} columns target inspection",
    "migrations": f"{_TABLES} inspection revisions",
    # the way to a row
    "watchdog": "lifecycle",
    "urls": "errors",
    "connectors": "urls watchdog",
    "engines": "errors urls connectors",
    "retention": f"{_USES} dialects expressions",
    "store": f"{_USES} dialects target inspection ledger retention suppressions audit",
    "journal": _USES,
    "framer": f"{_USES} settings pending rejects journal suppressions audit",
    "folder": f"{_USES} settings buffer pending rejects ticket journal audit",
    "housekeeping": f"{_USES} settings stats catalog dialects ledger store journal",
    "failures": "dialects store",
    "mending": f"{_USES} dialects rejects store framer failures",
    "screening": "settings ledger store journal framer mending",
    "writer": f"{_USES} settings catalog housekeeping dialects pending rejects ticket ledger store journal"
    " framer failures mending screening",
    "recovery": f"{_USES} settings stats catalog dialects buffer pending ledger store journal folder writer",
    "backend": f"{_USES} settings schema inspection audit engines ledger store",
    "pipeline": f"{_USES} settings stats catalog backend buffer pending ticket lifecycle journal folder framer"
    " writer recovery",
    "live": f"{_USES} schema lifecycle engines framer ticket pipeline",
    "personal": "typing",
    "forgetting": f"{_USES} settings dialects suppressions audit journal ledger store backend recovery personal",
    "privacy": f"{_USES} settings identity suppressions ledger store backend ticket live personal forgetting",
    # what is decorated
    "audited": f"{_USES} context arguments lifecycle outcome access",
    "proxies": "",
    "wrappers": f"{_USES} context arguments lifecycle outcome",
    "tracking": f"{_USES} context catalog arguments outcome audited proxies wrappers",
    # the tracker
    "tracker": f"{_TABLES} settings stats identity context catalog capture buffer rejects ticket lifecycle audit"
    " engines journal backend pipeline live privacy tracking",
    "current": f"{_USES} place settings stats context catalog capture engines live forgetting privacy tracker",
    # requests: they know a recorder, not the tracker
    "routes": f"{_USES} context catalog",
    "rules": f"{_USES} context catalog routes",
    "endpoints": f"{_USES} catalog",
    "auditing": f"{_USES} context catalog access routes rules",
    "middleware": f"{_USES} identity context carrier catalog access lifecycle loaded place rules routes endpoints"
    " auditing",
    "misuse": _HTTP,
    "plan": f"{_HTTP} endpoints misuse",
    "body": "context auditing middleware",
    "refusal": "errors",
    "asgi": f"{_HTTP} auditing misuse refusal",
    "wsgi": f"{_HTTP} auditing misuse refusal body",
    # for others
    "testing": f"{_USES} settings identity catalog",
    "pytest_plugin": "",
    "usage_instrument": "errors settings stats current tracker tracking live forgetting privacy",
    "dashboard": f"{_TABLES} context catalog access loaded refusal audit settings expressions inspection discovery"
    " engines queries usage_instrument",
    "cli": f"{_TABLES} audit settings stats ledger engines store expressions inspection discovery upgrade journal"
    " recovery retention views queries backend forgetting privacy plan asgi dashboard usage_instrument",
    "integrations": f"{_HTTP} auditing settings stats lifecycle target schema capture engines tracking tracker current"
    " body refusal asgi wsgi cli usage_instrument",
}
"""Each module or sub-package by what it may import; what is named stands further up. The modules of a sub-package
may import each other."""

REEXPORTS = {("schema", "mixin")}
"""What a module hands on by a `__getattr__` of its own: at run time only, for whoever asks."""

THIRD_PARTY = {
    "cli": {"alembic", "rich", "sqlalchemy", "starlette", "typer", "uvicorn"},
    "dashboard": {"anyio", "jinja2", "markupsafe", "sqlalchemy"},
    "integrations": {
        *(
            "asgiref",
            "celery",
            "click",
            "django",
            "fastapi",
            "flask",
            "flask_login",
            "opentelemetry",
            "prometheus_client",
            "sqlalchemy",
        ),
        *("starlette", "werkzeug"),
    },
    "migrations": {"alembic", "sqlalchemy"},
    "revisions": {"alembic", "sqlalchemy"},
    "upgrade": {"alembic", "sqlalchemy"},
    "pytest_plugin": {"usage_instrument_pytest"},
}
"""What is imported from elsewhere, where it is more than the core's two."""
CORE = {"sqlalchemy", "wrapt"}
NEWER = {"annotationlib"}
"""Modules of a newer Python's standard library."""


@dataclass(frozen=True)
class Module:
    """A source file of the package."""

    path: Path

    @property
    def name(self) -> str:
        """`folder`, `dialects.sqlite`; a package's own name for its `__init__`."""
        parts = [*self.path.relative_to(ROOT).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        return ".".join(parts) or ABOVE_ALL

    @property
    def row(self) -> str:
        return self.name.partition(".")[0]

    @property
    def package(self) -> list[str]:
        return [*self.path.parent.relative_to(ROOT).parts]

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    def imports(self) -> Iterator[tuple[str, str]]:
        """What it imports at run time, wherever in it: ("own", a module's name) or ("other", a top-level name)."""
        for statement in _running(self.tree):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    yield from self._absolute(alias.name, [])
            elif statement.level:
                base = self.package[: len(self.package) - statement.level + 1]
                yield from self._own(base + (statement.module or "").split("."), [a.name for a in statement.names])
            else:
                yield from self._absolute(statement.module or "", [alias.name for alias in statement.names])

    def _absolute(self, module: str, names: list[str]) -> Iterator[tuple[str, str]]:
        top, _, rest = module.partition(".")
        if top == ABOVE_ALL:
            yield from self._own(rest.split("."), names)
        else:
            yield "other", top

    def _own(self, parts: list[str], names: list[str]) -> Iterator[tuple[str, str]]:
        parts = [part for part in parts if part]
        inner = [".".join([*parts, name]) for name in names if (ROOT.joinpath(*parts) / f"{name}.py").exists()]
        inner += [".".join([*parts, name]) for name in names if (ROOT.joinpath(*parts, name) / "__init__.py").exists()]
        for name in inner:
            yield "own", name
        if len(inner) < len(names) or not names:
            yield "own", ".".join(parts) or ABOVE_ALL


def _running(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from _running(statement)
        else:
            yield from _running(child)


MODULES = sorted(map(Module, ROOT.rglob("*.py")), key=lambda module: module.name)
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def test_the_table_runs_one_way() -> None:
    rows = list(ROWS)
    for row, allowed in ROWS.items():
        for name in allowed.split():
            assert name in ROWS, f"{row}: {name} has no row"
            assert rows.index(name) < rows.index(row), f"{row} may not import {name}, which stands further down"


@each_module
def test_the_module_is_in_the_table(module: Module) -> None:
    assert module.row in ROWS, f"{module.name} is new: add it to ROWS in tests/test_layers.py, below what it imports"


@each_module
def test_the_imports_are_those_of_the_table(module: Module) -> None:
    allowed = {module.row, *ROWS.get(module.row, "").split()}
    for kind, name in module.imports():
        row = name.partition(".")[0]
        if kind == "own" and (module.name, name) not in REEXPORTS:
            assert row in allowed, f"{module.name} imports {name}, which its row in ROWS does not name"
            assert row in ROWS, name


@each_module
def test_others_are_imported_only_where_they_belong(module: Module) -> None:
    allowed = CORE | NEWER | set(sys.stdlib_module_names) | THIRD_PARTY.get(module.row, set())
    others = {name for kind, name in module.imports() if kind == "other"}
    assert others <= allowed, f"{module.name} imports {', '.join(sorted(others - allowed))}"


def test_there_is_no_cycle() -> None:
    graph = {
        module.name: {
            name
            for kind, name in module.imports()
            # A package's own __init__ is loaded before any of its modules, whoever asks.
            if kind == "own" and (module.name, name) not in REEXPORTS and not module.name.startswith(f"{name}.")
        }
        for module in MODULES
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_the_reexports_are_lazy_and_used() -> None:
    by_name = {module.name: module for module in MODULES}
    for importer, imported in REEXPORTS:
        module = by_name[importer]
        assert ("own", imported) in set(module.imports())
        top = [n for n in module.tree.body if isinstance(n, ast.ImportFrom) and n.module == imported]
        assert top == [], f"{importer} imports {imported} when it is imported itself"


@each_module
def test_the_module_is_small(module: Module) -> None:
    lines = len(module.path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{module.name} has {lines} lines: it holds more than one noun"


@each_module
def test_nothing_depends_on_assert(module: Module) -> None:
    lines = [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Assert)]
    assert lines == [], f"{module.name}: assert is not run under -O"


@each_module
def test_the_module_says_what_it_is(module: Module) -> None:
    if module.path.stat().st_size:
        assert ast.get_docstring(module.tree), module.name
        futures = [n for n in module.tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        assert futures or len(module.tree.body) == 1, f"{module.name}: from __future__ import annotations"


HEAVY = {"sqlalchemy.orm", "sqlalchemy.dialects.postgresql", "sqlalchemy.ext.asyncio", "alembic", "pytest"}
HEAVY |= {"starlette", "fastapi", "flask", "werkzeug", "django", "typer", "rich"}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import usage_instrument", HEAVY),
        ("import usage_instrument.testing", HEAVY),
        ("import usage_instrument.tracking", HEAVY),
        ("import usage_instrument.asgi, usage_instrument.wsgi", HEAVY),
        ("import usage_instrument.errors, usage_instrument.settings", HEAVY),
    ],
)
def test_what_an_import_does_not_load(statement: str, heavy: set[str]) -> None:
    script = f"import sys; {statement}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
