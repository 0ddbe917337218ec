"""Route templates and patterns: one parser, and a matcher whose steps are linear in the length of the path.

A path comes from a client before any login, so no template becomes a regular expression, whose backtracking a client
could exploit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from usage_instrument.errors import ConfigurationError


class Wildcard(Enum):
    """What stands between two literal pieces of a template."""

    SEGMENT = "one or more characters, none of them a slash"
    ANY = "any characters, slashes included, or none"


_NAME = r"[A-Za-z_]\w*"
_PARAMETER = re.compile(
    rf"<(?:(?P<converter>{_NAME})(?:\(.*?\))?:)?(?P<name>{_NAME})>"  # Flask and Django: <id>, <int:id>, <any(a, b):id>
    rf"|\{{(?P<braced>{_NAME})(?::(?P<kind>(?:[^{{}}]|\{{[^{{}}]*\}})*))?\}}"  # Starlette and others: {id}, {id:int}
)
_ONE_SEGMENT = frozenset({None, "str", "string", "default", "int", "float", "uuid", "slug"})
"""The converters, of all frameworks, that are certain to match no slash."""


def plain_template(template: str) -> str:
    """A template without its converters: `/<int:id>` and `/{id:int}` become `/{id}`."""
    return _PARAMETER.sub(lambda found: f"{{{found['name'] or found['braced']}}}", template)


class PathTemplate:
    """A route's template in the spelling of any framework, and the paths that it matches.

    A converter that is not known to match one segment may match any characters, and so may `*`. Raises
    ConfigurationError for a template in which a `<` or `{` belongs to no parameter.
    """

    __slots__ = ("_lenient", "_pieces", "names")

    def __init__(self, template: str) -> None:
        self.names = frozenset(found["name"] or found["braced"] for found in _PARAMETER.finditer(template))
        """Of its parameters."""
        self._pieces = _parse(template)
        self._lenient = _parse(re.sub("/+", "/", template).rstrip("/"))

    def matches(self, path: str) -> bool:
        """Whether the template matches the whole path."""
        return len(path) in _ends(self._pieces, path)

    def may_match(self, path: str) -> bool:
        """Whether some framework may route the path here: they merge slashes, and some ignore a last slash or a line
        feed at the end."""
        path = re.sub("/+", "/", "/" + path)
        without = path.removesuffix("\n")
        ends = _ends(self._lenient, path)
        return any(len(each) in ends for each in (path, without, without.removesuffix("/")))


class Pattern:
    """A pattern of `include` or `exclude`, in which `*` matches any characters."""

    __slots__ = ("_pieces",)

    def __init__(self, pattern: str) -> None:
        self._pieces = tuple(_any_between(plain_template(pattern)))

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole text: a name, or a template without converters."""
        return len(text) in _ends(self._pieces, text)


_Pieces = tuple[str | Wildcard, ...]


def _parse(template: str) -> _Pieces:
    pieces: list[str | Wildcard] = []
    last = 0
    for found in _PARAMETER.finditer(template):
        is_segment = (found["converter"] or found["kind"]) in _ONE_SEGMENT
        pieces += [*_any_between(template[last : found.start()]), Wildcard.SEGMENT if is_segment else Wildcard.ANY]
        last = found.end()
    pieces += _any_between(template[last:])
    for piece in pieces:
        if isinstance(piece, str) and ("<" in piece or "{" in piece):
            raise ConfigurationError(
                f"the template {template!r} has a parameter that cannot be parsed, near {piece!r}: "
                "write {name}, {name:converter} or <converter:name>"
            )
    return tuple(piece for piece in pieces if piece != "")


def _any_between(text: str) -> list[str | Wildcard]:
    """The literal pieces of a text, with a wildcard for each `*`."""
    pieces: list[str | Wildcard] = []
    for literal in text.split("*"):
        pieces += [Wildcard.ANY, literal]
    return [piece for piece in pieces[1:] if piece != ""]


def _ends(pieces: _Pieces, text: str) -> Sequence[int]:
    """All positions of the text at which a match of the pieces, from its beginning, may end, in ascending order.

    Each piece maps the positions before it to those after it in one pass over the text: linear for a given template.
    """
    ends: Sequence[int] = (0,)
    for piece in pieces:
        if not ends:
            break
        if piece is Wildcard.ANY:
            ends = range(ends[0], len(text) + 1)
        elif piece is Wildcard.SEGMENT:
            ends = _segment_ends(ends, text)
        else:
            ends = [end + len(piece) for end in ends if text.startswith(piece, end)]
    return ends


def _segment_ends(starts: Sequence[int], text: str) -> list[int]:
    ends: list[int] = []
    covered = -1  # the end of the segment whose positions are in `ends`
    for start in starts:
        if start < covered:
            continue
        slash = text.find("/", start)
        covered = len(text) if slash < 0 else slash
        ends.extend(range(start + 1, covered + 1))
    return ends
