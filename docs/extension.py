"""What the build of the documentation adds to Sphinx.

- The directive `command-line`: each command of `usage-instrument`, from its own help.
- `llms.txt`: each page with the first sentence of its text.
- Links that lead out of `docs/` lead to the repository.
- The checks that every public name is documented and has a docstring, and that every page says what the reader gets.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc.mock import mock
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command
from typer.testing import CliRunner

import usage_instrument
from usage_instrument.cli.app import app as command_line

log = logging.getLogger(__name__)

PRIVATE = {"database.dialects", "pipeline.journal", "tracking"}
"""Modules with `__all__` that no app imports."""


def _public_modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(usage_instrument.__path__, "usage_instrument."):
        source = Path(importlib.util.find_spec(module.name).origin).read_text(encoding="utf-8")
        if "\n__all__ = " in source and module.name.removeprefix("usage_instrument.") not in PRIVATE:
            yield module.name


MODULES = ("usage_instrument", *_public_modules())
"""The public modules. Their public names are those of `__all__`."""
REPOSITORY = dict(
    line.split(", ") for line in importlib.metadata.metadata("usage-instrument").get_all("Project-URL", [])
)["Source"]
PARTS = {"start": "Start", "guides": "Guides", "reference": "Reference", "explanation": "Explanation"}
"""The folders of the pages, in the order of the site."""
GENERATED = ("reference/api/", "reference/command-line")
"""Pages whose source has no text to read."""


def setup(app: Sphinx) -> dict[str, Any]:
    """As Sphinx calls it."""
    app.add_directive("command-line", CommandLine)
    app.connect("source-read", link_to_repository)
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-docstring", leave_to_page)
    app.connect("doctree-resolved", check_beginnings)
    app.connect("missing-reference", resolve_type)
    app.connect("env-check-consistency", check_public_names)
    app.connect("build-finished", write_llms_txt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CommandLine(SphinxDirective):
    """The help of `usage-instrument` and of each of its commands, as it prints it."""

    def run(self) -> list[nodes.Node]:
        """As docutils calls it."""
        return self.parse_text_to_nodes("\n".join(_help(get_command(command_line))), allow_section_headings=True)


def _help(command: Any, *path: str) -> Iterator[str]:
    """The Markdown of a command and of the commands below it."""
    environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    printed = CliRunner().invoke(command_line, [*path, "--help"], env=environment, prog_name="usage-instrument").output
    lines = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()).strip("\n")
    heading = "#" * min(len(path) + 2, 3)
    yield from (f"{heading} {' '.join(path) or 'usage-instrument'}", "", "```text", lines, "```", "")
    for name, each in getattr(command, "commands", {}).items():
        yield from _help(each, *path, name)


def link_to_repository(app: Sphinx, page: str, content: list[str]) -> None:
    """Let links to files beside `docs/` lead to the repository. Warn of each that does not exist."""
    folder = Path(app.srcdir, page).parent

    def replaced(match: re.Match[str]) -> str:
        path = (folder / match[2]).resolve()
        if path.is_relative_to(app.srcdir):
            return match[0]
        if not path.exists():
            log.warning("%s links to %s, which does not exist", page, match[2])
        return f"{match[1]}{REPOSITORY}/blob/main/{path.relative_to(Path(app.srcdir).parent)}{match[3]}"

    linked = re.sub(r"(\]\()(\.\./[^)#\s]+)(\)|#)", replaced, content[0])
    content[0] = re.sub(r"(?m)^(\[\w+\]: )(\.\./\S+)()$", replaced, linked)


def resolve_type(app: Sphinx, env: BuildEnvironment, node: Any, child: Any) -> Any:
    """Link a name of ours by its public place: annotations name the module that defines it."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target.startswith("usage_instrument."):
        return None
    domain = env.get_domain("py")
    last = target.rpartition(".")[2]
    found = [name for name in domain.objects if name.rpartition(".")[2] == last]
    for name in found:
        if _public_object(name) is _public_object(target) is not None:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, child)
    return None


def _public_object(name: str) -> Any:
    module, _, member = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), member, None)
    except ImportError:
        return None


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, of each public name that no page documents or that has no docstring."""
    documented = env.get_domain("py").objects
    for place in MODULES:
        with mock(app.config.autodoc_mock_imports):  # autodoc imports nothing where no page has changed
            module = importlib.import_module(place)
        for name in module.__all__:
            full, value = f"{place}.{name}", getattr(module, name)
            home = f"{getattr(value, '__module__', place)}.{name}"
            if name != "__version__" and not {full, home} & documented.keys():
                log.warning("%s is public, and no page of the reference has it", full)
            for described, member in _described(full, value):
                if not inspect.getdoc(member):
                    log.warning("%s is public, and has no docstring", described)


def _described(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What needs a docstring: a class or function, and the methods and properties of a class."""
    if inspect.isfunction(value) or inspect.isclass(value):
        yield name, value
    for member, attribute in vars(value).items() if inspect.isclass(value) else ():
        function = getattr(attribute, "fget", getattr(attribute, "__func__", attribute))
        is_ours = isinstance(function, types.FunctionType) and function.__module__.startswith("usage_instrument")
        if is_ours and not member.startswith("_"):
            yield f"{name}.{member}", getattr(value, member)


def write_llms_txt(app: Sphinx, error: Exception | None) -> None:
    """Write the list of pages for language models: the title, the address and the first sentence of each."""
    if error is not None or app.builder.name != "html":
        return
    lines = [f"# {app.config.project}", "", f"> {_first_sentence(app.env.get_doctree('index'))}", ""]
    for folder, part in PARTS.items():
        lines += [f"## {part}", ""]
        for page in (name for name in app.env.toctree_includes["index"] if name.startswith(f"{folder}/")):
            title = app.env.titles[page].astext()
            address = f"{page}.html" if page.startswith(GENERATED) else f"_sources/{page}.md.txt"
            lines.append(f"- [{title}]({address}): {_first_sentence(app.env.get_doctree(page))}")
        lines.append("")
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def skip_generated(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out fields of a NamedTuple without a docstring, and methods of protocols between our own packages."""
    text = inspect.getdoc(value) or ""
    return True if text.startswith(("Alias for field number", "As Recorder.", "As Mortal.")) else None


def leave_to_page(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Leave out docstrings of modules, where the page itself says what they are for."""
    if what == "module" and not name.startswith("usage_instrument.integrations."):
        lines.clear()


def check_beginnings(app: Sphinx, page: nodes.document, name: str) -> None:
    """Warn of a page that does not begin with a paragraph, which says what the reader gets."""
    section = next(iter(page.findall(nodes.section)), None)
    if section is not None and not isinstance(section[1], nodes.paragraph):
        log.warning("%s does not begin with a paragraph", name)


def _first_sentence(page: nodes.document) -> str:
    """The first sentence of a page's text."""
    text = " ".join(next(iter(page.findall(nodes.paragraph))).astext().split())
    return text.partition(". ")[0].rstrip(".:") + "."
