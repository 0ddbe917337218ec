"""Templates in every framework's spelling, and a matcher that no path can slow down."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usage_instrument.errors import ConfigurationError
from usage_instrument.web.path_templates import PathTemplate, Pattern, plain_template


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("/events/<int:id>/follow", "/events/{id}/follow"),
        ("/<any(a, b):kind>/<id>", "/{kind}/{id}"),
        ("/<any(')', '>'):kind>/<id>", "/{kind}/{id}"),
        ("/events/{id:int}/{rest:path}", "/events/{id}/{rest}"),
        ("/events/{id:[0-9]{4}}", "/events/{id}"),
        ("/events/{id}", "/events/{id}"),
        ("calendar.follow", "calendar.follow"),
    ],
)
def test_templates_without_converters(spelled: str, plain: str) -> None:
    assert plain_template(spelled) == plain


@pytest.mark.parametrize(
    "template", ["/a/<int:>", "/a/<int(:id", "/a/{", "/a/{id", "/a/<b c>", "/a/{}", "/a/<1>", "/a/<int(max=3):id"]
)
def test_a_template_that_cannot_be_parsed_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be parsed"):
        PathTemplate(template)


@pytest.mark.parametrize(
    ("template", "paths", "others"),
    [
        ("/vault", ["/vault"], ["/vaults", "/vault/", "/vault/1", "/", ""]),
        ("/vault/{id}", ["/vault/1", "/vault/a b"], ["/vault/", "/vault/1/2", "/vault/1/"]),
        ("/vault/{id:int}/open", ["/vault/1/open"], ["/vault/1", "/vault/1/2/open"]),
        ("/vault/<string(length=2):id>", ["/vault/ab"], ["/vault/a/b"]),
        ("/files/{name:path}.txt", ["/files/a/b.txt", "/files/.txt"], ["/files/a.text"]),
        ("/files/<own:name>", ["/files/a", "/files/a/b"], ["/file/a"]),
        ("/x/{a}-{b}-{c}", ["/x/1-2-3", "/x/-----"], ["/x/1-2", "/x/1-/-2"]),
        ("/a.b", ["/a.b"], ["/acb"]),
        ("/", ["/"], ["/a", ""]),
    ],
)
def test_paths_of_a_template(template: str, paths: list[str], others: list[str]) -> None:
    pattern = PathTemplate(template)
    assert [path for path in paths if not pattern.matches(path)] == []
    assert [path for path in others if pattern.matches(path)] == []


@pytest.mark.parametrize(
    ("template", "paths", "others"),
    [
        ("/vault", ["/vault", "/vault/", "/vault\n", "/vault/\n", "vault", "//vault"], ["/vaults", "/vault/1", "/"]),
        ("/vault/", ["/vault", "/vault/"], ["/vault/1"]),
        ("/vault/{id}", ["/vault/1", "/vault/1/", "/vault//1", "/vault/1\n"], ["/vault/", "/vault/1/2"]),
        ("/vault/<uuid:id>", ["/vault/1"], ["/vault/1/2"]),
        ("/files/{name:path}", ["/files/", "/files/a/b", "/files/a/b\n"], ["/other/a"]),
        ("/files/<path:name>", ["/files/a/b"], ["/other/a"]),
        ("/files/<own:name>", ["/files/a", "/files/a/b"], []),
        ("/files/<any(a, 'b/c'):name>", ["/files/b/c"], []),
        ("/a.b", ["/a.b"], ["/acb"]),
        ("/", ["/", ""], ["/a"]),
    ],
)
def test_paths_that_a_framework_may_route_to_a_template(template: str, paths: list[str], others: list[str]) -> None:
    pattern = PathTemplate(template)
    assert [path for path in paths if not pattern.may_match(path)] == []
    assert [path for path in others if pattern.may_match(path)] == []


# ---- against a slow reference


PIECES = st.sampled_from(["/", "a", "b", "-", "//", "{x}", "{x:path}"])
TEMPLATES = st.lists(PIECES, max_size=7).map("".join)
TEXTS = st.text("ab-/\n", max_size=12)
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def reference(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{x(?::path)?\})", template)
    wildcards = {"{x}": "[^/]+", "{x:path}": ".*"}
    return re.compile("".join(wildcards.get(part, re.escape(part)) for part in parts), re.DOTALL)


@SLOW
@given(TEMPLATES, TEXTS)
def test_a_template_matches_as_a_regular_expression_does(template: str, path: str) -> None:
    assert PathTemplate(template).matches(path) is (reference(template).fullmatch(path) is not None)


@SLOW
@given(TEMPLATES, TEXTS)
def test_a_lenient_match_does_too(template: str, path: str) -> None:
    template = "/" + template
    merged = re.sub("/+", "/", template).rstrip("/")
    pattern = re.compile(reference(merged).pattern + r"/?\n?", re.DOTALL)
    assert PathTemplate(template).may_match(path) is (pattern.fullmatch(re.sub("/+", "/", "/" + path)) is not None)


@SLOW
@given(st.text("ab*/", max_size=8), TEXTS)
def test_a_pattern_does_too(pattern: str, text: str) -> None:
    slow = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
    assert Pattern(pattern).matches(text) is (slow.fullmatch(text) is not None)


# ---- against an attacker


def steps(work: Callable[[], object]) -> int:
    """How many instructions of Python the work takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    ("match", "attack"),
    [
        (PathTemplate("/x/{a}-{b}-{c}").may_match, lambda n: "/x/" + "-" * n + "/x"),
        (PathTemplate("/x/{a}-{b}-{c}").matches, lambda n: "/x/" + "a-" * n + "/x"),
        (PathTemplate("/{a:path}/{b:path}/{c:path}/end").may_match, lambda n: "/a" * n),
        (PathTemplate("/{a}{b}{c}{d}/end").may_match, lambda n: "/" + "a" * n),
        (PathTemplate("/{a:path}{b}/{c:path}{d}/end").matches, lambda n: "/a" * n),
        (Pattern("/a/*/b/*/c/*/d").matches, lambda n: "/a" + "/b/c" * n),
    ],
)
def test_steps_are_linear_in_the_length_of_the_path(match: Callable[[str], bool], attack: Callable[[int], str]) -> None:
    short, long = (steps(lambda n=n: match(attack(n))) for n in (200, 400))  # type: ignore[misc]
    assert not match(attack(400))
    assert long <= 2.2 * short
