"""What the package exports is sorted, importable and documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import usage_instrument

OPTIONAL = {"usage_instrument.cli", "usage_instrument.dashboard", "usage_instrument.integrations"}


def modules() -> Iterator[str]:
    yield "usage_instrument"
    for found in pkgutil.walk_packages(usage_instrument.__path__, "usage_instrument."):
        if not found.name.endswith("__main__"):
            yield found.name


MODULES = sorted(modules())


def load(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if any(name.startswith(optional) for optional in OPTIONAL) and not (error.name or "").startswith("usage_"):
            pytest.skip(f"{name} needs {error.name}")
        raise


def test_all_is_sorted_and_importable() -> None:
    names = usage_instrument.__all__
    assert list(names) == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(usage_instrument, name), name


def test_nothing_public_is_left_out_of_all() -> None:
    public = {
        name
        for name, value in vars(usage_instrument).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in {"TYPE_CHECKING", "annotations"}
    }
    assert public <= set(usage_instrument.__all__)


def test_what_only_who_configures_needs_waits_for_that() -> None:
    program = (
        "import sys, usage_instrument as usage\n"
        "@usage.tracks('f')\n"
        "def f(): ...\n"
        "f()\n"
        "loaded = {name.rpartition('.')[2] for name in sys.modules if name.startswith('usage_instrument.')}\n"
        "assert not loaded & {'tracker', 'schema', 'settings', 'store', 'proxies'}, loaded\n"
        "usage.configure('sqlite:///nowhere.db', users=None)\n"
        "assert usage.Tracker.__module__ == 'usage_instrument.tracker', usage.Tracker\n"
        "assert usage.stats().captured == 0\n"
        "assert not hasattr(usage, 'Trakcer')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_star_import_takes_them() -> None:
    namespace: dict[str, Any] = {}
    exec("from usage_instrument import *", namespace)
    assert set(usage_instrument.__all__) <= set(namespace)


def test_the_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", usage_instrument.__version__)


@pytest.mark.parametrize("name", [name for name in usage_instrument.__all__ if name != "__version__"])
def test_every_exported_name_is_documented(name: str) -> None:
    value = getattr(usage_instrument, name)
    assert inspect.getdoc(value)
    if isinstance(value, type):
        for member, attribute in vars(value).items():
            if not member.startswith("_") and (
                inspect.isfunction(attribute) or isinstance(attribute, property | classmethod)
            ):
                assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_and_class_is_documented(name: str) -> None:
    module = load(name)
    assert module.__doc__, f"{name} says in one sentence what it is"
    for member, value in vars(module).items():
        if member.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        if inspect.isfunction(value) or isinstance(value, type):
            if name.startswith("usage_instrument.cli.demo."):  # an app to look at, not to import
                continue
            assert value.__doc__, f"{name}.{member}"
            if isinstance(value, type):
                assert not (value.__doc__ or "").startswith(f"{member}("), f"{name}.{member} has a generated docstring"


@pytest.mark.parametrize("name", MODULES)
def test_every_all_is_sorted_and_importable(name: str) -> None:
    module = load(name)
    names = getattr(module, "__all__", [])
    assert list(names) == sorted(names)
    for member in names:
        assert hasattr(module, member), member
