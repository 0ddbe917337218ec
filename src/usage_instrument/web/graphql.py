"""GraphQL operations: which feature one counts as, and which ones a request asks for."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from usage_instrument.capture.calls import track
from usage_instrument.capture.context import BODIES, OPERATIONS, Request, current_request
from usage_instrument.capture.registry import Recorder, declared
from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET

if TYPE_CHECKING:
    from graphql import OperationDefinitionNode

NAMES = 1000
"""Names of operations that a process counts. Clients choose them, and names must not grow without bound."""
LONGEST = 2**20
"""Bytes of a request and of an answer that are read for their operations and errors."""
MOST_OPERATIONS = 100
"""Operations of a batch that count."""
_TOKENS = 2_000
"""Tokens of a document that is parsed, which takes some ten milliseconds."""
_names: set[str] = set()


def count_operation(operation: OperationDefinitionNode | None, *, failed: bool) -> None:
    """Count an operation that has ended. Its HTTP request counts nothing by its route. Raises nothing unless strict.

    Subscriptions and introspection are no uses.
    """
    request = current_request()
    if request is not None:
        request.judged_by = OPERATIONS
    name = None if failed else feature_of(operation)
    if name is not None:
        track(declared.recorder, name, UNSET, None, 1)


def operation_in(document: Any, name: str | None) -> OperationDefinitionNode | None:
    """The operation of a document that a request names, or its only one."""
    from graphql import get_operation_ast

    return None if document is None else get_operation_ast(document, name)


def feature_of(operation: OperationDefinitionNode | None) -> str | None:
    """`graphql:Name`; without a name `graphql:mutation addBook`, by the first field. None for what is no use."""
    if operation is None or operation.operation.value == "subscription":
        return None
    fields = [getattr(node, "name", None) for node in operation.selection_set.selections]
    names = [field.value for field in fields if field is not None and not field.value.startswith("__")]
    if not names:
        return None
    if operation.name is not None and (name := _named(operation.name.value)) is not None:
        return name
    return f"graphql:{operation.operation.value} {names[0]}"


def _named(operation: str) -> str | None:
    """`graphql:Name`; None beyond the names that a process counts."""
    name = f"graphql:{operation}"[:100]
    if name in _names or len(_names) < NAMES:
        _names.add(name)
        return name
    log.once(
        "operations",
        "clients name more than %d GraphQL operations: others count by their first field",
        NAMES,
        level=logging.WARNING,
    )
    return None


# ---- bodies


class _Asked(NamedTuple):
    """One operation of a request."""

    operation: OperationDefinitionNode | None
    name: str | None
    """The name that the request gives; without a document, the operation is kept on the server."""


class GraphQLBodies:
    """The bodies of one request and its answer while the app reads the one and sends the other. Both pass unchanged."""

    __slots__ = ("_answer", "_asked", "_content_type", "_failed", "_query", "_recorder", "_request", "_succeeds")

    def __init__(
        self,
        request: Request,
        recorder: Recorder,
        failed: Callable[[Exception], object],
        content_type: str,
        query: str,
    ) -> None:
        """`failed` takes an error of ours."""
        request.judged_by = BODIES
        self._failed = failed
        self._request = request
        self._recorder = recorder
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._query = query
        self._asked = bytearray()
        self._answer = bytearray()
        self._succeeds = False

    def begin(self, status: int, content_type: str) -> None:
        """The answer begins. A page for people, such as GraphiQL, answers no operation."""
        self._succeeds = 200 <= status < 300 and "html" not in content_type.lower()

    def asked(self, data: bytes) -> None:
        """The app has read a piece of the request."""
        if len(self._asked) <= LONGEST:
            self._asked += data

    def answered(self, data: bytes) -> None:
        """The app has sent a piece of the answer."""
        if len(self._answer) <= LONGEST:
            self._answer += data

    def fail(self) -> None:
        """The app has failed in the midst of its answer: its operations count nothing."""
        self._succeeds = False

    def count(self) -> None:
        """Count the operations, once, when the answer is complete. Raises nothing unless strict.

        Where the app has an extension of ours, that has counted them.
        """
        if self._request.judged_by is not BODIES or not self._succeeds:
            return
        self._request.judged_by = OPERATIONS
        try:
            self._count()
        except Exception as error:
            self._failed(error)

    def _count(self) -> None:
        asked = list(self._operations())
        for (operation, name), failed in zip(asked, self._failures(len(asked)), strict=True):
            feature = None if failed else feature_of(operation) if name is None or operation else _named(name)
            if feature is not None:
                track(self._recorder, feature, UNSET, None, 1)

    def _operations(self) -> Iterator[_Asked]:
        """What the request asks for; nothing if it cannot be read."""
        if len(self._asked) > LONGEST:
            log.once("long operation", "a GraphQL request of more than %d bytes counts nothing", LONGEST)
            return
        if self._content_type == "application/graphql":
            given: Any = {"query": self._asked.decode("utf-8", "replace")}
        elif self._asked:
            try:
                given = json.loads(self._asked)
            except (ValueError, RecursionError):
                return
        else:
            given = {name: values[-1] for name, values in parse_qs(self._query).items()}
        for each in given[:MOST_OPERATIONS] if isinstance(given, list) else [given]:
            if isinstance(each, dict):
                query, name = each.get("query"), each.get("operationName")
                name = name if isinstance(name, str) and name else None
                document = _parsed(query) if isinstance(query, str) and query else None
                yield _Asked(operation_in(document, name), None if query else name)

    def _failures(self, number: int) -> list[bool]:
        """Whether each operation was answered with errors; none was if the answer cannot be read."""
        try:
            answer = json.loads(self._answer) if len(self._answer) <= LONGEST else None
        except (ValueError, RecursionError):  # compressed, or a multipart answer
            answer = None
        answers = answer[:number] if isinstance(answer, list) and len(answer) >= number else [answer] * number
        return [isinstance(each, dict) and bool(each.get("errors")) for each in answers]


class ReadInput:
    """A `wsgi.input` that shows what is read of it."""

    def __init__(self, stream: Any, read: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._read = read

    def read(self, *size: int) -> bytes:
        """As PEP 3333 says."""
        return self._shown(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        """As PEP 3333 says."""
        return self._shown(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """As PEP 3333 says."""
        return [*map(self._shown, self._stream.readlines(*hint))]

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase.readinto."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._shown, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _shown(self, data: bytes) -> bytes:
        self._read(data)
        return data


class ReadBody:
    """The body of a WSGI response, whose pieces are shown. Its operations count at its end."""

    def __init__(self, body: Iterable[bytes], bodies: GraphQLBodies) -> None:
        self._body = body
        self._bodies = bodies

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._body:
                self._bodies.answered(piece)
                yield piece
        except Exception:
            self._bodies.fail()
            raise
        self._bodies.count()

    def close(self) -> None:
        """Close the body; a client may have left before its end."""
        self._bodies.count()
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


@functools.lru_cache(256)
def _parsed(query: str) -> Any:
    """The document; None if it is none, as the app has answered already."""
    from graphql import GraphQLError, parse

    try:
        return parse(query, no_location=True, max_tokens=_TOKENS)
    except (GraphQLError, RecursionError):  # also of a document that is nested too deeply for the parser
        return None


def graphql_paths(option: str | Iterable[str] | None) -> frozenset[str]:
    """The paths of GraphQL endpoints, each as `endpoint_path`. Raises ConfigurationError, also without graphql-core."""
    paths = [option] if isinstance(option, str) else list(option or ())
    for path in paths:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(f"graphql= has {path!r}, which is no path: write graphql='/graphql'")
    if paths:
        try:
            import graphql  # noqa: F401
        except ImportError:
            raise ConfigurationError("graphql= reads documents by graphql-core: pip install graphql-core") from None
    return frozenset(map(endpoint_path, paths))


def endpoint_path(path: str) -> str:
    """A path without its last slash, which Mount of Starlette adds."""
    return path.rstrip("/") or "/"
