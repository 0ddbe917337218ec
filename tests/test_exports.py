"""What the package exports is sorted, importable and documented."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import usage_instrument

OPTIONAL = {"usage_instrument.cli", "usage_instrument.dashboard", "usage_instrument.integrations"}


def modules() -> Iterator[str]:
    yield "usage_instrument"
    for found in pkgutil.walk_packages(usage_instrument.__path__, "usage_instrument."):
        if not found.name.endswith("__main__"):
            yield found.name


MODULES = sorted(modules())


def loaded() -> Iterator[tuple[str, types.ModuleType]]:
    """Every module by name, but those whose extra is not installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("django_site")  # models of Django want settings
    for name in MODULES:
        try:
            yield name, importlib.import_module(name)
        except ImportError as error:
            if not any(name.startswith(optional) for optional in OPTIONAL) or (error.name or "").startswith("usage_"):
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


def test_every_exported_name_is_documented() -> None:
    offenders = []
    for name in usage_instrument.__all__:
        value = getattr(usage_instrument, name)
        if name != "__version__" and not inspect.getdoc(value):
            offenders.append(name)
        for member, attribute in vars(value).items() if isinstance(value, type) else ():
            is_method = inspect.isfunction(attribute) or isinstance(attribute, property | classmethod)
            if not member.startswith("_") and is_method and not inspect.getdoc(getattr(value, member)):
                offenders.append(f"{name}.{member}")
    assert offenders == []


def test_every_public_function_and_class_is_documented() -> None:
    offenders = []
    for name, module in loaded():
        if name.startswith("usage_instrument.cli.demo."):  # an app to look at, not to import
            continue
        for member, value in vars(module).items():
            is_own = not member.startswith("_") and getattr(value, "__module__", None) == name
            if is_own and (inspect.isfunction(value) or isinstance(value, type)):
                is_generated = isinstance(value, type) and (value.__doc__ or "").startswith(f"{member}(")
                if not value.__doc__ or is_generated:
                    offenders.append(f"{name}.{member}")
    assert offenders == []


def test_every_all_is_sorted_and_importable() -> None:
    offenders = []
    for name, module in loaded():
        names = getattr(module, "__all__", [])
        if list(names) != sorted(names):
            offenders.append(f"{name}: not sorted")
        offenders += [f"{name}: no {member}" for member in names if not hasattr(module, member)]
    assert offenders == []
