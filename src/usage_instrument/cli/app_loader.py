"""Imports the host's app by the name that a server takes."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from functools import reduce
from typing import Any

from .errors import fail


def load(name: str) -> Any:
    """The app that `module:app`, `module:package.app` or, for a factory, `module:create_app()` names.

    Modules are looked up in the current directory too. Ends the command if the app cannot be found, imported or made.
    """
    module_name, _, attributes = name.partition(":")
    path = attributes.removesuffix("()")
    if not all(map(str.isidentifier, [*module_name.split("."), *path.split(".")])):
        raise fail(f"--app is module:app, or module:create_app() for a factory, not {name!r}")
    sys.path.insert(0, "")  # the current directory, as servers do
    try:
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise fail(f"there is no module {error.name!r} here: run this where your server starts") from None
        raise fail(f"{module_name} cannot be imported: {error}") from error
    except Exception as error:  # any code of the host
        raise fail(f"{module_name} cannot be imported: {_with_place(error)}") from error
    try:
        app = reduce(getattr, path.split("."), module)
    except AttributeError:
        near = difflib.get_close_matches(path, vars(module), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise fail(f"{module_name} has no {path!r}{hint}") from None
    if path == attributes:
        return app
    try:
        return app()
    except Exception as error:
        raise fail(f"{name} cannot be made: {_with_place(error)}") from error


def _with_place(error: Exception) -> str:
    """The error, and the line that raised it: the message alone may be empty."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) else f" ({frame.filename}:{frame.lineno})"  # its message has it
    return ": ".join(filter(None, (type(error).__name__, str(error)))) + place
