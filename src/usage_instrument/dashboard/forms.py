"""The form of a question: a field for each argument that the address can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from usage_instrument.queries.questions import FEATURE_NAME, FEATURES, Argument, Question

from .page_request import PageRequest
from .pages.search import names_of
from .results import is_step, parameters_of, step_of

_KNOWN_FEATURES = 1_000
"""Names that a field suggests."""


@dataclass(frozen=True)
class Field:
    """A field, or several of one name for a list."""

    name: str
    title: str
    help: str
    values: tuple[str, ...]
    """The value of each field."""
    choices: tuple[str, ...] = ()
    """The values to choose from; none for a text."""
    hint: str = ""
    """The value that an empty field stands for."""
    is_feature: bool = False
    """Whether the browser suggests the names of features."""
    required: int = 0
    """How many of its fields must be filled in."""


@dataclass(frozen=True)
class Form:
    """The fields, and the names of features for them."""

    fields: tuple[Field, ...]
    features: Sequence[str]


def form_of(question: Question, request: PageRequest) -> Form | None:
    """The form of its page; None for a question without arguments of its own."""
    taken = parameters_of(question)
    fields = tuple(_field(each, request) for each in question.open_arguments if each.parameter in taken)
    if not fields:
        return None
    needs_names = any(field.is_feature for field in fields)
    return Form(fields, _names(request) if needs_names else ())


def _names(request: PageRequest) -> Sequence[str]:
    return request.cached(("names",), lambda: [name for name in names_of(request, limit=_KNOWN_FEATURES) if name])


def lacks(question: Question, request: PageRequest) -> bool:
    """Whether the address is without an argument that the question needs."""
    return any(
        is_required and not request.parameters.get(name) for name, is_required in parameters_of(question).items()
    )


def _field(argument: Argument, request: PageRequest) -> Field:
    given = request.parameters.get(argument.parameter, "")
    schema = argument.type.schema
    values: tuple[str, ...] = (given,)
    if argument.type is FEATURES:
        chosen = [part.strip() for part in given.split(",") if part.strip()]
        # One more than there are, so that a form without a script can grow.
        room = min(max(len(chosen) + 1, 3), schema["maxItems"])
        values = tuple([*chosen, *[""] * room][:room])
    elif "enum" in schema:
        values = (given or (step_of(request) if is_step(argument) else argument.written_default or ""),)
    default = argument.written_default
    return Field(
        argument.parameter,
        (argument.parameter.removesuffix("s") if len(values) > 1 else argument.parameter).capitalize(),
        argument.help,
        values,
        tuple(schema.get("enum", ())),
        "" if default is None else str(default),
        argument.type in (FEATURE_NAME, FEATURES),
        schema.get("minItems", 1) if argument.is_required else 0,
    )
